// SPDX-License-Identifier: Apache-2.0
//! The record of an index: what a store keeps beside the tree, and what is published for others.
//!
//! Layout: `docs/formats/index.md`. The head (places, then the shape, packed by zstd, with the digest of the rest of the head at its end) can be
//! read without the windows behind it, and the places without the shape.

use super::{
    CHUNKS_MAX, Chunk, ChunkMap, Content, Decoder, Identity, LayerIndex, Mark, Prefetch, SPANS_MAX,
    Span, Trust, Windows,
};
use crate::Digest;
use crate::tree::{ENTRIES_MAX, Layer, RecordError};

/// The first bytes of every index, the version of the layout last.
const MAGIC: [u8; 5] = *b"WfIx\x01";
/// Bytes before the packed part: magic, and three lengths of eight bytes.
const PREAMBLE_BYTES: usize = MAGIC.len() + 3 * 8;
/// Largest head, unpacked.
const PART_BYTES_MAX: u64 = 512 << 20;
/// zstd's level: above it twice the time gives 2 %.
const LEVEL: i32 = 6;
/// Most ranges that are said to be read first.
const PREFETCH_RANGES_MAX: usize = 1 << 16;

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexRecordError {
    /// The bytes are no index, or of a later layout.
    #[error("reading a layer's index: it is not one, or of another version")]
    Magic,
    /// The digest at the end of the head is not that of the rest.
    #[error("reading a layer's index: it is damaged, its digest does not fit")]
    Digest,
    /// The bytes end within something.
    #[error("reading a layer's index: it ends early")]
    Truncated,
    /// A part cannot be unpacked, or is too large.
    #[error("reading a layer's index: a part of it cannot be unpacked")]
    Packed,
    /// A field has a value that it cannot have.
    #[error("reading a layer's index: wrong {0}")]
    Field(&'static str),
    /// The shape is wrong.
    #[error("reading a layer's index: its shape is wrong")]
    Layer(#[source] RecordError),
}

type Result<T> = std::result::Result<T, IndexRecordError>;

impl LayerIndex {
    /// Returns the record: the head, and the windows if they are here.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut plain = write_map(&self.map);
        let map_bytes = plain.len() as u64;
        plain.extend_from_slice(&self.layer.to_bytes());
        let packed = pack(&plain);
        let mut out = MAGIC.to_vec();
        for number in [
            packed.len() as u64,
            map_bytes,
            plain.len() as u64 - map_bytes,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&packed);
        let digest = Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out.extend_from_slice(&self.windows);
        out
    }

    /// Reads the record, from its head alone or from the whole of it: the windows are whatever follows the head.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let head = Head::read(bytes)?;
        let plain = head.unpack(head.map_bytes.saturating_add(head.layer_bytes))?;
        let map_bytes = usize::try_from(head.map_bytes).unwrap_or(usize::MAX);
        let (map, layer) = plain
            .split_at_checked(map_bytes)
            .ok_or(IndexRecordError::Truncated)?;
        Ok(Self {
            map: read_map(map)?,
            layer: Layer::from_bytes(layer).map_err(IndexRecordError::Layer)?,
            windows: bytes.get(head.length..).unwrap_or_default().to_vec(),
        })
    }
}

impl ChunkMap {
    /// Reads the places alone from a record: the layer's shape, which stands behind them, is not even unpacked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let head = Head::read(bytes)?;
        read_map(&head.unpack(head.map_bytes)?)
    }
}

/// Returns how many bytes the head of a record has, which begins with these bytes; the windows follow it.
pub fn head_bytes(beginning: &[u8]) -> Result<u64> {
    if beginning.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(IndexRecordError::Magic);
    }
    preamble_number(beginning, 0)?
        .checked_add((PREAMBLE_BYTES + Digest::BYTES) as u64)
        .ok_or(IndexRecordError::Field("length"))
}

fn preamble_number(bytes: &[u8], place: usize) -> Result<u64> {
    let at = MAGIC.len() + 8 * place;
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number
        .map(|number| u64::from_le_bytes(*number))
        .ok_or(IndexRecordError::Truncated)
}

/// The head of a record, its digest compared.
struct Head<'bytes> {
    /// Bytes of all of it.
    length: usize,
    packed: &'bytes [u8],
    map_bytes: u64,
    layer_bytes: u64,
}

impl<'bytes> Head<'bytes> {
    fn read(bytes: &'bytes [u8]) -> Result<Self> {
        let length = head_bytes(bytes)?;
        let length = usize::try_from(length).map_err(|_| IndexRecordError::Truncated)?;
        let head = bytes.get(..length).ok_or(IndexRecordError::Truncated)?;
        let (body, digest) = head.split_at(length - Digest::BYTES);
        if Digest::of(body).as_bytes() != digest {
            return Err(IndexRecordError::Digest);
        }
        Ok(Self {
            length,
            packed: &body[PREAMBLE_BYTES..],
            map_bytes: preamble_number(bytes, 1)?,
            layer_bytes: preamble_number(bytes, 2)?,
        })
    }

    /// Unpacks so many bytes from the beginning.
    fn unpack(&self, bytes: u64) -> Result<Vec<u8>> {
        use std::io::Read as _;
        let packed_bytes = self.packed.len() as u64;
        if bytes > PART_BYTES_MAX || bytes > packed_bytes.saturating_mul(super::RATIO_MAX) {
            return Err(IndexRecordError::Packed);
        }
        let unpack = || {
            let mut plain = Vec::new();
            zstd::stream::read::Decoder::with_buffer(self.packed)?
                .take(bytes)
                .read_to_end(&mut plain)?;
            std::io::Result::Ok(plain)
        };
        match unpack() {
            Ok(plain) if plain.len() as u64 == bytes => Ok(plain),
            _ => Err(IndexRecordError::Packed),
        }
    }
}

/// Packs places and shape together: the digests of files stand in both.
fn pack(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, LEVEL).unwrap_or_default()
}

const RAW: u8 = 0;
const GZIP: u8 = 1;
const ZSTD: u8 = 2;
const DEFLATE: u8 = 3;
const HAS_DIGEST: u8 = 0x80;
const IS_HOLE: u8 = 0x40;
const IS_PLACE: u8 = 0x40;

fn write_map(map: &ChunkMap) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    out.0.extend_from_slice(map.blob.as_bytes());
    out.number(map.blob_bytes);
    out.0.push(map.trust as u8);
    match &map.prefetch {
        Prefetch::Unknown => out.0.push(0),
        Prefetch::Nothing => out.0.push(1),
        Prefetch::Ranges(ranges) => {
            out.0.push(2);
            out.number(ranges.len() as u64);
            for range in ranges {
                out.number(range.start);
                out.number(range.end.saturating_sub(range.start));
            }
        }
    }
    match map.windows {
        Windows::Here => out.0.push(0),
        Windows::Companion { blob, offset } => {
            out.0.push(1);
            out.0.extend_from_slice(blob.as_bytes());
            out.number(offset);
        }
    }
    out.number(map.spans.len() as u64);
    let mut before = 0;
    let mut window_end = 0;
    for span in &map.spans {
        let (tag, bits) = match span.decoder {
            Decoder::Raw => (RAW, 0),
            Decoder::Gzip => (GZIP, 0),
            Decoder::Zstd => (ZSTD, 0),
            Decoder::Deflate { bits, .. } => (DEFLATE, bits),
        };
        let has_digest = if span.digest.is_some() { HAS_DIGEST } else { 0 };
        out.0.push(tag | bits << 4 | has_digest);
        out.number(span.packed.start.wrapping_sub(before));
        before = span.packed.start;
        out.number(span.packed.end.saturating_sub(span.packed.start));
        out.number(span.output_bytes);
        if let Decoder::Deflate { window, .. } = &span.decoder {
            out.number(window.start.wrapping_sub(window_end));
            out.number(window.end.saturating_sub(window.start));
            window_end = window.end;
        }
        if let Some(digest) = &span.digest {
            out.0.extend_from_slice(digest.as_bytes());
        }
        out.number(span.marks.len() as u64);
        let mut mark_before = Mark {
            output: 0,
            packed: 0,
        };
        for mark in &span.marks {
            out.number(mark.output.wrapping_sub(mark_before.output));
            out.number(mark.packed.wrapping_sub(mark_before.packed));
            mark_before = *mark;
        }
    }
    write_contents(&mut out, map);
    out.0
}

/// Contents go in the order of their bytes: numbers are small then, and the digests are the same bytes in any order.
fn write_contents(out: &mut Writer, map: &ChunkMap) {
    let place = |content: &&Content| {
        let first = map.chunks_of(content).first();
        first.map_or((0, 0), |chunk| (chunk.span.unwrap_or(0), chunk.skip))
    };
    let mut contents: Vec<&Content> = map.contents.iter().collect();
    contents.sort_by_key(place);
    out.number(contents.len() as u64);
    let (mut span_before, mut skip_before) = (0_u32, 0_u64);
    for content in contents {
        out.0.extend_from_slice(content.digest.as_bytes());
        let chunks = map.chunks_of(content);
        out.0.push(match content.identity {
            Identity::Bytes => 0,
            Identity::Place => IS_PLACE,
        });
        out.number(content.size);
        out.number(chunks.len() as u64);
        for chunk in chunks {
            let has_digest = if chunk.digest.is_some() {
                HAS_DIGEST
            } else {
                0
            };
            let Some(span) = chunk.span else {
                out.0.push(IS_HOLE | has_digest);
                out.number(chunk.length);
                if let Some(digest) = &chunk.digest {
                    out.0.extend_from_slice(digest.as_bytes());
                }
                continue;
            };
            out.0.push(has_digest);
            out.signed(i64::from(span) - i64::from(span_before));
            if span != span_before {
                skip_before = 0;
            }
            out.signed(chunk.skip.wrapping_sub(skip_before).cast_signed());
            out.number(chunk.length);
            if let Some(digest) = &chunk.digest {
                out.0.extend_from_slice(digest.as_bytes());
            }
            span_before = span;
            skip_before = chunk.skip.wrapping_add(chunk.length);
        }
    }
}

fn read_map(bytes: &[u8]) -> Result<ChunkMap> {
    let mut input = Reader { rest: bytes };
    let blob = input.digest()?;
    let blob_bytes = input.number()?;
    let trust = match input.byte()? {
        1 => Trust::Manifest,
        2 => Trust::Local,
        3 => Trust::Companion,
        4 => Trust::Nobody,
        _ => return Err(IndexRecordError::Field("trust")),
    };
    let prefetch = input.prefetch(blob_bytes)?;
    let windows = match input.byte()? {
        0 => Windows::Here,
        1 => Windows::Companion {
            blob: input.digest()?,
            offset: input.number()?,
        },
        _ => return Err(IndexRecordError::Field("place of the windows")),
    };
    let spans = input.spans()?;
    let (contents, chunks) = input.contents(spans.len())?;
    if !input.rest.is_empty() {
        return Err(IndexRecordError::Field("end"));
    }
    let map = ChunkMap {
        blob,
        blob_bytes,
        trust,
        prefetch,
        windows,
        spans,
        contents,
        chunks,
    };
    map.check().map_err(IndexRecordError::Field)?;
    Ok(map)
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low & 0x7f);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    fn signed(&mut self, value: i64) {
        self.number((value << 1 ^ value >> 63).cast_unsigned());
    }
}

struct Reader<'bytes> {
    rest: &'bytes [u8],
}

impl<'bytes> Reader<'bytes> {
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or(IndexRecordError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'bytes [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(IndexRecordError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part || (byte == 0 && shift > 0) {
                return Err(IndexRecordError::Field("number"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(IndexRecordError::Field("number"))
    }

    fn signed(&mut self) -> Result<i64> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn count(&mut self, max: usize, field: &'static str) -> Result<usize> {
        match usize::try_from(self.number()?) {
            // Whatever is counted has at least one byte.
            Ok(count) if count <= max && count <= self.rest.len() => Ok(count),
            _ => Err(IndexRecordError::Field(field)),
        }
    }

    fn digest(&mut self) -> Result<Digest> {
        let mut digest = [0; Digest::BYTES];
        digest.copy_from_slice(self.take(Digest::BYTES)?);
        Ok(Digest::from_bytes(digest))
    }

    fn digest_if(&mut self, tag: u8) -> Result<Option<Digest>> {
        (tag & HAS_DIGEST != 0).then(|| self.digest()).transpose()
    }

    fn prefetch(&mut self, blob_bytes: u64) -> Result<Prefetch> {
        let wrong = IndexRecordError::Field("prefetch range");
        match self.byte()? {
            0 => Ok(Prefetch::Unknown),
            1 => Ok(Prefetch::Nothing),
            2 => {
                let count = self.count(PREFETCH_RANGES_MAX, "number of prefetch ranges")?;
                let mut ranges = Vec::with_capacity(count);
                for _ in 0..count {
                    let start = self.number()?;
                    let end = start.checked_add(self.number()?).ok_or(wrong.clone())?;
                    if end > blob_bytes {
                        return Err(wrong);
                    }
                    ranges.push(start..end);
                }
                Ok(Prefetch::Ranges(ranges))
            }
            _ => Err(wrong),
        }
    }

    fn spans(&mut self) -> Result<Vec<Span>> {
        let count = self.count(SPANS_MAX, "number of spans")?;
        let mut spans = Vec::with_capacity(count);
        let (mut before, mut window_end) = (0_u64, 0_u64);
        for _ in 0..count {
            let tag = self.byte()?;
            let start = before.wrapping_add(self.number()?);
            before = start;
            let length = self.number()?;
            let end = start
                .checked_add(length)
                .ok_or(IndexRecordError::Field("span"))?;
            let output_bytes = self.number()?;
            let bits = tag >> 4 & 7;
            let decoder = match tag & 0xf {
                RAW if bits == 0 => Decoder::Raw,
                GZIP if bits == 0 => Decoder::Gzip,
                ZSTD if bits == 0 => Decoder::Zstd,
                DEFLATE => {
                    let start = window_end.wrapping_add(self.number()?);
                    let end = start
                        .checked_add(self.number()?)
                        .ok_or(IndexRecordError::Field("window"))?;
                    window_end = end;
                    Decoder::Deflate {
                        bits,
                        window: start..end,
                    }
                }
                _ => return Err(IndexRecordError::Field("decoder")),
            };
            let digest = self.digest_if(tag)?;
            spans.push(Span {
                packed: start..end,
                decoder,
                output_bytes,
                digest,
                marks: self.marks()?,
            });
        }
        Ok(spans)
    }

    fn marks(&mut self) -> Result<Vec<Mark>> {
        let count = self.count(SPANS_MAX, "number of marks")?;
        let mut marks = Vec::with_capacity(count);
        let (mut output, mut packed) = (0_u64, 0_u64);
        for _ in 0..count {
            output = output.wrapping_add(self.number()?);
            packed = packed.wrapping_add(self.number()?);
            marks.push(Mark { output, packed });
        }
        Ok(marks)
    }

    fn contents(&mut self, spans: usize) -> Result<(Vec<Content>, Vec<Chunk>)> {
        let count = self.count(ENTRIES_MAX, "number of contents")?;
        let mut contents = Vec::with_capacity(count);
        let mut chunks = Vec::new();
        let (mut span_before, mut skip_before) = (0_i64, 0_u64);
        for _ in 0..count {
            let digest = self.digest()?;
            let identity = match self.byte()? {
                0 => Identity::Bytes,
                IS_PLACE => Identity::Place,
                _ => return Err(IndexRecordError::Field("identity")),
            };
            let size = self.number()?;
            let chunk_count = self.count(CHUNKS_MAX, "number of chunks")?;
            let first = chunks.len();
            if first + chunk_count > CHUNKS_MAX {
                return Err(IndexRecordError::Field("number of chunks"));
            }
            let mut file_offset = 0_u64;
            for _ in 0..chunk_count {
                let tag = self.byte()?;
                let (mut span, mut skip) = (None, 0);
                if tag & IS_HOLE == 0 {
                    let place = span_before
                        .checked_add(self.signed()?)
                        .filter(|place| *place >= 0 && (place.cast_unsigned()) < spans as u64);
                    let place = place.ok_or(IndexRecordError::Field("span of a chunk"))?;
                    if place != span_before {
                        skip_before = 0;
                    }
                    skip = skip_before.wrapping_add(self.signed()?.cast_unsigned());
                    span_before = place;
                    span = u32::try_from(place).ok();
                }
                let length = self.number()?;
                if span.is_some() {
                    skip_before = skip.wrapping_add(length);
                }
                chunks.push(Chunk {
                    file_offset,
                    length,
                    span,
                    skip,
                    digest: self.digest_if(tag)?,
                });
                file_offset = file_offset
                    .checked_add(length)
                    .ok_or(IndexRecordError::Field("length of a chunk"))?;
            }
            let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
            contents.push(Content {
                digest,
                identity,
                size,
                chunks: number(first)..number(chunks.len()),
            });
        }
        contents.sort_by_key(|content| content.digest);
        Ok((contents, chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::MapBuilder;

    fn example() -> LayerIndex {
        let mut builder = MapBuilder::new(Digest::of(b"blob"), 1000, Trust::Manifest);
        let span = |from: u64, to: u64, decoder: Decoder, marks: Vec<Mark>| Span {
            packed: from..to,
            decoder,
            output_bytes: 5000,
            digest: (from == 0).then(|| Digest::of(b"span")),
            marks,
        };
        let marks = vec![
            Mark {
                output: 100,
                packed: 40,
            },
            Mark {
                output: 5000,
                packed: 90,
            },
        ];
        let deflate = Decoder::Deflate {
            bits: 7,
            window: 300..400,
        };
        builder.span(span(0, 100, Decoder::Gzip, marks)).unwrap();
        builder.span(span(99, 200, deflate, Vec::new())).unwrap();
        builder
            .span(span(200, 1000, Decoder::Raw, Vec::new()))
            .unwrap();
        let chunk = |span: Option<u32>, skip: u64, length: u64| Chunk {
            file_offset: 0,
            length,
            span,
            skip,
            digest: (skip == 0).then(|| Digest::of(b"chunk")),
        };
        let parts = [
            chunk(Some(0), 4000, 1000),
            chunk(Some(1), 0, 5000),
            chunk(None, 0, 77),
            chunk(Some(2), 10, 20),
        ];
        builder
            .content(Digest::of(b"one"), Identity::Bytes, parts)
            .unwrap();
        builder
            .content(
                Digest::of(b"two"),
                Identity::Place,
                [chunk(Some(0), 512, 100)],
            )
            .unwrap();
        builder.prefetch(Prefetch::Ranges(vec![0..100, 200..300]));
        LayerIndex {
            layer: Layer::default(),
            map: builder.finish().unwrap(),
            windows: Vec::new(),
        }
    }

    /// The same map, whatever order the chunks stand in.
    fn told(map: &ChunkMap) -> Vec<(Content, Vec<Chunk>)> {
        let each = map.contents().iter().map(|content| {
            let chunks = map.chunks_of(content).to_vec();
            let content = Content {
                chunks: 0..0,
                ..content.clone()
            };
            (content, chunks)
        });
        each.collect()
    }

    #[test]
    fn record_says_what_was_written() {
        let index = example();
        let bytes = index.to_bytes();
        let read = LayerIndex::from_bytes(&bytes).unwrap();
        assert_eq!(told(&read.map), told(&index.map));
        assert_eq!(read.map.spans(), index.map.spans());
        assert_eq!(read.map.prefetch, index.map.prefetch);
        assert_eq!(read.layer, index.layer);
        assert_eq!(ChunkMap::from_bytes(&bytes).unwrap(), read.map);
        assert_eq!(head_bytes(&bytes).unwrap(), bytes.len() as u64);
        assert_eq!(read.to_bytes(), bytes);
        let with_windows = LayerIndex {
            windows: b"windows".to_vec(),
            ..index
        };
        let bytes = with_windows.to_bytes();
        assert_eq!(head_bytes(&bytes).unwrap() + 7, bytes.len() as u64);
        assert_eq!(LayerIndex::from_bytes(&bytes).unwrap().windows, b"windows");
    }

    #[test]
    fn parts_of_a_content_are_found() {
        let map = example().map;
        let content = map.of(&Digest::of(b"one")).unwrap();
        assert_eq!(content.size, 6097);
        let spans = |part| -> Vec<Option<u32>> {
            let chunks = map.chunks(content, part);
            chunks.iter().map(|chunk| chunk.span).collect()
        };
        assert_eq!(spans(0..6097), [Some(0), Some(1), None, Some(2)]);
        assert_eq!(spans(999..1000), [Some(0)]);
        assert_eq!(spans(1000..6001), [Some(1), None]);
        assert_eq!(spans(6097..9000), []);
        let first = &map.spans()[0];
        assert_eq!(first.fetch(100).packed, 0..40);
        assert_eq!(first.fetch(101).packed, 0..90);
        assert_eq!(first.fetch(5001).packed, 0..100);
        assert_eq!(map.spans()[1].fetch(1).window, 300..400);
        assert_eq!(map.by_span()[0].len(), 2);
    }

    #[test]
    fn damage_is_told() {
        let bytes = example().to_bytes();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x10;
            assert!(LayerIndex::from_bytes(&damaged).is_err(), "byte {place}");
            assert!(LayerIndex::from_bytes(&bytes[..place]).is_err());
        }
    }
}
