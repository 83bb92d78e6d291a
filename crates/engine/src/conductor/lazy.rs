// SPDX-License-Identifier: Apache-2.0
//! What keeps a lazy image alive: the connection of its object server, which the conductor holds, and the server itself.
//!
//! Theory of operation. The conductor mounts the FUSE file system and keeps its descriptor, so the mount lives as long as the container whatever happens
//! to a server. `lazyd`, with the descriptor as its standard input, is the child of a *keeper*, a fork of the conductor that does nothing but wait for it:
//! the conductor itself waits for the container's first program while that is being executed, which is the very moment in which a missing server
//! would be missed for ever. When `lazyd` ends before the container does, the keeper starts the next one at once: it needs no memory of the old
//! one, and the kernel sends it again what nobody answered. One that cannot even begin is not replaced for ever: then the descriptor is closed, and what is
//! missing cannot be read, but nobody waits.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::DirBuilderExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{io::Errno, mount::UnmountFlags, process::Signal};
use thiserror::Error;
use wolffia_mount::fuse::objects;
use wolffia_pull::lazy::{
    lazyd::{self, Settings},
    profile,
};
use wolffia_store::LazyTree;
use wolffia_sys::process::{CloneFlags, Closing, Ended, clone_into, close_from, set_death_signal};

/// The directory in the container's own that the objects are mounted on.
const PLACE: &str = "lazy";
/// The file in the container's own that says which objects were needed.
const NOTES: &str = "needed";
/// How often a server is replaced: a fault that comes back at every start must not burn a processor for ever.
const REPLACEMENTS_MAX: u32 = 200;
/// Exit code of a child that could not execute this program.
const NOT_EXECUTED: u8 = 127;

/// The objects of a lazy image, served.
#[derive(Debug)]
pub struct LazyRoot {
    place: PathBuf,
    settings: Settings,
    /// Gone when there is no server any more and never will be.
    device: Option<OwnedFd>,
    keeper: u32,
    replacements_left: u32,
}

/// A lazy image could not be served.
#[derive(Debug, Error)]
pub enum LazyError {
    /// The mount place.
    #[error("making the mount place {path}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file system.
    #[error("mounting the files that are still to come")]
    Mount(#[source] Errno),
    /// The server.
    #[error("starting the server of files that are still to come")]
    Start(#[source] Errno),
}

impl LazyRoot {
    /// Mounts the objects of a table and starts their server. Must run inside the user namespace, as its root, in a mount namespace of its own.
    pub fn mount(folder: &Path, store: &Path, tree: &LazyTree) -> Result<LazyRoot, LazyError> {
        let place = folder.join(PLACE);
        match fs::DirBuilder::new().mode(0o700).create(&place) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LazyError::Place {
                    path: place,
                    source,
                });
            }
            _ => {}
        }
        let device = objects::mount(&place).map_err(LazyError::Mount)?;
        let mut root = LazyRoot {
            place,
            settings: Settings {
                store: store.to_owned(),
                table: tree.table.clone(),
                notes: folder.join(NOTES),
                fill: tree.fill,
                successor: false,
            },
            device: Some(device),
            keeper: 0,
            replacements_left: REPLACEMENTS_MAX,
        };
        root.start().map_err(LazyError::Start)?;
        Ok(root)
    }

    /// Returns where the objects are mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    fn start(&mut self) -> Result<(), Errno> {
        let device = self.device.as_ref().ok_or(Errno::NOTCONN)?;
        let settings = &self.settings;
        let keeper = clone_into(CloneFlags::FORK, || {
            let ready = set_death_signal(Some(Signal::KILL))
                .and_then(|()| rustix::stdio::dup2_stdin(device.as_fd()))
                .and_then(|()| close_from(3, Closing::Now));
            match ready {
                Ok(()) => keep(settings.clone()),
                Err(_) => NOT_EXECUTED,
            }
        })?;
        self.keeper = keeper.pid;
        Ok(())
    }

    /// Takes note that a child of the caller has ended, with which exit code. Tells whether the container may go on.
    pub fn reaped(&mut self, child: u32, code: Option<u8>) -> bool {
        if child != self.keeper {
            return true;
        }
        if code == Some(lazyd::LIE) {
            self.device = None;
            return false;
        }
        // The keeper itself was killed, and its server with it.
        self.settings.successor = true;
        let left = self.replacements_left.checked_sub(1);
        self.replacements_left = left.unwrap_or(0);
        let started = match (left, code) {
            (Some(_), None) => self.start(),
            _ => Err(Errno::AGAIN),
        };
        if let Err(errno) = started {
            tracing::warn!(%errno, "a lazy image is not served any more");
            self.device = None;
        }
        true
    }

    /// Keeps what the container needed for the next start of its image.
    pub fn learn(&self) {
        let Settings {
            store,
            table,
            notes,
            ..
        } = &self.settings;
        if let Err(error) = profile::learn(store, table, notes) {
            tracing::debug!(%error, "nothing is learnt from a run");
        }
    }
}

/// Is the keeper, with the connection as its standard input: starts a server, and the next when that was killed. Returns the exit code of the last.
fn keep(mut settings: Settings) -> u8 {
    for _ in 0..REPLACEMENTS_MAX {
        let Ok(text) = serde_json::to_string(&settings) else {
            return NOT_EXECUTED;
        };
        let server = clone_into(CloneFlags::FORK, || {
            if set_death_signal(Some(Signal::KILL)).is_ok() {
                let error = Command::new("/proc/self/exe")
                    .arg0(lazyd::NAME)
                    .arg(&text)
                    .current_dir("/")
                    .exec();
                tracing::error!(%error, "the server of a lazy image was not started");
            }
            NOT_EXECUTED
        });
        match server.and_then(|server| server.pidfd.wait()) {
            Ok(Ended::Exited(code)) if matches!(code, 0 | lazyd::LIE) => return code,
            Ok(_) => settings.successor = true,
            Err(_) => return NOT_EXECUTED,
        }
    }
    NOT_EXECUTED
}

/// Takes the mount out of the caller's namespace, so that the container's directory can be removed.
impl Drop for LazyRoot {
    fn drop(&mut self) {
        if let Err(errno) = rustix::mount::unmount(&self.place, UnmountFlags::DETACH) {
            tracing::debug!(%errno, place = %self.place.display(), "a lazy image stays mounted");
        }
    }
}
