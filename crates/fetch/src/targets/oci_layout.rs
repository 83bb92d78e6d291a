// SPDX-License-Identifier: Apache-2.0
//! An OCI image layout that takes images, made where it is not there yet.
//!
//! Blobs are written beside their place and renamed when their digest is right. `index.json` is read, changed and replaced under a lock on
//! the layout's directory, so that two writers do not lose each other's images. A referrer is an entry of `index.json` with
//! an `artifactType` and no name.
//!
//! Source: OCI image-spec image-layout.md.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use wolffia_image::digest::Hasher;
use wolffia_image::manifest::{self, media_type};
use wolffia_image::{Descriptor, Digest, Document, Index, Manifest, Reference};

use super::{Arrival, Content, Target, referrer};
use crate::error::Error;
use crate::sources::oci_layout::{REF_NAME, find_layout, read_small};

/// One image that shall be in a layout.
#[derive(Debug)]
pub struct LayoutTarget {
    directory: PathBuf,
    tag: Option<String>,
}

/// Bytes moved at once.
const BUFFER_BYTES: usize = 256 << 10;

impl LayoutTarget {
    /// Reads `DIRECTORY[:TAG]`, and makes the layout where it is not there yet.
    ///
    /// # Errors
    /// Fails where it cannot be made.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (directory, tag) = find_layout(text).unwrap_or_else(|| match text.split_once(':') {
            Some((directory, tag)) => (directory, Some(tag.to_owned())),
            None => (text, None),
        });
        let target = Self {
            directory: PathBuf::from(directory),
            tag: tag.filter(|tag| !tag.is_empty()),
        };
        target.make()?;
        Ok(target)
    }

    fn make(&self) -> Result<(), Error> {
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(writing(&blobs))?;
        let mark = self.directory.join("oci-layout");
        if !mark.exists() {
            fs::write(&mark, br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(writing(&mark))?;
        }
        self.change(|_index| {})
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs").join(Digest::ALGORITHM)
    }

    /// Changes `index.json`.
    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), Error> {
        let path = self.directory.join("index.json");
        let lock = File::open(&self.directory).map_err(writing(&path))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| writing(&path)(errno.into()))?;
        let mut index = if path.exists() {
            let bytes = read_small(&path)?;
            match manifest::parse(&bytes, Some(media_type::OCI_INDEX)) {
                Ok(Document::Index(index)) => index,
                _ => {
                    return Err(Error::Layout {
                        path: self.directory.clone(),
                        problem: "index.json is no index".to_owned(),
                    });
                }
            }
        } else {
            Index {
                media_type: Some(media_type::OCI_INDEX.to_owned()),
                ..Index::default()
            }
        };
        let before = index.clone();
        change(&mut index);
        if index == before && path.exists() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&index).map_err(|error| writing(&path)(error.into()))?;
        self.replace(&path, &bytes)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let (mut file, draft) = self.draft()?;
        let written = file
            .write_all(bytes)
            .and_then(|()| fs::rename(&draft, path));
        written.map_err(|error| {
            drop(fs::remove_file(&draft));
            writing(path)(error)
        })
    }

    /// Makes a file of a name that nobody else has.
    fn draft(&self) -> Result<(File, PathBuf), Error> {
        let unique = std::process::id();
        for number in 0..u32::MAX {
            let path = self.directory.join(format!(".writing-{unique}-{number}"));
            match File::create_new(&path) {
                Ok(file) => return Ok((file, path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(writing(&path)(error)),
            }
        }
        Err(writing(&self.directory)(
            io::ErrorKind::AlreadyExists.into(),
        ))
    }

    fn document(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.blobs().join(digest.hex());
        if !path.exists() {
            self.replace(&path, bytes)?;
        }
        Ok(digest)
    }

    fn copy(&self, mut to: File, blob: &Descriptor, content: &dyn Content) -> Result<(), Error> {
        let doing = || format!("writing {} to {}", blob.digest.short(), self.name());
        let read = |source: io::Error| match Error::of_io(source) {
            Ok(error) => error,
            Err(source) => Error::Read {
                doing: doing(),
                source,
            },
        };
        let mut from = content.open(0).map_err(read)?.take(blob.size + 1);
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut length = 0;
        loop {
            let count = from.read(&mut buffer).map_err(read)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])
                .map_err(writing(&self.directory))?;
            length += u64::try_from(count).unwrap_or(u64::MAX);
        }
        if length != blob.size {
            return Err(Error::Size {
                doing: doing(),
                expected: blob.size,
                actual: length,
            });
        }
        let actual = hasher.finish();
        if actual != blob.digest {
            return Err(Error::Digest {
                doing: doing(),
                expected: blob.digest,
                actual,
            });
        }
        Ok(())
    }
}

impl Target for LayoutTarget {
    fn name(&self) -> String {
        let directory = self.directory.display();
        match &self.tag {
            Some(tag) => format!("oci:{directory}:{tag}"),
            None => format!("oci:{directory}"),
        }
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        content: &dyn Content,
        _elsewhere: Option<&Reference>,
    ) -> Result<Arrival, Error> {
        let path = self.blobs().join(blob.digest.hex());
        if fs::metadata(&path).is_ok_and(|found| found.len() == blob.size) {
            return Ok(Arrival::Present);
        }
        let (file, draft) = self.draft()?;
        let copied = self.copy(file, blob, content).and_then(|()| {
            fs::rename(&draft, &path).map_err(writing(&path))?;
            Ok(Arrival::Sent)
        });
        if copied.is_err() {
            drop(fs::remove_file(&draft));
        }
        copied
    }

    fn put_manifest(
        &self,
        media_type: &str,
        bytes: &[u8],
        named: bool,
    ) -> Result<Descriptor, Error> {
        let digest = self.document(bytes)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let descriptor = Descriptor::new(media_type, digest, size);
        if named {
            let mut entry = descriptor.clone();
            if let Some(tag) = &self.tag {
                let _old = entry.annotations.insert(REF_NAME.to_owned(), tag.clone());
            }
            self.change(|index| {
                index.manifests.retain(|other| {
                    other.artifact_type.is_some()
                        || other.annotations.get(REF_NAME) != entry.annotations.get(REF_NAME)
                });
                index.manifests.push(entry);
            })?;
        }
        Ok(descriptor)
    }

    fn put_referrer(&self, manifest: &Manifest) -> Result<Descriptor, Error> {
        let (_subject, entry, bytes) = referrer(manifest)?;
        let _digest = self.document(&bytes)?;
        self.change(|index| {
            if !index
                .manifests
                .iter()
                .any(|other| other.digest == entry.digest)
            {
                index.manifests.push(entry.clone());
            }
        })?;
        Ok(entry)
    }
}

fn writing(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path, source }
}
