// SPDX-License-Identifier: Apache-2.0
//! Records with the right digest and wrong content, as a stranger who publishes a store could make them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use wolffia_image::tree::{
    Entry, Kind, Meta, NAME_BYTES_MAX, Reason, RecordError, Refusal, RelPath, Time,
    XATTR_VALUE_BYTES_MAX,
};
use wolffia_image::{Digest, Layer, Tree};

fn entry(path: &str, kind: Kind) -> Entry {
    let path = if path.is_empty() {
        RelPath::root()
    } else {
        RelPath::parse(path.as_bytes()).unwrap()
    };
    Entry {
        path,
        kind,
        meta: Meta::default(),
    }
}

fn file() -> Kind {
    Kind::File {
        size: 3,
        digest: Digest::of(b"abc"),
    }
}

fn link(to: &str) -> Kind {
    Kind::HardLink {
        to: RelPath::parse(to.as_bytes()).unwrap(),
    }
}

/// The writer believes what it is given, so it makes wrong records too.
fn read(entries: Vec<Entry>) -> Result<Tree, RecordError> {
    Tree::from_bytes(
        &Tree {
            entries,
            ..Tree::default()
        }
        .to_bytes(),
    )
}

#[test]
fn entries_that_are_no_tree_are_refused() {
    let root = || entry("", Kind::Directory);
    let directory = |path| entry(path, Kind::Directory);
    assert!(
        read(vec![
            root(),
            directory("a"),
            entry("a/b", file()),
            entry("c", link("a/b"))
        ])
        .is_ok()
    );
    for (what, entries) in [
        ("nothing", vec![]),
        ("no root", vec![directory("a")]),
        ("a root that is a file", vec![entry("", file())]),
        ("two roots", vec![root(), root()]),
        (
            "a wrong order",
            vec![root(), entry("b", file()), entry("a", file())],
        ),
        (
            "a name twice",
            vec![root(), entry("a", file()), entry("a", file())],
        ),
        ("no directory", vec![root(), entry("a/b", file())]),
        (
            "a file as directory",
            vec![root(), entry("a", file()), entry("a/b", file())],
        ),
        (
            "a link as directory",
            vec![
                root(),
                entry(
                    "a",
                    Kind::Symlink {
                        target: b"/".into(),
                    },
                ),
                entry("a/b", file()),
            ],
        ),
        ("a whiteout", vec![root(), entry("a", Kind::Whiteout)]),
        ("an opaque mark", vec![root(), entry("a", Kind::Opaque)]),
        ("a link to nothing", vec![root(), entry("a", link("b"))]),
        (
            "a link forward",
            vec![root(), entry("a", link("b")), entry("b", file())],
        ),
        ("a link to itself", vec![root(), entry("a", link("a"))]),
        (
            "a link to a directory",
            vec![root(), directory("a"), entry("b", link("a"))],
        ),
        (
            "a link to a link",
            vec![
                root(),
                entry("a", file()),
                entry("b", link("a")),
                entry("c", link("b")),
            ],
        ),
    ] {
        assert!(
            matches!(read(entries), Err(RecordError::Field { .. })),
            "{what}"
        );
    }
}

#[test]
fn fields_beyond_their_bounds_are_refused() {
    let long_value = [(b"user.a".to_vec(), vec![0; XATTR_VALUE_BYTES_MAX + 1])];
    let long_name = [(vec![b'n'; NAME_BYTES_MAX + 1], Vec::new())];
    let named = |name: &str| Meta {
        xattrs: [(name.into(), b"x".to_vec())].into(),
        ..Meta::default()
    };
    let late = Time {
        seconds: 0,
        nanoseconds: 1_000_000_000,
    };
    assert!(
        read(vec![Entry {
            meta: named("user.overlay.overlay.redirect"),
            ..entry("", Kind::Directory)
        }])
        .is_ok()
    );
    for meta in [
        Meta {
            mode: 0o10000,
            ..Meta::default()
        },
        Meta {
            mtime: late,
            ..Meta::default()
        },
        Meta {
            xattrs: long_value.into(),
            ..Meta::default()
        },
        Meta {
            xattrs: long_name.into(),
            ..Meta::default()
        },
        named(""),
        named("user.\0"),
        // Written to disk, these would steer the mount or claim an owner.
        named("user.overlay.redirect"),
        named("user.overlay.metacopy"),
        named("trusted.overlay.opaque"),
        named("user.rootlesscontainers"),
        named("user.wolffia.x"),
        named("security.selinux"),
    ] {
        let read = read(vec![Entry {
            meta: meta.clone(),
            ..entry("", Kind::Directory)
        }]);
        assert!(matches!(read, Err(RecordError::Field { .. })), "{meta:?}");
    }
    for kind in [
        Kind::File {
            size: 1 << 63,
            digest: Digest::of(b""),
        },
        Kind::Symlink { target: Vec::new() },
        Kind::Symlink {
            target: b"a\0b".into(),
        },
        Kind::Symlink {
            target: vec![b't'; 4096],
        },
        Kind::HardLink {
            to: RelPath::root(),
        },
    ] {
        let read = read(vec![entry("", Kind::Directory), entry("a", kind.clone())]);
        assert!(matches!(read, Err(RecordError::Field { .. })), "{kind:?}");
    }
}

#[test]
fn a_record_is_of_one_kind_whole_and_nothing_more() {
    let mut layer = Layer {
        entries: vec![entry("a", Kind::Whiteout)],
        ..Layer::default()
    };
    layer.refused.count = 7;
    for reason in Reason::ALL {
        layer.refused.listed.push(Refusal {
            path: b"../x".into(),
            reason,
        });
    }
    layer.refused.listed.truncate(7);
    let record = layer.to_bytes();
    assert_eq!(Layer::from_bytes(&record), Ok(layer.clone()));
    assert_eq!(Tree::from_bytes(&record), Err(RecordError::Magic));
    for cut in 0..record.len() {
        assert!(Layer::from_bytes(&record[..cut]).is_err(), "cut at {cut}");
    }
    let mut longer = record[..record.len() - Digest::BYTES].to_vec();
    longer.push(0);
    let digest = Digest::of(&longer);
    longer.extend_from_slice(digest.as_bytes());
    assert_eq!(Layer::from_bytes(&longer), Err(RecordError::Trailing));
    let mut damaged = record;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(Layer::from_bytes(&damaged), Err(RecordError::Digest));
    // More listed than counted.
    layer.refused.count = 6;
    assert!(Layer::from_bytes(&layer.to_bytes()).is_err());
}
