// SPDX-License-Identifier: Apache-2.0
//! A stub tree has the shape of the image, and names its contents.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use wolffia_image::Digest;
use wolffia_image::tree::{Entry, Kind, Meta, RelPath, Time, Tree};
use wolffia_store::{IdSpan, METACOPY_ATTRIBUTE, Owners, REDIRECT_ATTRIBUTE, Store, TreeId};
use wolffia_testkit::need;

use crate::fixture;

/// A name that is no text.
const STRANGE: &[u8] = b"dir/\xff\xfe name";

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    let path = if path.is_empty() {
        RelPath::root()
    } else {
        RelPath::parse(path.as_bytes()).unwrap()
    };
    Entry {
        path,
        kind,
        meta: Meta {
            mode,
            mtime: Time {
                seconds: 1_000_000_000,
                nanoseconds: 123_456_789,
            },
            ..Meta::default()
        },
    }
}

fn file(path: &str, content: &[u8], mode: u32) -> Entry {
    let (size, digest) = (content.len() as u64, Digest::of(content));
    entry(path, Kind::File { size, digest }, mode)
}

fn tree(mut entries: Vec<Entry>) -> Tree {
    entries.push(entry("", Kind::Directory, 0o755));
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    // A record is checked when it is read: the fixture is held to the same rules.
    let tree = Tree {
        entries,
        ..Tree::default()
    };
    Tree::from_bytes(&tree.to_bytes()).unwrap()
}

fn some_id() -> TreeId {
    TreeId::of_layers(&[Digest::of(b"a layer")])
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 100];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

/// A tree with every kind of entry, in the directories `closed` and `dir`.
fn tree_of_every_kind() -> Tree {
    let mut with_attribute = file("dir/attribute", b"content", 0o640);
    with_attribute
        .meta
        .xattrs
        .insert(b"user.mine".to_vec(), b"\0value".to_vec());
    with_attribute
        .meta
        .xattrs
        .insert(b"trusted.theirs".to_vec(), b"value".to_vec());
    let mut strange_entry = file("dir/x", b"content", 0o600);
    strange_entry.path = RelPath::parse(STRANGE).unwrap();
    tree(vec![
        entry("closed", Kind::Directory, 0o2050),
        file("closed/file", b"content", 0o4751),
        entry("dir", Kind::Directory, 0o1777),
        with_attribute,
        strange_entry,
        file("dir/empty", b"", 0o000),
        entry(
            "dir/link",
            Kind::HardLink {
                to: RelPath::parse(b"closed/file").unwrap(),
            },
            0,
        ),
        entry(
            "dir/symlink",
            Kind::Symlink {
                target: b"../../nowhere".to_vec(),
            },
            0o777,
        ),
        entry(
            "dir/symlink2",
            Kind::HardLink {
                to: RelPath::parse(b"dir/symlink").unwrap(),
            },
            0,
        ),
        entry("fifo", Kind::Fifo, 0o622),
        entry("null", Kind::CharDevice { major: 1, minor: 3 }, 0o666),
        entry(
            "null2",
            Kind::HardLink {
                to: RelPath::parse(b"null").unwrap(),
            },
            0,
        ),
        entry("sda", Kind::BlockDevice { major: 8, minor: 0 }, 0o660),
    ])
}

#[test]
fn every_kind_of_entry_has_its_stub() {
    // Stubs are written by the root of a user namespace: a directory closed to its owner does not stop it.
    wolffia_testkit::need!(Root);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let session = store.session().unwrap();
    session.put(&Digest::of(b"content"), b"content").unwrap();
    let tree = tree_of_every_kind();
    session.put_tree(some_id(), &tree).unwrap();
    let facts = session
        .put_stubs(some_id(), &tree, &Owners::single("one"))
        .unwrap();
    assert_eq!(
        (facts.unmapped, facts.devices, facts.attributes_refused),
        (0, 3, u64::from(!rustix::process::geteuid().is_root()))
    );

    let trees = directory.path().join("store/trees");
    let root = std::fs::read_dir(trees)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let root = root.join("stubs-one/root");
    let look = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap();
    for (path, mode) in [
        ("", 0o755),
        ("closed", 0o2050),
        ("dir", 0o1777),
        ("dir/attribute", 0o640),
        ("dir/empty", 0),
        ("fifo", 0o622),
    ] {
        assert_eq!(look(path).mode() & 0o7777, mode, "{path}");
        assert_eq!(
            (look(path).mtime(), look(path).mtime_nsec()),
            (1_000_000_000, 123_456_789),
            "{path}"
        );
    }
    assert_eq!(look("dir/symlink").mtime(), 1_000_000_000);
    assert_eq!(
        std::fs::read_link(root.join("dir/symlink")).unwrap(),
        Path::new("../../nowhere")
    );
    assert_eq!(look("dir/symlink").ino(), look("dir/symlink2").ino());
    assert!(look("fifo").file_type().is_fifo());
    for path in ["null", "null2", "sda"] {
        assert!(
            std::fs::symlink_metadata(root.join(path)).is_err(),
            "{path} was made"
        );
    }
    // Where the directory may be entered, the file in it is looked at by its other name.
    let stub = root.join("dir/link");
    assert_eq!(
        (look("dir/link").mode() & 0o7777, look("dir/link").nlink()),
        (0o4751, 2)
    );
    assert_eq!((look("dir/link").len(), look("dir/link").blocks()), (7, 0));
    assert_eq!(attribute(&stub, METACOPY_ATTRIBUTE), Some(Vec::new()));
    let redirect = Digest::of(b"content").object_name().redirect();
    assert_eq!(
        attribute(&stub, REDIRECT_ATTRIBUTE),
        Some(redirect.into_bytes())
    );
    assert_eq!(attribute(&root.join("dir/empty"), REDIRECT_ATTRIBUTE), None);
    assert_eq!(
        attribute(&root.join("dir/attribute"), "user.mine"),
        Some(b"\0value".to_vec())
    );
    assert_eq!(
        std::fs::symlink_metadata(root.join(OsStr::from_bytes(STRANGE)))
            .unwrap()
            .len(),
        7
    );
    // Made once: the second time nothing is written.
    let again = session
        .put_stubs(some_id(), &tree, &Owners::single("one"))
        .unwrap();
    assert_eq!(again, facts);
}

#[test]
fn a_stub_without_its_object_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let session = store.session().unwrap();
    let tree = tree(vec![file("file", b"content", 0o644)]);
    let refused = session.put_stubs(some_id(), &tree, &Owners::single("one"));
    assert!(
        matches!(refused, Err(wolffia_store::StoreError::NoObject(_))),
        "{refused:?}"
    );
    drop(session);
    assert_eq!(
        fixture::files_below(&directory.path().join("store/ingest")),
        0
    );
    assert_eq!(
        fixture::files_below(&directory.path().join("store/trees")),
        0
    );
}

#[test]
fn a_path_may_be_deeper_than_descriptors_are_many() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let session = store.session().unwrap();
    let levels = 1900;
    let deep = vec!["d"; levels].join("/");
    let mut entries: Vec<Entry> = (1..=levels)
        .map(|level| entry(&vec!["d"; level].join("/"), Kind::Directory, 0o750))
        .collect();
    entries.push(file(&format!("{deep}/file"), b"", 0o604));
    let tree = tree(entries);
    session.put_tree(some_id(), &tree).unwrap();
    let facts = session
        .put_stubs(some_id(), &tree, &Owners::single("one"))
        .unwrap();
    assert_eq!(facts.devices, 0);
    let found = Command::new("find")
        .arg(directory.path().join("store/trees"))
        .args(["-name", "file", "-perm", "0604", "-printf", "%d"])
        .output()
        .unwrap();
    // Three above the root: the tree's directory, the stub tree's, the root itself.
    assert_eq!(
        String::from_utf8(found.stdout).unwrap(),
        (levels + 4).to_string()
    );
    let modes = Command::new("find")
        .arg(directory.path().join("store/trees"))
        .args(["-name", "d", "-not", "-perm", "0750"])
        .output()
        .unwrap();
    assert_eq!(modes.stdout, b"");
}

/// Says to this binary that it runs inside a user namespace, and with which mapping.
const INSIDE: &str = "WOLFFIA_TEST_INSIDE";

#[test]
fn stubs_get_the_owners_that_can_be_shown() {
    if std::env::var_os(INSIDE).is_some() {
        return owners_inside();
    }
    need!(UserNamespace, SubIds);
    let status = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--map-users=auto",
            "--map-groups=auto",
            "--",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "stubs::stubs_get_the_owners_that_can_be_shown",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn owners_inside() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("store")).unwrap();
    let session = store.session().unwrap();
    session.put(&Digest::of(b"content"), b"content").unwrap();
    let owned = |mut entry: Entry, uid, gid| {
        (entry.meta.uid, entry.meta.gid) = (uid, gid);
        entry
    };
    let tree = tree(vec![
        owned(entry("dir", Kind::Directory, 0o2775), 33, 50),
        owned(file("dir/su", b"content", 0o4755), 100, 1000),
        owned(file("dir/beyond", b"content", 0o644), 4_000_000, 0),
        owned(
            entry(
                "dir/link",
                Kind::Symlink {
                    target: b"x".to_vec(),
                },
                0o777,
            ),
            5,
            6,
        ),
        owned(entry("fifo", Kind::Fifo, 0o600), 7, 8),
    ]);
    let ids = vec![IdSpan {
        first: 0,
        count: 65_536,
    }];
    let owners = Owners {
        key: "s1".into(),
        users: ids.clone(),
        groups: ids,
    };
    session.put_tree(some_id(), &tree).unwrap();
    let facts = session.put_stubs(some_id(), &tree, &owners).unwrap();
    assert_eq!((facts.unmapped, facts.shown_as), (1, 65_534));
    let trees = directory.path().join("store/trees");
    let root = std::fs::read_dir(trees)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for (path, mode, uid, gid) in [
        ("dir", 0o2775, 33, 50),
        ("dir/su", 0o4755, 100, 1000),
        ("dir/beyond", 0o644, 65_534, 0),
        ("dir/link", 0o777, 5, 6),
        ("fifo", 0o600, 7, 8),
    ] {
        let found = std::fs::symlink_metadata(root.join("stubs-s1/root").join(path)).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (mode, uid, gid),
            "{path}"
        );
    }
}
