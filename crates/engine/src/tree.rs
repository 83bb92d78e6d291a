// SPDX-License-Identifier: Apache-2.0
//! Removal of a container's files, whoever owns them.
//!
//! Most are the caller's own. What other users of the container wrote belongs to sub-ids of the caller, and only root of a user namespace with these ids
//! may remove it; so may it alone enter overlayfs's `work/work`, which has no permission bits. The plain way is tried first: it needs no namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use wolffia_sys::{idmap::IdMapError, process::Ended};

use crate::{
    identity,
    inside::{self, InsideError},
};

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
    /// The ids could not be found.
    #[error(transparent)]
    Ids(#[from] IdMapError),
    /// There was no namespace to do it in.
    #[error(transparent)]
    Inside(#[from] InsideError),
    /// Root of the namespace could not do it either.
    #[error("removing {path} as root of a user namespace")]
    Refused {
        /// The top of the tree.
        path: PathBuf,
    },
}

/// Removes a tree; one that is not there is removed.
pub fn remove(path: &Path) -> Result<(), TreeError> {
    match remove_plainly(path) {
        Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            remove_inside(path)
        }
        result => result,
    }
}

/// Removes a tree with the rights that the caller has. For a conductor these are enough.
pub fn remove_plainly(path: &Path) -> Result<(), TreeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TreeError::Io {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

fn remove_inside(path: &Path) -> Result<(), TreeError> {
    let (mapping, _) = identity::mapping()?;
    let ended = inside::run(&mapping, || u8::from(remove_plainly(path).is_err()))?;
    match ended {
        Ended::Exited(0) => Ok(()),
        _ => Err(TreeError::Refused {
            path: path.to_owned(),
        }),
    }
}
