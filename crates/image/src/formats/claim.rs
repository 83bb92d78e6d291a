// SPDX-License-Identifier: Apache-2.0
//! What a format is to the rest: it claims layers, and indexes them step by step without I/O.

use std::fmt;
use std::ops::Range;

use super::{FORMATS, FormatError, LayerIndex};
use crate::manifest::{Descriptor, Manifest};

/// A layer format: one file, one row in [`FORMATS`].
pub trait LayerFormat: fmt::Debug + Send + Sync {
    /// Returns its name, as people write it.
    fn name(&self) -> &'static str;

    /// Returns which other manifests may hold what this format wants to know of an image.
    fn wanted(&self, manifest: &Manifest) -> Vec<Wanted> {
        // Most formats keep everything in the layer.
        let _ = manifest;
        Vec::new()
    }

    /// Returns what the format makes of a layer; `None` if it is not of this format.
    fn claim(&self, layer: &Descriptor, companions: &[Companion]) -> Option<Claim>;

    /// Returns what reads the index of a layer that it has claimed.
    fn indexer(&self, claim: &Claim) -> Box<dyn Indexer>;
}

/// A layer that a format can read.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Which format.
    pub format: &'static dyn LayerFormat,
    /// Whether the manifest says that the layer is of this format. If not, its end must be looked at to know: a few KiB.
    pub certain: bool,
    /// The layer.
    pub layer: Descriptor,
    /// Another blob of the same repository that holds the index.
    pub companion: Option<Descriptor>,
    /// Whether the image's manifest names the digest of the manifest that names this blob.
    pub companion_is_named: bool,
}

impl Claim {
    /// Returns what reads the index.
    #[must_use]
    pub fn indexer(&self) -> Box<dyn Indexer> {
        self.format.indexer(self)
    }
}

/// Reads an index: says which bytes it needs, until it has what it needs.
pub trait Indexer: fmt::Debug + Send {
    /// Takes the answers to the last step's needs, in their order, and says how to go on. The first call has none.
    ///
    /// An answer shorter than its need is an error here. After an error or the end there is no further step.
    fn step(&mut self, answers: Vec<Answer>) -> Result<Step, FormatError>;
}

/// How to go on.
#[derive(Debug)]
pub enum Step {
    /// These bytes are needed, all at once.
    Need(Vec<Need>),
    /// That is all.
    Done(Box<LayerIndex>),
}

/// Bytes that are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Of which blob.
    pub of: Blob,
    /// Which bytes.
    pub range: Range<u64>,
}

/// Which blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blob {
    /// [`Claim::layer`].
    Layer,
    /// [`Claim::companion`].
    Companion,
}

/// The bytes that a need asked for.
pub type Answer = Vec<u8>;

/// Another manifest that may hold indexes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Manifests that refer to the image's, of this artifact type: the newest is enough.
    Referrer {
        /// `artifactType`, or the configuration's media type.
        artifact_type: &'static str,
        /// What it is as a companion.
        kind: CompanionKind,
    },
    /// A manifest of the same repository, by its digest.
    Manifest {
        /// Its digest.
        digest: crate::Digest,
        /// What it is as a companion.
        kind: CompanionKind,
    },
    /// The manifest under the same reference with this behind its tag (`latest` becomes `latest-esgztoc`).
    TagSuffix {
        /// What is appended.
        suffix: &'static str,
        /// What it is as a companion.
        kind: CompanionKind,
    },
}

/// What a companion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompanionKind {
    /// An index of SOCI.
    Soci,
    /// Indexes of our own.
    Index,
    /// Tables of contents of eStargz layers that have none inside.
    ExternalToc,
}

/// A manifest beside the image's that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    /// What it is.
    pub kind: CompanionKind,
    /// Whether the image's own manifest names its digest: if not, nobody but the registry answers for it.
    pub named_by_image: bool,
    /// What it says.
    pub manifest: Manifest,
}

/// Returns which other manifests may hold indexes of an image.
#[must_use]
pub fn wanted(manifest: &Manifest) -> Vec<Wanted> {
    let each = FORMATS.iter().flat_map(|format| format.wanted(manifest));
    each.fold(Vec::new(), |mut all, one| {
        if !all.contains(&one) {
            all.push(one);
        }
        all
    })
}

/// Returns in which ways a layer can be read, the best first. The last is always that it comes whole.
#[must_use]
pub fn claims(layer: &Descriptor, companions: &[Companion]) -> Vec<Claim> {
    let mut claims: Vec<Claim> = FORMATS
        .iter()
        .filter_map(|format| format.claim(layer, companions))
        .collect();
    // What is certain before what must be looked at, and at last that the layer comes whole.
    claims.sort_by_key(|claim| (claim.format.name() == super::whole::NAME, !claim.certain));
    claims
}
