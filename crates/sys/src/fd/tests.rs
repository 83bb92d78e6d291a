// SPDX-License-Identifier: Apache-2.0
//! A root with hostile links in it.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

struct Outside {
    directory: tempfile::TempDir,
}

impl Outside {
    fn new() -> Outside {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(directory.path().join("root/etc")).expect("making the root");
        fs::write(directory.path().join("secret"), "outside").expect("writing the secret");
        fs::write(directory.path().join("root/etc/passwd"), "inside").expect("writing a file");
        Outside { directory }
    }

    fn link(&self, target: &str, at: &str) {
        symlink(target, self.directory.path().join("root").join(at)).expect("making a link");
    }

    fn root(&self) -> Root {
        Root::open(&self.directory.path().join("root")).expect("opening the root")
    }

    fn names_outside(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.directory.path())
            .expect("listing")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        names.sort();
        names
    }
}

#[test]
fn no_link_leads_out_of_the_root() {
    let outside = Outside::new();
    let secret = outside.directory.path().join("secret");
    outside.link("../secret", "up");
    outside.link(secret.to_str().expect("a path"), "absolute");
    outside.link("/etc/passwd", "fine");
    let root = outside.root();
    for path in [
        "up",
        "absolute",
        "../secret",
        "/../../secret",
        "etc/../../secret",
    ] {
        let answer = root.read_regular(Path::new(path), 100);
        assert_eq!(answer, Err(Errno::NOENT), "{path}");
    }
    let inside = root.read_regular(Path::new("fine"), 100);
    assert_eq!(inside.as_deref(), Ok(&b"inside"[..]));
}

#[test]
fn directories_are_made_inside_wherever_links_point() {
    let outside = Outside::new();
    let evil = outside.directory.path().join("evil");
    outside.link(evil.to_str().expect("a path"), "absolute");
    outside.link("../../evil", "etc/up");
    outside.link("loop", "loop");
    let root = outside.root();
    for path in ["absolute/a", "etc/up/b", "/../c", "etc/../../d/e"] {
        root.make_directories(Path::new(path), PARENT_MODE)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert_eq!(outside.names_outside(), ["root", "secret"]);
    let there = outside.directory.path().join("root");
    for made in ["evil/b", "c", "d/e"] {
        assert!(there.join(made).is_dir(), "{made}");
    }
    let answer = root.make_directories(Path::new("loop/x"), PARENT_MODE);
    assert_eq!(answer.err(), Some(Errno::LOOP));
}

#[test]
fn files_are_never_made_through_a_link() {
    let outside = Outside::new();
    outside.link("../made", "dangling");
    let root = outside.root();
    let answer = root.make_file(Path::new("dangling"), Mode::from_raw_mode(0o644));
    assert_eq!(answer.err(), Some(Errno::EXIST));
    assert_eq!(outside.names_outside(), ["root", "secret"]);
    root.make_file(Path::new("/new/file"), Mode::from_raw_mode(0o644))
        .expect("making a file and its parent");
}

#[test]
fn only_regular_files_of_bounded_size_are_read() {
    let outside = Outside::new();
    let root = outside.root();
    let fifo = outside.directory.path().join("root/fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .expect("making a fifo");
    assert_eq!(root.read_regular(Path::new("fifo"), 100), Err(Errno::INVAL));
    assert_eq!(root.read_regular(Path::new("etc"), 100), Err(Errno::INVAL));
    let passwd = Path::new("etc/passwd");
    assert_eq!(root.read_regular(passwd, 5), Err(Errno::FBIG));
    assert_eq!(root.read_regular(passwd, 6).map(|bytes| bytes.len()), Ok(6));
}

#[test]
fn room_for_descriptors_is_made_at_once() {
    let room = || {
        let status = fs::read_to_string("/proc/self/status").expect("the kernel's words");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        size.and_then(|size| size.trim().parse::<usize>().ok())
            .expect("a number")
    };
    let wanted = 2 * room() - 1;
    make_room(wanted);
    assert!(room() >= wanted, "{} for {wanted}", room());
}
