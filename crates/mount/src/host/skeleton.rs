// SPDX-License-Identifier: Apache-2.0
//! The part of a host container that is made up: empty homes, a /var, the usr-merge links, a public copy of /etc.
//!
//! # Theory of operation
//! A skeleton is a directory that is made inside the user namespace, so that its files are the container root's, and serves
//! as a lower layer to every host container of that mapping. It is named by a digest of what it was made from (names, times,
//! sizes and modes of everything that is copied), so a changed /etc makes a new one: each start looks at some hundred
//! files and copies nothing. Users hold a shared lock; one that nobody holds and that is not current is removed.
//!
//! What is taken from /etc is an allow-list of names ([`etc`]), below those only what others may read, and nothing that looks
//! like a secret by its name or content ([`etc::is_secret`]). shadow and gshadow are generated: no password is valid, so
//! `su` works for root and for nobody else.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};
use thiserror::Error;

use super::etc;
use crate::work::remove_tree;

mod sources;

use sources::Sources;

/// Changes when a skeleton is made otherwise from the same files.
const VERSION: u32 = 2;
/// How often a name for a draft is tried anew.
const TRIES_MAX: u32 = 64;
/// The key of mappings with one id.
const SINGLE_ID: &str = "one";
/// How drafts are called.
const DRAFT_PREFIX: &str = ".making-";
/// Mode bits for others: read; read and enter.
pub(super) const OTHERS_READ: u32 = 0o004;
pub(super) const OTHERS_LIST: u32 = 0o005;

/// A skeleton, for as long as it is held.
#[derive(Debug)]
pub(super) struct Skeleton {
    /// The lower layer.
    pub(super) root: PathBuf,
    /// Keeps others from removing it.
    pub(super) lock: OwnedFd,
}

/// A skeleton could not be made.
#[derive(Debug, Error)]
#[error("{doing} {path}")]
pub struct SkeletonError {
    /// What was done.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

pub(super) type Result<T> = std::result::Result<T, SkeletonError>;

pub(super) fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> SkeletonError {
    move |source| SkeletonError {
        doing,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Returns the skeleton for this machine as it is now, below `home` and for the mapping named `key`.
///
/// Must run inside the user namespace, as its root.
pub(super) fn ensure(home: &Path, key: &str, machine: &Path) -> Result<Skeleton> {
    let sources = Sources::look(machine);
    kept(home, key, sources.digest(), |root| {
        sources.write(machine, root)?;
        if key == SINGLE_ID {
            keep_apt_root(root)
        } else {
            Ok(())
        }
    })
}

/// apt fetches as a user of its own, whom a namespace with one id has not got.
fn keep_apt_root(root: &Path) -> Result<()> {
    let directory = root.join("etc/apt/apt.conf.d");
    if !directory.is_dir() {
        return Ok(());
    }
    let path = directory.join("00-one-id");
    fs::write(&path, "APT::Sandbox::User \"root\";\n").map_err(failed("writing", &path))?;
    set_mode(&path, 0o644)
}

/// Returns the directory of that kind and digest below `home`, written now if it is not there.
pub(super) fn kept(
    home: &Path,
    kind: &str,
    digest: u64,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<Skeleton> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .map_err(failed("making", home))?;
    let name = format!("{kind}-{digest:016x}");
    let target = home.join(&name);
    let held = |lock| Skeleton {
        root: target.join("root"),
        lock,
    };
    if let Some(lock) = hold(&target, FlockOperation::NonBlockingLockShared) {
        return Ok(held(lock));
    }
    sweep(home, kind, &name);
    let (draft, draft_lock) = draft(home)?;
    write(&draft.join("root"))?;
    // The lock is the directory's and stays with it under its new name.
    rustix::fs::flock(&draft_lock, FlockOperation::LockShared)
        .map_err(failed("locking", &draft))?;
    let (here, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
    match rustix::fs::renameat_with(here, &draft, here, &target, flags) {
        Ok(()) => Ok(held(draft_lock)),
        // Another first start was faster.
        Err(Errno::EXIST | Errno::NOTEMPTY) => {
            discard(&draft);
            let lock = hold(&target, FlockOperation::LockShared)
                .ok_or(Errno::NOENT)
                .map_err(failed("locking", &target))?;
            Ok(held(lock))
        }
        Err(errno) => Err(failed("moving", &draft)(errno)),
    }
}

/// Opens and locks a directory; `None` where it is not there or somebody else holds it otherwise.
fn hold(path: &Path, how: FlockOperation) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, how).ok()?;
    // It may have been removed between the two calls.
    let same = rustix::fs::stat(path).is_ok_and(|there| {
        rustix::fs::fstat(&directory).is_ok_and(|held| held.st_ino == there.st_ino)
    });
    same.then_some(directory)
}

fn draft(home: &Path) -> Result<(PathBuf, OwnedFd)> {
    for attempt in 0..TRIES_MAX {
        let draft = home.join(format!("{DRAFT_PREFIX}{}-{attempt}", std::process::id()));
        match rustix::fs::mkdir(&draft, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            made => made.map_err(failed("making", &draft))?,
        }
        let lock = hold(&draft, FlockOperation::NonBlockingLockExclusive);
        let lock = lock.ok_or(Errno::BUSY).map_err(failed("locking", &draft))?;
        return Ok((draft, lock));
    }
    Err(failed("making a draft in", home)(Errno::EXIST))
}

/// Removes drafts of killed writers, and skeletons of this mapping that are neither current nor in use.
fn sweep(home: &Path, key: &str, current: &str) {
    let ours = format!("{key}-");
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = name.starts_with(&ours) && name != current;
        if !old && !name.starts_with(DRAFT_PREFIX) {
            continue;
        }
        if let Some(_lock) = hold(&entry.path(), FlockOperation::NonBlockingLockExclusive) {
            discard(&entry.path());
        }
    }
}

fn discard(path: &Path) {
    if let Err(error) = remove_tree(path) {
        tracing::debug!(%error, "a skeleton stays");
    }
}

pub(super) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir(path).map_err(failed("making", path))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(failed("setting the mode of", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn machine() -> tempfile::TempDir {
        let top = tempfile::tempdir().expect("a directory");
        let etc = top.path().join("etc");
        for directory in ["ssl/private", "ssl/certs", "ssh", "closed"] {
            fs::create_dir_all(etc.join(directory)).expect("directories");
        }
        fs::create_dir_all(top.path().join("usr/bin")).expect("directories");
        symlink("usr/bin", top.path().join("bin")).expect("a link");
        for (path, mode, text) in [
            (
                "passwd",
                0o644,
                "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n",
            ),
            ("group", 0o644, "root:x:0:\nshadow:x:0:\n"),
            ("shadow", 0o640, "root:HASH:1::::::\n"),
            ("profile", 0o644, "PATH=/bin\n"),
            ("nsswitch.conf", 0o600, "for root alone\n"),
            ("ssl/certs/ca.pem", 0o644, "-----BEGIN CERTIFICATE-----\n"),
            (
                "ssl/oops.pem",
                0o644,
                "-----BEGIN RSA PRIVATE KEY-----\nSECRET\n",
            ),
            ("ssl/site.key", 0o644, "SECRET\n"),
            ("ssl/private/key.pem", 0o644, "SECRET\n"),
            ("ssh/ssh_host_rsa_key", 0o600, "SECRET\n"),
            ("fstab", 0o644, "not listed\n"),
        ] {
            fs::write(etc.join(path), text).expect("written");
            fs::set_permissions(etc.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
        }
        top
    }

    fn files(top: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![top.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("a listing") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("a type").is_dir() {
                    directories.push(entry.path());
                } else {
                    let path = entry.path();
                    let path = path.strip_prefix(top).expect("below");
                    found.push(path.display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn only_listed_public_files_without_secrets_are_copied() {
        let (machine, home) = (machine(), tempfile::tempdir().expect("a directory"));
        let skeleton = ensure(home.path(), "one", machine.path()).expect("made");
        assert_eq!(
            files(&skeleton.root),
            [
                "bin",
                "etc/group",
                "etc/gshadow",
                "etc/passwd",
                "etc/profile",
                "etc/shadow",
                "etc/ssl/certs/ca.pem",
                "var/lock",
                "var/run"
            ]
        );
        let shadow = fs::read_to_string(skeleton.root.join("etc/shadow")).expect("shadow");
        assert_eq!(
            shadow,
            "root:*:19000:0:99999:7:::\nme:*:19000:0:99999:7:::\n"
        );
        assert_eq!(
            fs::read_link(skeleton.root.join("bin")).expect("a link"),
            Path::new("usr/bin")
        );
    }

    #[test]
    fn it_is_made_again_only_when_etc_has_changed_and_kept_while_in_use() {
        let (machine, home) = (machine(), tempfile::tempdir().expect("a directory"));
        let get = || ensure(home.path(), "one", machine.path()).expect("made");
        let first = get();
        let again = get();
        assert_eq!(first.root, again.root);
        drop(again);
        fs::write(machine.path().join("etc/profile"), "PATH=/usr/bin:/bin\n").expect("written");
        let second = get();
        assert_ne!(first.root, second.root);
        assert!(first.root.exists(), "somebody holds it");
        drop(first.lock);
        fs::write(machine.path().join("etc/group"), "root:x:0:\n").expect("written");
        let third = get();
        assert!(!first.root.exists() && second.root.exists() && third.root.exists());
    }
}
