// SPDX-License-Identifier: Apache-2.0
//! Images made by code, in memory: for the [test registry](crate::registry), or written out as an OCI layout.
//!
//! A layer is any bytes; [`Tar`] makes plain ones, [`Packing`] says how they travel. In OCI's spelling or in
//! Docker's, for any platform, and several of them joined into an index. Nothing here is shared with the readers under
//! test but the digest function.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wolffia_image::Digest;

use crate::layout::Tar;
use crate::stargz::{StargzLayer, TOC_DIGEST};

/// The annotation of a layout's entry that holds its tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// One gzip member.
    Gzip,
    /// A gzip member for each piece of this many bytes, as parallel compressors write.
    GzipMembers(usize),
    /// One zstd frame.
    Zstd,
    /// A zstd frame for each piece of this many bytes, with a skippable frame between.
    ZstdFrames(usize),
}

/// The spelling of media types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `application/vnd.oci.image...`.
    #[default]
    Oci,
    /// `application/vnd.docker...`, schema 2.
    Docker,
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, Packing)>,
    /// Layers above those that are packed already.
    stargz: Vec<StargzLayer>,
    config: Value,
    dialect: Dialect,
    architecture: String,
    variant: Option<String>,
}

/// A document with its media type.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// Its text.
    pub bytes: Arc<[u8]>,
}

/// An image, or an index of images, with everything it consists of.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest or index at the top.
    pub top: Document,
    /// All documents by digest, the top among them.
    pub documents: BTreeMap<Digest, Document>,
    /// Configurations and layers by digest.
    pub blobs: BTreeMap<Digest, Arc<[u8]>>,
    platform: Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// Returns an image without layers, for this machine.
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            stargz: Vec::new(),
            config: json!({}),
            dialect: Dialect::Oci,
            architecture: crate::layout::architecture().to_owned(),
            variant: None,
        }
    }

    /// Returns a small image that runs: [the payload](crate::payload) in a layer of this packing. Say `need!(Cc)`.
    pub fn tiny(packing: Packing) -> Self {
        Self::new()
            .layer(Tar::new().payload().bytes(), packing)
            .config(json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/id"] }))
    }

    /// Adds a layer, by the bytes of its tar.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>, packing: Packing) -> Self {
        self.layers.push((tar, packing));
        self
    }

    /// Adds a layer that is packed already, above those that are not.
    #[must_use]
    pub fn stargz(mut self, layer: StargzLayer) -> Self {
        self.stargz.push(layer);
        self
    }

    /// Sets the `config` object of the configuration: `Cmd`, `Entrypoint`, `Env`, `User`, ...
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Sets the spelling of media types.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Sets the platform: `arm64`, perhaps with `v8`. The system is Linux.
    #[must_use]
    pub fn platform(mut self, architecture: &str, variant: Option<&str>) -> Self {
        architecture.clone_into(&mut self.architecture);
        self.variant = variant.map(str::to_owned);
        self
    }

    /// Makes the image.
    pub fn build(self) -> Image {
        let mut platform = json!({ "architecture": self.architecture, "os": "linux" });
        if let Some(variant) = &self.variant {
            platform["variant"] = json!(variant);
        }
        let mut configuration = platform.clone();
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|(tar, _)| Digest::of(tar).to_string())
            .chain(self.stargz.iter().map(|layer| layer.diff_id.to_string()))
            .collect();
        configuration["config"] = self.config;
        configuration["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let mut blobs = BTreeMap::new();
        let mut add = |media_type: &str, bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let size = bytes.len();
            blobs.insert(digest, Arc::from(bytes));
            json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
        };
        let dialect = self.dialect;
        let config = add(dialect.config(), configuration.to_string().into_bytes());
        let mut layers: Vec<Value> = self
            .layers
            .into_iter()
            .map(|(tar, packing)| add(&dialect.layer(packing), pack(tar, packing)))
            .collect();
        for layer in self.stargz {
            let mut descriptor = add(&dialect.layer(Packing::Gzip), layer.blob);
            descriptor["annotations"] = json!({ TOC_DIGEST: layer.toc_digest.to_string() });
            layers.push(descriptor);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": dialect.manifest(),
            "config": config,
            "layers": layers,
        });
        let top = Document::new(dialect.manifest(), &manifest);
        Image {
            documents: BTreeMap::from([(top.digest(), top.clone())]),
            top,
            blobs,
            platform,
        }
    }
}

impl Document {
    fn new(media_type: &str, content: &Value) -> Self {
        Self {
            media_type: media_type.to_owned(),
            bytes: Arc::from(content.to_string().into_bytes()),
        }
    }

    /// Returns its digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest().to_string(),
            "size": self.bytes.len(),
        })
    }
}

impl Image {
    /// Joins images into an index that lists them with their platforms.
    pub fn index(images: &[Image], dialect: Dialect) -> Image {
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.top.descriptor();
                descriptor["platform"] = image.platform.clone();
                descriptor
            })
            .collect();
        let content = json!({
            "schemaVersion": 2,
            "mediaType": dialect.index(),
            "manifests": manifests,
        });
        let top = Document::new(dialect.index(), &content);
        let mut joined = Image {
            documents: BTreeMap::from([(top.digest(), top.clone())]),
            top,
            blobs: BTreeMap::new(),
            platform: json!({ "architecture": "unknown", "os": "unknown" }),
        };
        for image in images {
            joined.documents.extend(image.documents.clone());
            joined.blobs.extend(image.blobs.clone());
        }
        joined
    }

    /// Returns the digest of the manifest or index at the top.
    pub fn digest(&self) -> Digest {
        self.top.digest()
    }

    /// Reads the image called `tag`, or the only one, from an OCI layout.
    ///
    /// # Panics
    /// Where the layout cannot be read.
    pub fn of_layout(directory: &Path, tag: Option<&str>) -> Image {
        let read = |path: &Path| {
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let index: Value =
            serde_json::from_slice(&read(&directory.join("index.json"))).expect("index.json");
        let entries = index["manifests"].as_array().expect("manifests");
        let entry = entries
            .iter()
            .find(|entry| tag.is_none_or(|tag| entry["annotations"][TAG] == tag))
            .expect("an image of this tag");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            let digest = Digest::parse(digest).expect("a digest");
            (
                digest,
                read(&directory.join("blobs/sha256").join(digest.hex())),
            )
        };
        let mut image: Option<Image> = None;
        let mut pending = vec![entry.clone()];
        while let Some(descriptor) = pending.pop() {
            let (digest, bytes) = blob(&descriptor);
            let content: Value = serde_json::from_slice(&bytes).expect("a document");
            let document = Document {
                media_type: descriptor["mediaType"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                bytes: Arc::from(bytes),
            };
            let image = image.get_or_insert_with(|| Image {
                top: document.clone(),
                documents: BTreeMap::new(),
                blobs: BTreeMap::new(),
                platform: descriptor["platform"].clone(),
            });
            image.documents.insert(digest, document);
            pending.extend(content["manifests"].as_array().cloned().unwrap_or_default());
            let layers = content["layers"].as_array().cloned().unwrap_or_default();
            let config = content["config"]
                .is_object()
                .then(|| content["config"].clone());
            for descriptor in layers.iter().chain(&config) {
                let (digest, bytes) = blob(descriptor);
                image.blobs.insert(digest, Arc::from(bytes));
            }
        }
        image.expect("at least one document")
    }

    /// Writes the image as the only one of an OCI layout.
    ///
    /// # Panics
    /// Where a file cannot be written.
    pub fn write_layout(&self, directory: &Path, tag: Option<&str>) {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("a folder for blobs");
        let write =
            |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).expect("writing a layout");
        for (digest, document) in &self.documents {
            write(&blobs.join(digest.hex()), &document.bytes);
        }
        for (digest, bytes) in &self.blobs {
            write(&blobs.join(digest.hex()), bytes);
        }
        let mut descriptor = self.top.descriptor();
        if let Some(tag) = tag {
            descriptor["annotations"] = json!({ TAG: tag });
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": Dialect::Oci.index(),
            "manifests": [descriptor],
        });
        write(&directory.join("index.json"), index.to_string().as_bytes());
        write(
            &directory.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        );
    }
}

impl Dialect {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, packing: Packing) -> String {
        let (plain, divider) = match self {
            Self::Oci => ("application/vnd.oci.image.layer.v1.tar", '+'),
            Self::Docker => ("application/vnd.docker.image.rootfs.diff.tar", '.'),
        };
        match packing {
            Packing::Plain => plain.to_owned(),
            Packing::Gzip | Packing::GzipMembers(_) => format!("{plain}{divider}gzip"),
            Packing::Zstd | Packing::ZstdFrames(_) => format!("{plain}{divider}zstd"),
        }
    }
}

/// Packs a layer's tar.
///
/// # Panics
/// Never for bytes in memory.
pub fn pack(tar: Vec<u8>, packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar,
        Packing::Gzip => gzip(&tar),
        Packing::GzipMembers(size) => tar.chunks(size.max(1)).flat_map(gzip).collect(),
        Packing::Zstd => zstd(&tar),
        Packing::ZstdFrames(size) => {
            let mut packed = Vec::new();
            for piece in tar.chunks(size.max(1)) {
                packed.extend(zstd(piece));
                // RFC 8878 3.1.2: magic, length, and what nobody reads.
                packed.extend(0x184D_2A50_u32.to_le_bytes());
                packed.extend(4_u32.to_le_bytes());
                packed.extend(b"skip");
            }
            packed
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("writing to memory")
}

/// Returns bytes that no compressor shrinks, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Meta;

    #[test]
    fn layouts_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let tar = Tar::new().file("a", Meta::mode(0o644), b"x").bytes();
        let image = |architecture| {
            ImageBuilder::new()
                .layer(tar.clone(), Packing::GzipMembers(100))
                .layer(tar.clone(), Packing::ZstdFrames(100))
                .platform(architecture, None)
                .build()
        };
        let index = Image::index(&[image("amd64"), image("arm64")], Dialect::Docker);
        index.write_layout(folder.path(), Some("t"));
        let read = Image::of_layout(folder.path(), Some("t"));
        assert_eq!(read.digest(), index.digest());
        assert_eq!(read.documents.len(), 3);
        assert!(read.blobs.keys().eq(index.blobs.keys()));
    }

    #[test]
    fn skopeo_understands_every_packing() {
        crate::need!(Skopeo);
        let tar = Tar::new()
            .file("a", Meta::mode(0o644), &noise(1, 5000))
            .bytes();
        for dialect in [Dialect::Oci, Dialect::Docker] {
            for packing in [
                Packing::Plain,
                Packing::GzipMembers(999),
                Packing::ZstdFrames(999),
            ] {
                // Docker's spelling has no zstd.
                if (dialect, packing) == (Dialect::Docker, Packing::ZstdFrames(999)) {
                    continue;
                }
                let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let builder = ImageBuilder::new().layer(tar.clone(), packing);
                let image = builder.dialect(dialect).build();
                image.write_layout(from.path(), None);
                // Unpacking makes it check the digest of the plain tar.
                let output = std::process::Command::new("skopeo")
                    .args(["copy", "-q", "--dest-decompress"])
                    .arg(format!("oci:{}", from.path().display()))
                    .arg(format!("dir:{}", to.path().display()))
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{dialect:?} {packing:?}: {said}");
                let plain = to.path().join(Digest::of(&tar).hex());
                assert_eq!(
                    std::fs::read(plain).unwrap(),
                    tar,
                    "{dialect:?} {packing:?}"
                );
            }
        }
    }
}
