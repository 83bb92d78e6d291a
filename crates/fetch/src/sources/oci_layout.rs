// SPDX-License-Identifier: Apache-2.0
//! An OCI image layout: a directory with `index.json` and `blobs/sha256/...`, as skopeo, buildah and umoci write it.
//!
//! Written `oci:DIRECTORY[:TAG]`. The tag is an entry's annotation `org.opencontainers.image.ref.name`; without one the
//! index must leave no choice: one image, or several that differ in platform. Directories and tags may
//! hold colons.
//!
//! Source: OCI image-spec image-layout.md; containers-transports(5) for the way it is written.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use wolffia_image::manifest::{self, MANIFEST_BYTES_MAX};
use wolffia_image::{Descriptor, Digest, Document, Index, Platform, Reference};

use super::{Fetched, Resolved, Source, Stream, descend, verify};
use crate::error::Error;
use crate::limits::Limits;

/// The annotation that names an entry.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image in a layout.
#[derive(Debug)]
pub struct OciLayout {
    directory: PathBuf,
    tag: Option<String>,
    limits: Limits,
}

impl OciLayout {
    /// Reads `DIRECTORY[:TAG]`.
    ///
    /// # Errors
    /// Fails where there is no layout.
    pub fn parse(text: &str, limits: Limits) -> Result<Self, Error> {
        match find_layout(text) {
            Some((directory, tag)) => Ok(Self::new(directory, tag, limits)),
            None => Err(Self::new(text, None, limits).problem("there is no index.json in it")),
        }
    }

    /// Returns the image called `tag` in `directory`, or its only one.
    pub fn new(directory: impl Into<PathBuf>, tag: Option<String>, limits: Limits) -> Self {
        Self {
            directory: directory.into(),
            tag,
            limits,
        }
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Layout {
            path: self.directory.clone(),
            problem: problem.into(),
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory
            .join("blobs")
            .join(Digest::ALGORITHM)
            .join(digest.hex())
    }

    /// Returns the document that the tag, or its absence, means.
    fn top(&self) -> Result<Fetched, Error> {
        let path = self.directory.join("index.json");
        let bytes = read_small(&path)?;
        let document = manifest::parse(&bytes, None).map_err(|source| Error::Manifest {
            reference: self.name(),
            source,
        })?;
        let Document::Index(mut index) = document else {
            return Err(self.problem("index.json is no index"));
        };
        // What is attached to an image is none.
        let count = index.manifests.len();
        index
            .manifests
            .retain(|entry| entry.artifact_type.is_none());
        let bytes = if index.manifests.len() == count {
            bytes
        } else {
            serde_json::to_vec(&index).unwrap_or(bytes)
        };
        match &self.tag {
            Some(tag) => match named(&index, tag) {
                Some(entry) => self.document(entry),
                None => Err(self.problem(format!(
                    "no image in it is called {tag:?} ({})",
                    names(&index)
                ))),
            },
            None => match index.manifests.as_slice() {
                [] => Err(self.problem("there is no image in it")),
                [only] => self.document(only),
                entries if distinct_names(entries) <= 1 => {
                    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    let media_type = manifest::media_type::OCI_INDEX;
                    let descriptor = Descriptor::new(media_type, Digest::of(&bytes), size);
                    Ok(Fetched { descriptor, bytes })
                }
                _ => Err(self.problem(format!("say which image is meant ({})", names(&index)))),
            },
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Fetched, Error> {
        let bytes = self.small_blob(descriptor)?;
        Ok(Fetched {
            descriptor: descriptor.clone(),
            bytes,
        })
    }

    fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = read_small(&path)?;
        verify(&format!("reading {}", path.display()), descriptor, &bytes)?;
        Ok(bytes)
    }
}

impl Source for OciLayout {
    fn name(&self) -> String {
        let directory = self.directory.display();
        match &self.tag {
            Some(tag) => format!("oci:{directory}:{tag}"),
            None => format!("oci:{directory}"),
        }
    }

    /// The annotation is the name if it is a complete one; a bare tag names no repository.
    fn reference(&self) -> Option<Reference> {
        let tag = self.tag.as_deref()?;
        let is_complete = tag.contains('/') || tag.contains(':');
        is_complete.then(|| Reference::parse(tag).ok())?
    }

    fn resolve(&self, platform: &Platform) -> Result<Resolved, Error> {
        descend(
            &self.name(),
            platform,
            self.top()?,
            |descriptor| self.document(descriptor),
            |config| self.small_blob(config),
        )
    }

    fn open(&self, blob: &Descriptor, span: Range<u64>, _failures: u32) -> Result<Stream, Error> {
        let path = self.blob_path(&blob.digest);
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(failed)?;
        let actual = file.metadata().map_err(failed)?.len();
        if actual != blob.size {
            return Err(Error::Size {
                doing: format!("reading {}", path.display()),
                expected: blob.size,
                actual,
            });
        }
        let start = file.seek(SeekFrom::Start(span.start)).map_err(failed)?;
        Ok(Stream {
            start,
            end: span.end,
            reader: Box::new(file.take(span.end.saturating_sub(start))),
        })
    }

    fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>, Error> {
        let bytes = read_small(&self.directory.join("index.json"))?;
        let Ok(Document::Index(index)) = manifest::parse(&bytes, None) else {
            return Err(self.problem("index.json is no index"));
        };
        let wanted = |entry: &&Descriptor| entry.artifact_type.as_deref() == Some(artifact_type);
        let mut found = Vec::new();
        for entry in index.manifests.iter().filter(wanted) {
            let bytes = self.small_blob(entry)?;
            let about = match manifest::parse(&bytes, Some(&entry.media_type)) {
                Ok(Document::Manifest(manifest)) => manifest.subject,
                _ => None,
            };
            if about.is_some_and(|about| about.digest == *subject) {
                found.push(entry.clone());
            }
        }
        Ok(found)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.small_blob(descriptor)
    }

    fn parallel_hint(&self) -> usize {
        1
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// Divides `DIRECTORY[:TAG]`, where the directory is a layout.
pub(crate) fn find_layout(text: &str) -> Option<(&str, Option<String>)> {
    // Both directories and tags may hold colons: the first that divides off a layout divides.
    let splits = text
        .match_indices(':')
        .map(|(at, _)| (&text[..at], Some(text[at + 1..].to_owned())));
    std::iter::once((text, None))
        .chain(splits)
        .find(|(directory, _)| Path::new(directory).join("index.json").is_file())
}

fn named<'index>(index: &'index Index, tag: &str) -> Option<&'index Descriptor> {
    index.manifests.iter().find(|entry| {
        entry
            .annotations
            .get(REF_NAME)
            .is_some_and(|name| name == tag)
    })
}

fn distinct_names(entries: &[Descriptor]) -> usize {
    let mut names: Vec<Option<&String>> = entries
        .iter()
        .map(|entry| entry.annotations.get(REF_NAME))
        .collect();
    names.sort();
    names.dedup();
    names.len()
}

/// How many names an error lists.
const NAMES_MAX: usize = 20;

fn names(index: &Index) -> String {
    let names: Vec<&str> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.annotations.get(REF_NAME))
        .map(String::as_str)
        .take(NAMES_MAX)
        .collect();
    if names.is_empty() {
        "its images have no names".to_owned()
    } else {
        format!("it has {}", names.join(", "))
    }
}

pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, Error> {
    let limit = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes));
    let _length = read.map_err(|source: io::Error| Error::File {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(Error::TooLarge {
            doing: format!("reading {}", path.display()),
            limit: MANIFEST_BYTES_MAX,
        });
    }
    Ok(bytes)
}
