// SPDX-License-Identifier: Apache-2.0
//! One layer on its way from packed bytes to objects, in one pass.
//!
//! # Theory of operation
//! Three threads, joined by bounded [pipes](crate::pipe), so that a layer uses more than one core and no stage waits for
//! the disk or the network while it could compute:
//!
//! ```text
//! fetch: bytes arrive, sha256 of what is packed ──► unpack: inflate, sha256 of the tar ──► store: tar, sha256 of files, objects
//! ```
//!
//! Files become objects, under their own digests, before the layer's digests are known to be right: an object is what
//! its name says whoever sent it. The layer's record, which makes it count, is written after both digests were compared.
//!
//! A failure travels downwards with the bytes and is told by the last stage; where the last stage itself fails, it drops
//! its pipe, and the stages above end at their next buffer.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use wolffia_image::Digest;
use wolffia_image::formats::LayerIndex;
use wolffia_image::formats::gzip_index::{self, Places, Whole};
use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{Layer, LayerBuilder, Wants};
use wolffia_store::{BUFFERED_BYTES_MAX, NewObject, Session};

use crate::error::PullError;
use crate::pipe::{self, Drain, Feeder};
use crate::unpack::{Begun, Unpacked, unpack};

/// What all stages of all layers count, and look at to know whether to go on.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Packed bytes that have arrived.
    pub(crate) packed_bytes: AtomicU64,
    /// Packed bytes that another process fetched meanwhile.
    pub(crate) spared_bytes: AtomicU64,
    /// Bytes of objects that were new.
    pub(crate) stored_bytes: AtomicU64,
    /// Layers that are complete.
    pub(crate) layers: AtomicU64,
    /// Something failed: nothing that is still under way is wanted.
    pub(crate) stop: AtomicBool,
}

/// A layer that was read.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) layer: Layer,
    /// Digest of the tar.
    pub(crate) diff_id: Digest,
    /// Digest and size of what was packed are the reader's to check; this is the size it had.
    pub(crate) tar_bytes: u64,
    begun: Begun,
    places: Places,
}

impl Stored {
    /// Returns the layer's index, now that all of it has passed; none where it can only be read from its beginning.
    pub(crate) fn index(&mut self, blob: Digest, blob_bytes: u64) -> Option<LayerIndex> {
        let whole = Whole {
            blob,
            blob_bytes,
            tar_bytes: self.tar_bytes,
            layer: &self.layer,
        };
        let index = match std::mem::replace(&mut self.begun, Begun::Nowhere) {
            Begun::Nowhere => return None,
            Begun::Anywhere => gzip_index::build_plain(&whole, &self.places),
            Begun::At(checkpoints) => gzip_index::build(&whole, checkpoints, &self.places),
        };
        index
            .inspect_err(|problem| tracing::debug!(%blob, problem, "no index was made"))
            .ok()
    }
}

/// Where packed bytes come from.
pub(crate) struct Packed {
    /// For messages.
    pub(crate) name: String,
    /// Verified by itself: its last read fails where the digest is wrong.
    pub(crate) reader: Box<dyn Read + Send>,
    /// How many bytes there will be.
    pub(crate) bytes: u64,
}

/// Brings a layer's files into the store, and returns what else the layer says. Blocks.
pub(crate) fn store(
    session: &Session<'_>,
    packed: Packed,
    counters: &Arc<Counters>,
) -> Result<Stored, PullError> {
    let Packed {
        name,
        reader,
        bytes,
    } = packed;
    let (packed_in, packed_out) = pipe::pipe();
    let (tar_in, tar_out) = pipe::pipe();
    let start = |stage: &str| thread::Builder::new().name(stage.to_owned());
    let counted = Arc::clone(counters);
    // Not joined on failure: it may be waiting for the network, and ends at its next buffer.
    start("fetch")
        .spawn(move || fetch(reader, packed_in, &counted))
        .map_err(PullError::Thread)?;
    let unpacking = start("unpack")
        .spawn(move || unpack(packed_out, bytes, tar_in))
        .map_err(PullError::Thread)?;
    let stored = Storing {
        session,
        counters,
        name: &name,
        reader: Reader::new(),
        builder: LayerBuilder::new(),
        file: File::None,
        places: Places::new(),
    }
    .run(tar_out);
    let unpacked = unpacking.join().unwrap_or(Unpacked::Unwanted);
    match (unpacked, stored) {
        (Unpacked::Failed(compression, source), _) => {
            Err(failed_unpacking(name, compression, source))
        }
        (Unpacked::Bomb(unpacked_bytes), _) => Err(PullError::Bomb {
            layer: name,
            packed_bytes: bytes,
            unpacked_bytes,
        }),
        (_, Err(error)) => Err(error),
        (Unpacked::Unwanted, Ok(_)) => Err(PullError::Stopped),
        (Unpacked::Whole(diff_id, tar_bytes, begun), Ok((layer, places))) => Ok(Stored {
            layer,
            diff_id,
            tar_bytes,
            begun,
            places,
        }),
    }
}

/// Tells bytes that did not arrive from bytes that cannot be unpacked.
pub(crate) fn failed_unpacking(
    layer: String,
    compression: wolffia_image::Compression,
    source: io::Error,
) -> PullError {
    match wolffia_fetch::Error::of_io(source) {
        Ok(error) => PullError::Fetch(error),
        Err(source) if source.kind() == io::ErrorKind::Interrupted => PullError::Stopped,
        Err(source) => PullError::Unpack {
            layer,
            compression,
            source,
        },
    }
}

/// Hands on what a reader gives, until its end or the first failure.
pub(crate) fn forward(reader: &mut dyn Read, packed: Feeder) {
    fetch_from(reader, packed, &Counters::default());
}

fn fetch(mut reader: Box<dyn Read + Send>, packed: Feeder, counters: &Counters) {
    fetch_from(&mut reader, packed, counters);
}

fn fetch_from(reader: &mut dyn Read, mut packed: Feeder, counters: &Counters) {
    loop {
        let Ok(mut buffer) = packed.buffer() else {
            return;
        };
        if counters.stop.load(Ordering::Relaxed) {
            packed.fail(io::ErrorKind::Interrupted.into()).ok();
            return;
        }
        match reader.read(&mut buffer) {
            Ok(0) => {
                packed.end().ok();
                return;
            }
            Ok(count) => {
                let counted = u64::try_from(count).unwrap_or(0);
                counters.packed_bytes.fetch_add(counted, Ordering::Relaxed);
                buffer.truncate(count);
                if packed.send(buffer).is_err() {
                    return;
                }
            }
            Err(error) => {
                packed.fail(error).ok();
                return;
            }
        }
    }
}

/// The last stage.
struct Storing<'run> {
    session: &'run Session<'run>,
    counters: &'run Counters,
    name: &'run str,
    reader: Reader,
    builder: LayerBuilder,
    file: File<'run>,
    /// Where files are in the tar.
    places: Places,
}

/// The file whose data is passing.
enum File<'run> {
    /// None, or one that nobody wants.
    None,
    /// One that is kept in memory until it is complete.
    Small { content: Vec<u8>, size: usize },
    /// One that is written as it comes.
    Large(NewObject<'run>),
}

impl Storing<'_> {
    fn run(mut self, mut tar: Drain) -> Result<(Layer, Places), PullError> {
        use std::io::BufRead as _;
        loop {
            // A failure of a stage above is told by that stage.
            let Ok(piece) = tar.fill_buf() else {
                return Err(PullError::Stopped);
            };
            if piece.is_empty() {
                break;
            }
            let length = piece.len();
            self.take(piece)?;
            tar.consume(length);
        }
        let source = self.reader.finish();
        source.map_err(|source| self.tar_error(source))?;
        Ok((self.builder.finish(), self.places))
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<(), PullError> {
        while let Some(event) = self
            .reader
            .next(&mut piece)
            .map_err(|source| self.tar_error(source))?
        {
            match event {
                Event::Entry(header) => {
                    let wants = self
                        .builder
                        .begin(header)
                        .map_err(|source| PullError::Tree {
                            name: self.name.to_owned(),
                            source,
                        })?;
                    self.places.begin();
                    self.begin(wants)?;
                }
                Event::Data { bytes, .. } => {
                    if !matches!(self.file, File::None) {
                        let length = bytes.len() as u64;
                        let offset = self.reader.taken_bytes() - length;
                        self.places.data(offset, length);
                    }
                    self.data(bytes)?;
                }
                Event::Hole { length, .. } => {
                    self.places.hole(length);
                    self.hole(length)?;
                }
                Event::EntryEnd => self.end()?,
            }
        }
        Ok(())
    }

    fn tar_error(&self, source: wolffia_image::tar::TarError) -> PullError {
        PullError::Tar {
            layer: self.name.to_owned(),
            source,
        }
    }

    fn begin(&mut self, wants: Wants) -> Result<(), PullError> {
        self.file = match wants {
            Wants::Nothing => File::None,
            Wants::Content { size } => match usize::try_from(size) {
                Ok(size) if size <= BUFFERED_BYTES_MAX => File::Small {
                    content: Vec::new(),
                    size,
                },
                _ => File::Large(self.session.begin()?),
            },
        };
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        match &mut self.file {
            File::None => {}
            File::Large(object) => object.write(bytes)?,
            // The usual case: a file that lies whole in the buffer is not copied.
            File::Small { content, size } if content.is_empty() && *size == bytes.len() => {
                self.file = File::None;
                self.small(bytes)?;
            }
            File::Small { content, size } => {
                content.reserve_exact(*size - content.len().min(*size));
                content.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), PullError> {
        match &mut self.file {
            File::None => {}
            File::Large(object) => object.skip(length)?,
            File::Small { content, .. } => {
                // The reader holds data and holes to the file's size, which fits memory.
                let length = usize::try_from(length).unwrap_or(BUFFERED_BYTES_MAX);
                content.resize((content.len() + length).min(BUFFERED_BYTES_MAX), 0);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), PullError> {
        match std::mem::replace(&mut self.file, File::None) {
            File::None => Ok(()),
            File::Small { content, .. } => self.small(&content),
            File::Large(object) => {
                let stored = object.finish()?;
                self.count(stored);
                Ok(())
            }
        }
    }

    fn small(&mut self, content: &[u8]) -> Result<(), PullError> {
        let digest = Digest::of(content);
        if content.is_empty() {
            // Empty files are whole in the stub tree.
            self.builder.content(digest);
            self.places.end(digest);
            return Ok(());
        }
        let stored = self.session.put(&digest, content)?;
        self.count(stored);
        Ok(())
    }

    fn count(&mut self, stored: wolffia_store::Stored) {
        self.builder.content(stored.digest);
        self.places.end(stored.digest);
        if stored.new {
            self.counters
                .stored_bytes
                .fetch_add(stored.size_bytes, Ordering::Relaxed);
        }
    }
}
