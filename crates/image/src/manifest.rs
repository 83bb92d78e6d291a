// SPDX-License-Identifier: Apache-2.0
//! What a registry says an image consists of: manifests and indexes, in OCI's and in Docker's spelling.
//!
//! One set of types serves both dialects, which differ in media types alone. The document's kind is what its own
//! `mediaType` says, then what the transport said, then its shape; where two of these disagree, or where a document has
//! both `layers` and `manifests` (one text that means two images: CVE-2021-41190), it is refused. Docker's schema 1 is
//! refused with the reason: it names layers by compressed digests alone and its last writers retired it.
//!
//! Sources: OCI image-spec manifest.md, image-index.md, descriptor.md, media-types.md; distribution
//! `manifest-v2-2.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::excerpt;
use crate::{Digest, Platform};

/// Media types, as they stand on the wire.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar; `+gzip` and `+zstd` follow it.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer that is fetched from elsewhere; `+gzip` and `+zstd` follow it.
    pub const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain tar; `.gzip` and `.zstd` follow it.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer that is fetched from elsewhere; `.gzip` follows it.
    pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    /// Docker schema 1 manifest: refused.
    pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker schema 1 manifest with a signature: refused.
    pub const DOCKER_SCHEMA_1_SIGNED: &str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// What a client that reads both dialects sends as `Accept` for a manifest.
    pub const ACCEPTED_MANIFESTS: [&str; 4] =
        [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
}

/// Largest manifest or index that is read: the limit that the distribution specification asks registries for.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most layers of one image: overlayfs takes 500 lower layers, docker 127; a merged tree needs neither.
pub const LAYERS_MAX: usize = 4096;

/// Points at content: what it is, its digest and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// What the content's bytes must hash to.
    pub digest: Digest,
    /// How many bytes the content has.
    pub size: u64,
    /// Other places that hold the content.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub urls: Vec<String>,
    /// Remarks.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The machine a manifest in an index is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Returns a descriptor that says no more than it must.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// Returns whether this points at a manifest, an index or something else, as its media type says.
    #[must_use]
    pub fn kind(&self) -> Option<DocumentKind> {
        DocumentKind::of(&self.media_type)
    }

    /// Returns whether this manifest of an index is `BuildKit`'s statement about an image rather than an image.
    #[must_use]
    pub fn is_attestation(&self) -> bool {
        let said = self.annotations.get("vnd.docker.reference.type");
        said.is_some_and(|kind| kind == "attestation-manifest")
            || self
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "unknown")
    }

    /// Returns how the media type says that this layer is compressed; `None` if it is no file system layer.
    ///
    /// Builders err here: compare with [`Compression::sniff`] of the first bytes, which decides.
    #[must_use]
    pub fn layer_compression(&self) -> Option<Compression> {
        use media_type::{DOCKER_FOREIGN_LAYER, DOCKER_LAYER, OCI_FOREIGN_LAYER, OCI_LAYER};
        [
            OCI_LAYER,
            OCI_FOREIGN_LAYER,
            DOCKER_LAYER,
            DOCKER_FOREIGN_LAYER,
        ]
        .iter()
        .find_map(|plain| match self.media_type.strip_prefix(plain)? {
            "" => Some(Compression::None),
            "+gzip" | ".gzip" => Some(Compression::Gzip),
            "+zstd" | ".zstd" => Some(Compression::Zstd),
            _ => None,
        })
    }
}

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The tar itself.
    None,
    /// RFC 1952, perhaps of several members.
    Gzip,
    /// RFC 8878, perhaps of several frames, skippable ones among them.
    Zstd,
}

impl Compression {
    /// How many first bytes [`Compression::sniff`] wants.
    pub const SNIFF_BYTES: usize = 4;

    /// Tells from the first bytes how a layer is packed: anything unknown is taken for a tar, whose own checksum
    /// decides then.
    #[must_use]
    pub fn sniff(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or one of the sixteen skippable frames.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// One image: a configuration and the layers from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Where the image's configuration is.
    pub config: Descriptor,
    /// Where the layers are, the lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Another manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Remarks.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Returns the bytes of all layers as they travel.
    #[must_use]
    pub fn layers_bytes(&self) -> u64 {
        self.layers
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// Several images under one name, one per platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Where the manifests (or further indexes) are.
    #[serde(deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Remarks.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// What a registry's `manifests/` may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one or two of them live at a time"
)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// Which of the two a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// One image.
    Manifest,
    /// A choice of images.
    Index,
}

impl DocumentKind {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => Some(Self::Manifest),
            media_type::OCI_INDEX | media_type::DOCKER_INDEX => Some(Self::Index),
            _ => None,
        }
    }
}

/// Why a document is no manifest that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The document is longer than any manifest.
    #[error("reading a manifest of {0} bytes: at most {MANIFEST_BYTES_MAX} are allowed")]
    Length(usize),
    /// The document is not JSON, or a field has the wrong type.
    #[error("reading a manifest")]
    Json(#[from] serde_json::Error),
    /// Docker's first format.
    #[error(
        "reading a manifest: it is of Docker's schema 1, which names no verifiable layers and was retired in 2019; \
         push the image again with a current tool"
    )]
    SchemaOne,
    /// The document is of another schema than 2.
    #[error("reading a manifest of schema version {0}: only version 2 is known")]
    SchemaVersion(u64),
    /// The document could be read as two things.
    #[error(
        "reading a manifest: it has both layers and manifests, and could be read as two images"
    )]
    Ambiguous,
    /// The document contradicts what it was announced as.
    #[error("reading a manifest announced as {announced:?}: it says of itself {said:?}")]
    Contradiction {
        /// What the transport or the pointing descriptor said.
        announced: String,
        /// What the document says.
        said: String,
    },
    /// The document is neither a manifest nor an index.
    #[error("reading a manifest: {0:?} is neither an image manifest nor an index")]
    Kind(String),
    /// The image has absurdly many layers.
    #[error("reading a manifest of {0} layers: at most {LAYERS_MAX} are allowed")]
    Layers(usize),
}

/// The few fields that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sketch {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index, as `media_type` (a `Content-Type` without parameters, or a descriptor's) or the document
/// itself says.
pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::Length(bytes.len()));
    }
    match kind(bytes, media_type)? {
        DocumentKind::Index => Ok(Document::Index(serde_json::from_slice(bytes)?)),
        DocumentKind::Manifest => {
            let manifest: Manifest = serde_json::from_slice(bytes)?;
            if manifest.layers.len() > LAYERS_MAX {
                return Err(ManifestError::Layers(manifest.layers.len()));
            }
            Ok(Document::Manifest(manifest))
        }
    }
}

fn kind(bytes: &[u8], announced: Option<&str>) -> Result<DocumentKind, ManifestError> {
    use media_type::{DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED};
    // `text/plain; charset=utf-8` and the like say nothing: some registries send them for everything.
    let announced = announced.map(|text| text.split(';').next().unwrap_or(text).trim());
    let is_schema_one = |text: &str| text == DOCKER_SCHEMA_1 || text == DOCKER_SCHEMA_1_SIGNED;
    let sketch: Sketch = serde_json::from_slice(bytes)?;
    let said = sketch.media_type.as_deref().filter(|text| !text.is_empty());
    if said.or(announced).is_some_and(is_schema_one)
        || sketch.fs_layers.is_some()
        || sketch.schema_version == Some(1)
    {
        return Err(ManifestError::SchemaOne);
    }
    // An index written before the specification settled may lack the version: only a wrong one is an error.
    if let Some(version) = sketch.schema_version.filter(|version| *version != 2) {
        return Err(ManifestError::SchemaVersion(version));
    }
    if sketch.manifests.is_some() && sketch.layers.is_some() {
        return Err(ManifestError::Ambiguous);
    }
    let announced_kind = announced.and_then(DocumentKind::of);
    let kind = match (said, announced_kind) {
        (Some(said), announced_kind) => {
            let kind = DocumentKind::of(said).ok_or_else(|| ManifestError::Kind(excerpt(said)))?;
            if announced_kind.is_some_and(|announced| announced != kind) {
                return Err(ManifestError::Contradiction {
                    announced: announced.unwrap_or_default().to_owned(),
                    said: said.to_owned(),
                });
            }
            Some(kind)
        }
        (None, kind) => kind,
    };
    let shape = match (sketch.manifests, sketch.layers) {
        (Some(_), None) => Some(DocumentKind::Index),
        (None, Some(_)) => Some(DocumentKind::Manifest),
        _ => None,
    };
    kind.or(shape).ok_or_else(|| {
        ManifestError::Kind(excerpt(
            announced.unwrap_or("a document without media type"),
        ))
    })
}

/// Reads Go's `null` for an empty list or map.
pub(crate) fn null_is_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{media_type}"config":{{"mediaType":"{}","digest":"{D}","size":2}},
                "layers":[{{"mediaType":"{}+gzip","digest":"{D}","size":7}},{{"mediaType":"{}.gzip","digest":"{D}","size":8,"urls":null}}]}}"#,
            media_type::OCI_CONFIG,
            media_type::OCI_LAYER,
            media_type::DOCKER_LAYER,
        )
    }

    fn index(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{media_type}"manifests":[{{"mediaType":"{}","digest":"{D}","size":7,
                "platform":{{"os":"linux","architecture":"arm","variant":"v7","os.features":null}}}}],"annotations":null}}"#,
            media_type::OCI_MANIFEST
        )
    }

    #[test]
    fn both_dialects_are_read_with_and_without_a_media_type() {
        for own in [
            "",
            r#""mediaType":"","#,
            r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#,
        ] {
            for announced in [
                None,
                Some(media_type::OCI_MANIFEST),
                Some("text/plain; charset=utf-8"),
            ] {
                let Document::Manifest(read) = parse(manifest(own).as_bytes(), announced).unwrap()
                else {
                    panic!("taken for an index: {own} {announced:?}")
                };
                assert_eq!(read.layers_bytes(), 15);
                assert_eq!(read.layers[0].layer_compression(), Some(Compression::Gzip));
                assert_eq!(read.layers[1].layer_compression(), Some(Compression::Gzip));
                assert_eq!(read.config.layer_compression(), None);
            }
        }
        let docker = format!(r#""mediaType":"{}","#, media_type::DOCKER_INDEX);
        for (own, announced) in [
            ("", None),
            (docker.as_str(), Some(media_type::DOCKER_INDEX)),
        ] {
            let Document::Index(read) = parse(index(own).as_bytes(), announced).unwrap() else {
                panic!("taken for a manifest")
            };
            assert_eq!(
                read.manifests[0].platform.as_ref().unwrap().to_string(),
                "linux/arm/v7"
            );
            assert_eq!(read.manifests[0].kind(), Some(DocumentKind::Manifest));
        }
    }

    #[test]
    fn documents_that_cannot_be_trusted_are_refused() {
        let both = manifest("").replacen('{', r#"{"manifests":[],"#, 1);
        assert!(matches!(
            parse(both.as_bytes(), None),
            Err(ManifestError::Ambiguous)
        ));
        let own = format!(r#""mediaType":"{}","#, media_type::OCI_MANIFEST);
        assert!(matches!(
            parse(manifest(&own).as_bytes(), Some(media_type::OCI_INDEX)),
            Err(ManifestError::Contradiction { .. })
        ));
        for one in [
            r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#.to_owned(),
            r#"{"fsLayers":[{"blobSum":"x"}]}"#.to_owned(),
            format!(
                r#"{{"mediaType":"{}"}}"#,
                media_type::DOCKER_SCHEMA_1_SIGNED
            ),
        ] {
            assert!(
                matches!(parse(one.as_bytes(), None), Err(ManifestError::SchemaOne)),
                "{one}"
            );
        }
        assert!(matches!(
            parse(b"{\"schemaVersion\":3,\"layers\":[]}", None),
            Err(ManifestError::SchemaVersion(3))
        ));
        assert!(matches!(parse(b"{}", None), Err(ManifestError::Kind(_))));
        assert!(matches!(
            parse(&vec![b' '; MANIFEST_BYTES_MAX + 1], None),
            Err(ManifestError::Length(_))
        ));
        for broken in [
            "",
            "[]",
            "nul",
            r#"{"layers":[{"digest":"sha256:12","size":1}]}"#,
            r#"{"manifests":[{"size":-1}]}"#,
        ] {
            assert!(parse(broken.as_bytes(), None).is_err(), "{broken}");
        }
    }

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        for (first, expected) in [
            (&b"\x1f\x8b\x08\0"[..], Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x50\x2a\x4d\x18", Compression::Zstd),
            (b"\x5f\x2a\x4d\x18", Compression::Zstd),
            (b"usr/", Compression::None),
            (b"", Compression::None),
        ] {
            assert_eq!(Compression::sniff(first), expected, "{first:?}");
        }
    }
}
