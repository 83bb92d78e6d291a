// SPDX-License-Identifier: Apache-2.0
//! Writes a stub tree: the shape of an image on disk, without its contents.
//!
//! # Theory of operation
//! The tree's entries come sorted, each directory before what is in it. The writer keeps the directories on the way to
//! the current entry open and names everything relative to them, one plain name at a time, in a directory that is
//! new and ours: no path of an image is ever resolved. A directory gets its owner, mode and times when it is
//! left, so that modes without `w` or `x` and the times survive what is written into it.
//!
//! | entry | becomes |
//! |---|---|
//! | regular file | sparse file of its size; `user.overlay.metacopy` and `user.overlay.redirect` name the object |
//! | file that somebody else unpacked | the same, the attribute is its path from the site's root |
//! | empty file | an empty file: nothing could be shared |
//! | hard link | a hard link between stubs |
//! | symbolic link, fifo, directory | the same |
//! | device | nothing, counted: the user could not open it, and inside a namespace nobody can make it |
//!
//! Owners are those that [`Owners`] can show, the others are counted. Where the namespace has a single id no owner is
//! changed. Set-user-id bits are safe here: the store is 0700, so nobody else reaches them.
//!
//! The whole tree is written in a session and appears by one rename. Nothing is flushed: see `power.rs`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use wolffia_image::tree::{Entry, Kind, Meta, Tree};

use crate::elsewhere::Places;
use crate::error::{Doing, Result, StoreError};
use crate::layout::open_directory;
use crate::owners::Owners;
use crate::record;
use crate::session::{Session, is_there};
use crate::trees::{StubFacts, TreeId, stubs_path};

/// Marks a stub; the value is empty.
pub const METACOPY_ATTRIBUTE: &str = "user.overlay.metacopy";
/// Names a stub's object: the path in the data layer.
pub const REDIRECT_ATTRIBUTE: &str = "user.overlay.redirect";

/// Most directories that are kept open on the way to an entry; below that, names are relative to the last of them.
///
/// A path may have two thousand levels, which is more than a process usually has descriptors.
const OPEN_DIRECTORIES_MAX: usize = 64;

impl Session<'_> {
    /// Writes the stub tree of `tree` for a mapping, unless it is there. The tree's record and every object must be in
    /// the store.
    ///
    /// Must run inside the user namespace that `owners` describes.
    pub fn put_stubs(&self, id: TreeId, tree: &Tree, owners: &Owners) -> Result<StubFacts> {
        self.write_stubs(id, tree, owners, false)
    }

    /// The same for a lazy tree, whose objects are still to come.
    pub fn put_lazy_stubs(&self, id: TreeId, tree: &Tree, owners: &Owners) -> Result<StubFacts> {
        self.write_stubs(id, tree, owners, true)
    }

    fn write_stubs(
        &self,
        id: TreeId,
        tree: &Tree,
        owners: &Owners,
        lazy: bool,
    ) -> Result<StubFacts> {
        let target = stubs_path(id, &owners.key);
        if is_there(self.store(), &target)? {
            return self.store().stub_facts(&target);
        }
        let draft = self.next_name();
        let path = self.path_of(&draft);
        rustix::fs::mkdirat(self.at(), &draft, Mode::RWXU).doing("making", &path)?;
        let draft_fd = open_directory(self.at(), Path::new(&draft)).doing("opening", &path)?;
        let mut writer = Writer {
            session: self,
            places: self.store().places(id)?,
            owners,
            umask: umask(&draft_fd).doing("looking at", &path)?,
            top: draft_fd,
            path: path.join("root"),
            open: Vec::new(),
            lazy,
            facts: StubFacts {
                shown_as: owners.shown(u32::MAX, 0).0,
                ..StubFacts::default()
            },
        };
        for entry in &tree.entries {
            writer.leave_for(entry)?;
            writer.write(entry)?;
        }
        writer.leave_to(0)?;
        let facts = writer.facts;
        record::write_new(
            &writer.top,
            "facts.json",
            &record::to_json(&facts, &path.join("facts.json"))?,
        )
        .doing("writing", path.join("facts.json"))?;
        // Lost races are as good: the same tree for the same mapping is the same.
        self.publish_new(&draft, &target)?;
        Ok(facts)
    }
}

/// Finds the process's umask without changing it, which would be seen by other threads.
fn umask(at: &OwnedFd) -> rustix::io::Result<u32> {
    rustix::fs::mkdirat(at, "umask", Mode::from_raw_mode(0o777))?;
    let stat = rustix::fs::statat(at, "umask", AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::unlinkat(at, "umask", AtFlags::REMOVEDIR)?;
    Ok(!stat.st_mode & 0o777)
}

struct Writer<'tree, 'session> {
    session: &'session Session<'session>,
    /// Files that are nobody's objects.
    places: Places,
    owners: &'session Owners,
    umask: u32,
    /// The directory that the root is made in.
    top: OwnedFd,
    /// Where the root is, for messages.
    path: PathBuf,
    /// The directories on the way to the current entry, the root first.
    open: Vec<Open<'tree>>,
    /// Objects may be missing.
    lazy: bool,
    facts: StubFacts,
}

struct Open<'tree> {
    entry: &'tree Entry,
    /// `None` below [`OPEN_DIRECTORIES_MAX`].
    directory: Option<OwnedFd>,
}

impl<'tree> Writer<'tree, '_> {
    /// Leaves the directories that `entry` is not in.
    fn leave_for(&mut self, entry: &Entry) -> Result<()> {
        let path = entry.path.as_bytes();
        let above = |open: &Open<'_>| {
            let directory = open.entry.path.as_bytes();
            directory.is_empty()
                || path
                    .strip_prefix(directory)
                    .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let kept = self.open.iter().take_while(|open| above(open)).count();
        self.leave_to(kept)?;
        let parent = entry.path.parent();
        let current = self.open.last().map(|open| &open.entry.path);
        if parent.as_ref() == current {
            return Ok(());
        }
        Err(StoreError::Damaged {
            path: self.place(entry),
            problem: "the tree names it outside of its directory".to_owned(),
        })
    }

    /// Leaves directories until `kept` are open, and gives each what it must look like.
    fn leave_to(&mut self, kept: usize) -> Result<()> {
        while self.open.len() > kept
            && let Some(Open { entry, directory }) = self.open.pop()
        {
            let directory = if let Some(directory) = directory {
                directory
            } else {
                let (at, name) = self.relative(entry);
                open_directory(at, name).doing("opening", self.place(entry))?
            };
            self.dress(entry, &directory, None)?;
        }
        Ok(())
    }

    /// Returns an open directory above `entry` and the entry's path from there.
    fn relative<'entry>(&self, entry: &'entry Entry) -> (BorrowedFd<'_>, &'entry Path) {
        let path = entry.path.as_bytes();
        if path.is_empty() {
            return (self.top.as_fd(), Path::new("root"));
        }
        let nearest = self.open.iter().rev().find_map(|open| {
            let directory = open.directory.as_ref()?;
            let above = open.entry.path.as_bytes();
            let rest = path.get(if above.is_empty() { 0 } else { above.len() + 1 }..)?;
            Some((directory.as_fd(), Path::new(OsStr::from_bytes(rest))))
        });
        // The root is always open while anything below it is written.
        nearest.unwrap_or((self.top.as_fd(), Path::new("root")))
    }

    /// Returns where an entry is written, for messages.
    fn place(&self, entry: &Entry) -> PathBuf {
        self.path.join(entry.path.as_path())
    }

    fn write(&mut self, entry: &'tree Entry) -> Result<()> {
        let (at, name) = self.relative(entry);
        let wrote = |result: rustix::io::Result<()>| result.doing("writing", self.place(entry));
        match &entry.kind {
            Kind::Directory => {
                wrote(rustix::fs::mkdirat(at, name, Mode::RWXU))?;
                let directory = (self.open.len() < OPEN_DIRECTORIES_MAX)
                    .then(|| open_directory(at, name))
                    .transpose()
                    .doing("opening", self.place(entry))?;
                self.open.push(Open { entry, directory });
                Ok(())
            }
            Kind::File { size, digest } => {
                let file = self.create(at, name, entry)?;
                let mut born_with = entry.meta.mode & 0o777 & !self.umask;
                if *size > 0 {
                    let redirect = if let Some(redirect) = self.places.redirect(digest) {
                        redirect
                    } else {
                        let store = self.session.store();
                        let object = match store.locate(digest)? {
                            None if self.lazy => Some(store.name_for(digest)?),
                            found => found,
                        };
                        let object = object.ok_or(StoreError::NoObject(*digest))?;
                        object.redirect().into_bytes()
                    };
                    wrote(rustix::fs::ftruncate(&file, *size))?;
                    let attribute = |name, value: &[u8]| {
                        wrote(rustix::fs::fsetxattr(
                            &file,
                            name,
                            value,
                            XattrFlags::empty(),
                        ))
                    };
                    attribute(METACOPY_ATTRIBUTE, b"")?;
                    attribute(REDIRECT_ATTRIBUTE, &redirect)?;
                } else if born_with == 0 {
                    born_with = u32::MAX;
                }
                self.dress(entry, &file, Some(born_with))
            }
            Kind::Symlink { target } => {
                wrote(rustix::fs::symlinkat(OsStr::from_bytes(target), at, name))?;
                self.dress_by_name(entry)
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(entry.meta.mode & 0o777);
                wrote(rustix::fs::mknodat(at, name, FileType::Fifo, mode, 0))?;
                self.dress_by_name(entry)
            }
            Kind::HardLink { to } => {
                let root = self.open.first().and_then(|open| open.directory.as_ref());
                let root = root.map_or(self.top.as_fd(), AsFd::as_fd);
                match rustix::fs::linkat(root, to.as_path(), at, name, AtFlags::empty()) {
                    // The first name was a device, so nothing is there.
                    Err(Errno::NOENT) => {
                        self.facts.devices += 1;
                        Ok(())
                    }
                    other => wrote(other),
                }
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.facts.devices += 1;
                Ok(())
            }
            Kind::Whiteout | Kind::Opaque => Err(StoreError::Damaged {
                path: self.place(entry),
                problem: "a merged tree has a whiteout".to_owned(),
            }),
        }
    }

    fn create(&self, at: BorrowedFd<'_>, name: &Path, entry: &Entry) -> Result<OwnedFd> {
        rustix::fs::openat(
            at,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(entry.meta.mode & 0o777),
        )
        .doing("writing", self.place(entry))
    }

    /// Gives an open file or directory its attributes, owner, mode and times, in this order: changing the owner takes
    /// set-id bits and capabilities away. `born_with` is the mode it has already.
    fn dress(&mut self, entry: &Entry, file: &OwnedFd, born_with: Option<u32>) -> Result<()> {
        let meta = &entry.meta;
        let chowned = match self.owner(meta) {
            Some((user, group)) => {
                rustix::fs::fchown(file, Some(user), Some(group))
                    .doing("giving an owner to", self.place(entry))?;
                true
            }
            None => false,
        };
        for (name, value) in &meta.xattrs {
            let name = OsStr::from_bytes(name);
            let set = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
            self.attribute_set(entry, set)?;
        }
        if born_with != Some(meta.mode) || (chowned && meta.mode & 0o7000 != 0) {
            rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode))
                .doing("setting the mode of", self.place(entry))?;
        }
        rustix::fs::futimens(file, &times(meta)).doing("setting the times of", self.place(entry))
    }

    /// The same for what cannot or must not be opened: symbolic links, fifos.
    fn dress_by_name(&mut self, entry: &Entry) -> Result<()> {
        let meta = &entry.meta;
        let owner = self.owner(meta);
        let (at, name) = self.relative(entry);
        if let Some((user, group)) = owner {
            rustix::fs::chownat(at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .doing("giving an owner to", self.place(entry))?;
        }
        if matches!(entry.kind, Kind::Fifo) {
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
                .doing("setting the mode of", self.place(entry))?;
        }
        let path = format!("/proc/self/fd/{}", at.as_raw_fd());
        let path = Path::new(&path).join(name);
        let set: Vec<_> = meta
            .xattrs
            .iter()
            .map(|(name, value)| {
                rustix::fs::lsetxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty())
            })
            .collect();
        rustix::fs::utimensat(at, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .doing("setting the times of", self.place(entry))?;
        set.into_iter()
            .try_for_each(|set| self.attribute_set(entry, set))
    }

    /// Returns the owner to give, `None` where what a new file has is right; counts what cannot be shown.
    fn owner(&mut self, meta: &Meta) -> Option<(Uid, Gid)> {
        let (user, group, true_one) = self.owners.shown(meta.uid, meta.gid);
        self.facts.unmapped += u64::from(!true_one);
        ((user, group) != (0, 0) && !self.owners.is_single())
            .then(|| (Uid::from_raw(user), Gid::from_raw(group)))
    }

    /// Counts an attribute that this file system or namespace refuses; a full disk is a failure all the same.
    fn attribute_set(&mut self, entry: &Entry, set: rustix::io::Result<()>) -> Result<()> {
        match set {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS)) => {
                Err(errno).doing("writing an extended attribute of", self.place(entry))
            }
            Err(errno) => {
                tracing::debug!(path = %entry.path.as_path().display(), %errno, "an extended attribute is refused");
                self.facts.attributes_refused += 1;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec {
        tv_sec: meta.mtime.seconds,
        tv_nsec: meta.mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
