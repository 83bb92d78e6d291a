// SPDX-License-Identifier: Apache-2.0
//! Objects: the contents of regular files, each stored once, named by digest.
//!
//! # Theory of operation
//! An object lies at [its name](ObjectName) below `objects/`, mode 0444, owned by the user whatever ids an image gives
//! the file: one object serves every mapping of owners. Owner, mode and times are the stub's. The name holds 132 bits of the
//! digest; all 256 are in the extended attribute [`DIGEST_ATTRIBUTE`] (68 bytes of the inode on ext4, no block) and are
//! compared whenever an object is looked up. An object whose usual name is taken by another digest gets the long one.
//!
//! An object is written under a session's own name and renamed into place without replacing: the first wins and a
//! second writer drops its copy. A file up to [`BUFFERED_BYTES_MAX`] is hashed before anything is written, so what is there
//! already costs one system call. Nothing is flushed: `power.rs` says what a power failure does.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use wolffia_image::{Digest, Hasher, ObjectName};

use crate::error::{Doing, Result, StoreError};
use crate::layout::Store;
use crate::session::Session;

/// The extended attribute that holds an object's whole digest: 32 bytes.
pub const DIGEST_ATTRIBUTE: &str = "user.wolffia.sha256";

/// Largest file that is kept in memory until its digest is known.
pub const BUFFERED_BYTES_MAX: usize = 1 << 20;

/// Zeros, to hash a hole with.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What became of an object that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether the store did not have it yet.
    pub new: bool,
}

impl Store {
    /// Returns the name under which the object with this digest lies, if it is there.
    pub fn locate(&self, digest: &Digest) -> Result<Option<ObjectName>> {
        for name in [ObjectName::of(digest), ObjectName::long(digest)] {
            match self.digest_at(name)? {
                Some(found) if found == *digest => return Ok(Some(name)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Returns the name that an object with this digest has, or will have.
    pub fn name_for(&self, digest: &Digest) -> Result<ObjectName> {
        let usual = ObjectName::of(digest);
        Ok(match self.digest_at(usual)? {
            Some(other) if other != *digest => ObjectName::long(digest),
            _ => usual,
        })
    }

    /// Returns where an object of that name lies.
    pub fn object_path(&self, name: ObjectName) -> PathBuf {
        self.path().join("objects").join(name.to_string())
    }

    /// Opens the object with this digest for reading.
    pub fn open_object(&self, digest: &Digest) -> Result<File> {
        let name = self.locate(digest)?.ok_or(StoreError::NoObject(*digest))?;
        let file = rustix::fs::openat(
            &self.objects,
            name.to_string(),
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .doing("opening", self.object_path(name))?;
        Ok(File::from(file))
    }

    /// Returns the whole digest of the object of that name, `None` where there is none.
    pub(crate) fn digest_at(&self, name: ObjectName) -> Result<Option<Digest>> {
        let path = self.object_path(name);
        let mut bytes = [0; Digest::BYTES];
        match rustix::fs::lgetxattr(&path, DIGEST_ATTRIBUTE, &mut bytes[..]) {
            Ok(Digest::BYTES) => Ok(Some(Digest::from_bytes(bytes))),
            Err(Errno::NOENT) => Ok(None),
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Err(StoreError::Damaged {
                path,
                problem: "the object does not carry its digest".to_owned(),
            }),
            Err(errno) => Err(errno).doing("looking at", path),
        }
    }
}

impl Session<'_> {
    /// Adds the object with this content, whose digest is known.
    ///
    /// The digest is believed: who computed it over these very bytes may call this, nobody else.
    pub fn put(&self, digest: &Digest, content: &[u8]) -> Result<Stored> {
        debug_assert_eq!(
            Digest::of(content),
            *digest,
            "the digest is not of these bytes"
        );
        let stored = |new| Stored {
            digest: *digest,
            size_bytes: content.len() as u64,
            new,
        };
        if self.store().locate(digest)?.is_some() {
            return Ok(stored(false));
        }
        let mut draft = self.draft()?;
        let path = self.path_of(&draft.name);
        draft.file.write_all(content).doing("writing", path)?;
        Ok(stored(self.publish(&draft, digest)?))
    }

    /// Begins an object whose content comes piece by piece.
    pub fn begin(&self) -> Result<NewObject<'_>> {
        Ok(NewObject {
            session: self,
            draft: self.draft()?,
            hasher: Hasher::new(),
            hole_at_end: false,
        })
    }

    fn draft(&self) -> Result<Draft> {
        self.draft_with(OFlags::WRONLY, DRAFT_MODE)
    }

    pub(crate) fn draft_with(&self, access: OFlags, mode: Mode) -> Result<Draft> {
        let name = self.next_name();
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.at(), &name, flags, mode)
            .doing("writing", self.path_of(&name))?;
        Ok(Draft {
            name,
            file: File::from(file),
        })
    }

    /// Gives a draft its name in the store; says whether it was the first.
    pub(crate) fn publish(&self, draft: &Draft, digest: &Digest) -> Result<bool> {
        let path = || self.path_of(&draft.name);
        rustix::fs::fsetxattr(
            &draft.file,
            DIGEST_ATTRIBUTE,
            digest.as_bytes(),
            XattrFlags::CREATE,
        )
        .doing("writing the digest of", path())?;
        rustix::fs::fchmod(&draft.file, OBJECT_MODE).doing("closing", path())?;
        for name in [ObjectName::of(digest), ObjectName::long(digest)] {
            let to = Path::new("objects").join(name.to_string());
            if self.publish_new(&draft.name, &to)? {
                return Ok(true);
            }
            if self.store().digest_at(name)? == Some(*digest) {
                break;
            }
        }
        rustix::fs::unlinkat(self.at(), &draft.name, rustix::fs::AtFlags::empty())
            .doing("removing", path())?;
        Ok(false)
    }
}

/// Readable by everybody who gets there (nobody but the user does), writable by nobody.
const OBJECT_MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// An attribute can be set by who may write; a process without rights over the user's own files may not, once that is gone.
const DRAFT_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file that is not an object yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) file: File,
}

/// An object whose content is still coming.
///
/// Dropped unfinished, it leaves a file in the session, which goes with the session.
#[derive(Debug)]
pub struct NewObject<'session> {
    session: &'session Session<'session>,
    draft: Draft,
    hasher: Hasher,
    hole_at_end: bool,
}

impl NewObject<'_> {
    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(bytes);
        self.hole_at_end = false;
        self.draft
            .file
            .write_all(bytes)
            .doing("writing", self.session.path_of(&self.draft.name))
    }

    /// Takes the next `count` bytes as zeros: a hole in the file.
    pub fn skip(&mut self, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            let zeros = usize::try_from(step).unwrap_or(ZEROS.len());
            self.hasher.update(&ZEROS[..zeros]);
            left -= step;
        }
        self.hole_at_end = count > 0 || self.hole_at_end;
        let path = self.session.path_of(&self.draft.name);
        let distance = i64::try_from(count).unwrap_or(i64::MAX);
        self.draft
            .file
            .seek(SeekFrom::Current(distance))
            .doing("writing", path)
            .map(drop)
    }

    /// Returns how many bytes were taken so far, holes included.
    pub fn size_bytes(&self) -> u64 {
        self.hasher.fed_bytes()
    }

    /// Gives the object its place in the store.
    pub fn finish(self) -> Result<Stored> {
        let size_bytes = self.hasher.fed_bytes();
        if self.hole_at_end {
            rustix::fs::ftruncate(&self.draft.file, size_bytes)
                .doing("writing", self.session.path_of(&self.draft.name))?;
        }
        let digest = self.hasher.finish();
        let new = self.session.publish(&self.draft, &digest)?;
        Ok(Stored {
            digest,
            size_bytes,
            new,
        })
    }
}
