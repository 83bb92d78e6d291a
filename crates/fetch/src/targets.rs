// SPDX-License-Identifier: Apache-2.0
//! Where images go to: the other direction of [`sources`](crate::sources), one file per kind of place.
//!
//! | written as | target |
//! |---|---|
//! | `ghcr.io/owner/app:1`, `docker://...` | [`registry`]: by HEAD, mount, and uploads that are resumed |
//! | `oci:DIRECTORY[:TAG]` | [`oci_layout`]: made where it is not there yet |
//!
//! Blobs go first, then the manifest that names them, then the name: whoever finds a name finds all the rest. A document that is
//! *about* a manifest (an index of its layers, a profile) is a *referrer*: it has the manifest as its `subject`, needs no name,
//! and is found by [`Source::referrers`].

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use wolffia_image::{Descriptor, Digest, Manifest, Reference};

use crate::credentials::Credential;
use crate::environment::Environment;
use crate::error::Error;
use crate::limits::Limits;
use crate::sources::Source;

pub mod oci_layout;
pub mod registry;

/// A place to which an image can be brought.
pub trait Target: fmt::Debug + Send + Sync {
    /// Returns how a person would name the image there.
    fn name(&self) -> String;

    /// Brings a blob there, if it is not there yet. `elsewhere` is where else it is: a repository of the same registry spares the
    /// sending. Blocks; tries again and resumes by itself.
    ///
    /// # Errors
    /// Fails where the place does not take it, or `content` is not what `blob` says.
    fn put_blob(
        &self,
        blob: &Descriptor,
        content: &dyn Content,
        elsewhere: Option<&Reference>,
    ) -> Result<Arrival, Error>;

    /// Brings a manifest or index there, under the target's own name where `named`, else by its digest only. What it names must be
    /// there.
    ///
    /// # Errors
    /// Fails where the place does not take it.
    fn put_manifest(
        &self,
        media_type: &str,
        bytes: &[u8],
        named: bool,
    ) -> Result<Descriptor, Error>;

    /// Brings a manifest with a subject there, and makes it be found by it. Its blobs must be there.
    ///
    /// # Errors
    /// Fails where the place does not take it, or it has no subject.
    fn put_referrer(&self, manifest: &Manifest) -> Result<Descriptor, Error>;
}

/// How a blob got where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Present,
    /// The registry had it in another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// Bytes that can be sent, more than once if need be.
pub trait Content: Send + Sync {
    /// Opens them at an offset.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// Bytes in memory.
impl Content for Arc<[u8]> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut cursor = Cursor::new(Self::clone(self));
        cursor.set_position(offset);
        Ok(Box::new(cursor))
    }
}

/// A file.
impl Content for PathBuf {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(self)?;
        let _position = file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

/// A blob of a source: on its way from one place to another it is written nowhere.
#[derive(Debug)]
pub struct Relay<'a> {
    /// Where it is.
    pub source: &'a dyn Source,
    /// Which.
    pub blob: &'a Descriptor,
}

impl Content for Relay<'_> {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut stream = self.source.open(self.blob, offset..self.blob.size, 0)?;
        // A place without ranges sends all of it.
        let skipped = offset.saturating_sub(stream.start);
        let _skipped = io::copy(&mut (&mut stream.reader).take(skipped), &mut io::sink())?;
        Ok(stream.reader)
    }
}

/// Opens what a person wrote: `oci:DIRECTORY[:TAG]`, or a reference, perhaps after `docker://`.
///
/// # Errors
/// Fails where the text is neither, or the configuration of registries forbids or cannot be read.
pub fn open(
    text: &str,
    environment: &Environment,
    limits: Limits,
    credential: Option<&Credential>,
) -> Result<Box<dyn Target>, Error> {
    if let Some(rest) = text.strip_prefix("oci:") {
        return Ok(Box::new(oci_layout::LayoutTarget::parse(rest)?));
    }
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    let reference =
        Reference::parse(bare).map_err(|source| Error::Name(text.to_owned(), source))?;
    Ok(Box::new(registry::RegistryTarget::open(
        &reference,
        environment,
        limits,
        credential,
    )?))
}

/// Writes a manifest, and the entry that a list of referrers has of it.
fn referrer(manifest: &Manifest) -> Result<(Digest, Descriptor, Vec<u8>), Error> {
    let written = |problem: &str| Error::Document {
        problem: problem.to_owned(),
    };
    let subject = manifest
        .subject
        .as_ref()
        .ok_or_else(|| written("it is about nothing"))?
        .digest;
    let bytes = serde_json::to_vec(manifest).map_err(|error| written(&error.to_string()))?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let media_type = manifest.media_type.clone().unwrap_or_default();
    let mut entry = Descriptor::new(media_type, Digest::of(&bytes), size);
    entry.artifact_type = manifest
        .artifact_type
        .clone()
        .or_else(|| Some(manifest.config.media_type.clone()));
    entry.annotations = manifest.annotations.clone();
    Ok((subject, entry, bytes))
}
