// SPDX-License-Identifier: Apache-2.0
//! Small files that are read whole and replaced whole.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Doing, Result, StoreError};

/// Largest JSON record that is read; the largest holds 4,096 layer descriptors.
pub(crate) const JSON_BYTES_MAX: usize = 8 << 20;

/// Reads a file of at most `bytes_max`; a longer one is an error, since none of ours is.
pub(crate) fn read_limited(
    at: impl AsFd,
    name: impl AsRef<Path>,
    bytes_max: usize,
) -> std::io::Result<Vec<u8>> {
    let file = rustix::fs::openat(
        at,
        name.as_ref(),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    let file = File::from(file);
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if expected > bytes_max {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(expected + 1);
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let read = file.take(limit).read_to_end(&mut bytes)?;
    debug_assert!(read <= bytes_max, "take() holds the limit");
    Ok(bytes)
}

/// Writes a new file; it must not be there yet.
pub(crate) fn write_new(
    at: impl AsFd,
    name: impl AsRef<Path>,
    bytes: &[u8],
) -> std::io::Result<()> {
    create(at, name)?.write_all(bytes)
}

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write_new_flushed(
    at: impl AsFd,
    name: impl AsRef<Path>,
    bytes: &[u8],
) -> std::io::Result<()> {
    let mut file = create(at, name)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn create(at: impl AsFd, name: impl AsRef<Path>) -> std::io::Result<File> {
    let file = rustix::fs::openat(
        at,
        name.as_ref(),
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::RUSR | Mode::WUSR,
    )?;
    Ok(File::from(file))
}

/// Reads a JSON record; `path` is for messages.
pub(crate) fn read_json<T: DeserializeOwned>(
    at: impl AsFd,
    name: impl AsRef<Path>,
    path: &Path,
) -> Result<T> {
    let bytes = read_limited(at, name, JSON_BYTES_MAX).doing("reading", path)?;
    from_json(&bytes, path)
}

/// Understands the bytes of a JSON record; `path` is for messages.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// Returns a record as JSON, ended by a newline.
pub(crate) fn to_json<T: Serialize>(record: &T, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
