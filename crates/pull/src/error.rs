// SPDX-License-Identifier: Apache-2.0
//! Why an image could not be pulled or imported.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use wolffia_image::config::ConfigError;
use wolffia_image::manifest::ManifestError;
use wolffia_image::reference::ReferenceError;
use wolffia_image::tar::TarError;
use wolffia_image::tree::TreeError;
use wolffia_image::{Compression, Digest};
use wolffia_store::StoreError;

use crate::job::{Failure, FailureKind};

/// What can go wrong between a reference and a tree.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Bytes did not arrive.
    #[error(transparent)]
    Fetch(#[from] wolffia_fetch::Error),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration cannot be read.
    #[error("reading the configuration of {name}")]
    Config {
        /// The image.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The manifest has another number of layers than the configuration.
    #[error("{name} has {layers} layers, but its configuration speaks of {diff_ids}")]
    LayerCount {
        /// The image.
        name: String,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
    /// A layer is no file system layer.
    #[error("layer {digest} has the media type {media_type:?}, which is no file system layer")]
    NotALayer {
        /// The layer.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// A layer's bytes cannot be unpacked.
    #[error("unpacking layer {layer} ({compression:?})")]
    Unpack {
        /// The layer, or the file.
        layer: String,
        /// How it is packed.
        compression: Compression,
        /// What is wrong.
        source: io::Error,
    },
    /// A layer unpacks to absurdly much.
    #[error("unpacking layer {layer}: {packed_bytes} bytes became more than {unpacked_bytes}")]
    Bomb {
        /// The layer.
        layer: String,
        /// Bytes read.
        packed_bytes: u64,
        /// Bytes they became.
        unpacked_bytes: u64,
    },
    /// A layer's tar cannot be read.
    #[error("reading layer {layer}")]
    Tar {
        /// The layer.
        layer: String,
        /// What is wrong.
        source: TarError,
    },
    /// A layer, or all of them together, are beyond a limit.
    #[error("reading the layers of {name}")]
    Tree {
        /// The image or the layer.
        name: String,
        /// Which limit.
        source: TreeError,
    },
    /// A layer unpacks to other bytes than the configuration says.
    #[error("layer {layer} unpacks to {found}, but the image's configuration says {expected}")]
    DiffId {
        /// The layer.
        layer: String,
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name cannot be given to an image.
    #[error("naming the image")]
    Name(#[from] ReferenceError),
    /// The manifest that an import makes cannot be written.
    #[error("describing the image")]
    Manifest(#[from] ManifestError),
    /// The table of a lazy image cannot be made.
    #[error("writing down where the files of the image are")]
    Table(#[source] io::Error),
    /// Nobody answers for an index, and that was asked for.
    #[error("nothing in the manifest answers for the index of layer {layer}")]
    Doubtful {
        /// The layer.
        layer: Digest,
    },
    /// A layer cannot be written in another form.
    #[error("converting layer {layer}")]
    Write {
        /// The layer.
        layer: String,
        /// Why not.
        source: wolffia_image::formats::write::WriteError,
    },
    /// A thread cannot be started.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
    /// Who asked for it is gone.
    #[error("nobody waits for the image any more")]
    Unwatched,
    /// Another layer failed first.
    #[error("another layer failed")]
    Stopped,
}

impl PullError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fetch(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::DiffId { .. } | Self::LayerCount { .. } | Self::Config { .. } => {
                Some("the image itself is damaged: whoever built it must push it again".to_owned())
            }
            Self::Doubtful { .. } => {
                Some("--lazy=never fetches all of it and compares it with its digests".to_owned())
            }
            Self::NotALayer { .. } => {
                Some("this is an artifact, not an image that can be run".to_owned())
            }
            _ => None,
        }
    }

    /// Returns the error as data, with everything that a person should see.
    pub fn to_failure(&self) -> Failure {
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let kind = match self {
            Self::Fetch(error) if error.is_not_found() => FailureKind::NotFound,
            Self::Store(StoreError::NoImage(_)) => FailureKind::NotFound,
            Self::Store(StoreError::InUse { .. } | StoreError::SeveralNames { .. }) => {
                FailureKind::InUse
            }
            _ => FailureKind::Other,
        };
        Failure {
            message: self.to_string(),
            causes,
            hint: self.hint(),
            kind,
        }
    }
}
