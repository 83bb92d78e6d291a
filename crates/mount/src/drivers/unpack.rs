// SPDX-License-Identifier: Apache-2.0
//! A stub tree becomes a plain directory: every stub a whole file, everything else as it is.
//!
//! # Theory of operation
//! The copy is written beside the stub tree under a name of its own, which is locked (flock) as long as its writer lives, and
//! appears by one rename, after it is on disk; a loser of a race throws his copy away, and what a killed writer left is swept by the next.
//! Contents are shared with the objects where the file system can (FICLONE), else copied in the kernel. Directories get
//! owner, mode and times after everything below them is there.
//!
//! The stub tree is our own, in a store that nobody else may enter, and does not change: names in it can be opened from
//! the top, and since only what was seen to be a directory is entered, no link is followed.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Stat, Timespec,
        Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};

use wolffia_store::{ImageRoot, UNPACKED};

use super::{DriverError, UnpackError};
use crate::work::remove_tree;

/// How drafts of it are called.
const DRAFT_PREFIX: &str = ".unpacking-";
/// Bytes of an extended attribute's value, or of all names, at most: the kernel's bound.
const XATTR_BYTES_MAX: usize = 65_536;
/// Levels of directories at most: `PATH_MAX` of one-letter names.
const DEPTH_MAX: usize = 2048;
/// How often a draft's name is tried anew.
const TRIES_MAX: u32 = 64;

const METACOPY: &[u8] = b"user.overlay.metacopy";
const REDIRECT: &[u8] = b"user.overlay.redirect";

/// Returns the directory that `stubs` was unpacked to, unpacking it now if need be. Blocks for as long as that takes.
pub(super) fn ensure(image: &ImageRoot) -> Result<PathBuf, DriverError> {
    let stubs = &image.stubs;
    let home = stubs.parent().unwrap_or(Path::new("/"));
    let target = home.join(UNPACKED);
    let failed = |source| DriverError::Unpack {
        path: target.clone(),
        source,
    };
    match rustix::fs::stat(&target) {
        Ok(_) => return Ok(target),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(system("looking at", &target)(errno))),
    }
    sweep(home);
    let (draft, lock) = new_draft(home).map_err(failed)?;
    let result = unpack(image, &draft.join("root")).and_then(|()| {
        let whole = draft.join("root");
        // Nobody looks at its contents again: they are on disk before it has its name, or a power failure would leave torn ones.
        rustix::fs::syncfs(&lock).map_err(system("flushing", &whole))?;
        match rustix::fs::renameat_with(CWD, &whole, CWD, &target, RenameFlags::NOREPLACE) {
            // Somebody else was faster: the same tree for the same mapping is the same.
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(system("moving", &whole)(errno)),
        }
    });
    remove_tree(&draft)?;
    result.map_err(failed)?;
    Ok(target)
}

/// Makes a draft's directory and locks it.
fn new_draft(home: &Path) -> Result<(PathBuf, OwnedFd), UnpackError> {
    for attempt in 0..TRIES_MAX {
        let name = format!("{DRAFT_PREFIX}{}-{attempt}", std::process::id());
        let draft = home.join(name);
        match rustix::fs::mkdir(&draft, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            made => made.map_err(system("making", &draft))?,
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&draft, flags, Mode::empty());
        let lock = lock.map_err(system("opening", &draft))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(system("locking", &draft))?;
        return Ok((draft, lock));
    }
    Err(system("making", home)(Errno::EXIST))
}

/// Removes what killed writers left.
fn sweep(home: &Path) {
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .as_bytes()
            .starts_with(DRAFT_PREFIX.as_bytes())
        {
            continue;
        }
        let draft = entry.path();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(lock) = rustix::fs::open(&draft, flags, Mode::empty()) else {
            continue;
        };
        let free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && let Err(error) = remove_tree(&draft) {
            tracing::debug!(%error, "an old draft stays");
        }
    }
}

fn unpack(image: &ImageRoot, target: &Path) -> Result<(), UnpackError> {
    let open = |path: &Path| {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::empty()).map_err(system("opening", path))
    };
    let from = open(&image.stubs)?;
    rustix::fs::mkdir(target, Mode::RWXU).map_err(system("making", target))?;
    let mut copy = Copy {
        from,
        to: open(target)?,
        data: std::iter::once(&image.objects)
            .chain(&image.elsewhere)
            .map(|path| open(path))
            .collect::<Result<_, _>>()?,
        linked: HashMap::new(),
        buffer: vec![0; XATTR_BYTES_MAX],
    };
    copy.tree()
}

struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    /// Where contents are, in the order in which they are looked for.
    data: Vec<OwnedFd>,
    /// Where files with several names were written first, by inode.
    linked: HashMap<u64, PathBuf>,
    buffer: Vec<u8>,
}

impl Copy {
    fn tree(&mut self) -> Result<(), UnpackError> {
        let root = PathBuf::from(".");
        let stat = rustix::fs::fstat(&self.from).map_err(system("looking at", &root))?;
        let mut directories = vec![(root, stat)];
        let mut next = 0;
        while next < directories.len() {
            let path = directories[next].0.clone();
            next += 1;
            if path.components().count() > DEPTH_MAX {
                return Err(UnpackError::Depth { path });
            }
            for name in self.names(&path)? {
                let path = path.join(name);
                let stat = rustix::fs::statat(&self.from, &path, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(system("looking at", &path))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    rustix::fs::mkdirat(&self.to, &path, Mode::RWXU)
                        .map_err(system("making", &path))?;
                    directories.push((path, stat));
                } else {
                    self.leaf(&path, &stat)?;
                }
            }
        }
        directories
            .iter()
            .rev()
            .try_for_each(|(path, stat)| self.dress(path, stat))
    }

    fn names(&self, directory: &Path) -> Result<Vec<OsString>, UnpackError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let list = || {
            let directory = rustix::fs::openat(&self.from, directory, flags, Mode::empty())?;
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::new(directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(OsStr::from_bytes(name).to_owned());
                }
            }
            Ok(names)
        };
        list().map_err(system("listing", directory))
    }

    fn leaf(&mut self, path: &Path, stat: &Stat) -> Result<(), UnpackError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                return rustix::fs::linkat(&self.to, first, &self.to, path, AtFlags::empty())
                    .map_err(system("linking", path));
            }
            self.linked.insert(stat.st_ino, path.to_owned());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(path, stat)?,
            FileType::Symlink => {
                rustix::fs::readlinkat(&self.from, path, Vec::new())
                    .and_then(|target| rustix::fs::symlinkat(target, &self.to, path))
                    .map_err(system("writing", path))?;
            }
            FileType::Fifo => {
                rustix::fs::mknodat(&self.to, path, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(system("writing", path))?;
            }
            // The store writes nothing else.
            _ => return Ok(()),
        }
        self.dress(path, stat)
    }

    fn file(&mut self, path: &Path, stat: &Stat) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(&self.to, path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(system("writing", path))?;
        let Some(object) = self.object(path)? else {
            return rustix::fs::ftruncate(&to, stat.st_size.cast_unsigned())
                .map_err(system("writing", path));
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut from = Err(Errno::NOENT);
        for data in &self.data {
            if matches!(from, Err(Errno::NOENT)) {
                from = rustix::fs::openat(data, &object, flags, Mode::empty());
            }
        }
        let from = from.map_err(system("opening the object of", path))?;
        if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
            return Ok(());
        }
        io::copy(&mut File::from(from), &mut File::from(to))
            .map(drop)
            .map_err(|error| {
                system("writing", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })
    }

    /// Returns the object of a stub, relative to the objects; none for a file that stands for itself (an empty one).
    fn object(&mut self, path: &Path) -> Result<Option<PathBuf>, UnpackError> {
        let at = beneath(&self.from, path);
        let value = match rustix::fs::lgetxattr(&at, REDIRECT, &mut self.buffer[..]) {
            Ok(length) => &self.buffer[..length],
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(errno) => return Err(system("reading an attribute of", path)(errno)),
        };
        let value = value.strip_suffix(b"\0").unwrap_or(value);
        let object = Path::new(OsStr::from_bytes(value.strip_prefix(b"/").unwrap_or(b"")));
        let plain = object
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if plain && !object.as_os_str().is_empty() {
            Ok(Some(object.to_owned()))
        } else {
            Err(UnpackError::Redirect {
                path: path.to_owned(),
            })
        }
    }

    /// Gives a copy the attributes, owner, mode and times of its model, in this order: a change of owner takes set-id bits
    /// away.
    fn dress(&mut self, path: &Path, stat: &Stat) -> Result<(), UnpackError> {
        self.attributes(path)?;
        let link = AtFlags::SYMLINK_NOFOLLOW;
        if (stat.st_uid, stat.st_gid) != (0, 0) {
            let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(&self.to, path, Some(user), Some(group), link)
                .map_err(system("giving an owner to", path))?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode);
            rustix::fs::chmodat(&self.to, path, mode, AtFlags::empty())
                .map_err(system("setting the mode of", path))?;
        }
        let time = |seconds, nanoseconds: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.cast_signed(),
        };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        rustix::fs::utimensat(&self.to, path, &times, link)
            .map_err(system("setting the times of", path))
    }

    fn attributes(&mut self, path: &Path) -> Result<(), UnpackError> {
        let (from, to) = (beneath(&self.from, path), beneath(&self.to, path));
        let length = match rustix::fs::llistxattr(&from, &mut self.buffer[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(()),
            Err(errno) => return Err(system("listing the attributes of", path)(errno)),
        };
        let names: Vec<Vec<u8>> = self.buffer[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && *name != METACOPY && *name != REDIRECT)
            .map(<[u8]>::to_vec)
            .collect();
        for name in names {
            let Ok(length) = rustix::fs::lgetxattr(&from, &name[..], &mut self.buffer[..]) else {
                continue;
            };
            let value = &self.buffer[..length];
            match rustix::fs::lsetxattr(&to, &name[..], value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) => {}
                Err(errno) => return Err(system("writing an attribute of", path)(errno)),
            }
        }
        Ok(())
    }
}

/// Returns a path that the xattr calls take, which know no directory descriptors.
fn beneath(directory: &OwnedFd, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).join(path)
}

fn system(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> UnpackError {
    move |source| UnpackError::System {
        doing,
        path: path.to_owned(),
        source,
    }
}
