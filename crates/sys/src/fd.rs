// SPDX-License-Identifier: Apache-2.0
//! Descriptors, and [`Root`]: a directory out of which no path of a stranger can lead.
//!
//! An image decides what its symbolic links say, and a running container can change them while we look. So a path that
//! comes from an image or a bundle is never handed to a call that resolves it in our own root.
//!
//! # Theory of operation
//! Opening goes through `openat2(2)` with `RESOLVE_IN_ROOT` (absolute links and `..` stay below the root) and
//! `RESOLVE_NO_MAGICLINKS` (links of /proc lead nowhere). The kernel answers `EAGAIN` where something was renamed during
//! the walk; that is tried again up to [`RETRIES_MAX`] times.
//!
//! Making directories needs the parent of what is missing, which openat2 does not give. [`Root::make_directories`] then
//! walks by hand: one held descriptor per component, each opened with `O_NOFOLLOW`; a link is read and its components are
//! put in front of the rest; `..` pops the stack of descriptors and never the root. A rename during the walk can at worst
//! make it end in a directory that was inside the root when it was opened.
//!
//! Sources: openat2(2), `path_resolution(7)`, kernel `fs/namei.c`.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How often a walk is tried again after a rename got in its way; a container that renames in a loop gets an error.
const RETRIES_MAX: u32 = 64;

/// How many symbolic links one path may lead through: the kernel's own limit (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// A directory that holds paths of strangers.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens `path`, which must be trusted, as the root.
    pub fn open(path: &Path) -> Result<Root, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root {
            fd: fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Makes a root of an open directory.
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd }
    }

    /// Returns the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens `path` inside the root with the given flags; `O_CLOEXEC` is added.
    pub fn open_with(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        for _ in 0..RETRIES_MAX {
            match fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens `path` as a place (`O_PATH`), following a link at its end.
    pub fn open_place(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::PATH, Mode::empty())
    }

    /// Opens `path` as a place (`O_PATH`): a link at its end is the place itself.
    pub fn open_place_no_follow(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a directory for reading.
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens a regular file for reading; anything else (a fifo, a device) is refused with `EINVAL` and never waited for.
    pub fn open_regular(&self, path: &Path) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_with(path, flags, Mode::empty())?;
        let is_regular = FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) == FileType::RegularFile;
        if is_regular {
            Ok(File::from(fd))
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Reads a regular file of at most `bytes_max` bytes; a larger one is refused with `EFBIG`.
    pub fn read_regular(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        let file = self.open_regular(path)?;
        let mut content = Vec::new();
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if content.len() as u64 > bytes_max {
            return Err(Errno::FBIG);
        }
        Ok(content)
    }

    /// Opens the directory `path` (`O_PATH`), making it and its missing parents with `mode`.
    pub fn make_directories(&self, path: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_with(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Walk::new(self)?.make(path, mode),
            answer => answer,
        }
    }

    /// Opens `path` (`O_PATH`), making an empty file, and missing parents, where nothing is.
    pub fn make_file(&self, path: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
        match self.open_place(path) {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = self.make_directories(parent, PARENT_MODE)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(fs::openat(&parent, name, flags | OFlags::NOFOLLOW, mode)?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&parent, name, flags, Mode::empty())
    }

    /// Makes a symbolic link at `path`, below parents that exist; what the link says is not resolved.
    pub fn make_link(&self, path: &Path, target: &OsStr) -> Result<(), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = self.open_place(path.parent().unwrap_or(Path::new("")))?;
        fs::symlinkat(target, &parent, name)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The mode of parents that are made because something below them is needed.
const PARENT_MODE: Mode = Mode::from_raw_mode(0o755);

/// A walk by hand: the open directories from the root to where it stands.
struct Walk {
    stack: Vec<OwnedFd>,
    links_left: u32,
}

/// What one component of a path was.
enum Component {
    Directory(OwnedFd),
    Link(OsString),
}

impl Walk {
    fn new(root: &Root) -> Result<Walk, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Walk {
            stack: vec![fs::openat(&root.fd, ".", flags, Mode::empty())?],
            links_left: LINKS_MAX,
        })
    }

    fn here(&self) -> &OwnedFd {
        self.stack.last().expect("the root is never popped")
    }

    fn make(mut self, path: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
        // Components still to do, the next one last.
        let mut ahead: Vec<OsString> = Vec::new();
        push_components(&mut ahead, path.as_os_str());
        while let Some(name) = ahead.pop() {
            if name.as_bytes() == b".." {
                if self.stack.len() > 1 {
                    drop(self.stack.pop());
                }
                continue;
            }
            let mode = if ahead.is_empty() { mode } else { PARENT_MODE };
            match self.enter_or_make(&name, mode)? {
                Component::Directory(fd) => self.stack.push(fd),
                Component::Link(target) => {
                    self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
                    if target.as_bytes().first() == Some(&b'/') {
                        self.stack.truncate(1);
                    }
                    push_components(&mut ahead, &target);
                }
            }
        }
        self.stack.pop().ok_or(Errno::NOENT)
    }

    fn enter_or_make(&self, name: &OsStr, mode: Mode) -> Result<Component, Errno> {
        match self.enter(name) {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        match fs::mkdirat(self.here(), name, mode) {
            Ok(()) | Err(Errno::EXIST) => self.enter(name),
            Err(error) => Err(error),
        }
    }

    fn enter(&self, name: &OsStr) -> Result<Component, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(self.here(), name, flags, Mode::empty())?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::Directory => Ok(Component::Directory(fd)),
            FileType::Symlink => {
                let target = fs::readlinkat(&fd, "", Vec::new())?;
                Ok(Component::Link(OsString::from_vec(target.into_bytes())))
            }
            _ => Err(Errno::NOTDIR),
        }
    }
}

fn push_components(ahead: &mut Vec<OsString>, path: &OsStr) {
    let components = path.as_bytes().rsplit(|byte| *byte == b'/');
    ahead.extend(
        components
            .filter(|name| !name.is_empty() && *name != b".")
            .map(|name| OsStr::from_bytes(name).to_owned()),
    );
}

/// Tells whether two descriptors refer to the same file.
pub fn is_same_file(one: impl AsFd, other: impl AsFd) -> Result<bool, Errno> {
    let (one, other) = (fs::fstat(one)?, fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Opens another descriptor for the very file behind an `O_PATH` descriptor, with other flags.
///
/// Goes through `proc`, a descriptor of a /proc mount: the only path by which the kernel allows it.
pub fn reopen(proc: impl AsFd, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("self/fd/{}", fd.as_fd().as_raw_fd());
    fs::openat(proc, path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Takes a descriptor that this program was started with, by its number.
///
/// It is closed on exec from now on. `EBADF` where there is none, where it is one of the three standard ones, and where it was opened by
/// this program or taken before: those are closed on exec already, and belong to somebody.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    if number <= 2 {
        return Err(Errno::BADF);
    }
    #[expect(unsafe_code, reason = "a number becomes a descriptor")]
    // SAFETY: the number is not negative; the call answers EBADF where nothing is open there, and closes nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(Errno::BADF);
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    #[expect(unsafe_code, reason = "a number becomes a descriptor")]
    // SAFETY: it is open, and nobody owns it: what this program opens is marked as closed on exec, what it takes here too.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the status of a file named below a directory, without following a link at its end.
pub fn status(directory: impl AsFd, name: &Path) -> Result<fs::Stat, Errno> {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes room for `count` descriptors, for a process that is about to start threads.
///
/// The kernel doubles the table at 64, 128, 256 ... descriptors, and where threads share it each time waits until every
/// processor has passed a quiet state: 15 to 20 ms in which the opening thread stands still (`expand_fdtable`; Linux 6.18).
/// Best effort: more than the limit on descriptors (`RLIMIT_NOFILE`) changes nothing, and the waits come where they come.
pub fn make_room(count: usize) {
    let Ok(last) = RawFd::try_from(count.saturating_sub(1)) else {
        return;
    };
    // Any descriptor will do for a moment.
    if let Ok(any) = fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        drop(rustix::io::fcntl_dupfd_cloexec(&any, last));
    }
}

#[cfg(test)]
mod tests;
