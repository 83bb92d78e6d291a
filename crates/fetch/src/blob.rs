// SPDX-License-Identifier: Apache-2.0
//! A blob on its way: read in order, resumed where it broke, verified at its end.
//!
//! # Theory of operation
//! [`Download`] is a reader. It opens the blob at the source and hands on what comes. When the connection breaks, stalls or
//! the registry has a bad moment, it pauses ([`crate::retry`]) and opens the blob again *at the byte where it broke*; a
//! source that knows no spans is read from the start and what was already handed on is skipped. Tries are counted
//! since the last byte of progress, resumes in all: both are bounded, so that the reader ends.
//!
//! The digest is computed here, over what is handed on: the read that would return the end of the blob fails instead if it
//! is not the one that was asked for. Whoever uses the bytes earlier must be able to take back what it made of them.
//!
//! Errors are [`Error`](crate::Error)s inside an [`io::Error`]; after one, the reader is dead.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use wolffia_image::{Descriptor, Hasher};

use crate::error::Error;
use crate::sources::Source;

use span::SpanReader;

mod span;

/// A blob that is being fetched.
pub struct Download {
    blob: Descriptor,
    inline: SpanReader,
    /// Gone when the end was reached and found right, or something failed.
    hasher: Option<Hasher>,
    position: u64,
    failed: bool,
}

impl Download {
    /// Begins a download; nothing is sent before the first read, which blocks.
    pub fn new(source: Arc<dyn Source>, blob: &Descriptor) -> Self {
        let inline = SpanReader::new(source, blob.clone(), 0..blob.size);
        Self {
            blob: blob.clone(),
            inline,
            hasher: Some(Hasher::new()),
            position: 0,
            failed: false,
        }
    }

    /// Returns how many bytes were handed on.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = self.inline.read(buffer)?;
        self.position += u64::try_from(length).unwrap_or(0);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..length]);
        }
        if self.position == self.blob.size {
            self.check_digest()?;
        }
        Ok(length)
    }

    fn check_digest(&mut self) -> Result<(), Error> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let actual = hasher.finish();
        if actual == self.blob.digest {
            return Ok(());
        }
        Err(Error::Digest {
            doing: format!("fetching {}", self.blob.digest.short()),
            expected: self.blob.digest,
            actual,
        })
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.next(buffer).map_err(|error| {
            self.failed = true;
            error.into()
        })
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Download")
            .field("digest", &self.blob.digest)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
