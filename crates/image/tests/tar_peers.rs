// SPDX-License-Identifier: Apache-2.0
//! The tar reader against archives that other programs make.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a peer needs files and a process"
)]

use std::collections::BTreeMap;

use wolffia_image::tar::{Event, Header, Reader};

/// Reads an archive in pieces; files with their content, holes as zeros.
fn read(archive: &[u8]) -> BTreeMap<Vec<u8>, (Header, Vec<u8>)> {
    let mut reader = Reader::new();
    let mut files: Vec<(Header, Vec<u8>)> = Vec::new();
    for mut piece in archive.chunks(777) {
        while let Some(event) = reader.next(&mut piece).unwrap() {
            match event {
                Event::Entry(header) => files.push((header, Vec::new())),
                Event::Data { bytes, .. } => files.last_mut().unwrap().1.extend_from_slice(bytes),
                Event::Hole { length, .. } => {
                    let content = &mut files.last_mut().unwrap().1;
                    content.resize(content.len() + usize::try_from(length).unwrap(), 0);
                }
                Event::EntryEnd => {}
            }
        }
    }
    reader.finish().unwrap();
    files
        .into_iter()
        .map(|(header, content)| (header.path.clone(), (header, content)))
        .collect()
}

/// What GNU tar makes of a folder with long names, a sparse file, hard links and attributes, in each of its formats.
#[test]
fn archives_of_gnu_tar_are_read() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let deep = root.join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let long = deep.join("f".repeat(150));
    std::fs::write(&long, "long").unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for extent in 0..40_u64 {
        sparse
            .write_all_at(&[7; 4096], extent * 65_536 + 65_536)
            .unwrap();
    }
    sparse.set_len(41 * 65_536 + 5).unwrap();
    std::fs::hard_link(root.join("sparse"), root.join("z-link")).unwrap();
    symlink("t".repeat(180), root.join("symlink")).unwrap();
    for (options, exact_times) in [
        (&["--format=gnu"][..], false),
        (&["--format=gnu", "--sparse"], false),
        (
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
            true,
        ),
        (
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
            true,
        ),
        (
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
            true,
        ),
    ] {
        let output = std::process::Command::new("tar")
            .args(options)
            .args(["--sort=name", "-cf", "-", "-C"])
            .arg(&root)
            .arg(".")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let files = read(&output.stdout);
        assert_eq!(files.len(), 7, "{options:?}");
        let (header, content) = &files[&b"./sparse"[..]];
        assert_eq!(
            *content,
            std::fs::read(root.join("sparse")).unwrap(),
            "{options:?}"
        );
        let metadata = std::fs::metadata(root.join("sparse")).unwrap();
        assert_eq!(header.mtime.seconds, metadata.mtime());
        if exact_times {
            assert_eq!(i64::from(header.mtime.nanoseconds), metadata.mtime_nsec());
        }
        assert_eq!(files[&b"./z-link"[..]].0.link, b"./sparse");
        assert_eq!(files[&b"./symlink"[..]].0.link, [b't'; 180]);
        let path = format!("./{}", long.strip_prefix(&root).unwrap().display());
        assert_eq!(files[path.as_bytes()].1, b"long", "{options:?}");
    }
}
