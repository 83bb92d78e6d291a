// SPDX-License-Identifier: Apache-2.0
//! All containers of a state root: made, found, listed, removed, swept.
//!
//! Theory of operation. `record.json` is the commit point: a folder without one is something half made or half removed. Making goes lock, name,
//! folder, record; removing goes lock, record, folder, name, lock. Whatever a kill leaves behind has a lock file that nobody holds, and
//! [`Containers::sweep`] finishes it: half made and `--rm` containers go, others are marked as ended, with the reason.
//! Lock order: a container's lock is never waited for while another's is held.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    file::{FileError, read_json, write_json},
    home::Home,
    id::{ContainerId, ContainerName},
    lock::{Lock, Taken},
    record::{Record, State, Status},
    time::Timestamp,
};

mod error;
mod removal;

pub use error::ContainerError;

/// Names made up before we give up; each round picks among thousands.
const NAME_TRIES_MAX: u32 = 100;

/// A busy lock is looked at again so often before it counts as held: somebody may only have been asking.
const BUSY_TRIES_MAX: u32 = 50;

/// What a killed conductor's container is said to have ended with: 128 + SIGKILL.
const KILLED: u8 = 137;

/// The containers of a state root.
#[derive(Debug, Clone)]
pub struct Containers {
    home: Home,
}

/// A container and how it is.
#[derive(Debug, Clone)]
pub struct Container {
    /// What it is.
    pub record: Record,
    /// How it is.
    pub state: State,
    /// Its folder.
    pub folder: PathBuf,
}

/// A container that is ours to work on.
#[derive(Debug)]
pub struct Held {
    /// The container.
    pub container: Container,
    /// Its lock.
    pub lock: Lock,
}

impl Containers {
    /// Returns the containers below `home`.
    pub fn of(home: &Home) -> Containers {
        Containers { home: home.clone() }
    }

    /// Returns the state root.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Makes a container: takes its name, makes its folder, writes what `describe` says about it.
    pub fn create(
        &self,
        name: Option<&ContainerName>,
        describe: impl FnOnce(ContainerId, ContainerName) -> Record,
    ) -> Result<Held, ContainerError> {
        let id = ContainerId::generate()?;
        let Some(Taken::Fresh(lock) | Taken::Left(lock)) = self.try_lock(&id)? else {
            return Err(ContainerError::Busy(id.short().to_owned()));
        };
        match self.create_held(&id, name, describe) {
            Ok(container) => Ok(Held { container, lock }),
            Err(error) => {
                self.undo_create(&id);
                lock.release();
                Err(error)
            }
        }
    }

    fn create_held(
        &self,
        id: &ContainerId,
        name: Option<&ContainerName>,
        describe: impl FnOnce(ContainerId, ContainerName) -> Record,
    ) -> Result<Container, ContainerError> {
        let name = self.take_name(id, name)?;
        let folder = self.home.container(id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|source| ContainerError::Io {
                doing: "making",
                path: folder.clone(),
                source,
            })?;
        let record = describe(id.clone(), name);
        write_json(&folder.join(RECORD), &record)?;
        Ok(Container {
            record,
            state: State::default(),
            folder,
        })
    }

    fn undo_create(&self, id: &ContainerId) {
        // What cannot be undone now stays without a record, and is swept.
        drop(fs::remove_dir_all(self.home.container(id)));
        self.drop_names_of(id);
    }

    /// Takes a name by making the link `names/NAME`: only one can.
    fn take_name(
        &self,
        id: &ContainerId,
        chosen: Option<&ContainerName>,
    ) -> Result<ContainerName, ContainerError> {
        for attempt in 0..NAME_TRIES_MAX {
            let name = match chosen {
                Some(name) => name.clone(),
                None => ContainerName::generate(attempt / 3)?,
            };
            let path = self.home.names().join(name.as_str());
            match symlink(id.as_str(), &path) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let Some(holder) = read_name(&path) else {
                        continue;
                    };
                    let gone = !self.home.container(&holder).exists()
                        && !Lock::is_held(&self.lock_path(&holder));
                    if gone {
                        drop(fs::remove_file(&path));
                    } else if chosen.is_some() {
                        return Err(ContainerError::NameTaken {
                            name,
                            id: holder.short().into(),
                        });
                    }
                }
                Err(source) => {
                    return Err(ContainerError::Io {
                        doing: "taking the name",
                        path,
                        source,
                    });
                }
            }
        }
        Err(ContainerError::Busy("names".into()))
    }

    /// Finds a container by name, id, or the beginning of its id.
    pub fn find(&self, word: &str) -> Result<Container, ContainerError> {
        let not_found = || ContainerError::NotFound(word.to_owned());
        let id = self.find_id(word)?;
        self.load(&id)?.ok_or_else(not_found)
    }

    fn find_id(&self, word: &str) -> Result<ContainerId, ContainerError> {
        if let Ok(name) = word.trim_start_matches('/').parse::<ContainerName>()
            && let Some(id) = read_name(&self.home.names().join(name.as_str()))
        {
            return Ok(id);
        }
        let is_hex = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return Err(ContainerError::NotFound(word.to_owned()));
        }
        let mut found: Vec<ContainerId> = self
            .ids()?
            .into_iter()
            .filter(|id| id.as_str().starts_with(word))
            .collect();
        match found.len() {
            0 => Err(ContainerError::NotFound(word.to_owned())),
            1 => Ok(found.remove(0)),
            count => Err(ContainerError::Ambiguous {
                word: word.to_owned(),
                count,
            }),
        }
    }

    /// Returns all containers, the newest first. What another command is just making is not there yet.
    pub fn list(&self) -> Result<Vec<Container>, ContainerError> {
        let mut containers = Vec::new();
        for id in self.ids()? {
            containers.extend(self.load(&id)?);
        }
        containers.sort_by(|one, other| {
            (other.record.created, &other.record.id).cmp(&(one.record.created, &one.record.id))
        });
        Ok(containers)
    }

    /// Reads a container; `None` where it has no record.
    pub fn load(&self, id: &ContainerId) -> Result<Option<Container>, ContainerError> {
        let folder = self.home.container(id);
        let Some(record) = read_json::<Record>(&folder.join(RECORD))? else {
            return Ok(None);
        };
        // The lock before the state: a conductor that ends between the two has written its last state already.
        let held = Lock::is_held(&self.lock_path(id));
        let mut state = read_json::<State>(&folder.join(STATE))?.unwrap_or_default();
        if state.status == Status::Running && !held {
            state = read_json::<State>(&folder.join(STATE))?.unwrap_or_default();
            if state.status == Status::Running {
                state = killed(&state);
            }
        }
        Ok(Some(Container {
            record,
            state,
            folder,
        }))
    }

    /// Takes a container's lock.
    pub fn hold(&self, container: &Container) -> Result<Held, ContainerError> {
        let name = container.record.name.to_string();
        if let Some(Taken::Fresh(lock) | Taken::Left(lock)) = self.try_lock(&container.record.id)? {
            // Whatever was read before the lock was ours may be old.
            let id = container.record.id.clone();
            if let Some(mut container) = self.load(&id)? {
                if container.state.status == Status::Running {
                    container.state = killed(&container.state);
                }
                Ok(Held { container, lock })
            } else {
                lock.release();
                Err(ContainerError::NotFound(name))
            }
        } else {
            let running = self
                .load(&container.record.id)?
                .is_some_and(|now| now.state.status == Status::Running);
            Err(if running {
                ContainerError::Running(name)
            } else {
                ContainerError::Busy(name)
            })
        }
    }

    fn try_lock(&self, id: &ContainerId) -> Result<Option<Taken>, ContainerError> {
        let path = self.lock_path(id);
        for _ in 0..BUSY_TRIES_MAX {
            match Lock::take(&path) {
                Ok(Taken::Busy) => std::thread::yield_now(),
                Ok(taken) => return Ok(Some(taken)),
                Err(source) => {
                    return Err(ContainerError::Io {
                        doing: "locking",
                        path,
                        source,
                    });
                }
            }
        }
        Ok(None)
    }

    /// Returns the path of a container's lock.
    pub fn lock_path(&self, id: &ContainerId) -> PathBuf {
        self.home.running().join(id.as_str())
    }

    fn ids(&self) -> Result<Vec<ContainerId>, ContainerError> {
        ids_in(&self.home.containers())
    }
}

impl Container {
    /// Writes how the container is.
    pub fn save_state(&self) -> Result<(), FileError> {
        write_json(&self.folder.join(STATE), &self.state)
    }
}

/// What a container is.
pub const RECORD: &str = "record.json";
/// How a container is.
pub const STATE: &str = "state.json";

fn killed(state: &State) -> State {
    State {
        ports: Vec::new(),
        status: Status::Exited,
        pid: 0,
        conductor_pid: 0,
        finished: Some(Timestamp::now()),
        exit_code: KILLED,
        error: "its conductor was killed, and everything in it with it".into(),
        started: state.started,
        unlogged: state.unlogged,
    }
}

fn read_name(path: &Path) -> Option<ContainerId> {
    fs::read_link(path).ok()?.to_str()?.parse().ok()
}

fn ids_in(folder: &Path) -> Result<Vec<ContainerId>, ContainerError> {
    let fail = |source| ContainerError::Io {
        doing: "listing",
        path: folder.to_owned(),
        source,
    };
    let mut ids = Vec::new();
    for found in fs::read_dir(folder).map_err(fail)? {
        let name = found.map_err(fail)?.file_name();
        ids.extend(
            name.to_str()
                .and_then(|name| name.parse::<ContainerId>().ok()),
        );
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
