// SPDX-License-Identifier: Apache-2.0
//! What nobody needs goes, and nothing else does.

use std::path::Path;

use wolffia_store::{Owners, Store, UnusedLayers};
use wolffia_testkit::layout::{Meta, Tar};

use crate::fixture;

fn tar(files: &[&str]) -> Vec<u8> {
    let add = |tar: Tar, content: &&str| tar.file(content, Meta::mode(0o644), content.as_bytes());
    files.iter().fold(Tar::new(), add).bytes()
}

fn store() -> (tempfile::TempDir, Store, Owners) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    (directory, store, Owners::single("one"))
}

fn count(store: &Store, part: &str) -> usize {
    std::fs::read_dir(store.path().join(part)).unwrap().count()
}

fn objects(store: &Store) -> usize {
    fixture::files_below(&store.path().join("objects"))
}

#[test]
fn what_two_images_share_goes_with_the_second() {
    let (_directory, store, owners) = store();
    fixture::image(&store, "one", &[tar(&["base"]), tar(&["a", "b"])], &owners);
    fixture::image(&store, "two", &[tar(&["base"]), tar(&["b", "c"])], &owners);
    assert_eq!(
        (
            objects(&store),
            count(&store, "layers"),
            count(&store, "trees")
        ),
        (4, 3, 2)
    );

    store.remove("one", &[], false).unwrap();
    let collected = store.collect(UnusedLayers::Drop).unwrap();
    assert_eq!(
        (
            collected.objects,
            collected.bytes,
            collected.layers,
            collected.trees
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(fixture::problems(&store, &owners), Vec::<String>::new());

    store.remove("two", &[], false).unwrap();
    store.collect(UnusedLayers::Drop).unwrap();
    for part in ["layers", "trees", "images", "names", "ingest"] {
        assert_eq!(count(&store, part), 0, "{part}");
    }
    assert_eq!(objects(&store), 0);
}

#[test]
fn a_pinned_tree_stays_after_its_image() {
    let (_directory, store, owners) = store();
    let image = fixture::image(&store, "one", &[tar(&["a", "b"])], &owners);
    store.pin("container", &image).unwrap();
    store
        .remove("one", &["container".to_owned()], true)
        .unwrap();
    store.collect(UnusedLayers::Drop).unwrap();
    assert_eq!((objects(&store), count(&store, "trees")), (2, 1));
    assert!(
        store
            .rootfs(&image, "one")
            .unwrap()
            .stubs
            .join("a")
            .exists()
    );

    store.unpin("container").unwrap();
    store.unpin("container").unwrap();
    let collected = store.collect(UnusedLayers::Drop).unwrap();
    assert_eq!((collected.objects, collected.trees), (2, 1));
    assert!(
        store.pin("container", &image).is_err(),
        "a collected tree was pinned"
    );
}

#[test]
fn a_young_layer_waits_for_its_pull() {
    let (_directory, store, owners) = store();
    let session = store.session().unwrap();
    let (diff_id, _) = fixture::layer(&session, &tar(&["a", "b"]));
    drop(session);
    let collected = store.collect(UnusedLayers::KeepYoung).unwrap();
    assert_eq!((collected.layers, collected.objects), (0, 0));
    assert!(store.layer(&diff_id).unwrap().is_some());

    // Two days old.
    let old = rustix::fs::Timespec {
        tv_sec: seconds_now() - 2 * 86_400,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: old,
        last_modification: old,
    };
    let path = store.path().join("layers").join(diff_id.hex());
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    let collected = store.collect(UnusedLayers::KeepYoung).unwrap();
    assert_eq!((collected.layers, collected.objects), (1, 2));
    assert_eq!(fixture::problems(&store, &owners), Vec::<String>::new());
}

fn seconds_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

#[test]
fn nothing_is_collected_while_something_is_added() {
    let (_directory, store, _owners) = store();
    let session = store.session().unwrap();
    fixture::layer(&session, &tar(&["a"]));
    assert!(store.collect(UnusedLayers::Drop).unwrap().put_off);
    assert_eq!(objects(&store), 1);
    drop(session);
    assert!(!store.collect(UnusedLayers::Drop).unwrap().put_off);
    assert_eq!(objects(&store), 0);
}

#[test]
fn a_damaged_record_stops_the_collection() {
    let (_directory, store, owners) = store();
    fixture::image(&store, "one", &[tar(&["a"])], &owners);
    let tree = std::fs::read_dir(store.path().join("trees"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::write(tree.path().join("record"), b"nonsense").unwrap();
    assert!(store.collect(UnusedLayers::Drop).is_err());
    assert_eq!(objects(&store), 1);
}

#[test]
fn a_reset_leaves_nothing() {
    let (directory, store, owners) = store();
    fixture::image(&store, "one", &[tar(&["a"])], &owners);
    let path = store.path().to_owned();
    drop(store);
    Store::reset(&path).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    // Where there is none it is no failure.
    Store::reset(&path).unwrap();
    Store::reset(Path::new("/nonexistent/place/store")).unwrap();
    assert_eq!(Store::open(&path).unwrap().images().unwrap(), []);
}
