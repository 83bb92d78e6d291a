// SPDX-License-Identifier: Apache-2.0
//! Objects appear once, whole, under their digest's name.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use wolffia_image::{Digest, ObjectName};
use wolffia_store::{DIGEST_ATTRIBUTE, Store};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("root/store")).unwrap();
    (directory, store)
}

fn content(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = store.open_object(digest).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_object_is_stored_once() {
    let (_directory, store) = store();
    let session = store.session().unwrap();
    let digest = Digest::of(b"wolffia");
    assert_eq!(store.locate(&digest).unwrap(), None);
    assert!(session.put(&digest, b"wolffia").unwrap().new);
    assert!(!session.put(&digest, b"wolffia").unwrap().new);
    let mut again = session.begin().unwrap();
    again.write(b"wol").unwrap();
    again.write(b"ffia").unwrap();
    let stored = again.finish().unwrap();
    assert_eq!(
        (stored.digest, stored.size_bytes, stored.new),
        (digest, 7, false)
    );

    let name = store.locate(&digest).unwrap().unwrap();
    assert_eq!(name, digest.object_name());
    assert_eq!(content(&store, &digest), b"wolffia");
    let metadata = std::fs::metadata(store.object_path(name)).unwrap();
    assert_eq!(
        metadata.permissions().mode() & 0o7333,
        0,
        "nobody may write or run it"
    );
    assert_eq!(metadata.nlink(), 1);
}

#[test]
fn holes_are_kept() {
    let (_directory, store) = store();
    let session = store.session().unwrap();
    let hole_bytes = 3 << 20;
    let mut object = session.begin().unwrap();
    object.write(b"head").unwrap();
    object.skip(hole_bytes).unwrap();
    object.write(b"tail").unwrap();
    object.skip(hole_bytes).unwrap();
    let stored = object.finish().unwrap();

    let mut expected = b"head".to_vec();
    expected.resize(4 + (3 << 20), 0);
    expected.extend_from_slice(b"tail");
    expected.resize(8 + (6 << 20), 0);
    assert_eq!(stored.digest, Digest::of(&expected));
    assert_eq!(content(&store, &stored.digest), expected);
    let name = store.locate(&stored.digest).unwrap().unwrap();
    let metadata = std::fs::metadata(store.object_path(name)).unwrap();
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
}

/// Two digests that share 132 bits cannot be had: the first object's attribute is changed into another digest, as if
/// the name had been taken by that.
#[test]
fn a_clash_of_names_gets_the_long_name() {
    let (_directory, store) = store();
    let session = store.session().unwrap();
    let digest = Digest::of(b"wolffia");
    session.put(&digest, b"wolffia").unwrap();
    let usual = store.object_path(digest.object_name());
    let other = Digest::of(b"azolla");
    rustix::fs::setxattr(
        &usual,
        DIGEST_ATTRIBUTE,
        other.as_bytes(),
        rustix::fs::XattrFlags::REPLACE,
    )
    .unwrap_or_else(|_| {
        // Nobody but root may change a file of mode 0444.
        std::fs::set_permissions(&usual, std::fs::Permissions::from_mode(0o644)).unwrap();
        let flags = rustix::fs::XattrFlags::REPLACE;
        rustix::fs::setxattr(&usual, DIGEST_ATTRIBUTE, other.as_bytes(), flags).unwrap();
    });

    assert_eq!(store.locate(&digest).unwrap(), None);
    assert!(session.put(&digest, b"wolffia").unwrap().new);
    assert_eq!(
        store.locate(&digest).unwrap(),
        Some(ObjectName::long(&digest))
    );
    assert!(!session.put(&digest, b"wolffia").unwrap().new);
    assert_eq!(content(&store, &digest), b"wolffia");
}

#[test]
fn an_unfinished_object_leaves_nothing() {
    let (directory, store) = store();
    let session = store.session().unwrap();
    session.begin().unwrap().write(b"half").unwrap();
    drop(session);
    let ingest = directory.path().join("root/store/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
}
