// SPDX-License-Identifier: Apache-2.0
//! What arrives is what was pushed, in every packing and dialect, and nothing is fetched twice.

use wolffia_image::Platform;
use wolffia_pull::job::{Outcome, Task};
use wolffia_pull::{ImportRequest, Policy, PullRequest};
use wolffia_store::Repair;
use wolffia_testkit::image_builder::{Dialect, ImageBuilder, Packing, pack};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::registry::Registry;

use crate::place::{Place, check_image, image, pull_task, serve};

#[test]
fn an_image_arrives_in_every_packing() {
    let registry = Registry::start();
    let place = Place::new();
    let packings = [
        Packing::Plain,
        Packing::Gzip,
        Packing::GzipMembers(70_001),
        Packing::Zstd,
        Packing::ZstdFrames(70_001),
    ];
    for (seed, packing) in (1..).zip(packings) {
        registry.put("a/b", "t", &image(seed, packing));
        let name = registry.name("a/b", "t");
        let outcome = place
            .pull(&name)
            .unwrap_or_else(|error| panic!("{packing:?}: {error:?}"));
        assert_eq!((outcome.layers, outcome.up_to_date), (3, false));
        assert_eq!(outcome.refused_count, 0);
        check_image(&place, &name, seed);
    }
}

#[test]
fn a_packing_is_told_by_the_bytes_not_by_the_media_type() {
    let place = Place::new();
    let tar = Tar::new()
        .file("file", Meta::mode(0o644), b"content")
        .bytes();
    let layout = place.directory.path().join("layout");
    let mut written = wolffia_testkit::layout::Layout::new(&layout);
    let diff_id = wolffia_image::Digest::of(&tar).to_string();
    let gzip = written.blob(
        "application/vnd.oci.image.layer.v1.tar+zstd",
        &pack(tar, Packing::Gzip),
    );
    written.image_of("t", &[gzip], &[diff_id], &serde_json::json!({}));
    let outcome = place.pull(&format!("oci:{}:t", layout.display())).unwrap();
    assert_eq!(place.read(&outcome.image.to_string(), "file"), b"content");
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let registry = Registry::start();
    let place = Place::new();
    registry.put("a/b", "t", &image(1, Packing::Gzip));
    let name = registry.name("a/b", "t");
    let first = place.pull(&name).unwrap();
    assert!(first.fetched_bytes > 1_000_000 && first.stored_bytes > 1_200_000);
    let blobs = || {
        let requests = registry.requests();
        requests
            .iter()
            .filter(|request| request.path.contains("/blobs/") && request.range.is_some())
            .count()
    };
    let before = blobs();
    let second = place.pull(&name).unwrap();
    assert_eq!(
        (
            second.fetched_bytes,
            second.layers_present,
            second.up_to_date
        ),
        (0, 3, true)
    );
    assert_eq!(blobs(), before, "a layer was asked for again");

    // One layer more: only that is fetched, whatever packing the others have now.
    let tar = Tar::new().file("more", Meta::mode(0o644), b"more").bytes();
    let more = image_and(1, tar);
    registry.put("a/b", "t", &more);
    let third = place.pull(&name).unwrap();
    assert_eq!(
        (third.layers, third.layers_present, third.up_to_date),
        (4, 3, false)
    );
    assert!(third.fetched_bytes < 10_000);
    check_image(&place, &name, 1);
    // The image that lost its name is still here, by its identifier.
    assert_eq!(place.store.images().unwrap().len(), 2);
}

/// The image of that seed with one layer more, in another packing.
fn image_and(seed: u64, tar: Vec<u8>) -> wolffia_testkit::image_builder::Image {
    let plain = image(seed, Packing::Plain);
    let manifest: serde_json::Value = serde_json::from_slice(&plain.top.bytes).unwrap();
    let mut builder = ImageBuilder::new().dialect(Dialect::Docker);
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        builder = builder.layer(plain.blobs[&digest].to_vec(), Packing::Zstd);
    }
    builder.layer(tar, Packing::Gzip).build()
}

#[test]
fn one_layer_twice_is_one_layer() {
    let place = Place::new();
    let tar = Tar::new()
        .file("file", Meta::mode(0o644), b"content")
        .bytes();
    let layout = place.directory.path().join("layout");
    ImageBuilder::new()
        .layer(tar.clone(), Packing::Gzip)
        .layer(
            Tar::new().file(".wh.file", Meta::mode(0o644), b"").bytes(),
            Packing::Plain,
        )
        .layer(tar, Packing::Gzip)
        .build()
        .write_layout(&layout, Some("t"));
    let outcome = place.pull(&format!("oci:{}:t", layout.display())).unwrap();
    assert_eq!(outcome.layers, 3);
    assert_eq!(place.read(&outcome.image.to_string(), "file"), b"content");
    place.check();
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let place = Place::new();
    let layout = place.directory.path().join("layout");
    ImageBuilder::new().build().write_layout(&layout, Some("t"));
    let outcome = place.pull(&format!("oci:{}:t", layout.display())).unwrap();
    let stubs = place.stubs(&outcome.image.to_string());
    assert_eq!(std::fs::read_dir(stubs).unwrap().count(), 0);
    place.check();
}

#[test]
fn policy_missing_asks_nobody() {
    let place = Place::new();
    let name = {
        let registry = Registry::start();
        registry.put("a/b", "t", &image(1, Packing::Gzip));
        place.pull(&registry.name("a/b", "t")).unwrap();
        registry.name("a/b", "t")
    };
    let task = Task::Pull(PullRequest {
        lazy: wolffia_pull::Lazy::Never,
        strict: false,
        name: name.clone(),
        platform: Platform::host(),
        policy: Policy::Missing,
        unpacked: Vec::new(),
        credential: None,
    });
    let Ok(Outcome::Image(outcome)) = serve(&place.job(task)) else {
        panic!("the registry is gone, and was asked");
    };
    assert!(outcome.up_to_date);
    assert!(serve(&place.job(pull_task(&name))).is_err());
    check_image(&place, &name, 1);
}

#[test]
fn entries_that_lead_outside_are_left_out_and_told() {
    let place = Place::new();
    let meta = Meta::mode(0o644);
    let tar = Tar::new()
        .file("good", meta, b"good")
        .file("../outside", meta, b"bad")
        .symlink("up", "../../../../../../../../tmp")
        .file("up/through", meta, b"goes to tmp inside")
        .hard_link("shadow", "../../etc/shadow")
        .file("/absolute", meta, b"inside")
        .bytes();
    let layout = place.directory.path().join("layout");
    ImageBuilder::new()
        .layer(tar, Packing::Gzip)
        .build()
        .write_layout(&layout, Some("t"));
    let outcome = place.pull(&format!("oci:{}:t", layout.display())).unwrap();
    assert_eq!(outcome.refused_count, 2, "{:?}", outcome.refused);
    assert!(
        outcome.notes()[0].contains("2 entries"),
        "{:?}",
        outcome.notes()
    );
    let name = outcome.image.to_string();
    assert_eq!(place.read(&name, "good"), b"good");
    assert_eq!(place.read(&name, "absolute"), b"inside");
    assert_eq!(place.read(&name, "tmp/through"), b"goes to tmp inside");
    assert!(!place.directory.path().join("outside").exists());
    place.check();
}

#[test]
fn owners_beyond_the_mapping_and_devices_are_noted_not_fatal() {
    let place = Place::new();
    let far = Meta {
        mode: 0o644,
        uid: 1_000_000,
        gid: 5,
    };
    let tar = Tar::new()
        .file("far", far, b"far")
        .entry("null", b'3', "", Meta::mode(0o666), b"")
        .bytes();
    let layout = place.directory.path().join("layout");
    ImageBuilder::new()
        .layer(tar, Packing::Gzip)
        .build()
        .write_layout(&layout, Some("t"));
    let outcome = place.pull(&format!("oci:{}:t", layout.display())).unwrap();
    assert_eq!((outcome.facts.unmapped, outcome.facts.devices), (1, 1));
    assert_eq!(outcome.notes().len(), 2);
    // The truth stays in the tree's record.
    let image = place.store.image(&outcome.image).unwrap().unwrap();
    let tree = place.store.tree(image.tree).unwrap();
    let far = tree
        .entries
        .iter()
        .find(|entry| entry.path.as_bytes() == b"far")
        .unwrap();
    assert_eq!((far.meta.uid, far.meta.gid), (1_000_000, 5));
    assert!(
        tree.entries
            .iter()
            .any(|entry| entry.path.as_bytes() == b"null")
    );
    place.check();
}

#[test]
fn a_tar_is_imported_in_every_packing() {
    let place = Place::new();
    let tar = Tar::new()
        .directory("bin/", Meta::mode(0o755))
        .file("bin/sh", Meta::mode(0o755), b"#!")
        .bytes();
    let mut images = Vec::new();
    for (name, packing) in [
        ("plain", Packing::Plain),
        ("gzip", Packing::Gzip),
        ("zstd", Packing::Zstd),
    ] {
        let file = place.directory.path().join(name);
        std::fs::write(&file, pack(tar.clone(), packing)).unwrap();
        let task = Task::Import(ImportRequest {
            file,
            name: Some(format!("imported:{name}")),
            message: Some("from a test".to_owned()),
            platform: Platform::host(),
        });
        let Ok(Outcome::Image(outcome)) = serve(&place.job(task)) else {
            panic!("{name} was not imported");
        };
        assert_eq!(place.read(&format!("imported:{name}"), "bin/sh"), b"#!");
        images.push(
            place
                .store
                .resolve(&outcome.image.to_string())
                .unwrap()
                .layers,
        );
    }
    assert!(
        images.windows(2).all(|pair| pair[0] == pair[1]),
        "the packing made a difference"
    );
    place.check();
}

#[test]
fn a_lost_tree_is_made_again_from_its_layers() {
    let registry = Registry::start();
    let place = Place::new();
    registry.put("a/b", "t", &image(1, Packing::Gzip));
    let name = registry.name("a/b", "t");
    let outcome = place.pull(&name).unwrap();
    std::fs::remove_dir_all(place.store.path().join("trees")).unwrap();
    std::fs::create_dir(place.store.path().join("trees")).unwrap();
    let stubs = Task::Stubs {
        image: outcome.image,
    };
    assert!(matches!(serve(&place.job(stubs)), Ok(Outcome::Image(_))));
    check_image(&place, &name, 1);
}

#[test]
fn removing_frees_what_the_image_alone_needed() {
    let registry = Registry::start();
    let place = Place::new();
    for seed in [1, 2] {
        registry.put("a/b", &seed.to_string(), &image(seed, Packing::Gzip));
        place
            .pull(&registry.name("a/b", &seed.to_string()))
            .unwrap();
    }
    let before = place.store.check(None, Repair::No).unwrap();
    let doomed = wolffia_pull::job::Doomed {
        name: registry.name("a/b", "1"),
        users: Vec::new(),
    };
    let task = Task::Remove {
        images: vec![doomed.clone(), doomed],
        force: false,
    };
    let Ok(Outcome::Removed {
        removed, failed, ..
    }) = serve(&place.job(task))
    else {
        panic!("nothing was removed");
    };
    assert_eq!((removed.len(), failed.len()), (1, 1));
    let Ok(Outcome::Collected(collected)) = serve(&place.job(Task::Collect)) else {
        panic!("nothing was collected");
    };
    assert_eq!(collected.layers, 2, "the young layers of the first image");
    let after = place.store.check(None, Repair::No).unwrap();
    assert!(
        after.bytes * 10 < before.bytes * 6,
        "{} of {}",
        after.bytes,
        before.bytes
    );
    check_image(&place, &registry.name("a/b", "2"), 2);
}
