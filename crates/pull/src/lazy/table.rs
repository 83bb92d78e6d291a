// SPDX-License-Identifier: Apache-2.0
//! The table of a lazy image: which objects it needs, and where in which layer their bytes are.
//!
//! # Theory of operation
//! Made once, when an image is pulled lazily, from the indexes of its layers; read by every `lazyd` that serves it. It is those
//! indexes without what the tree has already, all layers in one: an *object* is a file's content, made of *chunks*, which lie
//! in *spans* ([`wolffia_image::formats`] says what these are). Objects stand in the order of their bytes in the layers, so a neighbour in
//! the table is a neighbour on the wire, and an object's place in the table is its number: its node in the file system that serves it.
//!
//! What is looked at all the time (objects' digests and sizes) is kept in memory, 64 bytes for each; chunks, spans and paths
//! stay in the file and are read when they are needed.
//!
//! The format is our own and no other program's matter: `docs/internals/lazy.md`. The file lies in our own store, is checked
//! for its form when opened, and what it says is never trusted beyond what a digest confirms.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use wolffia_image::formats::{Chunk, Content, Decoder, Identity, Span};
use wolffia_image::{Descriptor, Digest, ObjectName};

/// First bytes of a table.
const MAGIC: &[u8; 8] = b"WflLazy\x01";
/// Bytes of the fixed part: magic and five counts.
const HEAD_BYTES: usize = 8 + 5 * 8;
const OBJECT_BYTES: usize = 32 + 8 + 4 + 4 + 4 + 4;
const CHUNK_BYTES: usize = 4 + 8 + 8 + 8 + 32;
const SPAN_BYTES: usize = 2 + 1 + 1 + 5 * 8 + 32;
/// Stands for the span of a chunk that is a hole.
const HOLE: u32 = u32::MAX;
/// Longest description of the image that is read.
const ABOUT_BYTES_MAX: u64 = 16 << 20;
/// Most objects of one image, as a tree has at most so many entries.
const OBJECTS_MAX: u64 = wolffia_image::tree::ENTRIES_MAX as u64;
/// Most chunks, and most spans: a file of a terabyte in chunks of a megabyte has as many.
const CHUNKS_MAX: u64 = 1 << 26;

/// What the image is, for who fetches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// As a person named it.
    pub name: String,
    /// The manifest.
    pub manifest: Digest,
    /// Layers that objects come from.
    pub layers: Vec<Source>,
    /// Bytes of all layers as they are in the registry.
    pub packed_bytes: u64,
    /// Objects that the image's authors or earlier runs say are needed first, by number.
    #[serde(default)]
    pub first: Vec<u32>,
}

/// A layer that objects come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where it is.
    pub descriptor: Descriptor,
    /// Its index came from who is trusted with the image: by a digest in the manifest.
    pub trusted: bool,
    /// Where the windows of its spans are.
    #[serde(default)]
    pub windows: Windows,
}

/// Where the windows of a layer's spans are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// No span needs one.
    #[default]
    None,
    /// In the table, from this byte of its last part on.
    Here(u64),
    /// In another blob of the image's place, from this byte on.
    Blob(Box<Descriptor>, u64),
}

/// A file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its digest, or where `by_content` is not set, what it is known by until it is whole.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    first_chunk: u32,
    chunks: u32,
    path_at: u32,
    /// The digest is that of the content.
    pub by_content: bool,
}

/// A table, open.
#[derive(Debug)]
pub struct Table {
    /// What the image is.
    pub about: About,
    objects: Vec<Object>,
    /// Numbers of objects in the order of their digests.
    by_digest: Vec<u32>,
    file: File,
    chunks_at: u64,
    chunks: u64,
    spans_at: u64,
    spans: u64,
    rest_at: u64,
    rest: u64,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("table of a lazy image: {what}"),
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    let mut digest = [0; Digest::BYTES];
    digest.copy_from_slice(&bytes[at..at + Digest::BYTES]);
    Digest::from_bytes(digest)
}

impl Table {
    /// Opens a table.
    ///
    /// # Errors
    /// Fails where it cannot be read or has not the form of one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0)?;
        if &head[..8] != MAGIC {
            return Err(bad("it is none"));
        }
        let [about, objects, chunks, spans, rest] = [8, 16, 24, 32, 40].map(|at| u64_at(&head, at));
        if about > ABOUT_BYTES_MAX
            || objects > OBJECTS_MAX
            || chunks > CHUNKS_MAX
            || spans > CHUNKS_MAX
        {
            return Err(bad("it is beyond all limits"));
        }
        let objects_at = HEAD_BYTES as u64 + about;
        let chunks_at = objects_at + objects * OBJECT_BYTES as u64;
        let spans_at = chunks_at + chunks * CHUNK_BYTES as u64;
        let rest_at = spans_at + spans * SPAN_BYTES as u64;
        if rest.checked_add(rest_at) != Some(file.metadata()?.len()) {
            return Err(bad("its length is another than it says"));
        }
        let mut bytes = vec![0; usize::try_from(about).unwrap_or(0)];
        file.read_exact_at(&mut bytes, HEAD_BYTES as u64)?;
        let about = serde_json::from_slice(&bytes)?;
        let mut table = Self {
            about,
            objects: Vec::new(),
            by_digest: Vec::new(),
            file,
            chunks_at,
            chunks,
            spans_at,
            spans,
            rest_at,
            rest,
        };
        table.read_objects(objects_at, objects)?;
        Ok(table)
    }

    fn read_objects(&mut self, at: u64, count: u64) -> io::Result<()> {
        const BATCH: u64 = 512;
        let count = usize::try_from(count).unwrap_or(0);
        self.objects.reserve_exact(count);
        let mut buffer = Vec::new();
        while self.objects.len() < count {
            let done = self.objects.len() as u64;
            let batch = BATCH.min(count as u64 - done);
            buffer.resize(usize::try_from(batch).unwrap_or(0) * OBJECT_BYTES, 0);
            self.file
                .read_exact_at(&mut buffer, at + done * OBJECT_BYTES as u64)?;
            for record in buffer.chunks_exact(OBJECT_BYTES) {
                let object = Object {
                    digest: digest_at(record, 0),
                    size_bytes: u64_at(record, 32),
                    first_chunk: u32_at(record, 40),
                    chunks: u32_at(record, 44),
                    path_at: u32_at(record, 48),
                    by_content: u32_at(record, 52) == 1,
                };
                if u64::from(object.first_chunk) + u64::from(object.chunks) > self.chunks {
                    return Err(bad("an object has chunks that are not there"));
                }
                self.objects.push(object);
            }
        }
        let mut order: Vec<u32> = (0..u32::try_from(count).unwrap_or(0)).collect();
        order.sort_unstable_by_key(|number| *self.objects[*number as usize].digest.as_bytes());
        self.by_digest = order;
        Ok(())
    }

    /// Returns how many objects there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.objects.len()).unwrap_or(u32::MAX)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Returns an object by its number.
    pub fn object(&self, number: u32) -> Option<&Object> {
        self.objects.get(number as usize)
    }

    /// Finds an object by its name in the store.
    pub fn find(&self, name: ObjectName) -> Option<u32> {
        let place = self.by_digest.partition_point(|number| {
            let digest = &self.objects[*number as usize].digest;
            base64_order(digest) < name_order(&name)
        });
        let number = *self.by_digest.get(place)?;
        let digest = &self.objects[number as usize].digest;
        (ObjectName::of(digest) == name || ObjectName::long(digest) == name).then_some(number)
    }

    /// Finds an object by its digest.
    pub fn find_digest(&self, digest: &Digest) -> Option<u32> {
        let found = self
            .by_digest
            .binary_search_by_key(digest.as_bytes(), |number| {
                *self.objects[*number as usize].digest.as_bytes()
            });
        found.ok().map(|place| self.by_digest[place])
    }

    /// Reads the chunks of an object, in the order of their offsets.
    pub fn chunks(&self, object: &Object) -> io::Result<Vec<Chunk>> {
        let mut bytes = vec![0; object.chunks as usize * CHUNK_BYTES];
        let at = self.chunks_at + u64::from(object.first_chunk) * CHUNK_BYTES as u64;
        self.file.read_exact_at(&mut bytes, at)?;
        let mut end = 0;
        let mut chunks = Vec::with_capacity(object.chunks as usize);
        for record in bytes.chunks_exact(CHUNK_BYTES) {
            let digest = digest_at(record, 28);
            let span = u32_at(record, 0);
            let chunk = Chunk {
                span: (span != HOLE).then_some(span),
                skip: u64_at(record, 4),
                file_offset: u64_at(record, 12),
                length: u64_at(record, 20),
                digest: (*digest.as_bytes() != [0; Digest::BYTES]).then_some(digest),
            };
            if chunk.file_offset != end
                || chunk.span.is_some_and(|span| u64::from(span) >= self.spans)
            {
                return Err(bad("an object's chunks do not make it up"));
            }
            end = end
                .checked_add(chunk.length)
                .ok_or_else(|| bad("an object without end"))?;
            chunks.push(chunk);
        }
        if end != object.size_bytes {
            return Err(bad("an object's chunks do not make it up"));
        }
        Ok(chunks)
    }

    /// Reads what a span is, and in which layer, a place in [`About::layers`].
    pub fn span(&self, number: u32) -> io::Result<(u16, Span)> {
        let mut record = [0; SPAN_BYTES];
        let at = self.spans_at + u64::from(number) * SPAN_BYTES as u64;
        self.file.read_exact_at(&mut record, at)?;
        let layer = u16::from_le_bytes([record[0], record[1]]);
        let packed = u64_at(&record, 4)..u64_at(&record, 12);
        let source = self.about.layers.get(usize::from(layer));
        let size = source.map_or(0, |layer| layer.descriptor.size);
        if packed.start >= packed.end || packed.end > size {
            return Err(bad("a span beyond its layer"));
        }
        let decoder = match record[2] {
            0 => Decoder::Raw,
            1 => Decoder::Gzip,
            2 => Decoder::Zstd,
            3 => Decoder::Deflate {
                bits: record[3],
                window: u64_at(&record, 20)..u64_at(&record, 28),
            },
            _ => return Err(bad("a span of unknown packing")),
        };
        let digest = digest_at(&record, 44);
        let span = Span {
            packed,
            decoder,
            output_bytes: u64_at(&record, 36),
            digest: (*digest.as_bytes() != [0; Digest::BYTES]).then_some(digest),
            marks: Vec::new(),
        };
        Ok((layer, span))
    }

    /// Reads the first path that an object has in the image.
    pub fn path(&self, object: &Object) -> String {
        let length = self.rest(u64::from(object.path_at), 2);
        let bytes = length.and_then(|length| {
            let length = u16::from_le_bytes([length[0], length[1]]);
            self.rest(u64::from(object.path_at) + 2, length.into())
        });
        bytes.map_or_else(
            |_| "?".to_owned(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Reads a window that is kept here; `None` where it is elsewhere or there is none.
    pub fn window(&self, layer: u16, range: &Range<u64>) -> io::Result<Option<Vec<u8>>> {
        let source = self.about.layers.get(usize::from(layer));
        let Some(Windows::Here(at)) = source.map(|source| &source.windows) else {
            return Ok(None);
        };
        let length = u32::try_from(range.end.saturating_sub(range.start));
        let at = at.checked_add(range.start);
        match (at, length) {
            (Some(at), Ok(length)) => self.rest(at, length).map(Some),
            _ => Err(bad("a window without end")),
        }
    }

    fn rest(&self, at: u64, length: u32) -> io::Result<Vec<u8>> {
        /// A window, or a path.
        const MAX: u32 = 1 << 16;
        if length > MAX
            || at
                .checked_add(length.into())
                .is_none_or(|end| end > self.rest)
        {
            return Err(bad("it points beyond its end"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, self.rest_at + at)?;
        Ok(bytes)
    }
}

/// The bytes of a digest that both forms of a name have: 132 bits, the last four of them in the top of a byte.
fn base64_order(digest: &Digest) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes.copy_from_slice(&digest.as_bytes()[..17]);
    bytes[16] &= 0xf0;
    bytes
}

fn name_order(name: &ObjectName) -> [u8; 17] {
    let mut bytes = [0_u8; 17];
    let digits = name.shard().bytes().chain(name.rest().bytes());
    for (place, digit) in digits.take(ObjectName::SHORT_CHARS).enumerate() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        for bit in 0..6 {
            if value >> (5 - bit) & 1 == 1 {
                let at = place * 6 + bit;
                if at / 8 < bytes.len() {
                    bytes[at / 8] |= 0x80 >> (at % 8);
                }
            }
        }
    }
    bytes
}

/// A table in the making.
#[derive(Debug, Default)]
pub struct Builder {
    objects: Vec<Draft>,
    known: HashSet<Digest>,
    spans: Vec<(u16, Span)>,
    chunks: Vec<Chunk>,
    /// Windows of layers, by their places.
    windows: Vec<(u16, Vec<u8>)>,
}

#[derive(Debug)]
struct Draft {
    digest: Digest,
    size_bytes: u64,
    by_content: bool,
    path: Vec<u8>,
    /// In [`Builder::chunks`].
    chunks: Range<usize>,
    /// Layer, packed byte, unpacked byte.
    place: (u16, u64, u64),
}

impl Builder {
    /// Takes the spans of a layer; returns what must be added to their numbers.
    pub fn layer(&mut self, layer: u16, spans: &[Span]) -> u32 {
        let first = u32::try_from(self.spans.len()).unwrap_or(u32::MAX);
        self.spans
            .extend(spans.iter().map(|span| (layer, span.clone())));
        first
    }

    /// Keeps the windows of a layer.
    pub fn windows(&mut self, layer: u16, windows: &[u8]) {
        self.windows.push((layer, windows.to_vec()));
    }

    /// Returns whether an object is in the table already.
    pub fn has(&self, digest: &Digest) -> bool {
        self.known.contains(digest)
    }

    /// Adds an object, once; its chunks count the spans of the layer whose first has the number `spans_from`.
    pub fn object(&mut self, content: &Content, chunks: &[Chunk], spans_from: u32, path: &[u8]) {
        if !self.known.insert(content.digest) {
            return;
        }
        let from = self.chunks.len();
        self.chunks.extend(chunks.iter().map(|chunk| Chunk {
            span: chunk.span.map(|span| span.saturating_add(spans_from)),
            ..chunk.clone()
        }));
        let placed = self.chunks[from..].iter().find_map(|chunk| {
            let (layer, span) = self.spans.get(chunk.span? as usize)?;
            Some((*layer, span.packed.start, chunk.skip))
        });
        self.objects.push(Draft {
            digest: content.digest,
            size_bytes: content.size,
            by_content: content.identity == Identity::Bytes,
            path: path[..path.len().min(wolffia_image::tree::PATH_BYTES_MAX)].to_vec(),
            chunks: from..self.chunks.len(),
            place: placed.unwrap_or_default(),
        });
    }

    /// Returns whether nothing is left to fetch.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Returns the table as it is kept. `first` are digests that are needed first, in this order.
    pub fn finish(mut self, mut about: About, first: &[Digest]) -> io::Result<Vec<u8>> {
        self.objects.sort_by_key(|object| object.place);
        let numbers: HashMap<Digest, u32> = (0_u32..)
            .zip(&self.objects)
            .map(|(number, object)| (object.digest, number))
            .collect();
        about.first = first
            .iter()
            .filter_map(|digest| numbers.get(digest).copied())
            .collect();
        let number = |length: usize| u32::try_from(length).map_err(|_| bad("too much of it"));
        let digest_or_zeros =
            |digest: Option<Digest>| digest.map_or([0; Digest::BYTES], |digest| *digest.as_bytes());
        let (mut objects, mut chunks) = (Vec::new(), Vec::new());
        let (mut spans, mut rest) = (Vec::new(), Vec::new());
        for object in &self.objects {
            objects.extend_from_slice(object.digest.as_bytes());
            objects.extend_from_slice(&object.size_bytes.to_le_bytes());
            for field in [
                number(chunks.len() / CHUNK_BYTES)?,
                number(object.chunks.len())?,
                number(rest.len())?,
                u32::from(object.by_content),
            ] {
                objects.extend_from_slice(&field.to_le_bytes());
            }
            rest.extend_from_slice(&u16::try_from(object.path.len()).unwrap_or(0).to_le_bytes());
            rest.extend_from_slice(&object.path);
            for chunk in &self.chunks[object.chunks.clone()] {
                chunks.extend_from_slice(&chunk.span.unwrap_or(HOLE).to_le_bytes());
                for field in [chunk.skip, chunk.file_offset, chunk.length] {
                    chunks.extend_from_slice(&field.to_le_bytes());
                }
                chunks.extend_from_slice(&digest_or_zeros(chunk.digest));
            }
        }
        for (layer, span) in &self.spans {
            let (decoder, bits, window) = match &span.decoder {
                Decoder::Raw => (0, 0, 0..0),
                Decoder::Gzip => (1, 0, 0..0),
                Decoder::Zstd => (2, 0, 0..0),
                Decoder::Deflate { bits, window } => (3, *bits, window.clone()),
            };
            spans.extend_from_slice(&layer.to_le_bytes());
            spans.extend_from_slice(&[decoder, bits]);
            for field in [
                span.packed.start,
                span.packed.end,
                window.start,
                window.end,
                span.output_bytes,
            ] {
                spans.extend_from_slice(&field.to_le_bytes());
            }
            spans.extend_from_slice(&digest_or_zeros(span.digest));
        }
        for (layer, windows) in &self.windows {
            if let Some(source) = about.layers.get_mut(usize::from(*layer)) {
                source.windows = Windows::Here(rest.len() as u64);
            }
            rest.extend_from_slice(windows);
        }
        let about = serde_json::to_vec(&about)?;
        let mut bytes = MAGIC.to_vec();
        for count in [
            about.len(),
            self.objects.len(),
            chunks.len() / CHUNK_BYTES,
            self.spans.len(),
            rest.len(),
        ] {
            bytes.extend_from_slice(&(count as u64).to_le_bytes());
        }
        for part in [&about, &objects, &chunks, &spans, &rest] {
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }
}
