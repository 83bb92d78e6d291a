// SPDX-License-Identifier: Apache-2.0
//! SOCI: an index beside an ordinary gzip layer or plain tar, made by AWS' tools; one zTOC for each layer.
//!
//! The manifest of an index is found in two ways: version 1 refers to the image's manifest, version 2 is named by an annotation of it (and is
//! as trustworthy as that). A zTOC is small (4.5 % of the image, most of it windows) and is fetched whole, since its digest covers all of it.
//!
//! It tells no file's digest: contents are known by their places until they have come ([`super::lazy_digest`]). Parts are verified by the digests
//! of spans. Layers that the index leaves out (small ones, by default) must come whole. `docs/formats/soci.md` describes the format.

mod flatbuffer;
mod ztoc;

use super::{
    Answer, Blob, Claim, Companion, CompanionKind, FormatError, Indexer, LayerFormat, Need, Step,
    Trust, Wanted,
};
use crate::Digest;
use crate::manifest::{Descriptor, Manifest};

/// `artifactType` (or the configuration's media type) of an index of version 1.
pub const ARTIFACT_TYPE_V1: &str = "application/vnd.amazon.soci.index.v1+json";
/// The same of version 2.
pub const ARTIFACT_TYPE_V2: &str = "application/vnd.amazon.soci.index.v2+json";
/// On an image's manifest: the digest of its index, version 2.
pub const INDEX_DIGEST_ANNOTATION: &str = "com.amazon.soci.index-digest";
/// On a zTOC: which layer it is of.
pub const LAYER_DIGEST_ANNOTATION: &str = "com.amazon.soci.image-layer-digest";

/// Largest zTOC that is read: of a layer of 5 GB.
const ZTOC_BYTES_MAX: u64 = 256 << 20;
const NAME: &str = "soci";

/// SOCI.
#[derive(Debug)]
pub struct Soci;

impl LayerFormat for Soci {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, manifest: &Manifest) -> Vec<Wanted> {
        let named = manifest.annotations.get(INDEX_DIGEST_ANNOTATION);
        match named.and_then(|digest| Digest::parse(digest).ok()) {
            Some(digest) => vec![Wanted::Manifest {
                digest,
                kind: CompanionKind::Soci,
            }],
            None => vec![Wanted::Referrer {
                artifact_type: ARTIFACT_TYPE_V1,
                kind: CompanionKind::Soci,
            }],
        }
    }

    fn claim(&self, layer: &Descriptor, companions: &[Companion]) -> Option<Claim> {
        layer.layer_compression()?;
        let digest = layer.digest.to_string();
        companions
            .iter()
            .filter(|companion| companion.kind == CompanionKind::Soci)
            .find_map(|companion| {
                let mut ztocs = companion.manifest.layers.iter();
                let ztoc =
                    ztocs.find(|one| one.annotations.get(LAYER_DIGEST_ANNOTATION) == Some(&digest));
                Some(Claim {
                    format: &Soci,
                    certain: true,
                    layer: layer.clone(),
                    companion: Some(ztoc?.clone()),
                    companion_is_named: companion.named_by_image,
                })
            })
    }

    fn indexer(&self, claim: &Claim) -> Box<dyn Indexer> {
        Box::new(Reading {
            claim: claim.clone(),
            asked: false,
        })
    }
}

#[derive(Debug)]
struct Reading {
    claim: Claim,
    asked: bool,
}

impl Indexer for Reading {
    fn step(&mut self, answers: Vec<Answer>) -> Result<Step, FormatError> {
        let ztoc = self.claim.companion.as_ref();
        let ztoc = ztoc.ok_or(FormatError::NeedsWhole("its zTOC is gone"))?;
        if ztoc.size > ZTOC_BYTES_MAX {
            return Err(FormatError::Limit {
                format: NAME,
                what: "its zTOC",
            });
        }
        if !self.asked {
            self.asked = true;
            return Ok(Step::Need(vec![Need {
                of: Blob::Companion,
                range: 0..ztoc.size,
            }]));
        }
        let bytes = answers.into_iter().next().unwrap_or_default();
        if bytes.len() as u64 != ztoc.size {
            return Err(FormatError::Short { format: NAME });
        }
        if Digest::of(&bytes) != ztoc.digest {
            return Err(FormatError::Digest {
                format: NAME,
                what: "zTOC",
            });
        }
        let trust = if self.claim.companion_is_named {
            Trust::Manifest
        } else {
            Trust::Companion
        };
        let index = ztoc::read(&bytes, &self.claim.layer, trust)?;
        Ok(Step::Done(Box::new(index)))
    }
}

fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: NAME, what }
}
