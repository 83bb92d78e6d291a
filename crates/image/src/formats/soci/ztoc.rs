// SPDX-License-Identifier: Apache-2.0
//! A zTOC turned into an index: its table of files, and the checkpoints of its layer.

use super::flatbuffer::{Buffer, Table};
use super::malformed;
use crate::Digest;
use crate::formats::index::cut;
use crate::formats::toc::parse_time;
use crate::formats::{
    Decoder, FormatError, Identity, LayerIndex, MapBuilder, Span, Trust, lazy_digest,
};
use crate::inflate::WINDOW_BYTES;
use crate::manifest::Descriptor;
use crate::tar::{EntryKind, Header};
use crate::tree::{LayerBuilder, Time, Wants};

/// `CompressionInfo.compression_algorithm`.
const GZIP: u8 = 1;
const UNCOMPRESSED: u8 = 2;
/// Bytes of a checkpoint: packed offset, output, bits, window.
const POINT_BYTES: usize = 8 + 8 + 1 + WINDOW_BYTES;
/// Bytes before the checkpoints: how many, and the span's size.
const POINTS_HEAD_BYTES: usize = 4 + 8;
/// Where the first checkpoint of version 1 is, which does not write it: behind the shortest header of gzip.
const FIRST_PACKED: u64 = 10;
/// What PAX records of extended attributes begin with.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Where a span begins.
struct Point {
    packed: u64,
    bits: u8,
    output: u64,
    window: std::ops::Range<u64>,
}

/// Reads a zTOC.
pub(super) fn read(
    bytes: &[u8],
    layer: &Descriptor,
    trust: Trust,
) -> Result<LayerIndex, FormatError> {
    let wrong = || malformed("it is no zTOC");
    let root = Buffer(bytes).root().ok_or_else(wrong)?;
    let size = |field| {
        let size = root.i64(field).and_then(|size| u64::try_from(size).ok());
        size.ok_or_else(wrong)
    };
    let (packed_bytes, tar_bytes) = (size(2)?, size(3)?);
    if packed_bytes != layer.size {
        return Err(malformed("it is of another layer"));
    }
    let info = root.table(5).ok_or_else(wrong)?;
    let (points, windows, decoder) = match info.byte(0, GZIP) {
        Some(GZIP) => {
            let (points, windows) = checkpoints(info.bytes(3).ok_or_else(wrong)?)?;
            (points, windows, GZIP)
        }
        Some(UNCOMPRESSED) => {
            let points = plain_points(info.bytes(3).ok_or_else(wrong)?, layer.size)?;
            (points, Vec::new(), UNCOMPRESSED)
        }
        _ => return Err(malformed("it is of an unknown compression")),
    };
    let mut map = MapBuilder::new(layer.digest, layer.size, trust);
    let digests: Vec<Option<Digest>> = info
        .vector(2)
        .ok_or_else(wrong)?
        .strings()
        .map(|text| Digest::parse(std::str::from_utf8(text?).ok()?).ok())
        .collect();
    for (place, point) in points.iter().enumerate() {
        let next = points.get(place + 1);
        let shared = u64::from(point.bits > 0);
        let packed = point.packed.checked_sub(shared).ok_or_else(wrong)?
            ..next.map_or(layer.size, |next| next.packed);
        // The tool counts up to the last file; checkpoints may lie in the padding behind it.
        let output_end = next.map_or(tar_bytes.max(point.output), |next| next.output);
        let output_bytes = output_end.checked_sub(point.output).ok_or_else(wrong)?;
        map.span(Span {
            packed,
            decoder: match decoder {
                GZIP => Decoder::Deflate {
                    bits: (8 - point.bits) % 8,
                    window: point.window.clone(),
                },
                _ => Decoder::Raw,
            },
            output_bytes,
            digest: digests.get(place).copied().flatten(),
            marks: Vec::new(),
        })
        .map_err(malformed)?;
    }
    let cuts: Vec<u64> = points.iter().map(|point| point.output).collect();
    let files = root
        .table(4)
        .and_then(|toc| toc.vector(0))
        .ok_or_else(wrong)?;
    let mut builder = LayerBuilder::new();
    for entry in files.tables() {
        let entry = entry.ok_or_else(wrong)?;
        let header = header(entry).ok_or_else(|| malformed("a file's description is wrong"))?;
        let Wants::Content { size } = builder.begin(header)? else {
            continue;
        };
        let offset = entry.i64(2).and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or_else(wrong)?;
        if size == 0 {
            builder.content(Digest::of(&[]));
            continue;
        }
        if offset.checked_add(size).is_none_or(|end| end > tar_bytes) {
            return Err(malformed("a file is not within the layer"));
        }
        let name = lazy_digest(&layer.digest, offset, 0, size);
        builder.content(name);
        let mut chunks = Vec::new();
        cut(&cuts, offset, size, &mut chunks).map_err(malformed)?;
        map.content(name, Identity::Place, chunks)
            .map_err(malformed)?;
    }
    Ok(LayerIndex {
        layer: builder.finish(),
        map: map.finish().map_err(malformed)?,
        windows,
    })
}

/// Reads the checkpoints of a gzip layer, and puts their windows in a row.
fn checkpoints(bytes: &[u8]) -> Result<(Vec<Point>, Vec<u8>), FormatError> {
    let wrong = || malformed("its checkpoints are malformed");
    let count = bytes.first_chunk::<4>().ok_or_else(wrong)?;
    let count = usize::try_from(i32::from_le_bytes(*count)).map_err(|_| wrong())?;
    let written = bytes.get(POINTS_HEAD_BYTES..).ok_or_else(wrong)?;
    let mut points = Vec::new();
    // Version 1 leaves the first out, and is known by that alone.
    if count
        .checked_sub(1)
        .and_then(|rest| rest.checked_mul(POINT_BYTES))
        == Some(written.len())
    {
        points.push(Point {
            packed: FIRST_PACKED,
            bits: 0,
            output: 0,
            window: 0..0,
        });
    } else if count.checked_mul(POINT_BYTES) != Some(written.len()) || count == 0 {
        return Err(wrong());
    }
    let mut windows = Vec::new();
    for point in written.chunks_exact(POINT_BYTES) {
        let number = |from: usize| {
            let bytes = point.get(from..).and_then(<[u8]>::first_chunk);
            bytes.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
        };
        let bits = point.get(16).copied().unwrap_or(u8::MAX);
        let output = number(8);
        if bits > 7
            || points
                .last()
                .is_some_and(|last: &Point| last.output >= output)
        {
            return Err(wrong());
        }
        let start = windows.len() as u64;
        // Before the first byte there is nothing to refer to.
        if output > 0 {
            windows.extend_from_slice(&point[17..]);
        }
        points.push(Point {
            packed: number(0),
            bits,
            output,
            window: start..windows.len() as u64,
        });
    }
    if points.first().is_none_or(|first| first.output != 0) {
        return Err(wrong());
    }
    Ok((points, windows))
}

/// Reads what stands for checkpoints in the zTOC of a plain tar: a flatbuffer of version, span size and size.
fn plain_points(bytes: &[u8], layer_bytes: u64) -> Result<Vec<Point>, FormatError> {
    /// Most spans of a plain tar.
    const SPANS_MAX: u64 = 1 << 20;
    let wrong = || malformed("its spans are malformed");
    let table = Buffer(bytes).root().ok_or_else(wrong)?;
    let span_bytes = table.i64(1).and_then(|size| u64::try_from(size).ok());
    let span_bytes = span_bytes.filter(|size| *size > 0 && layer_bytes / size < SPANS_MAX);
    let span_bytes = span_bytes.ok_or_else(wrong)?;
    if table.i64(2).and_then(|size| u64::try_from(size).ok()) != Some(layer_bytes) {
        return Err(wrong());
    }
    let starts = (0..layer_bytes.div_ceil(span_bytes)).map(|span| span * span_bytes);
    Ok(starts
        .map(|start| Point {
            packed: start,
            bits: 0,
            output: start,
            window: 0..0,
        })
        .collect())
}

/// Reads what the table says of a file.
fn header(entry: Table<'_>) -> Option<Header> {
    let kind = match entry.bytes(1)? {
        b"reg" => EntryKind::File,
        b"dir" => EntryKind::Directory,
        b"symlink" => EntryKind::Symlink,
        b"hardlink" => EntryKind::HardLink,
        b"char" => EntryKind::CharDevice,
        b"block" => EntryKind::BlockDevice,
        b"fifo" => EntryKind::Fifo,
        _ => return None,
    };
    let time = std::str::from_utf8(entry.bytes(10)?).ok()?;
    let mut xattrs = std::collections::BTreeMap::new();
    for record in entry.vector(13)?.tables() {
        let record = record?;
        if let Some(name) = record.bytes(0)?.strip_prefix(XATTR) {
            xattrs.insert(name.to_vec(), record.bytes(1)?.to_vec());
        }
    }
    let device = |field| u32::try_from(entry.i64(field)?).ok();
    let size = u64::try_from(entry.i64(3)?).ok()?;
    Some(Header {
        path: entry.bytes(0)?.to_vec(),
        kind,
        link: entry.bytes(4)?.to_vec(),
        size: if kind == EntryKind::File { size } else { 0 },
        mode: u32::try_from(entry.i64(5)? & 0o7777).ok()?,
        uid: entry.u32(6)?,
        gid: entry.u32(7)?,
        mtime: if time.is_empty() {
            Time::default()
        } else {
            parse_time(time)?
        },
        device_major: device(11)?,
        device_minor: device(12)?,
        xattrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_of_both_versions_are_read() {
        let point = |packed: u64, output: u64, bits: u8| {
            let mut bytes = packed.to_le_bytes().to_vec();
            bytes.extend_from_slice(&output.to_le_bytes());
            bytes.push(bits);
            bytes.resize(POINT_BYTES, 7);
            bytes
        };
        let blob = |count: u32, points: &[Vec<u8>]| {
            let mut bytes = count.to_le_bytes().to_vec();
            bytes.extend_from_slice(&4096_u64.to_le_bytes());
            bytes.extend(points.iter().flatten());
            bytes
        };
        let (first, second) = (point(12, 0, 0), point(500, 9000, 3));
        let (points, windows) = checkpoints(&blob(2, &[first.clone(), second.clone()])).unwrap();
        assert_eq!(
            (points[0].packed, points[1].packed, points[1].bits),
            (12, 500, 3)
        );
        assert_eq!(windows.len(), WINDOW_BYTES);
        let (points, _) = checkpoints(&blob(2, std::slice::from_ref(&second))).unwrap();
        assert_eq!((points[0].packed, points[1].output), (FIRST_PACKED, 9000));
        for wrong in [
            blob(3, std::slice::from_ref(&first)),
            blob(0, &[]),
            blob(2, &[second.clone(), first]),
            blob(1, &[second]),
            blob(2, &[point(12, 0, 0), point(500, 9000, 8)]),
            vec![1, 0, 0],
        ] {
            assert!(checkpoints(&wrong).is_err());
        }
    }
}
