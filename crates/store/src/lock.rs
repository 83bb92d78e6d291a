// SPDX-License-Identifier: Apache-2.0
//! Locks that end with the process that holds them: flock(2) on files of the store.
//!
//! Lock order of the room, where more than one is held: `lock` (shared or exclusive), then `ingest.lock`, then a
//! session's own, then `names.lock`. Only `lock` is ever held across anything slow.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// A lock that is held until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Together with others who hold it so.
    Shared,
    /// Alone.
    Exclusive,
}

impl Lock {
    /// Waits for the lock on the file `name`.
    pub(crate) fn wait(
        at: impl AsFd,
        name: impl AsRef<Path>,
        hold: Hold,
    ) -> rustix::io::Result<Self> {
        let file = open(at, name)?;
        let operation = match hold {
            Hold::Shared => FlockOperation::LockShared,
            Hold::Exclusive => FlockOperation::LockExclusive,
        };
        loop {
            match rustix::fs::flock(&file, operation) {
                Err(Errno::INTR) => {}
                other => return other.map(|()| Self { _file: file }),
            }
        }
    }

    /// Takes the lock on the file `name` if nobody else is in the way; `None` otherwise.
    pub(crate) fn attempt(
        at: impl AsFd,
        name: impl AsRef<Path>,
        hold: Hold,
    ) -> rustix::io::Result<Option<Self>> {
        let file = open(at, name)?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn open(at: impl AsFd, name: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    // Read-only is enough for flock, and works on a store that is published read-only.
    rustix::fs::openat(
        at,
        name.as_ref(),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}
