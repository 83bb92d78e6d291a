// SPDX-License-Identifier: Apache-2.0
//! Layers made by the formats' own libraries (`fixtures/README.md`), and variants of them written from the specifications.

use std::collections::BTreeMap;
use std::io::Write as _;

use wolffia_image::formats::{Companion, CompanionKind, estargz};
use wolffia_image::manifest::media_type;
use wolffia_image::tar::{Event, Reader};
use wolffia_image::{Descriptor, Digest, Manifest};

use crate::suite::Case;

const FIXTURES: &[u8] = include_bytes!("fixtures/layers.tar.zst");
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// All files of the fixtures.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let tar = zstd::stream::decode_all(FIXTURES).unwrap();
    let (mut reader, mut files) = (Reader::new(), BTreeMap::new());
    let (mut name, mut content) = (String::new(), Vec::new());
    let mut input = &tar[..];
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::Entry(header) => name = String::from_utf8(header.path).unwrap(),
            Event::Data { bytes, .. } => content.extend_from_slice(bytes),
            Event::Hole { .. } => {}
            Event::EntryEnd => {
                files.insert(name.clone(), std::mem::take(&mut content));
            }
        }
    }
    files
}

/// A layer with the annotations that its library wants.
pub(crate) fn layer(name: &'static str) -> Case {
    let mut files = files();
    let annotations: BTreeMap<String, Option<BTreeMap<String, String>>> =
        serde_json::from_slice(&files["annotations.json"]).unwrap();
    let blob = files.remove(name).unwrap();
    let media_type = match name {
        "tar" => media_type::OCI_LAYER,
        _ if name.starts_with("zstd") => TAR_ZSTD,
        _ => TAR_GZIP,
    };
    let mut descriptor = Descriptor::new(media_type, Digest::of(&blob), blob.len() as u64);
    if let Some(Some(annotations)) = annotations.get(name) {
        descriptor.annotations.clone_from(annotations);
    }
    Case {
        name,
        blob,
        descriptor,
        companions: Vec::new(),
        companion: Vec::new(),
        whole_seconds: name.contains("stargz"),
    }
}

/// A manifest of blobs beside an image.
pub(crate) fn companion(kind: CompanionKind, blobs: Vec<Descriptor>) -> Companion {
    Companion {
        kind,
        named_by_image: false,
        manifest: Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2),
            layers: blobs,
            subject: None,
            annotations: BTreeMap::new(),
        },
    }
}

/// eStargz whose table of contents is elsewhere.
pub(crate) fn external() -> Case {
    let mut case = layer("estargz-external");
    case.companion = files().remove("estargz-external.toc").unwrap();
    let mut table = Descriptor::new(
        TAR_GZIP,
        Digest::of(&case.companion),
        case.companion.len() as u64,
    );
    table.annotations.insert(
        estargz::LAYER_DIGEST_ANNOTATION.to_owned(),
        case.descriptor.digest.to_string(),
    );
    case.companions = vec![companion(CompanionKind::ExternalToc, vec![table])];
    case
}

/// The original stargz: no digest of a chunk or of the table, and its footer of 47 bytes. `digests`: those of whole files are there.
pub(crate) fn stargz(digests: bool) -> Case {
    let mut case = layer("estargz");
    case.name = "stargz";
    case.descriptor.annotations.clear();
    let estargz::Footer::Toc { offset, .. } = estargz::Footer::read(&case.blob).unwrap() else {
        panic!("a footer without a table");
    };
    let payload = usize::try_from(offset).unwrap();
    let table = crate::suite::unpack(&case.blob);
    let mut json: serde_json::Value = table
        .contents
        .values()
        .find_map(|content| {
            serde_json::from_slice(content)
                .ok()
                .filter(serde_json::Value::is_object)
        })
        .unwrap();
    for entry in json["entries"].as_array_mut().unwrap() {
        let entry = entry.as_object_mut().unwrap();
        entry.remove("chunkDigest");
        if !digests {
            entry.remove("digest");
        }
    }
    let json = serde_json::to_vec(&json).unwrap();
    let mut tar = wolffia_testkit::archive::Writer::new();
    tar.add(
        &wolffia_testkit::archive::Item::file("stargz.index.json".to_owned(), json),
        wolffia_testkit::archive::Spelling::default(),
    );
    let tar = tar.finish(wolffia_testkit::archive::End::Record);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar).unwrap();
    case.blob.truncate(payload);
    case.blob.extend_from_slice(&gzip.finish().unwrap());
    // RFC 1952: FEXTRA, 22 bytes of it; an empty stored block; no bytes and their checksum.
    case.blob
        .extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 22, 0]);
    case.blob
        .extend_from_slice(format!("{offset:016x}STARGZ").as_bytes());
    case.blob
        .extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    case.descriptor.digest = Digest::of(&case.blob);
    case.descriptor.size = case.blob.len() as u64;
    case
}

/// An ordinary layer with a zTOC beside it.
pub(crate) fn soci(name: &'static str, ztoc: &str, named_by_image: bool) -> Case {
    let mut case = layer(name);
    case.companion = files().remove(ztoc).unwrap();
    let mut blob = Descriptor::new(
        "application/octet-stream",
        Digest::of(&case.companion),
        case.companion.len() as u64,
    );
    blob.annotations.insert(
        wolffia_image::formats::soci::LAYER_DIGEST_ANNOTATION.to_owned(),
        case.descriptor.digest.to_string(),
    );
    let mut index = companion(CompanionKind::Soci, vec![blob]);
    index.named_by_image = named_by_image;
    case.companions = vec![index];
    case
}
