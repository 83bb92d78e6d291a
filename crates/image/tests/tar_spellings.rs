// SPDX-License-Identifier: Apache-2.0
//! The tar reader against every spelling that `testkit::archive` can write, in pieces of any size.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use wolffia_image::tar::{EntryKind, Event, Header, Reader, TarError};
use wolffia_testkit::archive::{End, Form, Item, ItemKind, Sparse, Spelling, Writer};

/// Reads an archive in pieces of these sizes, over and over; files with their content, holes as zeros.
fn read(archive: &[u8], steps: &[usize]) -> Result<Vec<(Header, Vec<u8>)>, TarError> {
    let mut reader = Reader::new();
    let mut files: Vec<(Header, Vec<u8>)> = Vec::new();
    let mut rest = archive;
    let mut open = false;
    for step in steps.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, later) = rest.split_at((*step).min(rest.len()));
        rest = later;
        while let Some(event) = reader.next(&mut piece)? {
            assert_eq!(open, !matches!(event, Event::Entry(_)));
            match event {
                Event::Entry(header) => {
                    open = true;
                    files.push((header, Vec::new()));
                }
                Event::Data { offset, bytes } => {
                    let (_, content) = files.last_mut().unwrap();
                    assert_eq!(content.len() as u64, offset);
                    assert!(!bytes.is_empty());
                    content.extend_from_slice(bytes);
                }
                Event::Hole { offset, length } => {
                    let (_, content) = files.last_mut().unwrap();
                    assert_eq!(content.len() as u64, offset);
                    content.resize(content.len() + usize::try_from(length).unwrap(), 0);
                }
                Event::EntryEnd => open = false,
            }
        }
        assert!(piece.is_empty());
    }
    reader.finish()?;
    assert!(!open);
    Ok(files)
}

/// What the reader must say about an item.
fn expected(item: &Item) -> (Header, Vec<u8>) {
    let content = item.content();
    let mut header = Header {
        path: item.path.clone(),
        kind: EntryKind::Fifo,
        link: Vec::new(),
        size: content.len() as u64,
        mode: item.mode,
        uid: item.uid,
        gid: item.gid,
        mtime: wolffia_image::tree::Time {
            seconds: item.mtime.0,
            nanoseconds: item.mtime.1,
        },
        device_major: 0,
        device_minor: 0,
        xattrs: item.xattrs.clone(),
    };
    match &item.kind {
        ItemKind::Directory => header.kind = EntryKind::Directory,
        ItemKind::File { .. } => header.kind = EntryKind::File,
        ItemKind::Fifo => {}
        ItemKind::Symlink(target) => {
            header.kind = EntryKind::Symlink;
            header.link.clone_from(target);
        }
        ItemKind::HardLink(target) => {
            header.kind = EntryKind::HardLink;
            header.link.clone_from(target);
        }
        ItemKind::CharDevice(major, minor) => {
            header.kind = EntryKind::CharDevice;
            (header.device_major, header.device_minor) = (*major, *minor);
        }
        ItemKind::BlockDevice(major, minor) => {
            header.kind = EntryKind::BlockDevice;
            (header.device_major, header.device_minor) = (*major, *minor);
        }
    }
    (header, content)
}

fn name(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => b'a'..=b'z', 2 => Just(b'/'), 1 => 1_u8..=255];
    vec(byte, length)
}

fn data() -> impl Strategy<Value = ItemKind> {
    let extent = (0_u64..1500, vec(any::<u8>(), 1..700));
    let dense = vec(any::<u8>(), 0..2000).prop_map(|content| match Item::file("x", content).kind {
        kind @ ItemKind::File { .. } => kind,
        _ => unreachable!(),
    });
    let sparse = (vec(extent, 0..60), 0_u64..1500).prop_map(|(extents, tail)| {
        let mut end = 0;
        let data: Vec<_> = extents
            .into_iter()
            .map(|(gap, bytes)| {
                let offset = end + gap;
                end = offset + bytes.len() as u64;
                (offset, bytes)
            })
            .collect();
        ItemKind::File {
            size: end + tail,
            data,
        }
    });
    prop_oneof![2 => dense, 1 => sparse]
}

fn kind() -> impl Strategy<Value = ItemKind> {
    prop_oneof![
        1 => Just(ItemKind::Directory),
        5 => data(),
        1 => name(1..300).prop_map(ItemKind::Symlink),
        1 => name(1..300).prop_map(ItemKind::HardLink),
        1 => Just(ItemKind::Fifo),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| ItemKind::CharDevice(major, minor)),
        1 => (0_u32..4096, 0_u32..256).prop_map(|(major, minor)| ItemKind::BlockDevice(major, minor)),
    ]
}

prop_compose! {
    fn item()(
        mut path in prop_oneof![3 => name(1..60), 1 => name(90..110), 1 => name(100..600)],
        kind in kind(),
        mode in 0_u32..0o10000,
        uid in prop_oneof![Just(0), 0_u32..70_000, any::<u32>()],
        gid in prop_oneof![Just(0), 0_u32..70_000, any::<u32>()],
        seconds in prop_oneof![0..1_i64 << 32, -(1_i64 << 40)..1_i64 << 40],
        nanoseconds in prop_oneof![Just(0), 0_u32..1_000_000_000],
        xattrs in btree_map("user\\.[a-z]{1,9}".prop_map(String::into_bytes), vec(any::<u8>(), 0..90), 0..3),
    ) -> Item {
        // A trailing slash tells a directory from a file only where the type is the old one.
        if matches!(kind, ItemKind::File { .. }) && path.ends_with(b"/") {
            path.push(b'f');
        }
        Item { path, kind, mode, uid, gid, mtime: (seconds, nanoseconds), xattrs }
    }
}

prop_compose! {
    fn spelling()(
        form in prop_oneof![Just(Form::V7), Just(Form::Ustar), Just(Form::Gnu), Just(Form::Pax)],
        sparse in prop_oneof![
            Just(Sparse::Dense), Just(Sparse::Gnu), Just(Sparse::Pax00), Just(Sparse::Pax01), Just(Sparse::Pax10)
        ],
        flags in any::<[bool; 5]>(),
    ) -> Spelling {
        // The old map lies where ustar has its prefix, and V7 nothing.
        let form = if sparse == Sparse::Gnu { Form::Gnu } else { form };
        let [libarchive_xattrs, signed_checksum, spaced_numbers, old_type, link_data] = flags;
        Spelling { form, sparse, libarchive_xattrs, signed_checksum, spaced_numbers, old_type, link_data }
    }
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Blocks),
        Just(End::Record),
        Just(End::OneBlock),
        Just(End::Missing),
        Just(End::Garbage)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 300 } else { 5000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_spelling_the_item_is_read(
        items in vec((item(), spelling()), 0..5),
        end in end(),
        steps in vec(1_usize..3000, 1..6),
    ) {
        let mut writer = Writer::new();
        for (item, spelling) in &items {
            writer.add(item, *spelling);
        }
        let archive = writer.finish(end);
        let read = read(&archive, &steps).unwrap();
        prop_assert_eq!(read.len(), items.len());
        for ((item, spelling), read) in items.iter().zip(read) {
            prop_assert_eq!(read, expected(item), "{:?}", spelling);
        }
    }

    #[test]
    fn a_damaged_archive_is_an_error_or_read_but_no_panic(
        items in vec((item(), spelling()), 1..4),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        steps in vec(1_usize..3000, 1..4),
    ) {
        let mut writer = Writer::new();
        for (item, spelling) in &items {
            writer.add(item, *spelling);
        }
        let mut archive = writer.finish(End::Blocks);
        for (place, byte) in damages {
            let place = place.index(archive.len());
            archive[place] = byte;
        }
        archive.truncate(cut.index(archive.len()) + 1);
        // A damaged sparse map may claim holes that no test should make: count events instead of keeping zeros.
        let mut reader = Reader::new();
        for mut piece in archive.chunks(steps[0]) {
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
        let _ = reader.finish();
    }
}

#[test]
fn global_records_hold_for_all_that_follow() {
    let mut writer = Writer::new();
    writer.add(&Item::file("before", "1"), Spelling::default());
    writer.global(&[
        (b"mtime", b"77.5"),
        (b"SCHILY.xattr.user.g", b"g"),
        (b"path", b"evil"),
        (b"comment", b"x"),
    ]);
    writer.add(&Item::file("after", "2"), Spelling::default());
    let mut own = Item::file("own", "3");
    own.mtime = (5, 5);
    writer.add(
        &own,
        Spelling {
            form: Form::Pax,
            ..Spelling::default()
        },
    );
    let files = read(&writer.finish(End::Blocks), &[100]).unwrap();
    let seen: Vec<_> = files
        .iter()
        .map(|(header, _)| {
            (
                header.path.as_slice(),
                header.mtime.seconds,
                header.xattrs.len(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(&b"before"[..], 0, 0), (b"after", 77, 1), (b"own", 5, 1)]
    );
}

#[test]
fn odd_entries_are_told_and_passed_over() {
    let mut writer = Writer::new();
    writer.special(b'V', b"a label", b"", Spelling::default());
    writer.special(
        b'D',
        b"dump/",
        b"Yfile\0\0",
        Spelling {
            form: Form::Gnu,
            ..Spelling::default()
        },
    );
    writer.special(b'Z', b"unknown", &[9; 600], Spelling::default());
    writer.special(b'7', b"contiguous", &[8; 600], Spelling::default());
    writer.add(&Item::file("last", "3"), Spelling::default());
    let files = read(&writer.finish(End::Blocks), &[100]).unwrap();
    let seen: Vec<_> = files
        .iter()
        .map(|(header, content)| (header.kind, content.len()))
        .collect();
    assert_eq!(
        seen,
        [
            (EntryKind::Directory, 0),
            (EntryKind::Unknown(b'Z'), 0),
            (EntryKind::File, 600),
            (EntryKind::File, 1)
        ]
    );
}

#[test]
fn sizes_without_bound_are_refused() {
    let long = vec![b'x'; 1 << 20];
    let mut writer = Writer::new();
    writer.special(
        b'L',
        b"././@LongLink",
        &[&long[..], b"x"].concat(),
        Spelling::default(),
    );
    assert!(matches!(
        read(&writer.finish(End::Blocks), &[4096]),
        Err(TarError::SpecialSize { .. })
    ));

    let mut writer = Writer::new();
    for round in 0..9 {
        let key = format!("SCHILY.xattr.user.{round}");
        writer.global(&[(key.as_bytes(), &long[..1 << 17])]);
    }
    assert!(matches!(
        read(&writer.finish(End::Blocks), &[4096]),
        Err(TarError::SpecialSize { .. })
    ));

    let holes = Item {
        kind: ItemKind::File {
            size: 65 << 30,
            data: Vec::new(),
        },
        ..Item::file("h", "")
    };
    let mut writer = Writer::new();
    writer.add(
        &holes,
        Spelling {
            form: Form::Pax,
            sparse: Sparse::Pax01,
            ..Spelling::default()
        },
    );
    let archive = writer.finish(End::Blocks);
    let mut reader = Reader::new();
    let mut input = archive.as_slice();
    let error = loop {
        match reader.next(&mut input) {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(error, Err(TarError::Holes { .. })), "{error:?}");
}

#[test]
fn sparse_maps_that_do_not_fit_are_refused() {
    for (map, size, data) in [
        ("0,5,3,5", 20, 10), // overlap
        ("5,5,0,5", 20, 10), // descending
        ("0,30", 20, 30),    // beyond the end
        ("0,5", 20, 4),      // more than there is
        ("0,5", 20, 6),      // less than there is
        ("0,5,7", 20, 5),    // odd
        ("0,x", 20, 5),      // no number
        ("9223372036854775807,9223372036854775807", 20, 5),
    ] {
        let mut writer = Writer::new();
        let records = format!("GNU.sparse.size={size}\n");
        let records = format!("{} {records}", records.len() + 3);
        let map = format!("GNU.sparse.map={map}\n");
        let map = format!("{} {map}", map.len() + 3);
        writer.special(
            b'x',
            b"x",
            [records, map].concat().as_bytes(),
            Spelling::default(),
        );
        writer.special(b'0', b"file", &vec![1; data], Spelling::default());
        let result = read(&writer.finish(End::Blocks), &[4096]);
        assert!(result.is_err(), "{size} {data} gave {result:?}");
    }
}
