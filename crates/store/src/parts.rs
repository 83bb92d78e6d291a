// SPDX-License-Identifier: Apache-2.0
//! Objects whose bytes come in any order: written where they belong, and given their name when all are here.
//!
//! Unlike [`NewObject`](crate::NewObject), which hashes what passes, such a file is read once more at its end: only then it
//! is known to be what it should be.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use wolffia_image::{Digest, Hasher};

use crate::error::{Doing, Result};
use crate::objects::Draft;
use crate::session::Session;

/// Bytes that are read at once for the digest.
const READ_BYTES: usize = 1 << 17;

/// An object whose bytes are still coming.
#[derive(Debug)]
pub struct PartialObject {
    draft: Draft,
}

impl Session<'_> {
    /// Begins an object of a known size whose bytes come in any order.
    pub fn begin_partial(&self, size_bytes: u64) -> Result<PartialObject> {
        let draft = self.draft_with(OFlags::RDWR, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::ftruncate(&draft.file, size_bytes)
            .doing("writing", self.path_of(&draft.name))?;
        Ok(PartialObject { draft })
    }

    /// Gives a partial object its place, if its bytes have this digest; says whether they have.
    pub fn finish_partial(&self, partial: &PartialObject, digest: &Digest) -> Result<bool> {
        let path = || self.path_of(&partial.draft.name);
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = partial
                .draft
                .file
                .read_at(&mut buffer, hasher.fed_bytes())
                .doing("reading", path())?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        if hasher.finish() != *digest {
            return Ok(false);
        }
        self.publish(&partial.draft, digest)?;
        Ok(true)
    }

    /// Gives a partial object the name that it is known by.
    ///
    /// The name is believed: who compared the bytes with it as they came may call this, and who knows only the place in a
    /// layer that they are of, nobody else.
    pub fn finish_named(&self, partial: &PartialObject, digest: &Digest) -> Result<()> {
        self.publish(&partial.draft, digest).map(drop)
    }
}

impl PartialObject {
    /// Writes bytes where they belong.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.draft.file.write_all_at(bytes, offset)
    }

    /// Reads bytes that were written.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.draft.file.read_at(bytes, offset)
    }

    /// Returns the file, which stays the object's when it has its name.
    pub fn file(&self) -> &File {
        &self.draft.file
    }
}
