// SPDX-License-Identifier: Apache-2.0
//! The indexes of an image's layers, fetched side by side, and what is made of them.
//!
//! Each layer's formats are asked in their order; the first whose index can be read is taken. Formats do no I/O: they say which
//! bytes they need, and those are fetched here, all of one step at once. A layer that nothing has an index of must come whole.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use wolffia_fetch::{Source, Stretch};
use wolffia_image::formats::{
    self, Answer, Blob, Claim, Companion, LayerIndex, Need, Prefetch, Step,
};
use wolffia_image::tree::{Kind, Tree};
use wolffia_image::{Descriptor, Digest};

use super::table::{self, About, Builder};
use crate::error::PullError;

/// Rounds of needs that a format may have: a footer, a table, and what that leads to.
const STEPS_MAX: usize = 8;
/// Needs of one round that are fetched side by side.
const NEEDS_MAX: usize = 64;
/// Most bytes of one need: a table of contents, packed.
const NEED_BYTES_MAX: u64 = 128 << 20;

/// An index that was found.
#[derive(Debug)]
pub struct Found {
    /// It.
    pub index: LayerIndex,
    /// The blob beside the layer that it came from.
    pub companion: Option<Descriptor>,
}

/// Fetches the indexes of layers; `None` for each that must come whole. Blocks.
///
/// # Errors
/// Fails where bytes do not arrive. What cannot be read is no error: such a layer comes whole.
pub fn fetch(
    source: &Arc<dyn Source>,
    layers: &[&Descriptor],
    companions: &[Companion],
    fetched_bytes: &AtomicU64,
) -> Result<Vec<Option<Found>>, PullError> {
    thread::scope(|scope| {
        let workers: Vec<_> = layers
            .iter()
            .map(|layer| scope.spawn(|| index_of(source, layer, companions, fetched_bytes)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(PullError::Stopped)))
            .collect()
    })
}

fn index_of(
    source: &Arc<dyn Source>,
    layer: &Descriptor,
    companions: &[Companion],
    fetched_bytes: &AtomicU64,
) -> Result<Option<Found>, PullError> {
    for claim in formats::claims(layer, companions) {
        match read(source, &claim, fetched_bytes)? {
            Ok(index) => {
                return Ok(Some(Found {
                    index,
                    companion: claim.companion,
                }));
            }
            Err(error) => {
                tracing::debug!(digest = %layer.digest, format = claim.format.name(), %error, "no index by this format");
            }
        }
    }
    Ok(None)
}

/// Runs one format's indexer to its end.
fn read(
    source: &Arc<dyn Source>,
    claim: &Claim,
    fetched_bytes: &AtomicU64,
) -> Result<Result<LayerIndex, formats::FormatError>, PullError> {
    let mut indexer = claim.indexer();
    let mut answers = Vec::new();
    for _ in 0..STEPS_MAX {
        match indexer.step(answers) {
            Ok(Step::Done(index)) => return Ok(Ok(*index)),
            Ok(Step::Need(needs)) => {
                answers = fetch_needs(source, claim, &needs)?;
                let bytes: usize = answers.iter().map(Vec::len).sum();
                fetched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err(formats::FormatError::NeedsWhole(
        "its index is read in too many steps",
    )))
}

fn fetch_needs(
    source: &Arc<dyn Source>,
    claim: &Claim,
    needs: &[Need],
) -> Result<Vec<Answer>, PullError> {
    let mut answers = Vec::new();
    for batch in needs.chunks(NEEDS_MAX) {
        let fetched: Result<Vec<Answer>, PullError> = match batch {
            [only] => fetch_need(source, claim, only).map(|answer| vec![answer]),
            batch => thread::scope(|scope| {
                let workers: Vec<_> = batch
                    .iter()
                    .map(|need| scope.spawn(|| fetch_need(source, claim, need)))
                    .collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap_or(Err(PullError::Stopped)))
                    .collect()
            }),
        };
        answers.extend(fetched?);
    }
    Ok(answers)
}

fn fetch_need(source: &Arc<dyn Source>, claim: &Claim, need: &Need) -> Result<Answer, PullError> {
    let blob = match (need.of, &claim.companion) {
        (Blob::Companion, Some(companion)) => companion,
        _ => &claim.layer,
    };
    let end = need.range.end.min(blob.size);
    let range = need.range.start.min(end)..end;
    let length = range.end - range.start;
    if length > NEED_BYTES_MAX {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    Stretch::new(Arc::clone(source), blob, range)
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(|source| match wolffia_fetch::Error::of_io(source) {
            Ok(error) => PullError::Fetch(error),
            Err(source) => PullError::Unpack {
                layer: blob.digest.to_string(),
                compression: wolffia_image::Compression::None,
                source,
            },
        })?;
    Ok(bytes)
}

/// A layer of a lazy image.
#[derive(Debug)]
pub struct Indexed {
    /// Where it is.
    pub descriptor: Descriptor,
    /// Its index.
    pub found: Found,
}

/// Makes the table of an image: everything in `tree` that one of the indexes knows.
///
/// # Errors
/// Fails where it would be beyond all limits.
pub fn table(
    name: String,
    manifest: Digest,
    packed_bytes: u64,
    layers: &[&Indexed],
    tree: &Tree,
    profile: &[Digest],
) -> std::io::Result<Vec<u8>> {
    let mut builder = Builder::default();
    let firsts: Vec<u32> = (0_u16..)
        .zip(layers)
        .map(|(place, layer)| {
            let index = &layer.found.index;
            if index.map.windows == formats::Windows::Here && !index.windows.is_empty() {
                builder.windows(place, &index.windows);
            }
            builder.layer(place, index.map.spans())
        })
        .collect();
    for entry in &tree.entries {
        let Kind::File { size, digest } = &entry.kind else {
            continue;
        };
        if *size == 0 || builder.has(digest) {
            continue;
        }
        for (layer, first) in layers.iter().zip(&firsts) {
            let map = &layer.found.index.map;
            if let Some(content) = map.of(digest) {
                builder.object(
                    content,
                    map.chunks_of(content),
                    *first,
                    entry.path.as_bytes(),
                );
                break;
            }
        }
    }
    let mut first = profile.to_vec();
    if profile.is_empty() {
        for layer in layers {
            first.extend(prefetched(&layer.found.index));
        }
    }
    let about = About {
        name,
        manifest,
        layers: layers
            .iter()
            .map(|layer| table::Source {
                descriptor: layer.descriptor.clone(),
                trusted: !layer.found.index.map.trust.needs_whole_layer(),
                windows: match (&layer.found.companion, layer.found.index.map.windows) {
                    (Some(blob), formats::Windows::Companion { offset, .. }) => {
                        table::Windows::Blob(Box::new(blob.clone()), offset)
                    }
                    _ => table::Windows::None,
                },
            })
            .collect(),
        packed_bytes,
        first: Vec::new(),
    };
    builder.finish(about, &first)
}

/// Returns what the layer's maker wants fetched first, in the order of its bytes.
fn prefetched(index: &LayerIndex) -> Vec<Digest> {
    let Prefetch::Ranges(ranges) = &index.map.prefetch else {
        return Vec::new();
    };
    let map = &index.map;
    let mut found: Vec<(u64, u64, Digest)> = Vec::new();
    for content in map.contents() {
        let chunks = map.chunks_of(content);
        let Some(first) = chunks.first() else {
            continue;
        };
        let inside = chunks
            .iter()
            .filter_map(|chunk| map.span_of(chunk))
            .all(|span| {
                ranges
                    .iter()
                    .any(|range| range.start <= span.packed.start && span.packed.end <= range.end)
            });
        if inside && let Some(span) = map.span_of(first) {
            found.push((span.packed.start, first.skip, content.digest));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, _, digest)| digest).collect()
}
