// SPDX-License-Identifier: Apache-2.0
//! A registry that misbehaves and an image that lies: a typed error or a bounded retry, and a store in order.

use std::time::Duration;

use wolffia_fetch::Limits;
use wolffia_image::Digest;
use wolffia_pull::PullError;
use wolffia_testkit::image_builder::{ImageBuilder, Packing, pack};
use wolffia_testkit::layout::{Layout, Meta, Tar};
use wolffia_testkit::registry::{Fault, On, Registry};

use crate::place::{Place, check_image, image};

/// Limits under which a test does not wait.
fn quick() -> Limits {
    Limits {
        stall: Duration::from_millis(300),
        answer: Duration::from_secs(1),
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(5),
        ..Limits::default()
    }
}

#[test]
fn a_pull_survives_what_passes() {
    for fault in [
        Fault::Cut { after_bytes: 1000 },
        Fault::Stall { after_bytes: 1000 },
        Fault::Hang,
        Fault::IgnoreRange,
        Fault::Status {
            status: 500,
            retry_after_seconds: None,
        },
        Fault::Status {
            status: 429,
            retry_after_seconds: Some(0),
        },
    ] {
        let registry = Registry::start();
        let place = Place::new();
        registry.put("a/b", "t", &image(1, Packing::Gzip));
        registry.fault(On::Blob, 2, fault);
        let name = registry.name("a/b", "t");
        place
            .pull_with(&name, quick())
            .unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        check_image(&place, &name, 1);
    }
}

#[test]
fn what_does_not_pass_is_an_error_and_leaves_nothing() {
    let cases = [
        (On::Blob, Fault::Lie),
        (On::Blob, Fault::Cut { after_bytes: 0 }),
        (On::Blob, Fault::Stall { after_bytes: 0 }),
        (On::Manifest, Fault::Lie),
        (
            On::Manifest,
            Fault::Status {
                status: 404,
                retry_after_seconds: None,
            },
        ),
        (
            On::Any,
            Fault::Status {
                status: 401,
                retry_after_seconds: None,
            },
        ),
        (
            On::Blob,
            Fault::Status {
                status: 404,
                retry_after_seconds: None,
            },
        ),
        (
            On::Blob,
            Fault::Status {
                status: 500,
                retry_after_seconds: None,
            },
        ),
    ];
    for (on, fault) in cases {
        let registry = Registry::start();
        let place = Place::new();
        registry.put("a/b", "t", &image(1, Packing::Gzip));
        registry.fault(on, u32::MAX, fault);
        let name = registry.name("a/b", "t");
        let failed = place.pull_with(&name, quick());
        let Err(error) = failed else {
            panic!("{on:?} {fault:?}: {failed:?}")
        };
        assert!(
            matches!(error, PullError::Fetch(_) | PullError::Config { .. }),
            "{on:?} {fault:?}: {error:?}"
        );
        assert_eq!(place.store.images().unwrap(), []);
        place.check();
    }
}

/// Faults drawn by seed: whatever comes, the image is whole or absent, and a later pull brings it.
#[test]
fn a_pull_ends_well_under_drawn_faults() {
    for seed in 1..=20 {
        let registry = Registry::start();
        let place = Place::new();
        registry.put("a/b", "t", &image(seed, Packing::Gzip));
        registry.faults_by_seed(seed, 3);
        let name = registry.name("a/b", "t");
        if let Err(error) = place.pull_with(&name, quick()) {
            assert!(
                matches!(error, PullError::Fetch(_)),
                "seed {seed}: {error:?}"
            );
            place.check();
            let calm = Registry::start();
            calm.put("a/b", "t", &image(seed, Packing::Gzip));
            place.pull(&calm.name("a/b", "t")).unwrap();
            check_image(&place, &calm.name("a/b", "t"), seed);
        } else {
            check_image(&place, &name, seed);
        }
    }
}

#[test]
fn a_layer_that_is_complete_is_not_fetched_again_after_a_failure() {
    /// Layers come side by side: the failure of one may be there before the other is complete.
    const ATTEMPTS_MAX: usize = 20;
    let meta = Meta::mode(0o644);
    let layers = [
        Tar::new().file("one", meta, &[1; 3000]).bytes(),
        Tar::new().file("two", meta, &[2; 2000]).bytes(),
    ];
    let [one, two] = &layers;
    let whole = ImageBuilder::new()
        .layer(one.clone(), Packing::Plain)
        .layer(two.clone(), Packing::Plain)
        .build();
    let kept = (0..ATTEMPTS_MAX).any(|_| {
        let registry = Registry::start();
        let place = Place::new();
        registry.put("a/b", "t", &whole);
        registry.forget(&Digest::of(two));
        let name = registry.name("a/b", "t");
        assert!(place.pull_with(&name, quick()).is_err());
        place.check();

        registry.put("a/b", "t", &whole);
        let outcome = place.pull_with(&name, quick()).unwrap();
        let fetched_both = (one.len() + two.len()) as u64;
        let kept = outcome.layers_present == 1;
        let expected = if kept { two.len() as u64 } else { fetched_both };
        assert_eq!(outcome.fetched_bytes, expected);
        kept
    });
    assert!(kept, "the complete layer was fetched again every time");
}

/// A name, the layer's media type and bytes, the diffIDs, and which error is right.
type Lie<'a> = (
    &'a str,
    &'a str,
    Vec<u8>,
    Vec<&'a str>,
    fn(&PullError) -> bool,
);

#[test]
fn an_image_that_lies_is_refused() {
    let tar = Tar::new()
        .file("file", Meta::mode(0o644), b"content")
        .bytes();
    let other = Digest::of(b"other").to_string();
    let right = Digest::of(&tar).to_string();
    let mut torn = pack(tar.clone(), Packing::Gzip);
    torn.truncate(torn.len() - 9);
    let mut garbled = pack(tar.clone(), Packing::Zstd);
    let middle = garbled.len() / 2;
    garbled[middle] ^= 0xff;
    let mut trailing = pack(tar.clone(), Packing::Gzip);
    trailing.extend_from_slice(b"something behind the last member");
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let cases: [Lie<'_>; 8] = [
        (
            "another diffID",
            layer,
            pack(tar.clone(), Packing::Gzip),
            vec![&other],
            |error| matches!(error, PullError::DiffId { .. }),
        ),
        (
            "more diffIDs than layers",
            layer,
            tar.clone(),
            vec![&right, &other],
            |error| {
                matches!(
                    error,
                    PullError::LayerCount {
                        layers: 1,
                        diff_ids: 2,
                        ..
                    }
                )
            },
        ),
        ("a torn gzip", layer, torn, vec![&right], |error| {
            matches!(error, PullError::Unpack { .. })
        }),
        ("a garbled zstd", layer, garbled, vec![&right], |error| {
            matches!(
                error,
                PullError::Unpack { .. } | PullError::DiffId { .. } | PullError::Tar { .. }
            )
        }),
        (
            "something behind gzip",
            layer,
            trailing,
            vec![&right],
            |error| matches!(error, PullError::Unpack { .. }),
        ),
        ("no tar", layer, vec![7; 2000], vec![&right], |error| {
            matches!(error, PullError::Tar { .. })
        }),
        (
            "half a tar",
            layer,
            tar[..515].to_vec(),
            vec![&right],
            |error| matches!(error, PullError::Tar { .. }),
        ),
        (
            "no layer",
            "application/vnd.in-toto+json",
            tar.clone(),
            vec![&right],
            |error| matches!(error, PullError::NotALayer { .. }),
        ),
    ];
    for (name, media_type, blob, diff_ids, expected) in cases {
        let place = Place::new();
        let directory = place.directory.path().join("layout");
        let mut layout = Layout::new(&directory);
        let blob = layout.blob(media_type, &blob);
        let diff_ids: Vec<String> = diff_ids.into_iter().map(str::to_owned).collect();
        layout.image_of("t", &[blob], &diff_ids, &serde_json::json!({}));
        let failed = place.pull(&format!("oci:{}:t", directory.display()));
        let Err(error) = failed else {
            panic!("{name}: {failed:?}")
        };
        assert!(expected(&error), "{name}: {error:?}");
        assert!(!error.to_failure().message.is_empty());
        assert_eq!(place.store.images().unwrap(), []);
        place.check();
    }
}

#[test]
fn a_layer_that_becomes_absurdly_much_is_refused() {
    let place = Place::new();
    // A gigabyte and a bit of zeros in a few hundred kilobytes, by members that are all the same.
    let zeros = pack(vec![0; 64 << 20], Packing::ZstdFrames(64 << 20));
    let bomb = zeros.repeat(17);
    assert!((bomb.len() as u64) < wolffia_pull::FREE_BYTES / wolffia_pull::RATIO_MAX);
    let directory = place.directory.path().join("layout");
    let mut layout = Layout::new(&directory);
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &bomb);
    layout.image_of(
        "t",
        &[blob],
        &[Digest::of(b"").to_string()],
        &serde_json::json!({}),
    );
    let failed = place.pull(&format!("oci:{}:t", directory.display()));
    assert!(matches!(failed, Err(PullError::Bomb { .. })), "{failed:?}");
    place.check();
}
