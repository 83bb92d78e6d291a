// SPDX-License-Identifier: Apache-2.0
//! The conformance suite: one function that holds a format to what the full unpacking of the same layer gives.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;

use wolffia_image::formats::{
    Answer, Blob, Chunk, ChunkMap, Claim, Companion, FormatError, Identity, LayerIndex, Piece,
    Span, SpanDecoder, Step, claims, decode,
};
use wolffia_image::inflate::{GzipStream, Step as GzipStep};
use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{Entry, Kind, LayerBuilder, Wants};
use wolffia_image::{Compression, Descriptor, Digest, Layer, Tree};

/// A layer as it lies in a registry, with what lies beside it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    pub(crate) companions: Vec<Companion>,
    /// The blob that the claim's companion names.
    pub(crate) companion: Vec<u8>,
    /// The format keeps only seconds of times.
    pub(crate) whole_seconds: bool,
}

/// A layer that was unpacked whole.
pub(crate) struct Unpacked {
    pub(crate) layer: Layer,
    pub(crate) contents: BTreeMap<Digest, Vec<u8>>,
}

/// Unpacks a layer as a full pull does.
pub(crate) fn unpack(blob: &[u8]) -> Unpacked {
    let tar = match Compression::sniff(blob) {
        Compression::None => blob.to_vec(),
        Compression::Gzip => gunzip(blob),
        Compression::Zstd => {
            let mut tar = Vec::new();
            let mut decoder = zstd::stream::read::Decoder::new(blob).unwrap();
            decoder.read_to_end(&mut tar).unwrap();
            tar
        }
    };
    let (mut reader, mut builder) = (Reader::new(), LayerBuilder::new());
    let (mut content, mut wanted) = (Vec::new(), false);
    let mut contents = BTreeMap::new();
    let mut input = &tar[..];
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::Entry(header) => {
                wanted = builder.begin(header).unwrap() != Wants::Nothing;
                content.clear();
            }
            Event::Data { bytes, .. } => content.extend_from_slice(bytes),
            Event::Hole { length, .. } => {
                content.resize(content.len() + usize::try_from(length).unwrap(), 0);
            }
            Event::EntryEnd if wanted => {
                let digest = Digest::of(&content);
                builder.content(digest);
                contents.insert(digest, std::mem::take(&mut content));
            }
            Event::EntryEnd => {}
        }
    }
    reader.finish().unwrap();
    Unpacked {
        layer: builder.finish(),
        contents,
    }
}

fn gunzip(blob: &[u8]) -> Vec<u8> {
    let (mut stream, mut out) = (GzipStream::new(), Vec::new());
    stream.push(blob);
    loop {
        let step = stream.step(true).unwrap();
        out.extend_from_slice(stream.inflater().output());
        stream.inflater_mut().take_output();
        if step == GzipStep::Hungry {
            return out;
        }
    }
}

/// Returns the best claim, and runs its indexer against the blobs; also how many bytes it asked for.
pub(crate) fn index(case: &Case) -> (Claim, Result<LayerIndex, FormatError>, u64) {
    let claim = claims(&case.descriptor, &case.companions).remove(0);
    let (index, asked) = run(&claim, |of, range| {
        let blob = match of {
            Blob::Layer => &case.blob,
            Blob::Companion => &case.companion,
        };
        blob[bounds(&range)].to_vec()
    });
    (claim, index, asked)
}

/// Runs an indexer.
pub(crate) fn run(
    claim: &Claim,
    mut fetch: impl FnMut(Blob, Range<u64>) -> Answer,
) -> (Result<LayerIndex, FormatError>, u64) {
    let (mut indexer, mut answers, mut asked) = (claim.indexer(), Vec::new(), 0);
    for _ in 0..8 {
        match indexer.step(std::mem::take(&mut answers)) {
            Err(error) => return (Err(error), asked),
            Ok(Step::Done(index)) => return (Ok(*index), asked),
            Ok(Step::Need(needs)) => {
                for need in needs {
                    asked += need.range.end - need.range.start;
                    answers.push(fetch(need.of, need.range));
                }
            }
        }
    }
    panic!("{}: it asks again and again", claim.format.name());
}

fn bounds(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

/// Holds an index to the full unpacking.
pub(crate) fn check(case: &Case, index: &LayerIndex) {
    let unpacked = unpack(&case.blob);
    check_against(case, index, &unpacked);
}

pub(crate) fn check_against(case: &Case, index: &LayerIndex, unpacked: &Unpacked) {
    let windows = windows_of(case, index);
    let whole = Tree::merge([&unpacked.layer]).unwrap();
    let lazy = Tree::merge([&index.layer]).unwrap();
    assert_eq!(lazy.refused, whole.refused, "{}", case.name);
    let paths = |tree: &Tree| -> Vec<String> {
        let each = tree.entries.iter().map(|entry| entry.path.to_string());
        each.collect()
    };
    assert_eq!(paths(&lazy), paths(&whole), "{}", case.name);
    let whole_entries = whole.entries.len();
    for (place, (lazy, whole)) in lazy.entries.iter().zip(&whole.entries).enumerate() {
        let context = format!("{}: {}", case.name, whole.path);
        let expected = same_digest(lazy, whole, &index.map, case.whole_seconds);
        assert_eq!(*lazy, expected, "{context}");
        let (Kind::File { digest, size }, Kind::File { digest: truly, .. }) =
            (&lazy.kind, &whole.kind)
        else {
            continue;
        };
        if *size == 0 {
            continue;
        }
        let bytes = &unpacked.contents[truly];
        let content = index.map.of(digest).expect(&context);
        assert_eq!(content.size, *size, "{context}");
        let read = read(case, &index.map, &windows, index.map.chunks_of(content));
        assert!(read == *bytes, "{context}: other bytes");
        // Parts, of not all files of a large layer: the middle, and the last byte.
        if place % 16 > 0 && whole_entries > 1000 {
            continue;
        }
        for part in [size / 3..size / 2, size - 1..*size] {
            let chunks = index.map.chunks(content, part.clone());
            let Some(first) = chunks.first() else {
                assert!(part.is_empty(), "{context}");
                continue;
            };
            let from = usize::try_from(part.start - first.file_offset).unwrap();
            let length = usize::try_from(part.end - part.start).unwrap();
            let read = &self::read(case, &index.map, &windows, chunks)[from..from + length];
            assert!(read == &bytes[bounds(&part)], "{context}: {part:?}");
        }
    }
    check_spans(case, &index.map, &windows);
    let bytes = index.to_bytes();
    let again = LayerIndex::from_bytes(&bytes).unwrap();
    assert_eq!(again.to_bytes(), bytes, "{}", case.name);
    assert_eq!(again.layer, index.layer);
    assert_eq!(ChunkMap::from_bytes(&bytes).unwrap(), again.map);
}

/// The whole tree's entry, with what the format cannot say taken from the index's.
fn same_digest(lazy: &Entry, whole: &Entry, map: &ChunkMap, whole_seconds: bool) -> Entry {
    let mut expected = whole.clone();
    if whole_seconds {
        expected.meta.mtime = lazy.meta.mtime;
        let apart = lazy.meta.mtime.seconds - whole.meta.mtime.seconds;
        assert!((0..=1).contains(&apart), "{}", whole.path);
    }
    if let (Kind::File { digest: named, .. }, Kind::File { digest, .. }) =
        (&lazy.kind, &mut expected.kind)
        && map
            .of(named)
            .is_some_and(|content| content.identity == Identity::Place)
    {
        assert_ne!(digest, named);
        *digest = *named;
    }
    expected
}

fn windows_of(case: &Case, index: &LayerIndex) -> Vec<u8> {
    match index.map.windows {
        wolffia_image::formats::Windows::Here => index.windows.clone(),
        wolffia_image::formats::Windows::Companion { offset, .. } => {
            case.companion[usize::try_from(offset).unwrap()..].to_vec()
        }
    }
}

/// Reads chunks, each by what must be fetched for it and no more.
fn read(case: &Case, map: &ChunkMap, windows: &[u8], chunks: &[Chunk]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks {
        let Some(span) = map.span_of(chunk) else {
            out.resize(out.len() + usize::try_from(chunk.length).unwrap(), 0);
            continue;
        };
        let fetch = span.fetch(chunk.skip + chunk.length);
        let mut ended = false;
        decode(
            span,
            &windows[bounds(&fetch.window)],
            &case.blob[bounds(&fetch.packed)],
            [chunk],
            &mut |piece| match piece {
                Piece::Bytes { bytes, .. } => out.extend_from_slice(bytes),
                Piece::End { .. } => ended = true,
            },
        )
        .unwrap_or_else(|error| panic!("{}: {chunk:?} of {span:?}: {error}", case.name));
        assert!(ended);
    }
    out
}

/// Decodes each span once for all that lies in it, in small steps, and compares the span's digest.
fn check_spans(case: &Case, map: &ChunkMap, windows: &[u8]) {
    for (span, users) in map.spans().iter().zip(map.by_span()) {
        let chunks: Vec<&Chunk> = users
            .iter()
            .map(|(_, chunk)| &map.all_chunks()[*chunk as usize])
            .collect();
        let count = chunks.len();
        let mut ended = 0;
        let mut sink = |piece: Piece<'_>| ended += usize::from(matches!(piece, Piece::End { .. }));
        let window = &windows[bounds(&span.fetch(0).window)];
        let mut decoder = SpanDecoder::new(span, window, chunks).unwrap();
        let verified = decoder.verify_span(span);
        assert_eq!(verified, span.digest.is_some());
        for piece in case.blob[bounds(&span.packed)].chunks(1000) {
            if !decoder.feed(piece, &mut sink).unwrap() {
                break;
            }
        }
        decoder.finish(&mut sink).unwrap();
        assert_eq!(ended, count, "{}: {span:?}", case.name);
        if verified {
            damaged_span_is_told(case, span, window);
        }
    }
}

fn damaged_span_is_told(case: &Case, span: &Span, window: &[u8]) {
    let mut bytes = case.blob[bounds(&span.packed)].to_vec();
    *bytes.last_mut().unwrap() ^= 0x40;
    let mut decoder = SpanDecoder::new(span, window, []).unwrap();
    assert!(decoder.verify_span(span));
    decoder.feed(&bytes, &mut |_| {}).unwrap();
    assert!(decoder.finish(&mut |_| {}).is_err());
}
