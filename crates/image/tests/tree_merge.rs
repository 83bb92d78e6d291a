// SPDX-License-Identifier: Apache-2.0
//! What layers make together: a table of the cases that people argue about, and a comparison with a naive model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod model;

use proptest::collection::vec;
use proptest::prelude::*;
use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{Entry, Kind, LayerBuilder, Reason, Wants};
use wolffia_image::{Digest, Layer, Tree};
use wolffia_testkit::archive::{End, Item, ItemKind, Spelling, Writer};

/// Makes a layer of items by way of an archive, as a pull does.
fn layer(items: &[Item]) -> Layer {
    let mut writer = Writer::new();
    for item in items {
        writer.add(item, Spelling::default());
    }
    let archive = writer.finish(End::Blocks);
    let mut reader = Reader::new();
    let mut builder = LayerBuilder::new();
    let mut content = None;
    let mut input = archive.as_slice();
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::Entry(header) => {
                let wants = builder.begin(header).unwrap();
                content = (wants != Wants::Nothing).then(Vec::new);
            }
            Event::Data { bytes, .. } => {
                if let Some(content) = &mut content {
                    content.extend_from_slice(bytes);
                }
            }
            Event::Hole { .. } => unreachable!("no item here has holes"),
            Event::EntryEnd => {
                if let Some(content) = content.take() {
                    builder.content(Digest::of(&content));
                }
            }
        }
    }
    builder.finish()
}

/// Reads an item from a line: `d etc`, `f etc/passwd text`, `l link -> target`, `h name = target`, `p fifo`, `c device`.
///
/// The owner is the line's number, so that a test sees which entry holds.
fn items(text: &str) -> Vec<Item> {
    let lines = text
        .split(';')
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let item = |(place, line): (usize, &str)| {
        let (kind, rest) = line.split_once(' ').unwrap();
        let mut item = match kind {
            "d" => Item::directory(rest),
            "f" => {
                let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
                Item::file(path, content)
            }
            "l" => {
                let (path, target) = rest.split_once(" -> ").unwrap();
                Item::new(path, ItemKind::Symlink(target.into()))
            }
            "h" => {
                let (path, target) = rest.split_once(" = ").unwrap();
                Item::new(path, ItemKind::HardLink(target.into()))
            }
            "p" => Item::new(rest, ItemKind::Fifo),
            "c" => Item::new(rest, ItemKind::CharDevice(1, 3)),
            other => panic!("unknown kind {other}"),
        };
        item.uid = u32::try_from(place).unwrap() + 1;
        item
    };
    lines.enumerate().map(item).collect()
}

/// Writes a tree down in the same language, the root aside, owners behind a colon.
fn text(tree: &Tree) -> String {
    let line = |entry: &Entry| {
        let path = entry.path.as_bytes().escape_ascii();
        let uid = entry.meta.uid;
        match &entry.kind {
            Kind::Directory => format!("d {path}:{uid}"),
            Kind::File { size, .. } => format!("f {path}:{uid} {size}"),
            Kind::Symlink { target } => format!("l {path}:{uid} -> {}", target.escape_ascii()),
            Kind::HardLink { to } => format!("h {path} = {}", to.as_bytes().escape_ascii()),
            Kind::Fifo => format!("p {path}:{uid}"),
            Kind::CharDevice { .. } => format!("c {path}:{uid}"),
            other => format!("{other:?} {path}"),
        }
    };
    tree.entries[1..]
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Layers, the tree they make, and the reasons of what is refused.
type Case = (&'static [&'static str], &'static str, &'static [Reason]);

fn check(cases: &[Case]) {
    for (layers, expected, refused) in cases {
        let layers: Vec<Layer> = layers.iter().map(|text| layer(&items(text))).collect();
        let tree = Tree::merge(&layers).unwrap();
        let expected: Vec<&str> = expected.split(';').map(str::trim).collect();
        assert_eq!(
            text(&tree).split("; ").collect::<Vec<_>>(),
            expected,
            "{layers:#?}"
        );
        let reasons: Vec<Reason> = tree
            .refused
            .listed
            .iter()
            .map(|refusal| refusal.reason)
            .collect();
        assert_eq!(reasons, *refused, "{layers:#?}");
        assert_eq!(tree.refused.count, refused.len() as u64);
        assert_eq!(Tree::from_bytes(&tree.to_bytes()), Ok(tree));
        for layer in layers {
            assert_eq!(Layer::from_bytes(&layer.to_bytes()), Ok(layer));
        }
    }
}

#[test]
fn upper_layers_add_and_replace() {
    check(&[
        (
            &["d a; f a/b x", "f a/c yy"],
            "d a:1; f a/b:2 1; f a/c:1 2",
            &[],
        ),
        (&["d a; f a/b x", "d a"], "d a:1; f a/b:2 1", &[]),
        (
            &["f a x; d b", "d a; f b y; f a/c"],
            "d a:1; f a/c:3 0; f b:2 1",
            &[],
        ),
        (&["d a; d a/b; f a/b/c", "l a -> x"], "l a:1 -> x", &[]),
        (
            &["l a -> b; d b", "d a; f a/c"],
            "d a:1; f a/c:2 0; d b:2",
            &[],
        ),
        (
            &["f a; p b; c d", "p a; c b; f d x"],
            "p a:1; c b:2; f d:3 1",
            &[],
        ),
    ]);
}

#[test]
fn one_layer_may_say_things_in_any_order() {
    check(&[
        (&["f a 1; f a 22; f a 333"], "f a:3 3", &[]),
        (&["f a/b/c; d a"], "d a:2; d a/b:0; f a/b/c:1 0", &[]),
        (&["f a/b; d a; d a"], "d a:3; f a/b:1 0", &[]),
        (&["d a; f a/b; f a x"], "f a:3 1", &[]),
        (
            &["f ./a; f /b; f c//d/; f ./././e"],
            "f a:1 0; f b:2 0; d c:0; f c/d:3 0; f e:4 0",
            &[],
        ),
        (&["f a x; f a/b"], "f a:1 1", &[Reason::NotDirectory]),
    ]);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    check(&[
        (&["d a; f a/b; f a/c", "f a/.wh.b"], "d a:1; f a/c:3 0", &[]),
        (&["d a; f a/b", "f .wh.a"], "", &[]),
        (
            &["d a; f a/b", "f .wh.a; d a; f a/c"],
            "d a:2; f a/c:3 0",
            &[],
        ),
        (
            &["d a; f a/b", "d a; f a/c; f .wh.a"],
            "d a:1; f a/c:2 0",
            &[],
        ),
        (
            &["d a; f a/b; d a/d; f a/d/e", "f a/d/f; f a/.wh..wh..opq"],
            "d a:1; d a/d:3; f a/d/f:1 0",
            &[],
        ),
        (
            &["d a; f a/b; d a/d; f a/d/e", "f a/.wh..wh..opq; f a/d/f"],
            "d a:1; d a/d:0; f a/d/f:2 0",
            &[],
        ),
        (&["f a; f b", "f .wh..wh..opq; f c"], "f c:2 0", &[]),
        (&["f a", "d .wh.a"], "", &[]),
        (
            &["f a", "f .wh.b; f x/.wh.y; f a/.wh.c; f x/.wh..wh..opq"],
            "f a:1 0",
            &[],
        ),
        (&["f a", "f .wh.a", "f a x"], "f a:1 1", &[]),
        (&["f a", "f a xx", "f .wh.a"], "", &[]),
        (
            &["l d -> r; d r; f r/a; f r/b", "f d/.wh.a"],
            "l d:1 -> r; d r:2; f r/b:4 0",
            &[],
        ),
        (
            &["l d -> r; d r; f r/a", "f d/.wh..wh..opq"],
            "l d:1 -> r; d r:2",
            &[],
        ),
        (
            &["d d; f d/a; l l -> d", "f .wh.l"],
            "d d:1; f d/a:2 0",
            &[],
        ),
        (&["f x", "f .wh.x; h y = x"], "", &[Reason::HardLinkMissing]),
    ]);
}

#[test]
fn reserved_names_are_left_out() {
    check(&[(
        &[
            "f a; d b; f b/c",
            "f .wh.; f .wh..; f .wh...; f b/.wh.; f .wh..wh.plnk; f .wh.x/y; f b/.wh..wh.aufs/y",
        ],
        "f a:1 0; d b:2; f b/c:3 0",
        &[Reason::ReservedName; 7],
    )]);
}

#[test]
fn hard_links_join_names_of_all_layers() {
    check(&[
        (
            &["f b/x 1; h a/y = b/x; h c = a/y"],
            "d a:0; f a/y:1 1; d b:0; h b/x = a/y; h c = a/y",
            &[],
        ),
        (&["f x 1", "h y = x"], "f x:1 1; h y = x", &[]),
        (&["f x 1", "h y = x; f x 22"], "f x:2 2; f y:1 1", &[]),
        (&["f x 1; h y = x", "f x 22"], "f x:1 2; f y:1 1", &[]),
        (&["f x 1; h y = x", "f .wh.x"], "f y:1 1", &[]),
        (&["l x -> t; h y = x"], "l x:1 -> t; h y = x", &[]),
        (
            &["p x; h y = x; c d; h e = d"],
            "c d:3; h e = d; p x:1; h y = x",
            &[],
        ),
        (
            &["d r; f r/x; l d -> r; h y = d/x"],
            "l d:3 -> r; d r:1; f r/x:2 0; h y = r/x",
            &[],
        ),
        (&["f x; h x = x"], "f x:1 0", &[Reason::HardLinkItself]),
        (&["f x; h y = x; h x = y"], "f x:1 0; h y = x", &[]),
        (
            &["d d; f d/x; h d = d/x"],
            "d d:1; f d/x:2 0",
            &[Reason::HardLinkItself],
        ),
        (&["h y = x; f x"], "f x:2 0", &[Reason::HardLinkMissing]),
        (&["d d; h y = d"], "d d:1", &[Reason::HardLinkDirectory]),
        (&["h y = /; h z = ."], "", &[Reason::HardLinkDirectory; 2]),
        (
            &["f x; h y = /x; h z = ./x"],
            "f x:1 0; h y = x; h z = x",
            &[],
        ),
    ]);
}

#[test]
fn hostile_paths_end_inside_or_are_refused() {
    check(&[
        (
            &["f ../a; f a/../../b; f /..; f a/.."],
            "",
            &[Reason::PathUpward; 4],
        ),
        (
            &["f x; h y = ../x; h z = /../etc/passwd"],
            "f x:1 0",
            &[Reason::HardLinkPath; 2],
        ),
        (&["l a -> /; f a/x"], "l a:1 -> /; f x:2 0", &[]),
        (
            &["l a -> ../../../..; f a/x"],
            "l a:1 -> ../../../..; f x:2 0",
            &[],
        ),
        (
            &["l a -> /etc", "f a/x"],
            "l a:1 -> /etc; d etc:0; f etc/x:1 0",
            &[],
        ),
        (
            &["d b; l b/a -> ../c; d c; f b/a/x"],
            "d b:1; l b/a:2 -> ../c; d c:3; f c/x:4 0",
            &[],
        ),
        (
            &["l a -> n/../../m; f a/x"],
            "l a:1 -> n/../../m; d m:0; f m/x:2 0",
            &[],
        ),
        (
            &["l a -> b; l b -> a; f a/x; h y = a/x"],
            "l a:1 -> b; l b:2 -> a",
            &[Reason::LinkLoop; 2],
        ),
        (&["l a -> a/b; f a/x"], "l a:1 -> a/b", &[Reason::LinkLoop]),
        (
            &["l a -> f; f f; f a/x"],
            "l a:1 -> f; f f:2 0",
            &[Reason::NotDirectory],
        ),
        (&["f .; l / -> x; f ./x"], "f x:3 0", &[Reason::Root; 2]),
        (&["f a", "f a/b/c"], "d a:0; d a/b:0; f a/b/c:1 0", &[]),
        (&["f a", "f a/.wh.b; f a/.wh..wh..opq"], "f a:1 0", &[]),
    ]);
}

#[test]
fn a_path_runs_through_255_links_and_no_more() {
    for (links, refused) in [(255, 0), (256, 1)] {
        let mut items = vec![Item::directory("0")];
        for place in 1..=links {
            let before = (place - 1).to_string().into_bytes();
            items.push(Item::new(place.to_string(), ItemKind::Symlink(before)));
        }
        items.push(Item::file(format!("{links}/file"), ""));
        let tree = Tree::merge(&[layer(&items)]).unwrap();
        assert_eq!(tree.refused.count, refused, "{links} links");
    }
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(2047);
    let cases = [
        (Item::file(long.as_str(), ""), Reason::PathLength),
        (Item::file(format!("{deep}ab/cd"), ""), Reason::PathLength),
        (
            Item::new("s", ItemKind::Symlink(vec![b't'; 4096])),
            Reason::SymlinkTarget,
        ),
        (
            Item::new("s", ItemKind::Symlink(Vec::new())),
            Reason::SymlinkTarget,
        ),
    ];
    for (item, reason) in cases {
        let refused = layer(&[item]).refused;
        assert_eq!(
            refused
                .listed
                .iter()
                .map(|one| one.reason)
                .collect::<Vec<_>>(),
            [reason]
        );
    }
    // A link can make a path longer than it was written.
    let link = Item::new("l", ItemKind::Symlink(deep.clone().into()));
    let tree = Tree::merge(&[layer(&[link, Item::file("l/abc", "")])]).unwrap();
    assert_eq!(tree.refused.listed[0].reason, Reason::PathLength);
    let mut attributed = Item::file("x", "");
    attributed
        .xattrs
        .insert([b"user.".to_vec(), vec![b'n'; 251]].concat(), Vec::new());
    attributed
        .xattrs
        .insert(b"user.kept".to_vec(), vec![1; 65_536]);
    attributed
        .xattrs
        .insert(b"user.value".to_vec(), vec![1; 65_537]);
    attributed
        .xattrs
        .insert(b"security.selinux".to_vec(), b"label".to_vec());
    let layer = layer(&[attributed]);
    assert_eq!(layer.refused.count, 2);
    assert_eq!(
        layer.entries[0].meta.xattrs.keys().collect::<Vec<_>>(),
        [b"user.kept"]
    );
}

#[test]
fn attributes_that_steer_overlayfs_are_inert() {
    let mut redirect = Item::file("evil", "");
    for name in [
        "user.overlay.metacopy",
        "user.overlay.redirect",
        "trusted.overlay.opaque",
        "user.rootlesscontainers",
    ] {
        redirect
            .xattrs
            .insert(name.into(), b"/ab/cdefghijklmnopqrstuv".to_vec());
    }
    let tree = Tree::merge(&[layer(&[redirect])]).unwrap();
    let names: Vec<String> = tree.entries[1]
        .meta
        .xattrs
        .keys()
        .map(|name| String::from_utf8(name.clone()).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "trusted.overlay.overlay.opaque",
            "user.overlay.overlay.metacopy",
            "user.overlay.overlay.redirect",
            "user.wolffia.escaped.user.rootlesscontainers"
        ]
    );
}

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let name = || {
        prop_oneof![
            Just("a"),
            Just("b"),
            Just("c"),
            Just(".wh.a"),
            Just(".wh..wh..opq"),
            Just("..")
        ]
    };
    let path = || {
        vec(
            prop_oneof![9 => prop_oneof![Just("a"), Just("b"), Just("c")], 1 => name()],
            1..4,
        )
        .prop_map(|names| names.join("/"))
    };
    let target = || {
        (
            any::<bool>(),
            vec(
                prop_oneof![3 => prop_oneof![Just("a"), Just("b"), Just("c")], 1 => Just("..")],
                1..4,
            ),
        )
            .prop_map(|(absolute, names)| {
                format!("{}{}", if absolute { "/" } else { "" }, names.join("/"))
            })
    };
    let kind = prop_oneof![
        4 => Just(ItemKind::Directory),
        4 => "[a-z]{0,3}".prop_map(|content| Item::file("x", content).kind),
        2 => target().prop_map(|target| ItemKind::Symlink(target.into())),
        3 => path().prop_map(|target| ItemKind::HardLink(target.into())),
        1 => Just(ItemKind::Fifo),
    ];
    vec((path(), kind), 0..14).prop_map(|items| {
        let number = |(place, (path, kind)): (usize, (String, ItemKind))| {
            let mut item = Item::new(path, kind);
            item.uid = u32::try_from(place).unwrap() + 1;
            item
        };
        items.into_iter().enumerate().map(number).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 600 } else { 50_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn merging_equals_the_naive_model(layers in vec(any_items(), 1..5)) {
        let layers: Vec<Layer> = layers.iter().map(|items| layer(items)).collect();
        let tree = Tree::merge(&layers).unwrap();
        let (expected, refused) = model::merge(&layers);
        prop_assert_eq!(&tree.entries, &expected);
        prop_assert_eq!(tree.refused.count, refused);
        prop_assert_eq!(Tree::from_bytes(&tree.to_bytes()), Ok(tree));
    }

    #[test]
    fn a_damaged_record_is_an_error_and_no_panic(
        layers in vec(any_items(), 1..3),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        sealed in any::<bool>(),
    ) {
        let layers: Vec<Layer> = layers.iter().map(|items| layer(items)).collect();
        let tree = Tree::merge(&layers).unwrap();
        for (record, whole) in [(tree.to_bytes(), true), (layers[0].to_bytes(), false)] {
            let mut damaged = record.clone();
            let body = record.len() - Digest::BYTES;
            for (place, byte) in &damages {
                damaged[place.index(body)] = *byte;
            }
            if damaged == record {
                continue;
            }
            if sealed {
                // As a stranger would do it: the digest fits, the content is wrong.
                let digest = Digest::of(&damaged[..body]);
                damaged[body..].copy_from_slice(digest.as_bytes());
            }
            if whole {
                let read = Tree::from_bytes(&damaged);
                prop_assert!(sealed || read.is_err());
                if let Ok(read) = read {
                    prop_assert_eq!(read.to_bytes(), damaged, "a record has one form");
                }
            } else if let Ok(read) = Layer::from_bytes(&damaged) {
                prop_assert!(sealed);
                prop_assert_eq!(read.to_bytes(), damaged, "a record has one form");
            }
        }
    }
}
