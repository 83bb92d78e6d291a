// SPDX-License-Identifier: Apache-2.0
//! The state root: one directory of the user that holds everything.
//!
//! `--root DIR` > `$WOLFFIA_ROOT` > `$XDG_DATA_HOME/wolffia` > `~/.local/share/wolffia`. It is made 0700, and one that another user
//! owns or may write to is refused: set-uid files of images lie below it.
//!
//! ```text
//! store/            objects, trees, images (room store)
//! containers/ID/    record.json state.json config.json log upper/ work/ ...
//! names/NAME        symbolic link whose target is an ID: making one is how a name is taken
//! place/            empty: root file systems are mounted upon it, each in a namespace of its own
//! running/ID        held by flock as long as the container's conductor lives
//! ```

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::id::ContainerId;

/// The state root and the paths below it.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

/// Why there is no state root.
#[derive(Debug, Error)]
pub enum HomeError {
    /// No variable says where.
    #[error("finding a place for images and containers: neither HOME nor XDG_DATA_HOME is set")]
    NoHome,
    /// The path is not absolute.
    #[error("using {0} as the state root: not an absolute path")]
    Relative(PathBuf),
    /// It could not be made.
    #[error("making the state root {path}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else could change it.
    #[error("using {path} as the state root: it belongs to user {owner}, not to {user}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others have access to it.
    #[error("using {path} as the state root: others may enter it (mode {mode:04o})")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl HomeError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> String {
        match self {
            HomeError::NoHome | HomeError::Relative(_) => {
                "say where: wolffia --root /path/to/a/directory ...".into()
            }
            HomeError::Make { .. } => {
                "say another place: wolffia --root DIR, or WOLFFIA_ROOT=DIR".into()
            }
            HomeError::Foreign { .. } => "use a directory of your own: wolffia --root DIR".into(),
            HomeError::Open { path, .. } => format!("chmod 0700 {}", path.display()),
        }
    }
}

impl Home {
    /// Finds the state root and makes it if it is missing.
    pub fn open(explicit: Option<&Path>) -> Result<Home, HomeError> {
        Home::at(Home::locate(explicit)?)
    }

    /// Returns where the state root is or would be; touches nothing.
    pub fn locate(explicit: Option<&Path>) -> Result<PathBuf, HomeError> {
        match explicit {
            Some(path) => Ok(path.to_owned()),
            None => default_root(),
        }
    }

    fn at(root: PathBuf) -> Result<Home, HomeError> {
        if !root.is_absolute() {
            return Err(HomeError::Relative(root));
        }
        let fail = |source| HomeError::Make {
            path: root.clone(),
            source,
        };
        let found = match fs::metadata(&root) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = root.parent() {
                    fs::create_dir_all(parent).map_err(fail)?;
                }
                match fs::DirBuilder::new().mode(0o700).create(&root) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(fail(error));
                    }
                    _ => fs::metadata(&root).map_err(fail)?,
                }
            }
            Err(error) => return Err(fail(error)),
        };
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user {
            return Err(HomeError::Foreign {
                path: root,
                owner: found.uid(),
                user,
            });
        }
        if found.mode() & 0o077 != 0 {
            return Err(HomeError::Open {
                path: root,
                mode: found.mode() & 0o7777,
            });
        }
        let home = Home { root };
        for folder in [home.containers(), home.names(), home.running()] {
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(HomeError::Make {
                        path: folder,
                        source: error,
                    });
                }
                _ => {}
            }
        }
        Ok(home)
    }

    /// Returns the root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where room `store` keeps its things.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Returns the folder of all containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Returns the folder of one container.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// Returns the folder of taken names.
    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Returns the folder of locks.
    pub fn running(&self) -> PathBuf {
        self.root.join("running")
    }
}

fn default_root() -> Result<PathBuf, HomeError> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(root) = set("WOLFFIA_ROOT") {
        return Ok(root);
    }
    // The base directory specification: a relative XDG_DATA_HOME is to be ignored.
    if let Some(data) = set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(data.join("wolffia"));
    }
    set("HOME")
        .map(|home| home.join(".local/share/wolffia"))
        .ok_or(HomeError::NoHome)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_private_and_refused_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let home = Home::open(Some(&root)).unwrap();
        assert_eq!(fs::metadata(home.root()).unwrap().mode() & 0o7777, 0o700);
        assert!(home.running().is_dir());
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            Home::open(Some(&root)),
            Err(HomeError::Open { mode: 0o755, .. })
        ));
        assert!(matches!(
            Home::open(Some(Path::new("x"))),
            Err(HomeError::Relative(_))
        ));
    }
}
