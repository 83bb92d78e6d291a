// SPDX-License-Identifier: Apache-2.0
//! What is in a directory, name by name: taken by a small static program that runs inside a container as well as outside.
//!
//! One program on both sides, so that a difference is one of the trees and not of two ways to look. It prints a line for each
//! name (see `walk.c`), which [`parse`] reads; [`of_tree`] says the same of a tree of our own, before it meets a disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{Kind, LayerBuilder, Tree, Wants, xattr};
use wolffia_image::{Hasher, Layer};

use crate::static_program;

const SOURCE: &str = include_str!("walk.c");

/// What is under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `d`, `-`, `l`, `p`, `c`, `b` or `s`, as `ls` shows it.
    pub kind: char,
    /// The permission bits.
    pub mode: u32,
    /// The owner and the group.
    pub owner: (u32, u32),
    /// The time of the last change.
    pub mtime: (i64, u32),
    /// The size of a file, 0 for others.
    pub size: u64,
    /// A file's SHA-256 in hexadecimal digits, a link's target or a device's `major:minor` in hexadecimal digits of its bytes.
    pub content: String,
    /// Extended attributes, under the names that the image has.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file, in the order of names; its own where it has one name only.
    pub first_name: Vec<u8>,
}

/// All names from the root, whose own name is empty.
pub type Walk = BTreeMap<Vec<u8>, Node>;

/// Compiles the walker into a folder. Tests that call it say `need!(Cc)`.
///
/// # Panics
/// Where the compiler fails: it says why.
pub fn compile(folder: &Path) -> PathBuf {
    static_program::compile(folder, "walk", SOURCE)
}

/// Reads what the walker printed.
///
/// # Panics
/// Where it printed something else.
pub fn parse(printed: &str) -> Walk {
    let mut walk = Walk::new();
    let mut inodes: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for line in printed.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [
            path,
            kind,
            mode,
            uid,
            gid,
            seconds,
            nanoseconds,
            inode,
            size,
            content,
            xattrs,
        ] = fields[..]
        else {
            panic!("no line of a walk: {line}");
        };
        let number = |text: &str| text.parse::<i64>().expect("a number of a walk");
        let small = |text: &str| text.parse::<u32>().expect("a number of a walk");
        let path = unhex(path);
        inodes.insert(path.clone(), inode.parse().expect("an inode's number"));
        let node = Node {
            kind: kind.chars().next().expect("a type"),
            mode: u32::from_str_radix(mode, 8).expect("an octal number"),
            owner: (small(uid), small(gid)),
            mtime: (number(seconds), small(nanoseconds)),
            size: size.parse().expect("a size"),
            content: content.replace('-', ""),
            xattrs: xattrs
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (unhex(name), unhex(value)))
                .collect(),
            first_name: Vec::new(),
        };
        walk.insert(path, node);
    }
    let mut first_names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, node) in &mut walk {
        let first = match node.kind {
            'd' => path.clone(),
            _ => first_names
                .entry(inodes[path])
                .or_insert_with(|| path.clone())
                .clone(),
        };
        node.first_name = first;
    }
    walk
}

/// Returns the tree that a pull makes of these archives, the lowest first, without a store.
///
/// # Panics
/// Where an archive cannot be read.
pub fn tree(archives: &[Vec<u8>]) -> Tree {
    let layers: Vec<Layer> = archives.iter().map(|archive| layer(archive)).collect();
    Tree::merge(&layers).expect("a test's layers reach no limit")
}

fn layer(archive: &[u8]) -> Layer {
    let mut reader = Reader::new();
    let mut builder = LayerBuilder::new();
    let mut hasher = None;
    let mut input = archive;
    while let Some(event) = reader
        .next(&mut input)
        .expect("an archive of a test can be read")
    {
        match (event, &mut hasher) {
            (Event::Entry(header), _) => {
                let wants = builder
                    .begin(header)
                    .expect("a test's layer reaches no limit");
                hasher = (wants != Wants::Nothing).then(Hasher::new);
            }
            (Event::Data { bytes, .. }, Some(hasher)) => hasher.update(bytes),
            (Event::Hole { length, .. }, Some(hasher)) => {
                let length = usize::try_from(length).expect("a hole of a test fits into memory");
                hasher.update(&vec![0; length]);
            }
            (Event::EntryEnd, _) => {
                if let Some(hasher) = hasher.take() {
                    builder.content(hasher.finish());
                }
            }
            (Event::Data { .. } | Event::Hole { .. }, None) => {}
        }
    }
    reader.finish().expect("an archive of a test is whole");
    builder.finish()
}

/// Returns what somebody would walk who had this tree on a disk.
///
/// # Panics
/// Where a hard link leads nowhere: no tree has such.
pub fn of_tree(tree: &Tree) -> Walk {
    let mut walk = Walk::new();
    for entry in &tree.entries {
        let path = entry.path.as_bytes().to_vec();
        if let Kind::HardLink { to } = &entry.kind {
            let node = walk
                .get(to.as_bytes())
                .expect("a hard link's target comes first")
                .clone();
            walk.insert(path, node);
            continue;
        }
        let numbers = |major: u32, minor: u32| hex(format!("{major}:{minor}").as_bytes());
        let (kind, mode, size, content) = match &entry.kind {
            Kind::Directory => ('d', entry.meta.mode, 0, String::new()),
            Kind::File { size, digest } => ('-', entry.meta.mode, *size, digest.hex()),
            Kind::Symlink { target } => ('l', 0o777, 0, hex(target)),
            Kind::CharDevice { major, minor } => ('c', entry.meta.mode, 0, numbers(*major, *minor)),
            Kind::BlockDevice { major, minor } => {
                ('b', entry.meta.mode, 0, numbers(*major, *minor))
            }
            _ => ('p', entry.meta.mode, 0, String::new()),
        };
        let xattrs = entry
            .meta
            .xattrs
            .iter()
            .map(|(name, value)| (xattr::image_name(name).into_owned(), value.clone()));
        let node = Node {
            kind,
            mode,
            owner: (entry.meta.uid, entry.meta.gid),
            mtime: (entry.meta.mtime.seconds, entry.meta.mtime.nanoseconds),
            size,
            content,
            xattrs: xattrs.collect(),
            first_name: path.clone(),
        };
        walk.insert(path, node);
    }
    // A tree's order differs from that of the names' bytes, which counts here: `a/b` comes before `a.b` there.
    let mut first_names: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, node) in &mut walk {
        let first = first_names
            .entry(node.first_name.clone())
            .or_insert_with(|| path.clone());
        node.first_name.clone_from(first);
    }
    walk
}

/// Returns one line for each difference: the name, what differs, and both sides.
pub fn differences(ours: &Walk, theirs: &Walk) -> Vec<String> {
    let names: std::collections::BTreeSet<&Vec<u8>> = ours.keys().chain(theirs.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let shown = format!("/{}", name.escape_ascii());
        match (ours.get(name), theirs.get(name)) {
            (Some(_), None) => lines.push(format!("{shown}: only ours has it")),
            (None, Some(_)) => lines.push(format!("{shown}: only theirs has it")),
            (Some(one), Some(other)) if one != other => {
                lines.push(format!("{shown}:\n  ours   {one:?}\n  theirs {other:?}"));
            }
            _ => {}
        }
    }
    lines
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_matches('-').as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit");
    digits
        .chunks_exact(2)
        .map(|pair| {
            u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).expect("two digits make a byte")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn the_walker_sees_what_is_there() {
        crate::need!(Cc);
        let folder = tempfile::tempdir().unwrap();
        let walker = compile(folder.path());
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("b")).unwrap();
        // 55, 56 and 64 bytes are where the digest's padding changes.
        for size in [0, 1, 55, 56, 64, 200_000] {
            std::fs::write(root.join(format!("file{size}")), vec![b'x'; size]).unwrap();
        }
        std::fs::hard_link(root.join("file1"), root.join("b/other")).unwrap();
        symlink("target", root.join("link")).unwrap();
        std::fs::set_permissions(root.join("file0"), std::fs::Permissions::from_mode(0o4711))
            .unwrap();
        let output = Command::new(walker).arg(&root).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let walk = parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(walk.len(), 10);
        for size in [0, 1, 55, 56, 64, 200_000] {
            let node = &walk[format!("file{size}").as_bytes()];
            assert_eq!((node.kind, node.size), ('-', size as u64));
            assert_eq!(
                node.content,
                wolffia_image::Digest::of(&vec![b'x'; size]).hex(),
                "{size}"
            );
        }
        assert_eq!(walk[&b"file0"[..]].mode, 0o4711);
        assert_eq!(walk[&b"file1"[..]].first_name, b"b/other");
        assert_eq!(unhex(&walk[&b"link"[..]].content), b"target");
        assert_eq!(walk[&b""[..]].kind, 'd');
    }
}
