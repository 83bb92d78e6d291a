// SPDX-License-Identifier: Apache-2.0
//! Who we are: an ordinary user as we were started, or, started by root, an ordinary id of a free range.
//!
//! Theory of operation. No process of ours keeps the machine's user id 0. Started by root we choose the range of 65,536 ids that containers get, make the
//! state root the property of its first one, and become that id for good; of root's rights only the two remain that write such a range into a
//! user namespace (`CAP_SETUID`, `CAP_SETGID`). From then on everything is as for an ordinary user whose sub-ids are that range. What only root may read on
//! this machine is closed to containers of root too. Root of a user namespace (a container, a build) is an ordinary user outside and stays what it is.
//! Sources: `user_namespaces(7)`, capabilities(7), `PR_SET_KEEPCAPS`.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{Gid, Uid, geteuid};
use thiserror::Error;
use wolffia_sys::{
    Errno,
    capabilities::{Set, Sets},
    idmap::{IdMapError, Mapping, WhySingle, Wish},
    process::{become_user_keeping, set_dumpable},
};

/// Where root's containers are: below root's own home nobody else could reach them, not even the ids that they have.
const ROOTS_STATE: &str = "/var/lib/wolffia";

/// The mapping that was chosen while we were still root.
static CHOSEN: OnceLock<Mapping> = OnceLock::new();

/// Why root could not become somebody.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is no range.
    #[error(transparent)]
    Ids(#[from] IdMapError),
    /// The state root could not be given away.
    #[error("giving {path} to user {owner}")]
    Give {
        /// The directory.
        path: PathBuf,
        /// To whom.
        owner: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The state root has things of root's in it.
    #[error("using {path} as the state root: it is root's, and not empty")]
    Roots {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("giving up root's user id")]
    Become(#[source] Errno),
}

impl IdentityError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            IdentityError::Roots { .. } | IdentityError::Give { .. } => {
                Some("name another directory: wolffia --root DIR".into())
            }
            _ => None,
        }
    }
}

/// Gives up the machine's user id 0, where we have it. Returns the state root to use then.
///
/// The calling process must have one thread.
pub fn settle(explicit: Option<&Path>) -> Result<Option<PathBuf>, IdentityError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let (mapping, _) = Mapping::choose(Wish::Best)?;
    let maps = mapping.maps();
    let (Some(user), Some(group)) = (maps.uid.to_outside(0), maps.gid.to_outside(0)) else {
        return Ok(None);
    };
    if user == 0 {
        return Ok(None);
    }
    let named = explicit.map(Path::to_owned);
    let variable = || std::env::var_os("WOLFFIA_ROOT").filter(|value| !value.is_empty());
    let root = named
        .or_else(|| variable().map(PathBuf::from))
        .unwrap_or_else(|| ROOTS_STATE.into());
    give(&root, user, group)?;
    let kept = ["CAP_SETUID", "CAP_SETGID"]
        .iter()
        .filter_map(|name| Set::named(name))
        .fold(Set::EMPTY, Set::with);
    let sets = Sets {
        bounding: kept,
        effective: kept,
        permitted: kept,
        ..Sets::default()
    };
    become_user_keeping(Uid::from_raw(user), Gid::from_raw(group), &sets)
        .and_then(|()| set_dumpable(true))
        .map_err(IdentityError::Become)?;
    // Set once, here; a second call finds that we are not root.
    drop(CHOSEN.set(mapping));
    Ok(Some(root))
}

/// Returns whom we became, where root started us.
pub fn instead_of_root() -> Option<u32> {
    CHOSEN.get()?.maps().uid.to_outside(0)
}

/// Returns the ids of containers, and why it is only one where it is.
pub fn mapping() -> Result<(Mapping, Option<WhySingle>), IdMapError> {
    match CHOSEN.get() {
        Some(mapping) => Ok((mapping.clone(), None)),
        None => Mapping::choose(Wish::Best),
    }
}

/// Makes a directory the property of an id, if it is not yet.
fn give(path: &Path, user: u32, group: u32) -> Result<(), IdentityError> {
    let fail = |source| IdentityError::Give {
        path: path.to_owned(),
        owner: user,
        source,
    };
    match fs::metadata(path) {
        Ok(found) if found.uid() == user => return Ok(()),
        Ok(_) => {
            if fs::read_dir(path).map_err(fail)?.next().is_some() {
                return Err(IdentityError::Roots {
                    path: path.to_owned(),
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(fail)?;
            }
            fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(fail)?;
        }
        Err(error) => return Err(fail(error)),
    }
    chown(path, Some(user), Some(group)).map_err(fail)
}
