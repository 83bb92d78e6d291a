// SPDX-License-Identifier: Apache-2.0
//! The shape of an image: what each layer says, and the one tree that all layers make.
//!
//! A [`Layer`] is a layer's archive without its data: entries in the archive's order, names checked, files known by digest.
//! [`LayerBuilder`] makes it while the archive passes. [`Tree::merge`] applies layers one upon another, as a person
//! unpacking them in turn would see it, and gives the [`Tree`] that a store writes out. Both have a compact record
//! ([`Layer::to_bytes`], [`Tree::to_bytes`]) which is checked wholly when read back, since a store's file may be damaged.
//!
//! What cannot or must not be taken is left out and listed as a [`Refusal`]; an image is never refused for a strange entry.
//! No path in a `Layer` or `Tree` has `..`, is absolute or runs through a link, and extended attributes stand under the
//! names that may be written to disk: see [`xattr`].

mod layer;
mod merge;
mod path;
mod record;
pub mod xattr;

use std::collections::BTreeMap;

pub use self::layer::{LayerBuilder, Wants};
pub use self::path::{PathError, RelPath};
pub use self::record::RecordError;
use crate::Digest;

/// Most entries of a layer, and of a tree.
pub const ENTRIES_MAX: usize = 1 << 21;
/// Longest path, as the kernel takes it in one call.
pub const PATH_BYTES_MAX: usize = 4095;
/// Longest name between two slashes, as Linux file systems keep it.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, as the kernel takes it.
pub const LINK_BYTES_MAX: usize = 4095;
/// Most symbolic links that one path may run through.
pub const LINKS_FOLLOWED_MAX: usize = 255;
/// Longest name of an extended attribute, as the kernel takes it.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Longest value of an extended attribute, as the kernel takes it.
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// Most bytes of paths, links and attributes that a layer or a tree is made of: what keeps them in memory is bounded.
pub const TREE_BYTES_MAX: usize = 256 << 20;
/// Most names that a merge looks up: a hostile image could make each of its entries walk through long links.
pub const STEPS_MAX: u64 = 1 << 26;
/// Most refusals that are kept word by word; further ones are counted.
pub const REFUSALS_MAX: usize = 1000;

/// A point in time: seconds since 1970, which may be negative, and nanoseconds onward from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub seconds: i64,
    /// Nanoseconds after those, below one thousand million.
    pub nanoseconds: u32,
}

/// Extended attributes, under the names that may be written to disk.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One name of a layer or a tree, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, from the root.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// Everything else. Of a hard link the target's holds, of a whiteout nothing.
    pub meta: Meta,
}

/// What everything but its name and content a file is known by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The twelve permission bits.
    pub mode: u32,
    /// The owner, as the image says: possibly outside of what is mapped.
    pub uid: u32,
    /// The group, as the image says.
    pub gid: u32,
    /// When its content was changed.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Meta {
    /// Returns what a directory gets that no layer describes: root's, 0755, from 1970.
    #[must_use]
    pub fn implied_directory() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// How many bytes it has.
        size: u64,
        /// What they are.
        digest: Digest,
    },
    /// A symbolic link; the target is any bytes but NUL.
    Symlink {
        /// What it says.
        target: Vec<u8>,
    },
    /// Another name of a file. In a tree `to` is the file's first name in the tree's order, and no hard link.
    HardLink {
        /// The other name.
        to: RelPath,
    },
    /// A named pipe.
    Fifo,
    /// A character device. Never made on disk: 0:0 is overlayfs' own sign for a whiteout.
    CharDevice {
        /// Its driver.
        major: u32,
        /// Its number there.
        minor: u32,
    },
    /// A block device. Never made on disk.
    BlockDevice {
        /// Its driver.
        major: u32,
        /// Its number there.
        minor: u32,
    },
    /// In layers only: what lower layers have under this name is gone.
    Whiteout,
    /// In layers only: what lower layers have in this directory is gone.
    Opaque,
}

/// What a layer says, in the order it says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// The entries.
    pub entries: Vec<Entry>,
    /// What was left out.
    pub refused: Refusals,
}

/// What all layers of an image make together.
///
/// Entries stand in the order of their paths, each directory before what is in it, the root first; a file with several names
/// stands under the first, and the others link to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// The entries.
    pub entries: Vec<Entry>,
    /// What was left out, of all layers.
    pub refused: Refusals,
}

/// Why a tree cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There are absurdly many entries.
    #[error("reading a layer: more than {ENTRIES_MAX} entries")]
    Entries,
    /// Paths, links and attributes are absurdly long in sum.
    #[error("reading a layer: more than {TREE_BYTES_MAX} bytes of names and attributes")]
    Bytes,
    /// Paths lead through absurdly many links.
    #[error("merging layers: more than {STEPS_MAX} names had to be looked up")]
    Steps,
}

/// What was left out of a layer or a tree: the first ones, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals {
    /// The first [`REFUSALS_MAX`].
    pub listed: Vec<Refusal>,
    /// All.
    pub count: u64,
}

impl Refusals {
    /// Adds one.
    pub(crate) fn add(&mut self, path: &[u8], reason: Reason) {
        self.count += 1;
        if self.listed.len() < REFUSALS_MAX {
            let path = path[..path.len().min(PATH_BYTES_MAX)].to_vec();
            self.listed.push(Refusal { path, reason });
        }
    }

    /// Adds those of another.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.count += other.count;
        let room = REFUSALS_MAX - self.listed.len().min(REFUSALS_MAX);
        self.listed.extend(other.listed.iter().take(room).cloned());
    }

    /// Returns whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// One thing that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The entry's name as the archive has it, cut at [`PATH_BYTES_MAX`].
    pub path: Vec<u8>,
    /// Why.
    pub reason: Reason,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.path.escape_ascii(), self.reason)
    }
}

/// Why something was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Reason {
    /// A path has a `..`.
    #[error("its path leads upward")]
    PathUpward = 1,
    /// A path is empty.
    #[error("it has no name")]
    PathEmpty = 2,
    /// A path, or a name in it, is too long.
    #[error("its path is too long")]
    PathLength = 3,
    /// A hard link's target has a `..`, is empty or too long.
    #[error("it is a hard link to a path that leads upward, is empty or too long")]
    HardLinkPath = 4,
    /// A hard link's target is not there.
    #[error("it is a hard link to something that is not there")]
    HardLinkMissing = 5,
    /// A hard link's target is a directory.
    #[error("it is a hard link to a directory")]
    HardLinkDirectory = 6,
    /// A hard link would replace what it links to.
    #[error("it is a hard link to itself or to something in it")]
    HardLinkItself = 7,
    /// A symbolic link's target is empty or too long.
    #[error("it is a symbolic link with an empty or too long target")]
    SymlinkTarget = 8,
    /// The root would become something else than a directory.
    #[error("it would replace the root directory")]
    Root = 9,
    /// A name is reserved for whiteouts.
    #[error("its name is reserved for whiteouts")]
    ReservedName = 10,
    /// The path leads through too many symbolic links, or round in a circle.
    #[error("its path leads through too many symbolic links")]
    LinkLoop = 11,
    /// The path leads through something that is no directory.
    #[error("its path leads through something that is no directory")]
    NotDirectory = 12,
    /// The entry is of a type that no file system has.
    #[error("it is of an unknown type")]
    UnknownType = 13,
    /// An extended attribute's name or value is too long, or its name is empty.
    #[error("one of its extended attributes is too long or has no name")]
    Xattr = 14,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::PathUpward,
        Self::PathEmpty,
        Self::PathLength,
        Self::HardLinkPath,
        Self::HardLinkMissing,
        Self::HardLinkDirectory,
        Self::HardLinkItself,
        Self::SymlinkTarget,
        Self::Root,
        Self::ReservedName,
        Self::LinkLoop,
        Self::NotDirectory,
        Self::UnknownType,
        Self::Xattr,
    ];
}
