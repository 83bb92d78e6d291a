// SPDX-License-Identifier: Apache-2.0
//! An image put into a store by hand: every kind of entry, and attributes that would steer an overlay.

use std::path::Path;

use wolffia_image::{
    Digest, ImageConfig, Reference,
    tree::{Entry, Kind, Meta, RelPath, Time, Tree, xattr},
};
use wolffia_store::{IdSpan, ImageRecord, ImageRoot, Owners, Store};

/// When everything in the image was changed.
pub(crate) const MODIFIED: (i64, i64) = (1_000_000_000, 123_456_789);
/// The content of most files.
pub(crate) const CONTENT: &[u8] = b"the content of a file";

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
                seconds: MODIFIED.0,
                nanoseconds: u32::try_from(MODIFIED.1).unwrap(),
            },
            ..Meta::default()
        },
    }
}

fn file(path: &str, content: &[u8], mode: u32) -> Entry {
    let (size, digest) = (content.len() as u64, Digest::of(content));
    entry(path, Kind::File { size, digest }, mode)
}

fn owned(mut entry: Entry, uid: u32, gid: u32) -> Entry {
    (entry.meta.uid, entry.meta.gid) = (uid, gid);
    entry
}

/// Adds an attribute as a layer would bring it: under the name that the image says, escaped at the door.
fn with(mut entry: Entry, name: &str, value: &[u8]) -> Entry {
    let stored = xattr::stored_name(name.as_bytes()).unwrap();
    entry
        .meta
        .xattrs
        .insert(stored.into_owned(), value.to_vec());
    entry
}

fn entries() -> Vec<Entry> {
    let directory = |path, mode| entry(path, Kind::Directory, mode);
    let target = b"file".to_vec();
    vec![
        directory("", 0o751),
        directory("dir", 0o2775),
        owned(file("dir/file", CONTENT, 0o640), 33, 50),
        file("dir/same", CONTENT, 0o604),
        file("dir/empty", b"", 0o644),
        owned(file("dir/su", b"set-uid program", 0o4755), 0, 12),
        entry("dir/link", Kind::Symlink { target }, 0o777),
        entry("dir/pipe", Kind::Fifo, 0o600),
        entry(
            "dir/zz",
            Kind::HardLink {
                to: RelPath::parse(b"dir/su").unwrap(),
            },
            0o4755,
        ),
        with(file("dir/tagged", CONTENT, 0o644), "user.mine", b"a\0b"),
        file("dir/victim", b"another image's secret", 0o644),
        // What an overlay would obey, were it not escaped.
        with(
            with(
                file("evil-redirect", CONTENT, 0o644),
                "user.overlay.metacopy",
                b"",
            ),
            "user.overlay.redirect",
            b"/dir/victim",
        ),
        with(
            file("evil-whiteout", b"", 0o644),
            "user.overlay.whiteout",
            b"y",
        ),
        with(directory("evil-opaque", 0o755), "user.overlay.opaque", b"y"),
        file("evil-opaque/inside", CONTENT, 0o644),
    ]
}

/// The mapping of the user namespace that the tests run in.
pub(crate) fn owners() -> Owners {
    let ids = vec![IdSpan {
        first: 0,
        count: 65_536,
    }];
    Owners {
        key: "s1".into(),
        users: ids.clone(),
        groups: ids,
    }
}

/// Makes the store and the image. Must run inside a user namespace with 65,536 ids.
pub(crate) fn make(place: &Path) -> ImageRoot {
    let store = Store::open(place.join("store")).unwrap();
    let session = store.session().unwrap();
    for content in [CONTENT, b"set-uid program", b"another image's secret"] {
        session.put(&Digest::of(content), content).unwrap();
    }
    let mut entries = entries();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let tree = Tree {
        entries,
        ..Tree::default()
    };
    // A record is checked when it is read: the image is held to the same rules.
    let tree = Tree::from_bytes(&tree.to_bytes()).unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(b"a layer")
    );
    let config = ImageConfig::parse(config).unwrap();
    let record = ImageRecord::new(config, b"a manifest".to_vec(), Vec::new(), 1, 1);
    let owners = owners();
    session.put_tree(record.tree, &tree).unwrap();
    session.put_stubs(record.tree, &tree, &owners).unwrap();
    let name = Reference::parse("localhost/every:kind").unwrap();
    session.put_image(&record, Some(&name)).unwrap();
    drop(session);
    store.rootfs(&record, "s1").unwrap()
}
