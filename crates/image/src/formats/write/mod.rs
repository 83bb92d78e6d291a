// SPDX-License-Identifier: Apache-2.0
//! Encoders: a tar becomes an eStargz or a zstd:chunked layer, in one pass and without I/O.
//!
//! # Theory of operation
//! Both formats are the tar itself, cut into pieces that are packed one by one, and behind them a table that says where each file's
//! piece is. [`Cutter`] takes the tar as it arrives and gives the pieces; they may be packed in any order by anybody, on many cores
//! ([`Piece`]); when the packed sizes are known, [`Contents::close`] writes what comes after them. The tar's own headers are kept byte
//! for byte, so nothing an archive says is lost, no parent directories must be there, and the same tar gives the same layer.
//!
//! | | eStargz | zstd:chunked |
//! |---|---|---|
//! | a piece begins | at each file's data | at each file's data, and behind it |
//! | a large file is cut | each MiB | each MiB |
//! | the table | one more file of the tar, so the layer's diffID is another | a frame that unpackers skip: the diffID stays |
//! | the tar's end | behind the table | where it was; a copy of all headers (*tar-split*) stands beside the table |
//!
//! Small files of an eStargz layer could share a piece (`innerOffset`), which makes it 4 % smaller; but then a read of one fetches its
//! neighbours, and the library's own `VerifyTOC` takes no two files at one place.
//!
//! Sources: stargz-snapshotter `docs/estargz.md`; containers/storage `docs/containers-storage-zstd-chunked.md`; tar-split's JSON stream.

mod tail;
mod tarsplit;

use std::collections::BTreeMap;

use crate::tar::{EntryKind, Event, Header, Reader, TarError};
use crate::{Digest, Hasher};

pub use tail::Tail;
use tarsplit::TarSplit;

const BLOCK_BYTES: u64 = 512;

/// Which format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// eStargz: gzip members, and a table as the tar's last file.
    Estargz,
    /// zstd:chunked, as containers/storage writes it: zstd frames, and a table in a skippable one.
    ZstdChunked,
}

/// Bytes of a large file's piece: what a read in the middle of it fetches, unpacked. Twice as much makes a layer 0.02 % smaller.
const CHUNK_BYTES: u64 = 1 << 20;

/// Why a layer cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The tar cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file's holes are not in the tar, so no piece of it is the file.
    #[error("{} is a sparse file, which the format cannot hold", .0.escape_ascii())]
    Sparse(Vec<u8>),
    /// A name or a link is not UTF-8, which a table in JSON needs.
    #[error("{} is not UTF-8, which the format's table needs", .0.escape_ascii())]
    Text(Vec<u8>),
    /// The table cannot be written.
    #[error("writing the table: {0}")]
    Table(String),
}

/// A stretch of the tar that is packed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its place among all.
    pub number: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Cuts a tar into pieces.
#[derive(Debug)]
pub struct Cutter {
    form: Form,
    reader: Reader,
    /// The beginning of the next piece, and where in the tar that is.
    pending: Vec<u8>,
    pending_at: u64,
    pieces: usize,
    files: Vec<FileEntry>,
    open: Option<Open>,
    /// Where the last entry ends.
    entries_end: u64,
    split: TarSplit,
}

/// What the table says of an entry.
#[derive(Debug)]
struct FileEntry {
    header: Header,
    digest: Option<Digest>,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    piece: usize,
    file_offset: u64,
    length: u64,
    digest: Digest,
}

/// The file whose data is passing.
#[derive(Debug)]
struct Open {
    whole: Hasher,
    chunk: Hasher,
    chunk_at: u64,
    offset: u64,
}

impl Cutter {
    /// Returns one that has seen nothing.
    pub fn new(form: Form) -> Self {
        Self {
            form,
            reader: Reader::new(),
            pending: Vec::new(),
            pending_at: 0,
            pieces: 0,
            files: Vec::new(),
            open: None,
            entries_end: 0,
            split: TarSplit::new(form == Form::ZstdChunked),
        }
    }

    /// Takes the next bytes of the tar; hands out the pieces that are complete.
    ///
    /// # Errors
    /// Fails where the tar is none, or holds what the format cannot.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<Piece>) -> Result<(), WriteError> {
        self.pending.extend_from_slice(input);
        let mut rest = input;
        loop {
            // An event borrows from the input; what is needed of it is taken out first.
            let step = match self.reader.next(&mut rest)? {
                None => break,
                Some(Event::Entry(header)) => Step::Entry(header),
                Some(Event::Data { offset, bytes }) => Step::Data(offset, bytes),
                Some(Event::Hole { .. }) => {
                    let name = self.files.last().map(|file| file.header.path.clone());
                    return Err(WriteError::Sparse(name.unwrap_or_default()));
                }
                Some(Event::EntryEnd) => Step::End,
            };
            let at = self.reader.taken_bytes();
            match step {
                Step::Entry(header) => self.entry(header, at),
                Step::Data(offset, bytes) => self.data(offset, bytes, at, out)?,
                Step::End => self.end(at),
            }
        }
        Ok(())
    }

    /// Says that the tar is at its end; hands out the last piece.
    ///
    /// # Errors
    /// Fails where it ends too early.
    pub fn finish(mut self, out: &mut Vec<Piece>) -> Result<Contents, WriteError> {
        self.reader.finish()?;
        match self.form {
            // Its end comes behind the table.
            Form::Estargz => self.cut(self.entries_end, out),
            Form::ZstdChunked => {
                let end = self.pending_at + length(&self.pending);
                self.cut(end, out);
            }
        }
        self.split.rest(&self.pending, self.pending_at);
        Ok(Contents {
            form: self.form,
            files: self.files,
            pieces: self.pieces,
            tar_bytes: self.entries_end,
            split: self.split,
        })
    }

    fn entry(&mut self, header: Header, at: u64) {
        self.entries_end = at;
        self.files.push(FileEntry {
            header,
            digest: None,
            chunks: Vec::new(),
        });
    }

    fn data(
        &mut self,
        offset: u64,
        mut bytes: &[u8],
        end: u64,
        out: &mut Vec<Piece>,
    ) -> Result<(), WriteError> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        let (size, is_file) = (file.header.size, file.header.kind == EntryKind::File);
        if !is_file || size == 0 {
            return Ok(());
        }
        let mut position = offset;
        let mut at = end - length(bytes);
        if self.open.as_ref().map_or(0, |open| open.offset) != position {
            return Err(WriteError::Sparse(file.header.path.clone()));
        }
        while !bytes.is_empty() {
            if position.is_multiple_of(CHUNK_BYTES) {
                self.begin_chunk(position, at, out);
            }
            let room = CHUNK_BYTES - position % CHUNK_BYTES;
            let taken = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            if let Some(open) = &mut self.open {
                open.whole.update(now);
                open.chunk.update(now);
                open.offset += length(now);
            }
            self.split.content(now);
            position += length(now);
            at += length(now);
            bytes = later;
            if position.is_multiple_of(CHUNK_BYTES) || position == size {
                self.end_chunk();
            }
        }
        if position == size && self.form == Form::ZstdChunked {
            self.cut(at, out);
        }
        Ok(())
    }

    fn begin_chunk(&mut self, position: u64, at: u64, out: &mut Vec<Piece>) {
        if position == 0 {
            self.split.headers_until(at, &self.pending, self.pending_at);
        }
        self.cut(at, out);
        match &mut self.open {
            Some(open) => {
                open.chunk = Hasher::new();
                open.chunk_at = position;
            }
            None => {
                self.open = Some(Open {
                    whole: Hasher::new(),
                    chunk: Hasher::new(),
                    chunk_at: position,
                    offset: position,
                });
            }
        }
    }

    fn end_chunk(&mut self) {
        let (Some(open), Some(file)) = (&mut self.open, self.files.last_mut()) else {
            return;
        };
        let digest = std::mem::take(&mut open.chunk).finish();
        file.chunks.push(Chunk {
            piece: self.pieces,
            file_offset: open.chunk_at,
            length: open.offset - open.chunk_at,
            digest,
        });
    }

    fn end(&mut self, at: u64) {
        let end = at.next_multiple_of(BLOCK_BYTES);
        self.entries_end = self.entries_end.max(end);
        let digest = self.open.take().map(|open| open.whole.finish());
        if let Some(file) = self.files.last_mut() {
            if file.header.kind == EntryKind::File {
                file.digest = Some(digest.unwrap_or_else(|| Digest::of(b"")));
            }
            let from = self.pending_at;
            self.split.entry_end(&file.header, at, &self.pending, from);
        }
    }

    /// Hands out everything before a place in the tar.
    fn cut(&mut self, at: u64, out: &mut Vec<Piece>) {
        let count = usize::try_from(at.saturating_sub(self.pending_at)).unwrap_or(usize::MAX);
        let count = count.min(self.pending.len());
        if count == 0 {
            return;
        }
        self.split.headers_until(at, &self.pending, self.pending_at);
        let rest = self.pending.split_off(count);
        let bytes = std::mem::replace(&mut self.pending, rest);
        self.pending_at = at;
        out.push(Piece {
            number: self.pieces,
            bytes,
        });
        self.pieces += 1;
    }
}

enum Step<'input> {
    Entry(Header),
    Data(u64, &'input [u8]),
    End,
}

/// A tar that was cut: what the table will say.
#[derive(Debug)]
pub struct Contents {
    form: Form,
    files: Vec<FileEntry>,
    pieces: usize,
    /// Bytes of all entries.
    tar_bytes: u64,
    split: TarSplit,
}

impl Contents {
    /// Returns how many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Writes what comes behind the packed pieces, whose sizes are given in their order. `pack` packs what is to be packed: as a
    /// gzip member, or as a zstd frame.
    ///
    /// # Errors
    /// Fails where a name is none that the table can hold.
    pub fn close(
        self,
        packed: &[u64],
        pack: &dyn Fn(&[u8]) -> Vec<u8>,
    ) -> Result<Tail, WriteError> {
        tail::write(self, packed, pack)
    }
}

/// Remarks that a layer's descriptor gets.
pub type Annotations = BTreeMap<String, String>;

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
