// SPDX-License-Identifier: Apache-2.0
//! What an index says, whatever the format was: the layer's shape, its contents, and where their bytes are.
//!
//! # Theory of operation
//!
//! - A **span** is a stretch of packed bytes that is decoded from its beginning: a gzip member, a zstd frame, deflate from a
//!   checkpoint on, or a piece of a plain tar. Spans stand in the order of their bytes.
//! - A **chunk** is a stretch of one file that lies whole in what one span decodes to, `skip` bytes from its beginning, or a
//!   hole. Several files may lie in one span (decode it once for all of them), and a large file over many.
//! - A **content** is a file's bytes, known by the digest that entries of the tree carry. Equal files are one content.
//!
//! Which layer's map holds a content is asked by its digest, so nothing must be kept in step with the merge of trees.
//!
//! **Identity.** Where the index gives no digest of the whole file, the entry carries [`lazy_digest`] of the place instead, which
//! no content can have. Objects are kept under that name like any other; whoever completes one learns its true digest and may
//! link it under that as well.
//!
//! **How little is enough.** Deflate cannot begin in the middle of a span but can stop there: [`Span::marks`] say how many packed
//! bytes give how much output, so that [`Span::fetch`] of a small file early in a span does not ask for all of it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{CHUNKS_MAX, FREE_BYTES, RATIO_MAX, SPANS_MAX};
use crate::tree::Layer;
use crate::{Digest, Hasher};

/// All that an index says of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex {
    /// What the layer holds: the same as if it had been unpacked.
    pub layer: Layer,
    /// Where the contents are.
    pub map: ChunkMap,
    /// The windows, if [`ChunkMap::windows`] says that they are here.
    pub windows: Vec<u8>,
}

/// Where in a layer's packed bytes its contents are. Lives without the layer's shape: it is all a file server needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    /// The packed layer, as its descriptor names it.
    pub blob: Digest,
    /// How many bytes that has.
    pub blob_bytes: u64,
    /// Who answers for the index.
    pub trust: Trust,
    /// What the image's maker thinks is read first.
    pub prefetch: Prefetch,
    /// Where the windows are that some spans need.
    pub windows: Windows,
    /// In the order of their packed bytes.
    pub(crate) spans: Vec<Span>,
    /// In the order of their digests, each once.
    pub(crate) contents: Vec<Content>,
    /// Those of a content stand together, in the file's order.
    pub(crate) chunks: Vec<Chunk>,
}

/// Who answers for an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Trust {
    /// The image's manifest names the index's digest, and it fitted.
    Manifest = 1,
    /// It was made here, from the whole layer, whose digests were right.
    Local = 2,
    /// It fitted what a companion says, which nothing in the image's manifest names.
    Companion = 3,
    /// Nobody: it stands in the layer, whose digest is known only when all of it has come.
    Nobody = 4,
}

impl Trust {
    /// Returns whether what the index says must be compared with the whole layer, in the background or beforehand.
    #[must_use]
    pub const fn needs_whole_layer(self) -> bool {
        matches!(self, Self::Companion | Self::Nobody)
    }
}

/// What the image's maker says about what is read first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Nothing is said.
    #[default]
    Unknown,
    /// It is said that nothing should be fetched beforehand.
    Nothing,
    /// These packed bytes, ascending.
    Ranges(Vec<Range<u64>>),
}

/// Where windows are: the last 32 KiB of output before a checkpoint, packed. [`Fetch::window`] counts from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Windows {
    /// Behind the head of the index's record ([`head_bytes`](super::head_bytes)), or no span needs one.
    #[default]
    Here,
    /// In another blob of the repository, [`Claim::companion`](super::Claim::companion).
    Companion {
        /// Which.
        blob: Digest,
        /// Where in it they begin.
        offset: u64,
    },
}

/// A stretch of packed bytes that is decoded from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it is in the packed layer. Bytes at its ends may belong to the neighbours too (checkpoints lie between bits).
    pub packed: Range<u64>,
    /// How it is decoded.
    pub decoder: Decoder,
    /// Bytes it decodes to, at most: decoding goes no further.
    pub output_bytes: u64,
    /// SHA-256 of the packed bytes. For parts of large files, in formats whose chunks have no digests; windows are covered by the index's
    /// own digest.
    pub digest: Option<Digest>,
    /// Where decoding may stop, ascending in both; empty where only the end is known.
    pub marks: Vec<Mark>,
}

/// So many packed bytes of a span give so much output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of output.
    pub output: u64,
    /// Packed bytes from the span's beginning that are enough for it.
    pub packed: u64,
}

/// How a span is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoder {
    /// As it is.
    Raw,
    /// One or more gzip members from their header on.
    Gzip,
    /// One or more zstd frames.
    Zstd,
    /// Deflate from the border of a block on.
    Deflate {
        /// Bits of the first packed byte that belong to what comes before: 0 to 7, the low ones.
        bits: u8,
        /// Where in [`ChunkMap::windows`] the window is; empty where none is needed.
        window: Range<u64>,
    },
}

/// A file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What entries of the tree carry.
    pub digest: Digest,
    /// Whether that is the digest of the bytes.
    pub identity: Identity,
    /// How many bytes there are.
    pub size: u64,
    /// Its chunks, in [`ChunkMap::all_chunks`].
    pub chunks: Range<u32>,
}

/// What a content's digest is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The bytes.
    Bytes,
    /// The place, by [`lazy_digest`]: the bytes' own digest is known when all have come.
    Place,
}

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the file it begins.
    pub file_offset: u64,
    /// How many bytes it has.
    pub length: u64,
    /// Which span, in [`ChunkMap::spans`]; `None`: a hole, which reads as zeros.
    pub span: Option<u32>,
    /// Where in what the span decodes to it begins.
    pub skip: u64,
    /// SHA-256 of its bytes, where the format has one.
    pub digest: Option<Digest>,
}

impl Chunk {
    /// Returns which bytes of the file it has.
    #[must_use]
    pub const fn in_file(&self) -> Range<u64> {
        self.file_offset..self.file_offset.saturating_add(self.length)
    }
}

/// What to fetch for some chunks of one span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Packed bytes of the layer.
    pub packed: Range<u64>,
    /// Bytes of [`ChunkMap::windows`]; empty where none is needed.
    pub window: Range<u64>,
}

impl Span {
    /// Returns what must be fetched so that this can be decoded as far as `output_end`: the furthest `skip + length` of the
    /// chunks that are wanted.
    ///
    /// Where a part of a file is to be verified by [`Self::digest`], say [`Self::output_bytes`]: the digest is over the whole self.
    #[must_use]
    pub fn fetch(&self, output_end: u64) -> Fetch {
        let enough = self.marks.partition_point(|mark| mark.output < output_end);
        let end = match self.marks.get(enough) {
            Some(mark) => self.packed.start.saturating_add(mark.packed),
            None => self.packed.end,
        };
        let window = match &self.decoder {
            Decoder::Deflate { window, .. } => window.clone(),
            _ => 0..0,
        };
        Fetch {
            packed: self.packed.start..end.min(self.packed.end),
            window,
        }
    }
}

impl ChunkMap {
    /// Returns the content that entries with this digest have.
    #[must_use]
    pub fn of(&self, digest: &Digest) -> Option<&Content> {
        let place = self
            .contents
            .binary_search_by(|content| content.digest.cmp(digest));
        self.contents.get(place.ok()?)
    }

    /// Returns all contents, in the order of their digests.
    #[must_use]
    pub fn contents(&self) -> &[Content] {
        &self.contents
    }

    /// Returns all spans, in the order of their packed bytes.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Returns the span of a chunk; of a hole, none.
    #[must_use]
    pub fn span_of(&self, chunk: &Chunk) -> Option<&Span> {
        self.spans.get(usize::try_from(chunk.span?).ok()?)
    }

    /// Returns all chunks: those of one content stand together, in the file's order.
    #[must_use]
    pub fn all_chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Returns the chunks of a content, in the file's order, without a gap.
    #[must_use]
    pub fn chunks_of(&self, content: &Content) -> &[Chunk] {
        let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        self.chunks
            .get(place(content.chunks.start)..place(content.chunks.end))
            .unwrap_or_default()
    }

    /// Returns the chunks that serve a part of a content.
    #[must_use]
    pub fn chunks(&self, content: &Content, part: Range<u64>) -> &[Chunk] {
        let all = self.chunks_of(content);
        let first = all.partition_point(|chunk| chunk.in_file().end <= part.start);
        let last = all.partition_point(|chunk| chunk.file_offset < part.end);
        all.get(first..last).unwrap_or_default()
    }

    /// Returns, for each span, which chunks lie in it, in the order of their bytes: what else comes for free when a span is
    /// decoded. Pairs of a place in [`Self::contents`] and one in [`Self::all_chunks`].
    #[must_use]
    pub fn by_span(&self) -> Vec<Vec<(u32, u32)>> {
        let mut users = vec![Vec::new(); self.spans.len()];
        for (content, place) in self.contents.iter().zip(0_u32..) {
            for chunk in content.chunks.clone() {
                let span = usize::try_from(chunk)
                    .ok()
                    .and_then(|chunk| self.chunks.get(chunk)?.span)
                    .and_then(|span| users.get_mut(usize::try_from(span).ok()?));
                if let Some(span) = span {
                    span.push((place, chunk));
                }
            }
        }
        let skip = |chunk: u32| {
            let chunk = usize::try_from(chunk).ok();
            chunk
                .and_then(|chunk| self.chunks.get(chunk))
                .map(|chunk| chunk.skip)
        };
        for span in &mut users {
            span.sort_by_key(|(_, chunk)| skip(*chunk));
        }
        users
    }
}

impl ChunkMap {
    /// Checks what lookups and decoding build upon; returns what is wrong.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut before = 0;
        for span in &self.spans {
            let packed_bytes = span.packed.end.saturating_sub(span.packed.start);
            let output_max = packed_bytes.saturating_mul(RATIO_MAX).max(FREE_BYTES);
            if span.packed.start < before || span.packed.end > self.blob_bytes {
                return Err("place of a span");
            }
            if span.output_bytes > output_max {
                return Err("length of what a span decodes to");
            }
            before = span.packed.start;
            let ascending = span
                .marks
                .windows(2)
                .all(|pair| pair[0].output <= pair[1].output && pair[0].packed <= pair[1].packed);
            if !ascending
                || span
                    .marks
                    .last()
                    .is_some_and(|last| last.packed > packed_bytes)
            {
                return Err("mark");
            }
        }
        for pair in self.contents.windows(2) {
            if pair[0].digest >= pair[1].digest {
                return Err("order of contents");
            }
        }
        for content in &self.contents {
            let mut position = 0_u64;
            for chunk in self.chunks_of(content) {
                if chunk.file_offset != position {
                    return Err("place of a chunk");
                }
                let inside = match chunk.span {
                    None => true,
                    Some(_) => self.span_of(chunk).is_some_and(|span| {
                        chunk
                            .skip
                            .checked_add(chunk.length)
                            .is_some_and(|end| end <= span.output_bytes)
                    }),
                };
                if !inside {
                    return Err("chunk that is not in its span");
                }
                position = position
                    .checked_add(chunk.length)
                    .ok_or("length of a chunk")?;
            }
            if position != content.size {
                return Err("size of a content");
            }
        }
        Ok(())
    }
}

/// Returns the name of a content that nobody has told the digest of: `length` bytes from `offset` of a layer, where `offset` counts as
/// the format has it (packed bytes or bytes of the tar).
///
/// All bits are turned over: a hash of chosen bytes could be the digest of a file that holds these bytes, and that file would
/// then stand in for another image's. No bytes that anybody can find have a turned-over digest as their own.
#[must_use]
pub fn lazy_digest(layer: &Digest, offset: u64, inner_offset: u64, length: u64) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(b"wolffia lazy content 1\0");
    hasher.update(layer.as_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&inner_offset.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    Digest::from_bytes(hasher.finish().as_bytes().map(|byte| !byte))
}

/// Cuts a stretch of the tar where spans begin: `cuts` are the places in it where each span's output does.
pub(super) fn cut(
    cuts: &[u64],
    mut offset: u64,
    length: u64,
    chunks: &mut Vec<Chunk>,
) -> Result<(), &'static str> {
    let end = offset
        .checked_add(length)
        .ok_or("a file is absurdly long")?;
    while offset < end {
        let place = cuts.partition_point(|cut| *cut <= offset);
        let place = place.checked_sub(1).ok_or("a file before the first span")?;
        let next = cuts.get(place + 1).map_or(end, |next| (*next).min(end));
        chunks.push(Chunk {
            file_offset: 0,
            length: next - offset,
            span: Some(u32::try_from(place).map_err(|_| "number of spans")?),
            skip: offset - cuts[place],
            digest: None,
        });
        offset = next;
    }
    Ok(())
}

/// A map in the making: contents in any order, equal ones once. Errors say what is wrong.
#[derive(Debug)]
pub struct MapBuilder {
    map: ChunkMap,
    /// Digests and sizes.
    known: BTreeMap<Digest, u64>,
}

impl MapBuilder {
    /// Returns a map of nothing.
    pub fn new(blob: Digest, blob_bytes: u64, trust: Trust) -> Self {
        Self {
            map: ChunkMap {
                blob,
                blob_bytes,
                trust,
                prefetch: Prefetch::Unknown,
                windows: Windows::Here,
                spans: Vec::new(),
                contents: Vec::new(),
                chunks: Vec::new(),
            },
            known: BTreeMap::new(),
        }
    }

    /// Adds a span, behind all others, and returns its place.
    pub fn span(&mut self, span: Span) -> Result<u32, &'static str> {
        if self.map.spans.len() >= SPANS_MAX {
            return Err("number of spans");
        }
        self.map.spans.push(span);
        u32::try_from(self.map.spans.len() - 1).map_err(|_| "number of spans")
    }

    /// Adds a content; one that is known already stays where it is. Empty ones need no place.
    pub fn content(
        &mut self,
        digest: Digest,
        identity: Identity,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<(), &'static str> {
        let place = |place: usize| u32::try_from(place).map_err(|_| "number of chunks");
        let first = self.map.chunks.len();
        let mut size = 0_u64;
        for mut chunk in chunks {
            if self.map.chunks.len() >= CHUNKS_MAX {
                return Err("number of chunks");
            }
            chunk.file_offset = size;
            size = size.checked_add(chunk.length).ok_or("size of a file")?;
            self.map.chunks.push(chunk);
        }
        if size == 0 {
            self.map.chunks.truncate(first);
            return Ok(());
        }
        if let Some(known) = self.known.insert(digest, size) {
            self.map.chunks.truncate(first);
            return if known == size {
                Ok(())
            } else {
                Err("two sizes for one digest")
            };
        }
        self.map.contents.push(Content {
            digest,
            identity,
            size,
            chunks: place(first)?..place(self.map.chunks.len())?,
        });
        Ok(())
    }

    /// Says what is read first.
    pub fn prefetch(&mut self, prefetch: Prefetch) {
        self.map.prefetch = prefetch;
    }

    /// Says where the windows are.
    pub fn windows(&mut self, windows: Windows) {
        self.map.windows = windows;
    }

    /// Returns the map, checked.
    pub fn finish(mut self) -> Result<ChunkMap, &'static str> {
        self.map.contents.sort_by_key(|content| content.digest);
        self.map.check()?;
        Ok(self.map)
    }
}
