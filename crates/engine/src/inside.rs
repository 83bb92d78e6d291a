// SPDX-License-Identifier: Apache-2.0
//! A process of ours inside a user namespace with a container's ids.
//!
//! Theory of operation. The child is cloned into the namespaces and waits on a pipe; the parent writes the maps and lets it go. When the parent
//! fails or is killed the pipe closes and the child ends without having done anything. The child dies with its parent: it sets its death signal
//! before it waits, and an orphan of that moment finds the pipe closed.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use rustix::{io::Errno, process::Signal};
use thiserror::Error;
use wolffia_sys::{
    idmap::{IdMapError, Mapping, write_maps},
    namespace::Namespaces,
    process::{Child, CloneFlags, Ended, clone_into, exit_now, set_death_signal},
};

/// Why there is no process inside.
#[derive(Debug, Error)]
pub enum InsideError {
    /// The pipe could not be made.
    #[error("preparing a process in a user namespace")]
    Prepare(#[source] io::Error),
    /// The clone was refused.
    #[error("making a user namespace")]
    Clone(#[source] Errno),
    /// The maps were refused.
    #[error(transparent)]
    Maps(#[from] IdMapError),
    /// It could not be waited for.
    #[error("waiting for a process in a user namespace")]
    Wait(#[source] Errno),
}

impl InsideError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            InsideError::Clone(Errno::NOSPC) => Some(
                "the limit of user namespaces is reached: sysctl user.max_user_namespaces".into(),
            ),
            InsideError::Clone(_) => Some("wolffia doctor says what forbids it".into()),
            InsideError::Maps(_) => Some("wolffia doctor says what is missing".into()),
            InsideError::Prepare(_) | InsideError::Wait(_) => None,
        }
    }
}

/// What the child of [`start`] exits with when it was not let go.
const NOT_LET_GO: u8 = 125;

/// Starts `work` in new namespaces (a user namespace always among them) with the ids of `mapping`.
pub fn start(
    mapping: &Mapping,
    others: Namespaces,
    work: impl FnOnce() -> u8,
) -> Result<Child, InsideError> {
    let (mut gate, opener) = io::pipe().map_err(InsideError::Prepare)?;
    let opener = File::from(std::os::fd::OwnedFd::from(opener));
    let mut opener = Some(opener);
    let flags = CloneFlags::new(Namespaces::USER | others);
    let child = clone_into(flags, || {
        // The child's copy of the opener would keep the gate from ever closing.
        drop(opener.take());
        if set_death_signal(Some(Signal::KILL)).is_err() {
            return NOT_LET_GO;
        }
        let mut word = [0u8; 1];
        match gate.read(&mut word) {
            Ok(1) => work(),
            _ => exit_now(NOT_LET_GO),
        }
    });
    let child = child.map_err(InsideError::Clone)?;
    let mapped = write_maps(child.pid, mapping).map_err(InsideError::from);
    let opened = mapped.and_then(|()| match &mut opener {
        Some(opener) => opener.write_all(&[1]).map_err(InsideError::Prepare),
        None => Ok(()),
    });
    match opened {
        Ok(()) => Ok(child),
        Err(error) => {
            drop(opener);
            // The gate is closed, so the child ends by itself; it is only reaped here.
            let _ = child.pidfd.wait();
            Err(error)
        }
    }
}

/// Runs `work` in a user namespace and waits for its end.
pub fn run(mapping: &Mapping, work: impl FnOnce() -> u8) -> Result<Ended, InsideError> {
    let child = start(mapping, Namespaces::empty(), work)?;
    child.pidfd.wait().map_err(InsideError::Wait)
}
