// SPDX-License-Identifier: Apache-2.0
//! Any bytes as the answers to an indexer, as a record and as deflated data: no panic, and what is taken can be asked and decoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_image::formats::{
    Blob, Claim, Companion, CompanionKind, LayerIndex, Step, claims, decode, estargz, soci,
};
use wolffia_image::inflate::{GzipStream, Step as GzipStep};
use wolffia_image::{Descriptor, Digest, Manifest};

/// Answers every need with the input, as if it were the whole blob.
fn index(claim: &Claim, input: &[u8]) -> Option<LayerIndex> {
    let mut indexer = claim.indexer();
    let mut answers = Vec::new();
    for _ in 0..8 {
        match indexer.step(std::mem::take(&mut answers)).ok()? {
            Step::Done(index) => return Some(*index),
            Step::Need(needs) => {
                for need in needs {
                    assert!(need.of == Blob::Layer || claim.companion.is_some());
                    let (from, to) = (need.range.start as usize, need.range.end as usize);
                    answers.push(input.get(from..to).unwrap_or_default().to_vec());
                }
            }
        }
    }
    None
}

fn look(index: &LayerIndex, input: &[u8]) {
    for chunk in index.map.all_chunks() {
        let Some(span) = index.map.span_of(chunk) else {
            continue;
        };
        let fetch = span.fetch(chunk.skip + chunk.length);
        let part = |bytes: &[u8], range: std::ops::Range<u64>| {
            let range = range.start as usize..range.end as usize;
            bytes.get(range).unwrap_or_default().to_vec()
        };
        let window = part(&index.windows, fetch.window);
        let _ = decode(span, &window, &part(input, fetch.packed), [chunk], &mut |_| {});
    }
    let bytes = index.to_bytes();
    assert_eq!(LayerIndex::from_bytes(&bytes).expect("what was written").to_bytes(), bytes);
}

fuzz_target!(|input: &[u8]| {
    let digest = Digest::of(input);
    let blob = |media_type: &str| Descriptor::new(media_type, digest, input.len() as u64);
    for ending in ["", "+gzip", "+zstd"] {
        let layer = blob(&format!("application/vnd.oci.image.layer.v1.tar{ending}"));
        let mut beside = blob("application/octet-stream");
        for name in [soci::LAYER_DIGEST_ANNOTATION, estargz::LAYER_DIGEST_ANNOTATION] {
            beside.annotations.insert(name.to_owned(), digest.to_string());
        }
        let companions = [CompanionKind::Soci, CompanionKind::ExternalToc].map(|kind| Companion {
            kind,
            named_by_image: false,
            manifest: Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: blob(""),
                layers: vec![beside.clone()],
                subject: None,
                annotations: Default::default(),
            },
        });
        for companions in [&companions[..], &[]] {
            for claim in claims(&layer, companions) {
                if let Some(index) = index(&claim, input) {
                    look(&index, input);
                }
            }
        }
    }
    if let Ok(index) = LayerIndex::from_bytes(input) {
        look(&index, input);
    }
    let mut stream = GzipStream::new();
    stream.push(input);
    while let Ok(step) = stream.step(true) {
        stream.inflater_mut().take_output();
        if step == GzipStep::Hungry {
            break;
        }
    }
});
