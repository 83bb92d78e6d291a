// SPDX-License-Identifier: Apache-2.0
//! Where images come from: one trait, and one file per kind of place.
//!
//! | written as | source |
//! |---|---|
//! | `debian:12`, `docker://ghcr.io/owner/app` | [`registry`]: a registry that speaks the Distribution protocol |
//! | `oci:DIRECTORY[:TAG]` | [`oci_layout`]: an OCI image layout on disk |
//!
//! A source is opened for one image. It resolves that image once, then opens its blobs as often as asked, from any
//! number of threads. Documents (manifest, index, configuration) come verified; a blob's bytes are verified by whoever
//! reads it to its end, which [`blob::Download`](crate::blob::Download) does.
//!
//! To add a kind: a file here, a row above, an arm in [`open`], and a line in the tests that run the same promises over
//! every source.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use wolffia_image::manifest::{self, DocumentKind, MANIFEST_BYTES_MAX};
use wolffia_image::{Descriptor, Digest, Document, Platform, Reference};

use crate::credentials::{self, Credential};
use crate::environment::Environment;
use crate::error::Error;
use crate::limits::Limits;

pub mod oci_layout;
pub mod registry;

/// Indexes may list indexes; nobody nests them deeper than once.
const INDEX_DEPTH_MAX: usize = 4;

/// A place that holds one image.
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns how a person would name the image.
    fn name(&self) -> String;

    /// Returns the reference under which a store should know the image, if the place implies one.
    fn reference(&self) -> Option<Reference>;

    /// Finds the image for a platform: its manifest and configuration, verified. Blocks.
    ///
    /// # Errors
    /// Fails where the image is not there, not readable, not for this platform, or not what its digest says.
    fn resolve(&self, platform: &Platform) -> Result<Resolved, Error>;

    /// Opens a blob at `span`, within `0..blob.size`. Blocks until the bytes begin to come.
    ///
    /// The bytes are *not* verified. One failure is reported at once; trying again is the caller's business. `failures` is
    /// how often in a row it was tried before: a source with several places goes on to the next.
    ///
    /// # Errors
    /// Fails where the blob is not there, or not of the announced size. The stream's errors are
    /// [`Error`]s inside an [`std::io::Error`].
    fn open(&self, blob: &Descriptor, span: Range<u64>, failures: u32) -> Result<Stream, Error>;

    /// Returns what is attached to a manifest, of one type of artifact. Blocks.
    ///
    /// # Errors
    /// Fails where the place cannot be asked; a place that knows of no attached documents has none.
    fn referrers(&self, _subject: &Digest, _artifact_type: &str) -> Result<Vec<Descriptor>, Error> {
        Ok(Vec::new())
    }

    /// Reads a manifest or another small document, verified. Blocks.
    ///
    /// # Errors
    /// Fails where it is not there, larger than a manifest may be, or not what its digest says.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let doing = format!("reading {}", descriptor.digest.short());
        if descriptor.size > u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX) {
            return Err(Error::TooLarge {
                doing,
                limit: MANIFEST_BYTES_MAX,
            });
        }
        let stream = self.open(descriptor, 0..descriptor.size, 0)?;
        let mut bytes = Vec::new();
        let read = stream
            .reader
            .take(descriptor.size + 1)
            .read_to_end(&mut bytes);
        let _length = read.map_err(|error| {
            Error::of_io(error).unwrap_or_else(|source| Error::Read {
                doing: doing.clone(),
                source,
            })
        })?;
        verify(&doing, descriptor, &bytes)?;
        Ok(bytes)
    }

    /// Returns how many spans of one blob are worth reading at once: 1 for a local file.
    fn parallel_hint(&self) -> usize;

    /// Returns the bounds to use.
    fn limits(&self) -> &Limits;
}

/// Bytes that come.
pub struct Stream {
    /// Where in the blob they begin: at the start of the span that was asked for, or at 0 where the place knows no spans.
    pub start: u64,
    /// Where they end, if nothing breaks.
    pub end: u64,
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Stream")
            .field("start", &self.start)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// An image that was found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the name pointed to: an index, or the manifest itself. Its digest is what people call the image's digest.
    pub top: Descriptor,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// The manifest's bytes, as they came.
    pub manifest_bytes: Vec<u8>,
    /// The configuration.
    pub config: Descriptor,
    /// The configuration's bytes, as they came.
    pub config_bytes: Vec<u8>,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Opens what a person wrote: `oci:DIRECTORY[:TAG]`, or a reference, perhaps after `docker://`.
///
/// # Errors
/// Fails where the text is neither, or the configuration of registries forbids or cannot be read.
pub fn open(
    text: &str,
    environment: &Environment,
    limits: Limits,
) -> Result<Box<dyn Source>, Error> {
    open_with(text, environment, limits, None)
}

/// As [`open`], with credentials that replace stored ones, as [`credential_by_helper`] found them.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    text: &str,
    environment: &Environment,
    limits: Limits,
    credential: Option<&Credential>,
) -> Result<Box<dyn Source>, Error> {
    if let Some(rest) = text.strip_prefix("oci:") {
        return Ok(Box::new(oci_layout::OciLayout::parse(rest, limits)?));
    }
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    let reference =
        Reference::parse(bare).map_err(|source| Error::Name(text.to_owned(), source))?;
    let registry = registry::Registry::open(&reference, environment, limits, credential)?;
    Ok(Box::new(registry))
}

/// Returns what a credential helper knows for the registry of an image, where the configuration names one: for a process
/// that opens the image elsewhere, see [`find_by_helper`](crate::credentials::find_by_helper). May run a program.
pub fn credential_by_helper(text: &str, environment: &Environment) -> Option<Credential> {
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    if bare.starts_with("oci:") {
        return None;
    }
    let reference = Reference::parse(bare).ok()?;
    let place = registry::own_place(&reference, environment)?;
    let name = format!("{}/{}", place.registry, place.repository);
    credentials::find_by_helper(environment, &name)
}

/// A verified document, by its descriptor.
pub(crate) struct Fetched {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

/// Goes from the top document to the platform's manifest and its configuration: what all sources have in common.
///
/// `manifest` returns a document by its descriptor, `config` a small blob; both verified.
pub(crate) fn descend(
    name: &str,
    platform: &Platform,
    top: Fetched,
    mut manifest: impl FnMut(&Descriptor) -> Result<Fetched, Error>,
    config: impl FnOnce(&Descriptor) -> Result<Vec<u8>, Error>,
) -> Result<Resolved, Error> {
    let top_descriptor = top.descriptor.clone();
    let mut current = top;
    for _level in 0..INDEX_DEPTH_MAX {
        let announced = Some(current.descriptor.media_type.as_str()).filter(|it| !it.is_empty());
        let document =
            manifest::parse(&current.bytes, announced).map_err(|source| Error::Manifest {
                reference: name.to_owned(),
                source,
            })?;
        match document {
            Document::Manifest(found) => {
                let config_bytes = config(&found.config)?;
                return Ok(Resolved {
                    top: top_descriptor,
                    manifest: current.descriptor,
                    manifest_bytes: current.bytes,
                    config: found.config,
                    config_bytes,
                    layers: found.layers,
                });
            }
            Document::Index(index) => {
                let chosen = platform
                    .choose(&index)
                    .or_else(|| only_index(&index.manifests));
                let Some(chosen) = chosen else {
                    return Err(Error::NoPlatform {
                        reference: name.to_owned(),
                        wanted: platform.to_string(),
                        offered: offered(&index.manifests),
                    });
                };
                current = manifest(chosen)?;
            }
        }
    }
    Err(Error::Nesting {
        reference: name.to_owned(),
    })
}

/// Returns the nested index of an index that holds nothing else.
fn only_index(manifests: &[Descriptor]) -> Option<&Descriptor> {
    match manifests {
        [only] if only.kind() == Some(DocumentKind::Index) => Some(only),
        _ => None,
    }
}

/// How many platforms an error names.
const OFFERED_MAX: usize = 20;

fn offered(manifests: &[Descriptor]) -> String {
    let mut names: Vec<String> = manifests
        .iter()
        .filter(|manifest| !manifest.is_attestation())
        .filter_map(|manifest| manifest.platform.as_ref())
        .map(ToString::to_string)
        .take(OFFERED_MAX)
        .collect();
    names.dedup();
    if names.is_empty() {
        "no platform named".to_owned()
    } else {
        names.join(", ")
    }
}

/// Compares bytes with what was asked for.
pub(crate) fn verify(doing: &str, expected: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
    let actual_size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if actual_size != expected.size {
        return Err(Error::Size {
            doing: doing.to_owned(),
            expected: expected.size,
            actual: actual_size,
        });
    }
    let actual = Digest::of(bytes);
    if actual != expected.digest {
        return Err(Error::Digest {
            doing: doing.to_owned(),
            expected: expected.digest,
            actual,
        });
    }
    Ok(())
}
