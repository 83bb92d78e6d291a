// SPDX-License-Identifier: Apache-2.0
//! The reader against archives put together byte by byte.

use super::*;

/// A header block with a right checksum.
fn header(path: &str, flag: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"14524770000\0");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// Reads an archive in pieces of `step` bytes, data glued together again.
fn read(archive: &[u8], step: usize) -> Result<Vec<(Header, Vec<u8>)>, TarError> {
    let mut reader = Reader::new();
    let mut files: Vec<(Header, Vec<u8>)> = Vec::new();
    let mut ended = 0;
    for mut piece in archive.chunks(step) {
        while let Some(event) = reader.next(&mut piece)? {
            match event {
                Event::Entry(header) => files.push((header, Vec::new())),
                Event::Data { offset, bytes } => {
                    let (_, data) = files.last_mut().unwrap();
                    assert_eq!(data.len() as u64, offset);
                    data.extend_from_slice(bytes);
                }
                Event::Hole { offset, length } => {
                    let (_, data) = files.last_mut().unwrap();
                    assert_eq!(data.len() as u64, offset);
                    data.resize(data.len() + usize::try_from(length).unwrap(), 0);
                }
                Event::EntryEnd => {
                    ended += 1;
                    let (header, data) = files.last().unwrap();
                    assert_eq!(ended, files.len());
                    assert_eq!(header.size, data.len() as u64);
                }
            }
        }
        assert!(piece.is_empty());
    }
    assert_eq!(reader.taken_bytes(), archive.len() as u64);
    reader.finish()?;
    assert_eq!(ended, files.len());
    Ok(files)
}

#[test]
fn an_archive_is_read_whole_in_pieces_of_any_size() {
    let archive = [
        header("dir/", b'5', 0),
        header("dir/file", b'0', 700),
        padded(&[7; 700]),
        header("dir/empty", b'0', 0),
        vec![0; 1024],
        b"garbage behind the end".to_vec(),
    ]
    .concat();
    for step in [1, 3, 511, 512, 513, 4096, archive.len()] {
        let files = read(&archive, step).unwrap();
        let kinds: Vec<_> = files.iter().map(|(header, _)| header.kind).collect();
        assert_eq!(
            kinds,
            [EntryKind::Directory, EntryKind::File, EntryKind::File],
            "{step}"
        );
        assert_eq!(files[1].0.path, b"dir/file");
        assert_eq!(files[1].1, [7; 700]);
        assert_eq!(
            (files[1].0.mode, files[1].0.mtime.seconds),
            (0o644, 0o14_524_770_000)
        );
    }
}

#[test]
fn the_end_may_be_missing_but_not_the_middle() {
    let file = [header("file", b'0', 700), padded(&[7; 700])].concat();
    for (cut, complete) in [
        (file.len(), true),
        (512 + 700, true),
        (512 + 699, false),
        (512, false),
        (511, false),
        (0, true),
    ] {
        assert_eq!(read(&file[..cut], 100).is_ok(), complete, "cut at {cut}");
    }
    for (zeros, complete) in [
        (1, true),
        (511, true),
        (512, true),
        (1000, true),
        (1024, true),
        (5000, true),
    ] {
        let archive = [file.clone(), vec![0; zeros]].concat();
        assert_eq!(read(&archive, 100).is_ok(), complete, "{zeros} zeros");
    }
    let lone = [file.clone(), vec![0; 512], file.clone()].concat();
    assert_eq!(
        read(&lone, 100),
        Err(TarError::LoneZeroBlock { offset: 2048 })
    );
    let mut damaged = file;
    damaged[3] ^= 1;
    assert_eq!(read(&damaged, 100), Err(TarError::Checksum { offset: 0 }));
}

#[test]
fn a_link_that_claims_data_has_it_only_if_no_header_follows() {
    let mut link = header("link", b'1', 700);
    link[157..161].copy_from_slice(b"file");
    seal(&mut link);
    let next = header("next", b'0', 0);
    let without = [link.clone(), next.clone()].concat();
    let with = [link.clone(), padded(&[b'x'; 700]), next].concat();
    for (archive, expected) in [
        (without, 2),
        (with, 2),
        (link.clone(), 1),
        ([link, vec![0; 1024]].concat(), 1),
    ] {
        let files = read(&archive, 333).unwrap();
        assert_eq!(files.len(), expected);
        assert_eq!(
            (files[0].0.link.as_slice(), files[0].0.size),
            (&b"file"[..], 0)
        );
    }
}
