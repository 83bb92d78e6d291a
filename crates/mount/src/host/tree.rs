// SPDX-License-Identifier: Apache-2.0
//! This machine's own files as a read-only FUSE tree: owners as they are, contents read when asked for.
//!
//! Theory of operation: a node is a path ([`super::nodes`]); whether the path may be seen says the [`Exposure`]. Directories are
//! opened from `/` without following any symbolic link, so that a directory the host swaps for a link in between leads
//! nowhere. Reading crosses the machine's own mounts as any program does, but not into kernel interfaces (proc and the like,
//! below a directory somebody changes his root to): those are empty. Device nodes, sockets and fifos are left out.
//!
//! What is shown is what *others* may read, by mode bits: a file without `o+r` is not there, a directory without `o+x` is
//! there and empty, one without `o+r` hides its names. So the answer is the same whoever runs the container, and neither a
//! group that the user is in nor root's rights open anything to it.
//!
//! The process that runs this stands *outside* the container's user namespace: inside, every owner that is not mapped
//! reads as 65534 ([`Standing::Inside`] is for a last successor and shows those as root's).
//!
//! Names, attributes, pages and absences are good for [`VALID_S`]: a container is short, and sees the host as it began.
//! Descriptors are kept open in two bounded caches.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, fstat, fstatfs,
        openat, openat2, readlinkat, seek, statat, statvfs,
    },
    io::Errno,
};

use super::{
    exposure::{Exposure, Sight},
    nodes::Nodes,
};
use crate::fuse::{
    FileSystem,
    protocol::{Attributes, ROOT_NODE, Reply},
    push::Pusher,
};

/// Seconds for which names, attributes and absences are good: a day, longer than such a container lives.
const VALID_S: u64 = 86_400;
/// Open directories, and open files, kept at most: well below the usual limit of 1,024 descriptors.
pub(super) const OPEN_MAX: usize = 256;
/// Bytes of names asked for at once.
const LISTING_BYTES: usize = 32 * 1024;

/// The mode bits that say whether others may read, and enter or execute.
const OTHERS_READ: u32 = 0o004;
const OTHERS_ENTER: u32 = 0o001;
/// What an owner outside of the map reads as, inside: the kernel's default.
const OVERFLOW_ID: u32 = 65_534;

/// File systems that are interfaces of the kernel, by the numbers of linux/magic.h: they hold no files of the machine.
const KERNEL_INTERFACES: &[u64] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x0187,      // autofs: entering it would mount things
];

/// A READ of this size or more is a window of readahead, and more of them will follow.
const WINDOW_BYTES: u32 = 64 * 1024;
/// A file of this size or more comes in several windows.
const PUSHED_BYTES_MIN: u64 = 256 * 1024;

/// Files that are put into the kernel's cache at most: what a container reads in its first seconds.
const PUSHED_MAX: usize = 1024;

/// A file whose rest will be read.
#[derive(Debug)]
struct Wanted {
    node: u64,
    file: Arc<OwnedFd>,
    offset: u64,
}

/// Where the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Outside the container's user namespace: owners are true.
    Outside,
    /// Inside, as its root: an owner that is not mapped is shown as root.
    Inside,
}

/// The tree of a machine.
#[derive(Debug)]
pub(crate) struct HostTree {
    exposure: Exposure,
    standing: Standing,
    root: OwnedFd,
    /// The device of the first directory shown: inode numbers of others are moved out of its way.
    device: u64,
    nodes: Mutex<Nodes>,
    directories: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    files: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    /// Files to be put into the kernel's cache: node, descriptor, from where on.
    wanted: (Sender<Option<Wanted>>, Mutex<Receiver<Option<Wanted>>>),
    /// Nodes that were, once each.
    pushed: Mutex<HashSet<u64>>,
    /// The cookies at which directories that were listed lately end.
    ends: Mutex<HashMap<u64, u64>>,
}

impl HostTree {
    /// Makes the tree; `log` is the table of nodes, empty for a first server.
    pub(crate) fn new(exposure: Exposure, log: OwnedFd, standing: Standing) -> Result<Self, Errno> {
        let root = openat(rustix::fs::CWD, "/", DIRECTORY, Mode::empty())?;
        let (sender, receiver) = channel();
        let first = exposure.shown().first();
        let device = first.and_then(|path| rustix::fs::stat(path).ok());
        Ok(Self {
            exposure,
            standing,
            root,
            device: device.map_or(0, |stat| stat.st_dev),
            nodes: Mutex::new(Nodes::open(log)?),
            directories: Mutex::default(),
            files: Mutex::default(),
            wanted: (sender, Mutex::new(receiver)),
            pushed: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        unpoisoned(&self.nodes)
    }

    /// Returns a node's path and whether it may be seen.
    fn locate(&self, node: u64) -> Result<(Vec<u8>, Sight), Errno> {
        let path = self.nodes().path(node)?;
        let sight = self.exposure.sight(&path);
        Ok((path, sight))
    }

    /// Returns a directory, opened for look-ups: `EACCES` where others may not enter it.
    fn directory(&self, node: u64) -> Result<Arc<OwnedFd>, Errno> {
        kept(&self.directories, node, || {
            let (path, sight) = self.locate(node)?;
            if sight == Sight::None {
                return Err(Errno::NOENT);
            }
            let directory = self.open(&path, DIRECTORY)?;
            let stat = fstat(&directory)?;
            let closed = stat.st_mode & OTHERS_ENTER == 0;
            if closed || (stat.st_dev != self.device && is_interface(&directory)?) {
                return Err(Errno::ACCESS);
            }
            Ok(directory)
        })
    }

    /// Opens a path below the root; no symbolic link is followed anywhere in it.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    /// Returns the attributes of a name in a directory, if it is of a kind that is shown.
    fn stat(&self, directory: impl AsFd, name: &[u8]) -> Result<Attributes, Errno> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let shown = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => stat.st_mode & OTHERS_READ != 0,
            FileType::Directory | FileType::Symlink => true,
            _ => false,
        };
        if !shown {
            return Err(Errno::NOENT);
        }
        let mut attributes = attributes(&stat);
        if stat.st_dev != self.device {
            // Two files with several names must not look like one because two file systems count alike.
            attributes.inode ^= stat.st_dev.wrapping_mul(INODE_SPREAD);
        }
        if self.standing == Standing::Inside {
            for id in [&mut attributes.uid, &mut attributes.gid] {
                if *id == OVERFLOW_ID {
                    *id = 0;
                }
            }
        }
        Ok(attributes)
    }

    /// Returns what a child is, without giving it an id.
    fn child(&self, parent: u64, name: &[u8]) -> Result<Attributes, Errno> {
        let (mut path, _) = self.locate(parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        match self.exposure.sight(&path) {
            Sight::None => Err(Errno::NOENT),
            Sight::Way(_) => Ok(made_up()),
            Sight::Real => self.stat(self.directory(parent)?, name),
        }
    }

    /// Has the rest of a file put into the kernel's cache, once.
    fn want_rest(&self, node: u64, file: &Arc<OwnedFd>, offset: u64) {
        let mut pushed = unpoisoned(&self.pushed);
        if pushed.len() >= PUSHED_MAX || !pushed.insert(node) {
            return;
        }
        let length = fstat(&**file).map_or(0, |stat| stat.st_size.cast_unsigned());
        if length >= PUSHED_BYTES_MIN && offset < length {
            let wanted = Wanted {
                node,
                file: Arc::clone(file),
                offset,
            };
            // The other end is there as long as the tree is.
            drop(self.wanted.0.send(Some(wanted)));
        }
    }

    fn list_way(
        &self,
        node: u64,
        names: &[Vec<u8>],
        mut listing: Listing<'_>,
    ) -> Result<(), Errno> {
        let skip = usize::try_from(listing.offset).map_err(|_| Errno::INVAL)?;
        for (index, name) in names.iter().enumerate().skip(skip) {
            let Ok(attributes) = self.child(node, name) else {
                continue;
            };
            if !self.append(node, name, &attributes, index as u64 + 1, &mut listing)? {
                break;
            }
        }
        Ok(())
    }

    fn list_real(&self, node: u64, path: &[u8], mut listing: Listing<'_>) -> Result<(), Errno> {
        if listing.offset > 0 && unpoisoned(&self.ends).get(&node) == Some(&listing.offset) {
            // Whoever lists a directory asks once more at its end.
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self
            .directory(node)
            .and_then(|directory| openat(directory, ".", flags, Mode::empty()));
        let directory = match opened {
            Ok(directory) if fstat(&directory)?.st_mode & OTHERS_READ != 0 => directory,
            // Closed: it is there, and empty.
            Ok(_) | Err(Errno::ACCESS) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        if listing.offset > 0 {
            seek(&directory, SeekFrom::Start(listing.offset))?;
        }
        // Below a directory that is shown everything is, but what is hidden by name: the whole path need not be looked at again.
        let hidden: Vec<&[u8]> = self.exposure.hidden_in(path).collect();
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut names = RawDir::new(&directory, &mut buffer);
        let mut end = listing.offset;
        while let Some(entry) = names.next() {
            let entry = entry?;
            let (name, cookie) = (entry.file_name().to_bytes(), entry.next_entry_cookie());
            if name != b"." && name != b".." && !hidden.contains(&name) {
                let Ok(attributes) = self.stat(&directory, name) else {
                    continue;
                };
                if !self.append(node, name, &attributes, cookie, &mut listing)? {
                    return Ok(());
                }
                end = cookie;
            }
        }
        let mut ends = unpoisoned(&self.ends);
        if ends.len() >= OPEN_MAX {
            ends.clear();
        }
        ends.insert(node, end);
        Ok(())
    }

    /// Appends a name if there is room, and says whether there was.
    fn append(
        &self,
        parent: u64,
        name: &[u8],
        attributes: &Attributes,
        cookie: u64,
        listing: &mut Listing<'_>,
    ) -> Result<bool, Errno> {
        let bytes = Reply::directory_entry_bytes(name, listing.plus);
        if listing.reply.body_len() + bytes > listing.size {
            return Ok(false);
        }
        if listing.plus {
            let node = self.nodes().child(parent, name)?;
            listing.reply.entry(node, attributes, VALID_S);
        }
        let kind = (attributes.mode >> 12) & 0o17;
        listing
            .reply
            .directory_entry(attributes.inode, cookie, kind, name);
        Ok(true)
    }
}

impl FileSystem for HostTree {
    fn lookup(&self, node: u64, name: &[u8], reply: &mut Reply) -> Result<(), Errno> {
        match self.child(node, name) {
            Ok(attributes) => {
                let mut nodes = self.nodes();
                let id = nodes.child(node, name)?;
                nodes.flush()?;
                reply.entry(id, &attributes, VALID_S);
                Ok(())
            }
            // Closed directories are empty ones.
            Err(Errno::NOENT | Errno::ACCESS) => {
                reply.entry(0, &Attributes::default(), VALID_S);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn attributes(&self, node: u64, reply: &mut Reply) -> Result<(), Errno> {
        let parent_and_name = self
            .nodes()
            .parent_and_name(node)
            .map(|(parent, name)| (parent, name.to_vec()));
        let attributes = match parent_and_name {
            Some((parent, name)) => self.child(parent, &name)?,
            None if node == ROOT_NODE => made_up(),
            None => return Err(Errno::STALE),
        };
        reply.attributes_valid(&attributes, VALID_S);
        Ok(())
    }

    fn read_link(&self, node: u64, reply: &mut Reply) -> Result<(), Errno> {
        let (parent, name) = {
            let nodes = self.nodes();
            let (parent, name) = nodes.parent_and_name(node).ok_or(Errno::INVAL)?;
            (parent, name.to_vec())
        };
        let target = readlinkat(self.directory(parent)?, name, Vec::new())?;
        reply.bytes(target.to_bytes());
        Ok(())
    }

    fn read(&self, node: u64, offset: u64, size: u32, reply: &mut Reply) -> Result<(), Errno> {
        let file = kept(&self.files, node, || {
            let (path, sight) = self.locate(node)?;
            if sight != Sight::Real {
                return Err(Errno::NOENT);
            }
            // NONBLOCK: should the host have put a fifo there meanwhile, nobody waits for its writer.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = self.open(&path, flags)?;
            let mode = fstat(&file)?.st_mode;
            let regular = FileType::from_raw_mode(mode) == FileType::RegularFile;
            if regular && mode & OTHERS_READ != 0 {
                Ok(file)
            } else {
                Err(Errno::ACCESS)
            }
        })?;
        if size >= WINDOW_BYTES {
            self.want_rest(node, &file, offset + u64::from(size));
        }
        reply.fill(size as usize, |bytes| {
            let mut filled = 0;
            while filled < bytes.len() {
                match rustix::io::pread(&*file, &mut bytes[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(len) => filled += len,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(filled)
        })
    }

    fn read_directory(
        &self,
        node: u64,
        offset: u64,
        size: u32,
        plus: bool,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let listing = Listing {
            offset,
            size: size as usize,
            plus,
            reply,
        };
        let (path, sight) = self.locate(node)?;
        match sight {
            Sight::None => return Err(Errno::NOENT),
            Sight::Way(names) => self.list_way(node, &names, listing)?,
            Sight::Real => self.list_real(node, &path, listing)?,
        }
        self.nodes().flush()
    }

    fn push(&self, pusher: &Pusher<'_>) {
        let receiver = unpoisoned(&self.wanted.1);
        while let Ok(Some(wanted)) = receiver.recv() {
            if let Err(errno) = pusher.push(wanted.node, &wanted.file, wanted.offset) {
                tracing::debug!(%errno, node = wanted.node, "not put into the kernel's cache");
            }
        }
    }

    fn end(&self) {
        drop(self.wanted.0.send(None));
    }

    fn statistics(&self, reply: &mut Reply) -> Result<(), Errno> {
        let below = self
            .exposure
            .shown()
            .first()
            .map_or(OsStr::new("/"), |path| path.as_os_str());
        let stat = statvfs(below.as_bytes())?;
        let numbers = [
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
        ];
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        reply.statistics(numbers, small(stat.f_frsize), small(stat.f_namemax));
        Ok(())
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Where a listing goes on, and how far it may.
struct Listing<'a> {
    offset: u64,
    size: usize,
    plus: bool,
    reply: &'a mut Reply,
}

fn attributes(stat: &Stat) -> Attributes {
    let seconds = |number: i64| number.cast_unsigned();
    let nanoseconds = |number: u64| u32::try_from(number).unwrap_or(0);
    Attributes {
        inode: stat.st_ino,
        size_bytes: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        times_s: [
            seconds(stat.st_atime),
            seconds(stat.st_mtime),
            seconds(stat.st_ctime),
        ],
        times_ns: [
            nanoseconds(stat.st_atime_nsec),
            nanoseconds(stat.st_mtime_nsec),
            nanoseconds(stat.st_ctime_nsec),
        ],
        mode: stat.st_mode,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        block_bytes: 4096,
    }
}

/// Spreads a device's number over the upper half of an inode's; inode numbers mostly use the lower.
const INODE_SPREAD: u64 = 0x9e37_79b9_0000_0000;

/// Returns whether a directory lies on an interface of the kernel.
fn is_interface(directory: &OwnedFd) -> Result<bool, Errno> {
    let kind = fstatfs(directory)?.f_type.cast_unsigned();
    Ok(KERNEL_INTERFACES.contains(&kind))
}

/// A directory above a shown one: root's, 0755, of no time.
fn made_up() -> Attributes {
    Attributes {
        inode: 1,
        mode: 0o40755,
        links: 2,
        block_bytes: 4096,
        ..Attributes::default()
    }
}

/// Returns a descriptor from a cache, opened now if need be. A full cache is emptied: simpler than ages, and as bounded.
fn kept(
    cache: &Mutex<HashMap<u64, Arc<OwnedFd>>>,
    node: u64,
    open: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<Arc<OwnedFd>, Errno> {
    if let Some(found) = unpoisoned(cache).get(&node) {
        return Ok(Arc::clone(found));
    }
    let opened = Arc::new(open()?);
    let mut cache = unpoisoned(cache);
    if cache.len() >= OPEN_MAX {
        cache.clear();
    }
    cache.insert(node, Arc::clone(&opened));
    Ok(opened)
}

/// A table is whole between any two calls, so another thread's panic has not spoilt it.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
