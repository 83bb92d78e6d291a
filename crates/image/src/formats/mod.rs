// SPDX-License-Identifier: Apache-2.0
//! Layer formats: where in a layer's packed bytes each file's bytes are, told before the layer has come.
//!
//! A layer is fetched whole and unpacked, or it is *indexed*: a [`LayerIndex`] says what the layer holds (a [`Layer`](crate::tree::Layer), merged with
//! the others as ever) and, for each content, which stretches of the packed bytes give it ([`ChunkMap`]). Formats differ in
//! where the index is and in what must be known to begin decoding in the middle. All end in the same types, so the planner,
//! the file server and the store know no format.
//!
//! # Theory of operation
//!
//! 1. [`wanted`] says which other manifests may hold indexes for an image; whoever fetches brings what is there
//!    ([`Companion`]).
//! 2. [`claims`] asks each format of [`FORMATS`] about a layer; the best comes first. The last, which always claims, says that the
//!    layer must come whole.
//! 3. [`Claim::indexer`] gives an [`Indexer`], which does no I/O: it answers [`Step::Need`] with ranges, many at once, is given
//!    their bytes, and ends with [`Step::Done`] or an error. Begin the indexers of all layers together: their first needs depend
//!    on nothing.
//! 4. [`ChunkMap::of`] finds a content by its digest, so the references survive the merge of layers: what the tree's entry
//!    says is the key. [`ChunkMap::chunks`] gives what serves a part of a file, [`Span::fetch`] the bytes to fetch for
//!    it, [`SpanDecoder`] the content, verified.
//!
//! Nothing that a stranger wrote is believed for memory: counts and lengths have bounds, decoding is streamed and stops
//! where the last wanted byte is out.
//!
//! | file | reads |
//! |---|---|
//! | [`estargz`] | stargz, eStargz, and eStargz with its table elsewhere |
//! | [`zstd_chunked`] | zstd:chunked, both dialects |
//! | [`gzip_index`] | ordinary gzip layers and plain tars, with an index of our own |
//! | [`soci`] | ordinary gzip layers and plain tars, with an index of SOCI's |
//! | [`write`](mod@write) | nothing: it writes eStargz and zstd:chunked |
//! | [`whole`] | nothing: any layer, when it comes whole |

mod claim;
mod decode;
pub mod estargz;
pub mod gzip_index;
mod index;
mod record;
pub mod soci;
mod toc;
pub mod whole;
mod window;
pub mod write;
pub mod zstd_chunked;

pub use self::claim::{
    Answer, Blob, Claim, Companion, CompanionKind, Indexer, LayerFormat, Need, Step, Wanted,
    claims, wanted,
};
pub use self::decode::{DecodeError, PIECE_BYTES_MAX, Piece, SpanDecoder, decode};
pub use self::index::{
    Chunk, ChunkMap, Content, Decoder, Fetch, Identity, LayerIndex, MapBuilder, Mark, Prefetch,
    Span, Trust, Windows, lazy_digest,
};
pub use self::record::{IndexRecordError, head_bytes};
use crate::tree::TreeError;

/// All formats. Of two that claim a layer for certain the first is taken: what the image says itself before what is found beside it.
pub const FORMATS: &[&dyn LayerFormat] = &[
    &zstd_chunked::ZstdChunked,
    &estargz::EStargz,
    &gzip_index::GzipIndex,
    &soci::Soci,
    &whole::Whole,
];

/// Largest table of contents, unpacked: about 400 bytes an entry, for a quarter of a million of them.
pub const TOC_BYTES_MAX: u64 = 128 << 20;
/// Most chunks of one layer.
pub const CHUNKS_MAX: usize = 1 << 22;
/// Most spans of one layer.
pub const SPANS_MAX: usize = 1 << 22;
/// Times its packed size that a span may become, as for whole layers: deflate's own limit is 1,032.
pub const RATIO_MAX: u64 = 1000;
/// Bytes that a span may become without the ratio being looked at.
pub const FREE_BYTES: u64 = 1 << 30;

/// Why a layer cannot be indexed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The format needs the whole layer, or has no index here.
    #[error("this layer has to be fetched whole: {0}")]
    NeedsWhole(&'static str),
    /// Something is not as the format has it.
    #[error("reading {format}: {what}")]
    Malformed {
        /// Which format.
        format: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A digest that the manifest names does not fit.
    #[error("reading {format}: the digest of its {what} does not fit")]
    Digest {
        /// Which format.
        format: &'static str,
        /// Of what.
        what: &'static str,
    },
    /// Something is larger than anybody needs.
    #[error("reading {format}: too large: {what}")]
    Limit {
        /// Which format.
        format: &'static str,
        /// What.
        what: &'static str,
    },
    /// What was fetched is not what was asked for.
    #[error("reading {format}: fewer bytes came than were asked for")]
    Short {
        /// Which format.
        format: &'static str,
    },
    /// The layer's shape is absurd.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
