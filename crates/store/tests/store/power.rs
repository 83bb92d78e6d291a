// SPDX-License-Identifier: Apache-2.0
//! After a restart of the machine, what was written shortly before is looked at, and nothing damaged is believed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use wolffia_image::Digest;
use wolffia_store::{Owners, Store};
use wolffia_testkit::layout::{Meta, Tar};

use crate::fixture;

/// Empties a file, as a power failure does.
fn tear(path: &Path) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::File::create(path).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

/// Makes the store believe that it was last written to in another boot, from that time on.
fn restart(store: &Path, since_seconds: u64) {
    let marker = format!(r#"{{"boot":"another","since_seconds":{since_seconds}}}"#);
    std::fs::write(store.join("unflushed"), marker).unwrap();
}

fn tar() -> Vec<u8> {
    Tar::new()
        .file("file", Meta::mode(0o644), b"content")
        .file("other", Meta::mode(0o644), b"other")
        .bytes()
}

#[test]
fn what_a_power_failure_tore_is_not_believed() {
    let owners = Owners::single("one");
    for (name, torn) in [
        ("object", 0),
        ("layer", 1),
        ("tree", 2),
        ("name", 3),
        ("image", 4),
        ("facts", 5),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        let image = fixture::image(&store, "an/image", &[tar()], &owners);
        let only = |part: &str| {
            std::fs::read_dir(path.join(part))
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path()
        };
        let files = [
            store.object_path(Digest::of(b"content").object_name()),
            only("layers"),
            only("trees").join("record"),
            only("names"),
            only("images").join("record.json"),
            only("trees").join("stubs-one/facts.json"),
        ];
        tear(&files[torn]);
        drop(store);
        restart(&path, 0);
        let store = Store::open(&path).unwrap();
        let problems = fixture::problems(&store, &owners);
        let missing_tree = |problem: &String| {
            problem.contains("its tree is missing") || problem.contains("names an image")
        };
        assert!(problems.iter().all(missing_tree), "{name}: {problems:#?}");
        let again = fixture::image(&store, "an/image", &[tar()], &owners);
        assert_eq!(again.id, image.id);
        assert_eq!(
            fixture::problems(&store, &owners),
            Vec::<String>::new(),
            "{name}"
        );
        // Looked at once: the marker is of this boot again.
        let marker = std::fs::read_to_string(path.join("unflushed")).unwrap();
        assert!(!marker.contains("another"), "{marker}");
    }
}

#[test]
fn what_was_flushed_long_ago_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    fixture::image(&store, "an/image", &[tar()], &Owners::single("one"));
    let object = store.object_path(Digest::of(b"content").object_name());
    tear(&object);
    drop(store);
    restart(&path, u64::MAX / 2);
    Store::open(&path).unwrap();
    assert!(object.exists(), "an old object was read");
}
