// SPDX-License-Identifier: Apache-2.0
//! A blob on its way: read in order, resumed where it broke, verified at its end.
//!
//! # Theory of operation
//! [`Download`] is a reader. It asks for the whole blob and hands on what comes, in the thread that reads. When the
//! connection breaks, stalls or the registry has a bad moment, it pauses ([`crate::retry`]) and asks again *from the byte where it
//! broke*; a source that knows no spans is read from the start and what was handed on already is skipped. Tries are
//! counted since the last progress, resumes in all: both are bounded, so that the reader ends.
//!
//! *Parallel spans* only where they pay. One stream is the cheapest way to read, and where the reader, which inflates and
//! writes, is what holds things up, more streams bring nothing. So the reader measures ([`Pace`]): if it mostly waits for the
//! wire, the wire brings less than a gigabit, and enough is left, the rest of the blob is fetched by several [lanes] in
//! spans of a mebibyte, which are handed on in order. The first stream goes on until the first span is reached. A registry
//! that answers a span with the whole blob is left to the one stream.
//!
//! *Memory*: one stream holds nothing but the connection's buffers. Lanes hold at most [`lanes::SPANS_MAX`] spans in
//! the whole process; a blob that finds none left stays with its one stream.
//!
//! The digest is computed here, over what is handed on: the read that would return the last byte fails instead if it
//! is not the one that was asked for. Whoever uses the bytes earlier must be able to take back what it made of them.
//!
//! Errors are [`Error`]s inside an [`io::Error`]; after one, the reader is dead. Dropping a download does not wait:
//! a lane ends at its next byte, or when its wait has its end.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use wolffia_image::{Descriptor, Hasher};

use crate::error::Error;
use crate::sources::Source;

use lanes::{Lanes, Taken};
use pace::Pace;
use span::SpanReader;

mod lanes;
mod pace;
mod span;

/// Less than this is not worth more connections: it is there before they are.
const PARALLEL_BYTES_MIN: u64 = 6 << 20;

/// How much the one stream still brings after lanes were started: they need a round trip or two to begin.
const HANDOVER_BYTES: u64 = 1 << 20;

/// A blob that is being fetched.
pub struct Download {
    source: Arc<dyn Source>,
    blob: Descriptor,
    inline: SpanReader,
    lanes: Option<Lanes>,
    /// Whether lanes may still be of use.
    may_widen: bool,
    pace: Pace,
    /// Gone when the end was reached and found right.
    hasher: Option<Hasher>,
    position: u64,
    failed: bool,
}

impl Download {
    /// Begins a download; nothing is sent before the first read, which blocks.
    pub fn new(source: Arc<dyn Source>, blob: &Descriptor) -> Self {
        let inline = SpanReader::new(Arc::clone(&source), blob.clone(), 0..blob.size);
        let may_widen = source.parallel_hint() > 1;
        Self {
            source,
            blob: blob.clone(),
            inline,
            lanes: None,
            may_widen,
            pace: Pace::new(),
            hasher: Some(Hasher::new()),
            position: 0,
            failed: false,
        }
    }

    /// Returns how many bytes were handed on.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Tells whether several spans are being fetched at once.
    pub fn is_parallel(&self) -> bool {
        self.lanes.is_some()
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = self.take(buffer)?;
        self.position += u64::try_from(length).unwrap_or(0);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..length]);
        }
        if self.position == self.blob.size {
            self.check_digest()?;
        }
        Ok(length)
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.lanes.as_ref().is_some_and(Lanes::are_refused) {
            self.narrow();
        }
        if self.inline.left() > 0 {
            let read = self.pace.measure(|| self.inline.read(buffer))?;
            if self.may_widen && self.pace.is_wire_bound() {
                self.widen();
            }
            return Ok(read);
        }
        if let Some(lanes) = &mut self.lanes {
            // Its connection cannot be used for anything else: it is in the middle of the blob.
            self.inline.close();
            match lanes.take(buffer)? {
                Taken::Bytes(length) => return Ok(length),
                Taken::Refused => self.narrow(),
            }
            return self.inline.read(buffer);
        }
        Ok(0)
    }

    /// Starts lanes behind the handover, if there is enough left and room for them.
    fn widen(&mut self) {
        let next = self.position + HANDOVER_BYTES;
        let left = self.blob.size.saturating_sub(next);
        if left < PARALLEL_BYTES_MIN {
            self.may_widen = false;
            return;
        }
        let rest = next..self.blob.size;
        if let Some(lanes) = Lanes::start(&self.source, &self.blob, rest) {
            tracing::debug!(digest = %self.blob.digest, from = next, "parallel spans");
            self.inline.end_at(next);
            self.lanes = Some(lanes);
            self.may_widen = false;
        }
    }

    /// Goes back to the one stream, for good.
    fn narrow(&mut self) {
        tracing::debug!(digest = %self.blob.digest, "this source serves no spans");
        self.lanes = None;
        if self.inline.left() > 0 {
            self.inline.end_at(self.blob.size);
            return;
        }
        let rest = self.position..self.blob.size;
        self.inline = SpanReader::new(Arc::clone(&self.source), self.blob.clone(), rest);
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

/// A stretch of a blob: read in order, resumed where it broke, *not* verified.
///
/// A source that knows no spans is read from the start of the blob, and what is before the stretch is skipped.
pub struct Stretch(SpanReader);

impl Stretch {
    /// Begins to read `span` of a blob; nothing is sent before the first read, which blocks.
    pub fn new(source: Arc<dyn Source>, blob: &Descriptor, span: std::ops::Range<u64>) -> Self {
        Self(SpanReader::new(source, blob.clone(), span))
    }
}

impl Read for Stretch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(Into::into)
    }
}

impl fmt::Debug for Stretch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stretch").finish_non_exhaustive()
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

#[cfg(test)]
mod tests;
