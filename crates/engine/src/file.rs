// SPDX-License-Identifier: Apache-2.0
//! Small state files: read with a bound, replaced by one rename.
//!
//! Nothing here is synced to disk before a container starts: after a power cut the processes are gone too, and a state file that came back
//! empty is treated as missing.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// A state file larger than this was not written by us.
const STATE_BYTES_MAX: u64 = 16 << 20;

/// What went wrong with a state file.
#[derive(Debug, Error)]
pub enum FileError {
    /// Reading failed.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Writing failed.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The content is not what we write.
    #[error("reading {path}: not a record of ours")]
    Content {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The file is larger than any of ours.
    #[error("reading {path}: larger than {STATE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a JSON file; `None` where there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let fail = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > STATE_BYTES_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| FileError::Content {
            path: path.to_owned(),
            source,
        })
}

/// Replaces a file by one rename: readers see the old content or the new.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let fail = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(fail)?;
    file.write_all(bytes)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|error| {
            // The half-written file is of no use to anybody; the error above matters more than this one.
            drop(fs::remove_file(&fresh));
            fail(error)
        })
}

/// Replaces a JSON file by one rename.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value).map_err(|source| FileError::Content {
        path: path.to_owned(),
        source,
    })?;
    write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), None);
        write_json(&path, &vec![1u8, 2]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, b"").unwrap();
        assert_eq!(
            read_json::<Vec<u8>>(&path).unwrap(),
            None,
            "an empty file counts as missing"
        );
        fs::write(&path, b"{").unwrap();
        assert!(matches!(
            read_json::<Vec<u8>>(&path),
            Err(FileError::Content { .. })
        ));
        assert!(write_json(&folder.path().join("no/state.json"), &1).is_err());
    }
}
