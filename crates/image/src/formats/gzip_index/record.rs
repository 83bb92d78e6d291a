// SPDX-License-Identifier: Apache-2.0
//! What an index needs, noted while a layer is unpacked anyway: checkpoints by whoever inflates, places by whoever reads the tar.
//!
//! The two may be different threads: neither waits for the other, and [`build`] joins what they have noted.

use super::super::{
    Chunk, Decoder, Identity, LayerIndex, MapBuilder, Mark, Span, Trust, Windows, index::cut,
    window,
};
use super::SPACING_BYTES;
use crate::inflate::{GzipStream, InflateError, Step, WINDOW_BYTES};
use crate::tree::Layer;
use crate::{Digest, Hasher};

/// Most bytes of windows that are kept for a layer: that of a layer of half a terabyte.
const WINDOWS_BYTES_MAX: usize = 4 << 30;

/// A gzip layer that is inflated and indexed at once.
#[derive(Debug, Default)]
pub struct Inflating {
    stream: GzipStream,
    notes: Checkpoints,
    pending: Option<Pending>,
}

/// A checkpoint whose window is not trimmed yet.
#[derive(Debug)]
struct Pending {
    output: u64,
    window: Vec<u8>,
}

/// Where a layer can be begun.
#[derive(Debug, Default)]
pub struct Checkpoints {
    points: Vec<Point>,
    /// Where blocks end: output and packed bytes from the layer's beginning.
    borders: Vec<Mark>,
    windows: Vec<u8>,
}

#[derive(Debug)]
struct Point {
    output: u64,
    packed_bits: u64,
    window: std::ops::Range<u64>,
}

impl Inflating {
    /// Returns an inflater of a gzip layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds packed bytes.
    pub fn push(&mut self, packed: &[u8]) {
        self.stream.push(packed);
    }

    /// Returns the next output; `None` if more packed bytes are needed, or, if `last`, there is no more.
    pub fn next(&mut self, last: bool) -> Result<Option<&[u8]>, InflateError> {
        self.stream.inflater_mut().take_output();
        loop {
            let step = self.stream.step(last)?;
            self.note(step);
            let given = self.stream.inflater().output().len();
            if given > 0 && step != Step::Border {
                return Ok(Some(self.stream.inflater().output()));
            }
            if step == Step::Hungry {
                return Ok(None);
            }
        }
    }

    /// Returns how many bytes have come out.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.stream.inflater().output_bytes()
    }

    /// Returns what was noted, once all is out.
    #[must_use]
    pub fn finish(mut self) -> Checkpoints {
        self.end_pending();
        self.notes
    }

    fn note(&mut self, step: Step) {
        let output = self.stream.inflater().output_bytes();
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| output >= pending.output + WINDOW_BYTES as u64)
        {
            self.end_pending();
        }
        let packed_bits = self.stream.inflater().used_bits();
        match step {
            Step::Begin | Step::Border => {
                self.notes.borders.push(Mark {
                    output,
                    packed: packed_bits.div_ceil(8),
                });
                let last = self.notes.points.last().map(|point| point.output);
                let due = last.is_none_or(|last| output >= last + SPACING_BYTES);
                if !due || self.pending.is_some() || self.notes.windows.len() > WINDOWS_BYTES_MAX {
                    return;
                }
                self.notes.points.push(Point {
                    output,
                    packed_bits,
                    window: 0..0,
                });
                // A member's beginning refers to nothing before it.
                if step == Step::Border {
                    let inflater = self.stream.inflater_mut();
                    self.pending = Some(Pending {
                        output,
                        window: inflater.window().to_vec(),
                    });
                    inflater.begin_marks();
                }
            }
            Step::End => self.notes.borders.push(Mark {
                output,
                packed: packed_bits.div_ceil(8),
            }),
            Step::Full | Step::Hungry => {}
        }
    }

    /// Keeps what is used of a checkpoint's window.
    fn end_pending(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let packed = window::pack(&pending.window, self.stream.inflater().marks());
        let start = self.notes.windows.len() as u64;
        self.notes.windows.extend_from_slice(&packed);
        if let Some(point) = self.notes.points.last_mut() {
            point.window = start..start + packed.len() as u64;
        }
    }
}

/// Where in the tar each file's data is: noted by whoever reads it.
#[derive(Debug, Default)]
pub struct Places {
    files: Vec<File>,
    extents: Vec<Extent>,
    /// The first extent of the file that is open.
    open: usize,
}

#[derive(Debug)]
struct File {
    digest: Digest,
    first: usize,
}

/// A stretch of a file: where in the tar, or a hole.
#[derive(Debug, Clone, Copy)]
struct Extent {
    tar_offset: Option<u64>,
    length: u64,
}

impl Places {
    /// Returns places of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file begins, or an entry without data.
    pub fn begin(&mut self) {
        self.extents.truncate(self.open);
    }

    /// The next data of the file stand here in the tar.
    pub fn data(&mut self, tar_offset: u64, length: u64) {
        if self.extents.len() > self.open
            && let Some(last) = self.extents.last_mut()
            && last
                .tar_offset
                .is_some_and(|from| from + last.length == tar_offset)
        {
            last.length += length;
            return;
        }
        self.extents.push(Extent {
            tar_offset: Some(tar_offset),
            length,
        });
    }

    /// A hole follows in the file.
    pub fn hole(&mut self, length: u64) {
        self.extents.push(Extent {
            tar_offset: None,
            length,
        });
    }

    /// The file is complete.
    pub fn end(&mut self, digest: Digest) {
        self.files.push(File {
            digest,
            first: self.open,
        });
        self.open = self.extents.len();
    }
}

/// What is known of the layer when all of it has passed.
#[derive(Debug)]
pub struct Whole<'layer> {
    /// Digest of the packed layer: compared with the manifest's.
    pub blob: Digest,
    /// Bytes of the packed layer.
    pub blob_bytes: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// What the layer says.
    pub layer: &'layer Layer,
}

/// Joins what was noted to an index. Errors say what is wrong with the notes.
pub fn build(
    whole: &Whole<'_>,
    checkpoints: Checkpoints,
    places: &Places,
) -> Result<LayerIndex, &'static str> {
    let mut map = MapBuilder::new(whole.blob, whole.blob_bytes, Trust::Local);
    let points = &checkpoints.points;
    let mut borders = &checkpoints.borders[..];
    for (place, point) in points.iter().enumerate() {
        let next = points.get(place + 1);
        let packed_start = point.packed_bits / 8;
        let packed_end = next.map_or(whole.blob_bytes, |next| next.packed_bits.div_ceil(8));
        let output_end = next.map_or(whole.tar_bytes, |next| next.output);
        let inside = borders.partition_point(|border| border.output <= output_end);
        let (these, later) = borders.split_at(inside);
        borders = later;
        let marks = these
            .iter()
            .filter(|border| border.output > point.output && border.output < output_end)
            .map(|border| Mark {
                output: border.output - point.output,
                packed: border.packed.saturating_sub(packed_start),
            });
        map.span(Span {
            packed: packed_start..packed_end,
            decoder: Decoder::Deflate {
                bits: u8::try_from(point.packed_bits % 8).unwrap_or(0),
                window: point.window.clone(),
            },
            output_bytes: output_end.saturating_sub(point.output),
            digest: None,
            marks: marks.collect(),
        })?;
    }
    let cuts: Vec<u64> = points.iter().map(|point| point.output).collect();
    add_places(&mut map, &cuts, places)?;
    map.windows(Windows::Here);
    Ok(LayerIndex {
        layer: whole.layer.clone(),
        map: map.finish()?,
        windows: checkpoints.windows,
    })
}

/// Adds contents by where they are in the tar, given where in it each span's output begins.
fn add_places(map: &mut MapBuilder, cuts: &[u64], places: &Places) -> Result<(), &'static str> {
    for (number, file) in places.files.iter().enumerate() {
        let end = places
            .files
            .get(number + 1)
            .map_or(places.open, |next| next.first);
        let extents = places.extents.get(file.first..end).unwrap_or_default();
        let mut chunks = Vec::new();
        for extent in extents {
            match extent.tar_offset {
                None => chunks.push(Chunk {
                    file_offset: 0,
                    length: extent.length,
                    span: None,
                    skip: 0,
                    digest: None,
                }),
                Some(offset) => cut(cuts, offset, extent.length, &mut chunks)?,
            }
        }
        map.content(file.digest, Identity::Bytes, chunks)?;
    }
    Ok(())
}

/// The places of a plain tar, which needs no checkpoint: spans of [`SPACING_BYTES`] each, as they are.
pub fn build_plain(whole: &Whole<'_>, places: &Places) -> Result<LayerIndex, &'static str> {
    let mut map = MapBuilder::new(whole.blob, whole.blob_bytes, Trust::Local);
    let mut cuts = Vec::new();
    let mut start = 0;
    while start < whole.blob_bytes {
        let end = (start + SPACING_BYTES).min(whole.blob_bytes);
        cuts.push(start);
        let step = super::PLAIN_MARK_BYTES;
        let marks = (1..)
            .map(|mark| mark * step)
            .take_while(|mark| start + mark < end);
        map.span(Span {
            packed: start..end,
            decoder: Decoder::Raw,
            output_bytes: end - start,
            digest: None,
            marks: marks
                .map(|mark| Mark {
                    output: mark,
                    packed: mark,
                })
                .collect(),
        })?;
        start = end;
    }
    add_places(&mut map, &cuts, places)?;
    Ok(LayerIndex {
        layer: whole.layer.clone(),
        map: map.finish()?,
        windows: Vec::new(),
    })
}

impl LayerIndex {
    /// Gives the chunks of large files digests of their own, so that parts of them can be verified before all has come: asks for each the bytes of
    /// a content, from an offset on, to be put into the hasher. Files that have only one chunk need none.
    ///
    /// Say this before an index is published; an index that stays here needs none.
    pub fn digest_chunks<E>(
        &mut self,
        larger_than_bytes: u64,
        mut read: impl FnMut(&Digest, std::ops::Range<u64>, &mut Hasher) -> Result<(), E>,
    ) -> Result<(), E> {
        for content in &self.map.contents {
            if content.size <= larger_than_bytes || content.chunks.len() < 2 {
                continue;
            }
            let range = content.chunks.start as usize..content.chunks.end as usize;
            for chunk in self.map.chunks.get_mut(range).unwrap_or_default() {
                if chunk.digest.is_none() && chunk.span.is_some() {
                    let mut hasher = Hasher::new();
                    read(&content.digest, chunk.in_file(), &mut hasher)?;
                    chunk.digest = Some(hasher.finish());
                }
            }
        }
        Ok(())
    }
}
