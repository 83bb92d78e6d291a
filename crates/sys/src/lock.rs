// SPDX-License-Identifier: Apache-2.0
//! File locks that the kernel drops with their last descriptor: `flock(2)`.
//!
//! A lock lives as long as some copy of its descriptor, across fork too, so that "is anybody alive?" is "can I lock it?".

use std::os::fd::AsFd;

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Many at once.
    Shared,
    /// One alone.
    Exclusive,
}

/// Locks the open file, waiting for others.
pub fn lock(file: impl AsFd, kind: Kind) -> Result<(), Errno> {
    let operation = match kind {
        Kind::Shared => FlockOperation::LockShared,
        Kind::Exclusive => FlockOperation::LockExclusive,
    };
    loop {
        match flock(&file, operation) {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// Locks the open file if that is possible now; tells whether it was.
pub fn try_lock(file: impl AsFd, kind: Kind) -> Result<bool, Errno> {
    let operation = match kind {
        Kind::Shared => FlockOperation::NonBlockingLockShared,
        Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(&file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the lock back before its descriptor is closed.
pub fn unlock(file: impl AsFd) -> Result<(), Errno> {
    flock(&file, FlockOperation::Unlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_open_waits_and_a_closed_one_lets_go() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let open = || std::fs::File::open(file.path()).expect("opening it");
        let (one, two) = (open(), open());
        assert_eq!(try_lock(&one, Kind::Exclusive), Ok(true));
        assert_eq!(try_lock(&two, Kind::Shared), Ok(false));
        drop(one);
        assert_eq!(try_lock(&two, Kind::Shared), Ok(true));
    }
}
