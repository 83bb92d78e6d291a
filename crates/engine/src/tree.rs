// SPDX-License-Identifier: Apache-2.0
//! Removal of a container's files, whoever owns them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why files stayed.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The system refused.
    #[error("removing {path}")]
    Io {
        /// The top of the tree.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Removes a tree; one that is not there is removed.
pub fn remove(path: &Path) -> Result<(), TreeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TreeError::Io {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
