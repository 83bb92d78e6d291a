// SPDX-License-Identifier: Apache-2.0
//! A session: the right to add things to the store, and the place where they are written before they appear.
//!
//! # Theory of operation
//! A session is a directory of random name in `ingest/` with a file `lock` in it, flocked as long as the process lives.
//! Everything new is written there and renamed to where it belongs; what a killed process leaves is a directory whose
//! lock is free. Opening a store [sweeps](Store::sweep) such directories.
//!
//! Appearing and sweeping exclude each other by `ingest.lock`, so that nobody sweeps a directory whose lock has not
//! been taken yet; the deleting itself happens outside that lock, under the dead session's own.
//!
//! A session also holds the store's `lock` shared: garbage is collected under the exclusive lock, therefore never
//! between an object's appearance and that of the record that names it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::layout::{Store, open_directory};
use crate::lock::{Hold, Lock};
use crate::record;

/// Bytes of randomness in a name.
const NAME_BYTES: usize = 12;

/// The right to add things to a store.
#[derive(Debug)]
pub struct Session<'store> {
    store: &'store Store,
    name: String,
    directory: OwnedFd,
    next: AtomicU64,
    _own: Lock,
    _store: Lock,
}

impl Store {
    /// Begins adding things. Waits while somebody collects garbage.
    pub fn session(&self) -> Result<Session<'_>> {
        self.session_under(self.lock_shared()?)
    }

    /// Begins a session of somebody who holds the store's lock.
    pub(crate) fn session_under(&self, whole: Lock) -> Result<Session<'_>> {
        let ingest = self.path().join("ingest");
        let appearing = Lock::wait(self.at(), "ingest.lock", Hold::Exclusive)
            .doing("locking", self.path().join("ingest.lock"))?;
        let name = random_name()?;
        let relative = Path::new("ingest").join(&name);
        let path = ingest.join(&name);
        rustix::fs::mkdirat(self.at(), &relative, Mode::RWXU).doing("making", &path)?;
        let directory = open_directory(self.at(), &relative).doing("opening", &path)?;
        record::write_new(&directory, "lock", b"").doing("writing", path.join("lock"))?;
        let own =
            Lock::wait(&directory, "lock", Hold::Exclusive).doing("locking", path.join("lock"))?;
        let session = Session {
            store: self,
            name,
            directory,
            next: AtomicU64::new(0),
            _own: own,
            _store: whole,
        };
        session.mark_unflushed()?;
        drop(appearing);
        Ok(session)
    }

    /// Waits until nobody collects garbage, and keeps it so.
    pub(crate) fn lock_shared(&self) -> Result<Lock> {
        Lock::wait(self.at(), "lock", Hold::Shared).doing("locking", self.path().join("lock"))
    }

    /// Removes what dead sessions left, and returns how many entries had to stay.
    ///
    /// Entries stay that belong to subordinate ids, unless this process is inside the user namespace. On a store that
    /// cannot be written all of them stay.
    pub fn sweep(&self) -> usize {
        match self.dead_sessions() {
            Ok(dead) => dead
                .into_iter()
                .map(|(name, _lock)| self.remove_session(&name))
                .filter(|removed| !removed)
                .count(),
            Err(error) => {
                tracing::debug!(%error, "cannot look for what dead sessions left");
                0
            }
        }
    }

    /// Returns the sessions whose process is gone, with their locks.
    fn dead_sessions(&self) -> Result<Vec<(OsString, Option<Lock>)>> {
        let path = self.path().join("ingest");
        let names = list(&open_directory(self.at(), Path::new("ingest")).doing("opening", &path)?)
            .doing("listing", &path)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let Some(_appearing) = Lock::attempt(self.at(), "ingest.lock", Hold::Exclusive)
            .doing("locking", self.path().join("ingest.lock"))?
        else {
            return Ok(Vec::new());
        };
        let mut dead = Vec::new();
        for name in names {
            let lock = Path::new("ingest").join(&name).join("lock");
            match Lock::attempt(self.at(), &lock, Hold::Exclusive) {
                Ok(Some(lock)) => dead.push((name, Some(lock))),
                Ok(None) => {}
                // Killed before it made its lock, or while it was being removed.
                Err(Errno::NOENT | Errno::NOTDIR) => dead.push((name, None)),
                Err(errno) => return Err(errno).doing("locking", self.path().join(lock)),
            }
        }
        Ok(dead)
    }

    fn remove_session(&self, name: &OsStr) -> bool {
        let path = self.path().join("ingest").join(name);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "what a dead session left stays");
                false
            }
        }
    }
}

impl Session<'_> {
    /// Returns the store.
    pub fn store(&self) -> &Store {
        self.store
    }

    pub(crate) fn at(&self) -> &OwnedFd {
        &self.directory
    }

    /// Returns a new file that goes with the session, and where it is.
    pub fn scratch(&self) -> Result<(std::fs::File, PathBuf)> {
        let path = self.path_of(&self.next_name());
        let file = std::fs::File::create_new(&path).doing("writing", &path)?;
        Ok((file, path))
    }

    /// Returns where the session's entry `name` is.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.store.path().join("ingest").join(&self.name).join(name)
    }

    /// Returns a name that is free in this session.
    pub(crate) fn next_name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Moves the session's entry `name` to `to`, relative to the store; says whether it was the first there.
    ///
    /// What is there already stays; the session's entry is removed with the session.
    pub(crate) fn publish_new(&self, name: &str, to: &Path) -> Result<bool> {
        let moved = rustix::fs::renameat_with(
            &self.directory,
            name,
            self.store.at(),
            to,
            RenameFlags::NOREPLACE,
        );
        match moved {
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            other => other
                .map(|()| true)
                .doing("writing", self.store.path().join(to)),
        }
    }

    /// Writes the file `to`, relative to the store, replacing the one that is there.
    pub(crate) fn replace(&self, to: &Path, bytes: &[u8]) -> Result<()> {
        let name = self.next_name();
        record::write_new(&self.directory, &name, bytes).doing("writing", self.path_of(&name))?;
        rustix::fs::renameat(&self.directory, &name, self.store.at(), to)
            .doing("writing", self.store.path().join(to))
    }

    /// Takes the store's entry `from` away, to be deleted with this session.
    pub(crate) fn take_away(&self, from: &Path) -> Result<()> {
        match rustix::fs::renameat(self.store.at(), from, &self.directory, self.next_name()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.doing("removing", self.store.path().join(from)),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.store.remove_session(OsStr::new(&self.name));
    }
}

/// Returns a name that nobody else has.
pub(crate) fn random_name() -> Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; NAME_BYTES];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .doing("asking for random bytes for", "a name")?;
    debug_assert_eq!(filled, NAME_BYTES, "up to 256 bytes come whole");
    let mut name = String::with_capacity(2 * NAME_BYTES);
    for byte in bytes {
        write!(name, "{byte:02x}").expect("a string takes all that is written");
    }
    Ok(name)
}

/// Returns the names in a directory, in no order, without `.` and `..`.
pub(crate) fn list(directory: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Tells whether something is at `path`, relative to the store.
pub(crate) fn is_there(store: &Store, path: &Path) -> Result<bool> {
    match rustix::fs::statat(store.at(), path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).doing("looking at", store.path().join(path)),
    }
}
