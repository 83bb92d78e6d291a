// SPDX-License-Identifier: Apache-2.0
//! The tar reader against archives that other programs make.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a peer needs files and a process"
)]

use std::collections::BTreeMap;

use wolffia_image::tar::{EntryKind, Event, Header, Reader};

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

/// Writes the same things in each format that Python knows: odd names, long names, times before 1970 and below a second, large
/// ids, devices, attributes, global headers.
const PYTHON: &str = r#"
import io, sys, tarfile
form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[sys.argv[1]]
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=form, encoding="utf-8", errors="surrogateescape",
                   pax_headers={"comment": "global"} if form == tarfile.PAX_FORMAT else None)
def add(name, kind=tarfile.REGTYPE, data=b"", **facts):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    out.addfile(info, io.BytesIO(data))
add("plain", data=b"x" * 1000, mode=0o4755, uid=1, gid=2, mtime=1)
add("latin \udce4", data=b"1")
add("p/" * 60 + "f" * 90, data=b"2")
add("fifo", tarfile.FIFOTYPE)
add("disk", tarfile.BLKTYPE, devmajor=8, devminor=17)
add("link", tarfile.SYMTYPE, linkname="l" * 90)
if form != tarfile.USTAR_FORMAT:
    add("n" * 300, data=b"3", uid=4000000000, gid=3000000000, mtime=-5)
    add("long-link", tarfile.SYMTYPE, linkname="l" * 300)
if form == tarfile.PAX_FORMAT:
    add("precise", mtime=1.25, pax_headers={"SCHILY.xattr.user.a": "b=c"})
out.close()
"#;

#[test]
fn archives_of_python_are_read() {
    wolffia_testkit::need!(Python);
    for form in ["ustar", "gnu", "pax"] {
        let output = std::process::Command::new("python3")
            .args(["-c", PYTHON, form])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let files = read(&output.stdout);
        let file = |name: &[u8]| &files[name];
        let (plain, content) = file(b"plain");
        assert_eq!(
            (plain.mode, plain.uid, plain.gid, plain.mtime.seconds),
            (0o4755, 1, 2, 1),
            "{form}"
        );
        assert_eq!(*content, [b'x'; 1000]);
        assert_eq!(file(b"latin \xe4").1, b"1", "{form}");
        let long = format!("{}{}", "p/".repeat(60), "f".repeat(90));
        assert_eq!(file(long.as_bytes()).1, b"2", "{form}");
        let disk = &file(b"disk").0;
        assert_eq!(
            (disk.kind, disk.device_major, disk.device_minor),
            (EntryKind::BlockDevice, 8, 17)
        );
        assert_eq!(file(b"fifo").0.kind, EntryKind::Fifo);
        assert_eq!(file(b"link").0.link, [b'l'; 90]);
        if form != "ustar" {
            let (large, content) = file(&[b'n'; 300]);
            assert_eq!(
                (large.uid, large.gid),
                (4_000_000_000, 3_000_000_000),
                "{form}"
            );
            assert_eq!(
                (large.mtime.seconds, content.as_slice()),
                (-5, &b"3"[..]),
                "{form}"
            );
            assert_eq!(file(b"long-link").0.link, [b'l'; 300], "{form}");
        }
        if form == "pax" {
            let precise = &file(b"precise").0;
            assert_eq!(
                (precise.mtime.seconds, precise.mtime.nanoseconds),
                (1, 250_000_000)
            );
            assert_eq!(precise.xattrs[&b"user.a"[..]], b"b=c");
        }
    }
}
