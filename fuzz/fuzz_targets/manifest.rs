// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a manifest, an index or a configuration: no panic, and what is read is the same when written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_image::manifest::{self, Document, media_type};
use wolffia_image::{ImageConfig, Platform};

fuzz_target!(|input: &[u8]| {
    for announced in [
        None,
        Some(media_type::OCI_MANIFEST),
        Some(media_type::DOCKER_INDEX),
    ] {
        match manifest::parse(input, announced) {
            Ok(Document::Manifest(manifest)) => {
                let _ = manifest.layers_bytes();
                let written = serde_json::to_vec(&manifest).expect("plain fields become JSON");
                assert_eq!(
                    manifest::parse(&written, announced).ok(),
                    Some(Document::Manifest(manifest))
                );
            }
            Ok(Document::Index(index)) => {
                let _ = Platform::host().choose(&index);
                let written = serde_json::to_vec(&index).expect("plain fields become JSON");
                assert_eq!(
                    manifest::parse(&written, announced).ok(),
                    Some(Document::Index(index))
                );
            }
            Err(_) => {}
        }
    }
    if let Ok(config) = ImageConfig::parse(input) {
        let again = ImageConfig::from_document(config.document().clone())
            .expect("what was read can be written");
        assert_eq!(
            ImageConfig::parse(again.raw()).expect("what was written can be read"),
            again
        );
    }
});
