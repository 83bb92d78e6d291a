// SPDX-License-Identifier: Apache-2.0
//! The part of a root file system that belongs to one container: what it changed, and the kernel's scratch directory.
//!
//! ```text
//! DIRECTORY/upper    what the container changed; owned as inside
//! DIRECTORY/work     overlayfs' scratch; its `work/work` ends as mode 000
//! ```
//!
//! The scratch directory is made anew for every mount: a `volatile` overlay leaves a mark in it that refuses the next one, and
//! nothing in it outlives a mount. Files in both belong to sub-ids, so removing them is a matter for a process
//! inside the user namespace.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use thiserror::Error;
use wolffia_sys::mount::Upper;

/// Bytes of one extended attribute's name list and value, as the kernel bounds them.
const XATTR_BYTES_MAX: usize = 65_536;

/// Something in a container's directory could not be done.
#[derive(Debug, Error)]
#[error("{doing} {path}")]
pub struct WorkError {
    /// What was done.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Where one container's changes go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkDir {
    /// The directory that holds `upper` and `work`; it exists.
    pub directory: PathBuf,
    /// Nothing may be changed: there is no upper layer.
    pub read_only: bool,
    /// What is written need not survive a power cut: for containers that are thrown away.
    pub volatile: bool,
    /// Where objects are found that are still to come: a mount of [`crate::fuse::objects`].
    pub lazy: Option<PathBuf>,
    /// Layers committed earlier, the uppermost first; they lie above the image.
    pub committed: Vec<PathBuf>,
}

impl WorkDir {
    /// Returns a writable one in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            ..Self::default()
        }
    }

    /// Returns where changes are.
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Makes the directories ready for a mount; a new upper layer looks like the root of `lower`, since the kernel shows the
    /// upper's as the container's root directory.
    pub(crate) fn writable(&self, lower: &Path) -> Result<Option<Upper>, WorkError> {
        if self.read_only {
            return Ok(None);
        }
        let (upper, work) = (self.upper(), self.work());
        remove_tree(&work)?;
        make_private(&work)?;
        match make_private(&upper) {
            Ok(()) => look_alike(lower, &upper)?,
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Some(Upper {
            upper,
            work,
            volatile: self.volatile,
        }))
    }

    /// Makes what was changed a layer of its own at `target`, on the same file system, to be listed in
    /// [`committed`](WorkDir::committed) of others. Nothing may be mounted upon it any more.
    pub fn commit(&self, target: &Path) -> Result<(), WorkError> {
        let upper = self.upper();
        rustix::fs::renameat_with(CWD, &upper, CWD, target, rustix::fs::RenameFlags::NOREPLACE)
            .map_err(failed("moving", &upper))?;
        remove_tree(&self.work())
    }

    /// Removes what was changed, whoever it belongs to and whatever its modes are. Doing it twice is doing it once.
    ///
    /// Must run inside the user namespace where files of sub-ids may be there.
    pub fn discard(&self) -> Result<(), WorkError> {
        remove_tree(&self.work())?;
        remove_tree(&self.upper())
    }
}

/// Removes a tree that may hold directories without any permission; one that is not there is removed.
///
/// No symbolic link is followed, also where somebody exchanges names meanwhile.
pub fn remove_tree(path: &Path) -> Result<(), WorkError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Outside of a namespace modes count: open what is ours, and try once more.
            open_directories(path);
            gone(fs::remove_dir_all(path))
        }
        removed => gone(removed),
    }
    .map_err(|source| WorkError {
        doing: "removing",
        path: path.to_owned(),
        source,
    })
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Gives the owner all rights to the directories of a tree, as far as this process may.
fn open_directories(top: &Path) {
    let mut found = vec![top.to_owned()];
    while let Some(directory) = found.pop() {
        let plain = fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.is_dir());
        if !plain || fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).is_err() {
            continue;
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

fn make_private(path: &Path) -> Result<(), WorkError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| WorkError {
            doing: "making",
            path: path.to_owned(),
            source,
        })
}

/// Gives a new directory the owner, mode, attributes and times of another.
fn look_alike(model: &Path, new: &Path) -> Result<(), WorkError> {
    let looked = fs::metadata(model).map_err(|source| WorkError {
        doing: "looking at",
        path: model.to_owned(),
        source,
    })?;
    if (looked.uid(), looked.gid()) != (0, 0) {
        let (user, group) = (Uid::from_raw(looked.uid()), Gid::from_raw(looked.gid()));
        // With a single id there is nothing else to give it to, and the image's root directory is the container root's.
        match rustix::fs::chownat(CWD, new, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(failed("giving an owner to", new)(errno)),
        }
    }
    copy_attributes(model, new).map_err(failed("copying extended attributes to", new))?;
    fs::set_permissions(new, fs::Permissions::from_mode(looked.mode() & 0o7777)).map_err(
        |source| WorkError {
            doing: "setting the mode of",
            path: new.to_owned(),
            source,
        },
    )?;
    let time = |tv_sec, nanoseconds: i64| Timespec {
        tv_sec,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(looked.atime(), looked.atime_nsec()),
        last_modification: time(looked.mtime(), looked.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, new, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("setting the times of", new))
}

/// Copies extended attributes but overlayfs' own; those that the namespace may not write are left.
fn copy_attributes(model: &Path, new: &Path) -> Result<(), Errno> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let length = match rustix::fs::llistxattr(model, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        listed => listed?,
    };
    for name in names[..length].split(|byte| *byte == 0) {
        // Those that are escaped for the image's sake begin with `user.overlay.overlay.` and belong to it.
        let escaped = name.starts_with(b"user.overlay.overlay.");
        if name.is_empty() || (name.starts_with(b"user.overlay.") && !escaped) {
            continue;
        }
        let mut value = vec![0; XATTR_BYTES_MAX];
        let Ok(length) = rustix::fs::lgetxattr(model, name, &mut value[..]) else {
            continue;
        };
        match rustix::fs::lsetxattr(new, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> WorkError {
    move |errno| WorkError {
        doing,
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_may_enter_is_removed_all_the_same() {
        let top = tempfile::tempdir().expect("a directory");
        let work = WorkDir::new(top.path());
        let closed = work.upper().join("a/closed");
        fs::create_dir_all(&closed).expect("directories");
        fs::write(closed.join("file"), b"x").expect("a file");
        fs::create_dir_all(work.work().join("work")).expect("directories");
        for path in [closed, work.work().join("work")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("a mode");
        }
        work.discard().expect("removed");
        work.discard().expect("nothing to remove");
        assert_eq!(fs::read_dir(top.path()).expect("a listing").count(), 0);
    }

    #[test]
    fn a_new_upper_looks_like_the_images_root_and_an_old_one_is_kept() {
        let top = tempfile::tempdir().expect("a directory");
        let lower = top.path().join("lower");
        fs::create_dir(&lower).expect("a directory");
        fs::set_permissions(&lower, fs::Permissions::from_mode(0o1711)).expect("a mode");
        let work = WorkDir::new(top.path());
        let upper = work.writable(&lower).expect("ready").expect("writable");
        let (was, is) = (
            fs::metadata(&lower).expect("lower"),
            fs::metadata(&upper.upper).expect("upper"),
        );
        assert_eq!(is.mode() & 0o7777, 0o1711);
        assert_eq!(
            (is.mtime(), is.mtime_nsec()),
            (was.mtime(), was.mtime_nsec())
        );
        fs::write(upper.upper.join("kept"), b"x").expect("a file");
        fs::create_dir_all(upper.work.join("work/incompat/volatile")).expect("directories");
        work.writable(&lower).expect("ready again");
        assert!(upper.upper.join("kept").exists());
        assert!(!upper.work.join("work").exists());
    }

    #[test]
    fn read_only_has_no_upper() {
        let top = tempfile::tempdir().expect("a directory");
        let work = WorkDir {
            read_only: true,
            ..WorkDir::new(top.path())
        };
        assert_eq!(work.writable(top.path()).expect("ready"), None);
        assert_eq!(fs::read_dir(top.path()).expect("a listing").count(), 0);
    }
}
