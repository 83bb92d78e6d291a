// SPDX-License-Identifier: Apache-2.0
//! Who has a container: `running/ID`, held by `flock` for as long as a process of ours works on it.
//!
//! Theory of operation. The file is made, locked, and then compared with what the path names now: a holder that ends unlinks the file before it
//! lets go, so a lock on a file without a name is worth nothing and is taken anew. The conductor inherits the open file description from the
//! command that made it; the kernel drops the lock when the last of them ends, however it ends. A lock file that nobody holds therefore means
//! that a process of ours was killed, and the next command sweeps. Only containers that are being made, run or removed have one, so a sweep
//! costs nothing where nothing happened.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

/// Making a lock anew is tried so often; each try fails only because another process let go in between.
const TRIES_MAX: u32 = 100;

/// A container that is ours to work on.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
    path: PathBuf,
}

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Taken {
    /// It is ours; there was no lock file before.
    Fresh(Lock),
    /// It is ours; the one who had it before was killed.
    Left(Lock),
    /// Another process has it.
    Busy,
}

impl Lock {
    /// Takes the lock at `path` without waiting.
    pub fn take(path: &Path) -> io::Result<Taken> {
        for _ in 0..TRIES_MAX {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let (file, fresh) = match open(path, flags | OFlags::EXCL, Mode::RUSR | Mode::WUSR) {
                Ok(file) => (file, true),
                Err(Errno::EXIST) => match open(path, flags, Mode::RUSR | Mode::WUSR) {
                    Ok(file) => (file, false),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy),
                Err(error) => return Err(error.into()),
            }
            if is_named(&file, path)? {
                let lock = Lock {
                    file,
                    path: path.to_owned(),
                };
                return Ok(if fresh {
                    Taken::Fresh(lock)
                } else {
                    Taken::Left(lock)
                });
            }
        }
        Ok(Taken::Busy)
    }

    /// Takes the lock of somebody who was killed; `None` where it is held, or was let go properly.
    pub fn inherit(path: &Path) -> io::Result<Option<Lock>> {
        let file = match open(
            path,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(is_named(&file, path)?.then(|| Lock {
            file,
            path: path.to_owned(),
        }))
    }

    /// Lets go: the file is gone before the lock is.
    pub fn release(self) {
        // A lock file that cannot be unlinked is swept by the next command.
        drop(fs::remove_file(&self.path));
        drop(self.file);
    }

    /// Waits until nobody holds the lock at `path`.
    pub fn wait_until_free(path: &Path) -> io::Result<()> {
        let file = match open(
            path,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        loop {
            match flock(&file, FlockOperation::LockShared) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells whether somebody holds the lock at `path`. Another asking at the same moment looks like a holder only to [`Lock::take`], which
    /// its callers try again.
    pub fn is_held(path: &Path) -> bool {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(file) = open(path, flags, Mode::empty()) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_named(file: &OwnedFd, path: &Path) -> io::Result<bool> {
    let ours = rustix::fs::fstat(file)?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.st_dev, ours.st_ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_let_go_and_inherited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let Taken::Fresh(lock) = Lock::take(&path).unwrap() else {
            panic!("nobody had it")
        };
        assert!(Lock::is_held(&path));
        assert!(matches!(Lock::take(&path).unwrap(), Taken::Busy));
        assert!(Lock::inherit(&path).unwrap().is_none());
        lock.release();
        assert!(!path.exists() && !Lock::is_held(&path));
        let Taken::Fresh(lock) = Lock::take(&path).unwrap() else {
            panic!("nobody had it")
        };
        // A kill drops the descriptor and leaves the file.
        drop(lock);
        assert!(!Lock::is_held(&path));
        assert!(matches!(Lock::take(&path).unwrap(), Taken::Left(_)));
        assert!(Lock::inherit(&path).unwrap().is_some());
    }
}
