// SPDX-License-Identifier: Apache-2.0
//! A tar archive read as it arrives: bytes in, entries and pieces of files out.
//!
//! A layer is inflated, hashed, read and stored in one pass, so the reader neither asks for bytes nor keeps them. The
//! caller hands it whatever has arrived and takes events until there are none left; file data comes back as slices of
//! the caller's own buffer.
//!
//! ```
//! # use wolffia_image::tar::{Event, Reader, TarError};
//! # fn read(archive: &[u8]) -> Result<(), TarError> {
//! let mut reader = Reader::new();
//! for mut piece in archive.chunks(4096) {
//!     while let Some(event) = reader.next(&mut piece)? {
//!         match event {
//!             Event::Entry(header) => { /* open */ }
//!             Event::Data { offset, bytes } => { /* write there */ }
//!             Event::Hole { offset, length } => { /* zeros there */ }
//!             Event::EntryEnd => { /* close */ }
//!         }
//!     }
//! }
//! reader.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! The archive is a row of 512-byte blocks. A header block is collected (it may straddle two pieces), its checksum
//! compared with the unsigned and the signed sum, and then:
//!
//! - `x`, `g`, `L`, `K`: what follows is kept, bounded, and applied to the next header (`g`: to all that follow). GNU long names
//!   win over PAX, PAX over the header, local PAX over global. A global record cannot set what belongs to one entry
//!   alone: path, link, size, sparse map.
//! - a sparse file (GNU `S`, PAX 0.0, 0.1, 1.0): its map is read first, checked (ascending, inside the file, exactly as
//!   long as the data), then data comes at its offsets with [`Event::Hole`] between.
//! - a hard link that claims data: writers disagree whether data follows. If the next block is itself a header or
//!   zero, there was none (GNU tar, Go); otherwise the data is skipped (pax, libarchive): a link's content is its target's.
//! - two zero blocks: the end. What follows is ignored. The end of input at a block's border is an end too; a zero block
//!   followed by something else is damage.
//!
//! Nothing here judges paths: see [`crate::tree`].
//!
//! Sources: POSIX.1-2017 pax "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual appendix "Tar
//! Internals" (sparse formats, extensions); libarchive `tar(5)`; Go `archive/tar` for what registries' tools accept.

mod block;
mod entry;
mod event;
mod pax;
mod sparse;

pub use self::event::{EntryKind, Event, Header, TarError};

use self::block::{BLOCK_BYTES, Block};
use self::pax::Records;
use self::sparse::{Extent, SparseMap};

/// Largest extended header, long name or long link that is read: what Go's reader takes.
pub const SPECIAL_BYTES_MAX: u64 = 1 << 20;
/// Most headers of one archive, extended ones included; a full TeX Live has a quarter of a million files.
pub const HEADERS_MAX: u64 = 1 << 22;
/// Most data extents of one sparse file.
pub const SPARSE_EXTENTS_MAX: usize = 1 << 16;
/// Most bytes of holes in one archive: they cost nothing to send but must be hashed, at about 1 GB/s.
pub const HOLES_BYTES_MAX: u64 = 64 << 30;

/// A reader of one archive, fed piece by piece.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The block that is being collected.
    block: Box<Block>,
    block_filled: usize,
    /// Bytes of the archive taken so far.
    taken: u64,
    headers: u64,
    holes_bytes: u64,
    /// The data of a long name, an extended header or a sparse map.
    special: Vec<u8>,
    globals: Records,
    next_pax: Option<Records>,
    next_path: Option<Vec<u8>>,
    next_link: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// A header block is being collected.
    Header { after_zero_block: bool },
    /// The data of a special header is being collected.
    Special {
        kind: Special,
        left: u64,
        padding: u64,
    },
    /// Extension blocks of an old GNU sparse header are being collected.
    SparseBlocks(Box<(Header, SparseMap)>),
    /// The text of a PAX 1.0 sparse map is being collected; `left` bytes of data, map included, are to come.
    SparseText {
        header: Box<Header>,
        text: sparse::MapText,
        left: u64,
    },
    /// An entry is known and to be told.
    Tell(Box<(Header, Body)>),
    /// An entry's data passes.
    Body(Body),
    /// Bytes are thrown away.
    Skip(u64),
    /// The block behind a hard link that claims data decides whether there is any.
    LinkData { padded: u64 },
    /// The archive is over.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    LocalPax,
    GlobalPax,
    LongPath,
    LongLink,
    /// Of no use: volume labels.
    Label,
}

/// The data of one entry.
#[derive(Debug, Default)]
struct Body {
    /// Where data goes; what lies between is holes.
    extents: Vec<Extent>,
    extent: usize,
    /// How far the file is complete.
    position: u64,
    size: u64,
    /// Bytes between the data and the next header.
    tail: u64,
    /// Whether the block behind this decides how long the tail is.
    link_data: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Returns a reader at the beginning of an archive.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header {
                after_zero_block: false,
            },
            block: Box::new(Block::zero()),
            block_filled: 0,
            taken: 0,
            headers: 0,
            holes_bytes: 0,
            special: Vec::new(),
            globals: Records::default(),
            next_pax: None,
            next_path: None,
            next_link: None,
        }
    }

    /// Returns the next event, having advanced `input` past what it took; `None` once all of `input` is taken.
    ///
    /// After an error the archive cannot be read on.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'input>>, TarError> {
        loop {
            match &mut self.state {
                State::Header { .. } => {
                    if !self.fill_block(input) {
                        return Ok(None);
                    }
                    self.read_header()?;
                }
                State::Special { .. } => {
                    if !self.collect_special(input)? {
                        return Ok(None);
                    }
                }
                State::SparseBlocks(_) => {
                    if !self.fill_block(input) {
                        return Ok(None);
                    }
                    self.read_sparse_block()?;
                }
                State::SparseText { .. } => {
                    if !self.fill_block(input) {
                        return Ok(None);
                    }
                    self.read_sparse_text()?;
                }
                State::Tell(_) => {
                    let State::Tell(told) = std::mem::replace(&mut self.state, State::End) else {
                        continue;
                    };
                    let (header, body) = *told;
                    self.state = State::Body(body);
                    return Ok(Some(Event::Entry(header)));
                }
                State::Body(_) => return self.read_body(input),
                State::Skip(left) => {
                    let step = take(input, *left);
                    *left -= step;
                    let done = *left == 0;
                    self.taken += step;
                    if !done {
                        return Ok(None);
                    }
                    self.state = State::Header {
                        after_zero_block: false,
                    };
                }
                State::LinkData { padded } => {
                    let padded = *padded;
                    if !self.fill_block(input) {
                        return Ok(None);
                    }
                    if self.block.is_zero() || self.block.checksum_fits() {
                        self.read_header()?;
                    } else {
                        self.state = State::Skip(padded - BLOCK_BYTES);
                    }
                }
                State::End => {
                    self.taken += input.len() as u64;
                    *input = &[];
                    return Ok(None);
                }
            }
        }
    }

    /// Ends the reading: the archive has no more bytes.
    pub fn finish(&self) -> Result<(), TarError> {
        let complete = match self.state {
            // Archives of which not even the last block is whole exist; zeros say nothing.
            State::Header { .. } | State::LinkData { .. } => {
                self.block.0[..self.block_filled]
                    .iter()
                    .all(|byte| *byte == 0)
                    && self.next_pax.is_none()
                    && self.next_path.is_none()
                    && self.next_link.is_none()
            }
            // Padding behind the last file may be missing.
            State::Skip(left) => left < BLOCK_BYTES,
            State::End => true,
            _ => false,
        };
        if complete {
            Ok(())
        } else {
            Err(TarError::Truncated { offset: self.taken })
        }
    }

    /// Returns how many bytes of the archive were taken so far.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.taken
    }

    /// Collects a block; tells whether it is complete, and then begins a new one at the next call.
    fn fill_block(&mut self, input: &mut &[u8]) -> bool {
        let wanted = self.block.0.len() - self.block_filled;
        let step = wanted.min(input.len());
        let (now, later) = input.split_at(step);
        self.block.0[self.block_filled..self.block_filled + step].copy_from_slice(now);
        *input = later;
        self.block_filled += step;
        self.taken += step as u64;
        if self.block_filled < self.block.0.len() {
            return false;
        }
        self.block_filled = 0;
        true
    }

    /// Where the block that was just completed begins.
    fn block_offset(&self) -> u64 {
        self.taken.saturating_sub(BLOCK_BYTES)
    }

    /// Decides what the header block that was just completed begins.
    fn read_header(&mut self) -> Result<(), TarError> {
        let offset = self.block_offset();
        let after_zero_block = matches!(
            self.state,
            State::Header {
                after_zero_block: true
            }
        );
        if self.block.is_zero() {
            self.state = if after_zero_block {
                State::End
            } else {
                State::Header {
                    after_zero_block: true,
                }
            };
            return Ok(());
        }
        if after_zero_block {
            return Err(TarError::LoneZeroBlock { offset });
        }
        if !self.block.checksum_fits() {
            return Err(TarError::Checksum { offset });
        }
        self.headers += 1;
        if self.headers > HEADERS_MAX {
            return Err(TarError::Headers { offset });
        }
        let special = match self.block.type_flag() {
            // Solaris wrote `X` before POSIX chose `x`.
            b'x' | b'X' => Special::LocalPax,
            b'g' => Special::GlobalPax,
            b'L' => Special::LongPath,
            b'K' => Special::LongLink,
            b'V' => Special::Label,
            b'M' => return Err(TarError::MultiVolume { offset }),
            _ => return self.read_entry(offset),
        };
        let bytes = self.block.size(offset)?;
        if bytes > SPECIAL_BYTES_MAX {
            return Err(TarError::SpecialSize { offset, bytes });
        }
        self.special.clear();
        self.state = State::Special {
            kind: special,
            left: bytes,
            padding: padding(bytes),
        };
        Ok(())
    }

    /// Collects what follows a special header, and keeps it for the next entry.
    fn collect_special(&mut self, input: &mut &[u8]) -> Result<bool, TarError> {
        let State::Special {
            kind,
            left,
            padding,
        } = &mut self.state
        else {
            return Ok(true);
        };
        let (kind, padding) = (*kind, *padding);
        let before = *input;
        let step = take(input, *left);
        self.special
            .extend_from_slice(&before[..before.len() - input.len()]);
        *left -= step;
        let done = *left == 0;
        self.taken += step;
        if !done {
            return Ok(false);
        }
        self.state = State::Skip(padding);
        let text = || block::text(&self.special).to_vec();
        match kind {
            Special::LongPath => self.next_path = Some(text()),
            Special::LongLink => self.next_link = Some(text()),
            Special::LocalPax => {
                self.next_pax = Some(Records::parse(&self.special, self.taken)?);
            }
            Special::GlobalPax => {
                let records = Records::parse(&self.special, self.taken)?;
                self.globals.update_globals(records, self.taken)?;
            }
            Special::Label => {}
        }
        Ok(true)
    }

    /// Passes on the data of the current entry.
    fn read_body<'input>(
        &mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'input>>, TarError> {
        let State::Body(body) = &mut self.state else {
            return Ok(None);
        };
        while let Some(extent) = body.extents.get_mut(body.extent) {
            if extent.length == 0 {
                body.extent += 1;
                continue;
            }
            if body.position < extent.offset {
                let (offset, length) = (body.position, extent.offset - body.position);
                body.position = extent.offset;
                return self.hole(offset, length).map(Some);
            }
            if input.is_empty() {
                return Ok(None);
            }
            let before = *input;
            let step = take(input, extent.length);
            let offset = extent.offset;
            extent.offset += step;
            extent.length -= step;
            body.position += step;
            self.taken += step;
            let bytes = &before[..before.len() - input.len()];
            return Ok(Some(Event::Data { offset, bytes }));
        }
        if body.position < body.size {
            let (offset, length) = (body.position, body.size - body.position);
            body.position = body.size;
            return self.hole(offset, length).map(Some);
        }
        self.state = if body.link_data {
            State::LinkData { padded: body.tail }
        } else {
            State::Skip(body.tail)
        };
        Ok(Some(Event::EntryEnd))
    }

    fn hole<'input>(&mut self, offset: u64, length: u64) -> Result<Event<'input>, TarError> {
        self.holes_bytes = self.holes_bytes.saturating_add(length);
        if self.holes_bytes > HOLES_BYTES_MAX {
            return Err(TarError::Holes { offset: self.taken });
        }
        Ok(Event::Hole { offset, length })
    }
}

/// Advances `input` by at most `wanted` bytes and returns by how many.
fn take(input: &mut &[u8], wanted: u64) -> u64 {
    let step = usize::try_from(wanted)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *input = &input[step..];
    step as u64
}

/// Bytes from the end of `length` bytes of data to the next block.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK_BYTES
}

#[cfg(test)]
mod tests;
