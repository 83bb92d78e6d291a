// SPDX-License-Identifier: Apache-2.0
//! Images are found by what people call them, and go when nobody wants them.

use wolffia_image::{ImageConfig, Reference};
use wolffia_store::{ImageRecord, Store, StoreError};

fn image(store: &Store, word: &str) -> ImageRecord {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{{"Cmd":["{word}"]}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let config = ImageConfig::parse(config).unwrap();
    let manifest = format!("manifest of {word}").into_bytes();
    let record = ImageRecord::new(config, manifest, Vec::new(), 42, 1_700_000_000);
    store.session().unwrap().put_image(&record, None).unwrap();
    record
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

#[test]
fn an_image_is_found_by_name_and_by_identifier() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let one = image(&store, "one");
    let two = image(&store, "two");
    store.tag(&one.id, &name("debian:12")).unwrap();
    store.tag(&one.id, &name("localhost:5000/a/b:c")).unwrap();

    let named = ImageRecord {
        names: vec![name("debian:12"), name("localhost:5000/a/b:c")],
        ..one.clone()
    };
    let by_manifest = format!("debian@{}", one.manifest_digest);
    for text in [
        "debian:12",
        "docker.io/library/debian:12",
        "localhost:5000/a/b:c",
        &one.id.to_string(),
        &one.id.hex(),
        &one.id.short(),
        &one.id.short().to_uppercase(),
        &by_manifest,
    ] {
        assert_eq!(store.resolve(text).unwrap(), named, "{text}");
    }
    assert_eq!(store.resolve(&two.id.short()).unwrap(), two);
    for text in ["debian", "debian:13", "c:\\", "", "e3b0c44298fc"] {
        let found = store.resolve(text);
        assert!(
            matches!(found, Err(StoreError::NoImage(_))),
            "{text:?}: {found:?}"
        );
    }

    // A name moves.
    store.tag(&two.id, &name("debian:12")).unwrap();
    assert_eq!(store.resolve("debian:12").unwrap().id, two.id);
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn an_image_goes_with_its_last_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let one = image(&store, "one");
    store.tag(&one.id, &name("a:1")).unwrap();
    store.tag(&one.id, &name("a:2")).unwrap();

    let refused = store.remove(&one.id.short(), &[], false);
    assert!(
        matches!(refused, Err(StoreError::SeveralNames { count: 2, .. })),
        "{refused:?}"
    );
    let removed = store.remove("a:1", &["busy".to_owned()], false).unwrap();
    assert_eq!((removed.names, removed.image), (vec![name("a:1")], None));
    let refused = store.remove("a:2", &["busy".to_owned()], false);
    assert!(
        matches!(refused, Err(StoreError::InUse { .. })),
        "{refused:?}"
    );
    let removed = store.remove("a:2", &[], false).unwrap();
    assert_eq!(
        (removed.names, removed.image),
        (vec![name("a:2")], Some(one.id))
    );
    assert!(matches!(store.resolve("a:2"), Err(StoreError::NoImage(_))));
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn two_first_commands_make_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/root/store");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Store::open(&path).unwrap());
        }
    });
    let beside: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
}

#[test]
fn a_store_that_is_not_ours_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    Store::open(&path).unwrap();
    std::fs::write(path.join("version"), "wolffia-store 2\n").unwrap();
    let refused = Store::open(&path);
    assert!(
        matches!(&refused, Err(StoreError::Version { found, .. }) if found == "wolffia-store 2")
    );
    std::fs::write(path.join("version"), "wolffia-store 1\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Store::open(&path);
    assert!(
        matches!(&refused, Err(StoreError::Exposed { .. })),
        "{refused:?}"
    );
}
