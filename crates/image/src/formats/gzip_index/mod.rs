// SPDX-License-Identifier: Apache-2.0
//! Ordinary gzip layers, and plain tars, with an index of our own: made during any full pull, kept, and published for others.
//!
//! Nothing is converted: the layer stays what it is. The index's record ([`LayerIndex::to_bytes`]) is a blob of its own; a manifest that
//! refers to the image's has one such blob for each layer. A reader fetches the blobs' heads, which the annotations say the length and
//! digest of, all in one round trip, and windows by range as they are needed.
//!
//! # Theory of operation
//!
//! [`Inflating`] puts a checkpoint at the first block's border [`SPACING_BYTES`] of output behind the last, takes the 32 KiB of output before it,
//! and, 32 KiB later, keeps of them what was referred to. Each block's border is noted as a place where decoding may stop. [`Places`]
//! notes where each file's data lie in the tar, whose digests the pull knows anyway.
//!
//! `docs/formats/index.md` describes the record, `docs/formats/gzip-index.md` the way it is published.

mod record;

pub use self::record::{Checkpoints, Inflating, Places, Whole, build, build_plain};
use super::{
    Answer, Blob, ChunkMap, Claim, Companion, CompanionKind, FormatError, Indexer, LayerFormat,
    LayerIndex, Need, Step, Trust, Wanted, Windows,
};
use crate::Digest;
use crate::manifest::{Descriptor, Manifest};

/// `artifactType` of a manifest of indexes.
pub const ARTIFACT_TYPE: &str = "application/vnd.wolffia.index.v1";
/// Media type of one layer's index.
pub const MEDIA_TYPE: &str = "application/vnd.wolffia.index.layer.v1";
/// On an index's blob: the digest of the layer it is of.
pub const LAYER_ANNOTATION: &str = "org.wolffia.index.layer";
/// On an index's blob: how many bytes its head has.
pub const HEAD_BYTES_ANNOTATION: &str = "org.wolffia.index.head-bytes";
/// On an index's blob: the digest of its head.
pub const HEAD_DIGEST_ANNOTATION: &str = "org.wolffia.index.head-digest";

/// Output between two checkpoints. At half of this windows are 2.1 to 3.0 % of a Debian layer, here 1.1 to 1.5 %.
pub const SPACING_BYTES: u64 = 512 << 10;
/// How finely pieces of a plain tar can be fetched.
const PLAIN_MARK_BYTES: u64 = 16 << 10;
/// Largest head that is read.
const HEAD_BYTES_MAX: u64 = 256 << 20;
const NAME: &str = "index";

/// Layers that an index of ours is known for.
#[derive(Debug)]
pub struct GzipIndex;

/// Returns what a published index's blob must carry, besides its digest and size.
pub fn annotations(layer: &Digest, record: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let head_bytes = super::head_bytes(record).ok()?;
    let head = record.get(..usize::try_from(head_bytes).ok()?)?;
    Some(vec![
        (LAYER_ANNOTATION, layer.to_string()),
        (HEAD_BYTES_ANNOTATION, head_bytes.to_string()),
        (HEAD_DIGEST_ANNOTATION, Digest::of(head).to_string()),
    ])
}

impl LayerFormat for GzipIndex {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, _: &Manifest) -> Vec<Wanted> {
        vec![Wanted::Referrer {
            artifact_type: ARTIFACT_TYPE,
            kind: CompanionKind::Index,
        }]
    }

    fn claim(&self, layer: &Descriptor, companions: &[Companion]) -> Option<Claim> {
        layer.layer_compression()?;
        let digest = layer.digest.to_string();
        let index = companions
            .iter()
            .filter(|companion| companion.kind == CompanionKind::Index)
            .flat_map(|companion| &companion.manifest.layers)
            .find(|index| {
                index.media_type == MEDIA_TYPE
                    && index.annotations.get(LAYER_ANNOTATION) == Some(&digest)
            })?;
        head_of(index)?;
        Some(Claim {
            format: &GzipIndex,
            certain: true,
            layer: layer.clone(),
            companion: Some(index.clone()),
            companion_is_named: false,
        })
    }

    fn indexer(&self, claim: &Claim) -> Box<dyn Indexer> {
        Box::new(Reading {
            claim: claim.clone(),
            asked: false,
        })
    }
}

/// What an index's descriptor says of its head: bytes and digest.
fn head_of(index: &Descriptor) -> Option<(u64, Digest)> {
    let bytes = index.annotations.get(HEAD_BYTES_ANNOTATION)?.parse().ok()?;
    let digest = Digest::parse(index.annotations.get(HEAD_DIGEST_ANNOTATION)?).ok()?;
    (bytes <= index.size).then_some((bytes, digest))
}

#[derive(Debug)]
struct Reading {
    claim: Claim,
    asked: bool,
}

impl Indexer for Reading {
    fn step(&mut self, answers: Vec<Answer>) -> Result<Step, FormatError> {
        let malformed = |what| FormatError::Malformed { format: NAME, what };
        let index = self.claim.companion.as_ref();
        let index = index.ok_or(FormatError::NeedsWhole("its index is gone"))?;
        let (bytes, digest) = head_of(index).ok_or_else(|| malformed("annotations are missing"))?;
        if bytes > HEAD_BYTES_MAX {
            return Err(FormatError::Limit {
                format: NAME,
                what: "its head",
            });
        }
        if !self.asked {
            self.asked = true;
            return Ok(Step::Need(vec![Need {
                of: Blob::Companion,
                range: 0..bytes,
            }]));
        }
        let head = answers.into_iter().next().unwrap_or_default();
        if head.len() as u64 != bytes {
            return Err(FormatError::Short { format: NAME });
        }
        if Digest::of(&head) != digest {
            return Err(FormatError::Digest {
                format: NAME,
                what: "head",
            });
        }
        let mut read =
            LayerIndex::from_bytes(&head).map_err(|_| malformed("its head is damaged"))?;
        let layer = &self.claim.layer;
        if read.map.blob != layer.digest || read.map.blob_bytes != layer.size {
            return Err(malformed("it is of another layer"));
        }
        // Who made it knew the layer; who reads it knows who published it.
        read.map.trust = Trust::Companion;
        if has_windows(&read.map) {
            read.map.windows = Windows::Companion {
                blob: index.digest,
                offset: bytes,
            };
        }
        Ok(Step::Done(Box::new(read)))
    }
}

/// Whether a span of a map needs a window.
fn has_windows(map: &ChunkMap) -> bool {
    map.spans()
        .iter()
        .any(|span| !span.fetch(0).window.is_empty())
}
