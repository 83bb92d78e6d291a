// SPDX-License-Identifier: Apache-2.0
//! What the reader says: entries, pieces of files, and why an archive cannot be read on.

use std::collections::BTreeMap;

use super::{HEADERS_MAX, HOLES_BYTES_MAX, SPARSE_EXTENTS_MAX, SPECIAL_BYTES_MAX};
use crate::tree::Time;

/// What the reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'input> {
    /// A new entry. Its data follows if it is a file; [`Event::EntryEnd`] follows in any case.
    Entry(Header),
    /// The next bytes of the current file.
    Data {
        /// Where in the file they belong.
        offset: u64,
        /// The bytes, in the caller's buffer.
        bytes: &'input [u8],
    },
    /// A stretch of the current file that reads as zeros.
    Hole {
        /// Where in the file it begins.
        offset: u64,
        /// How many bytes it has.
        length: u64,
    },
    /// The current entry is complete.
    EntryEnd,
}

/// What an archive says about one entry, with all extensions applied and nothing judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name as it stands in the archive: any bytes but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Where a link points; empty for others.
    pub link: Vec<u8>,
    /// Bytes of a file once it is unpacked, holes included; 0 for others.
    pub size: u64,
    /// The twelve permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When its content was changed.
    pub mtime: Time,
    /// The device's numbers; 0 for others.
    pub device_major: u32,
    /// The device's numbers; 0 for others.
    pub device_minor: u32,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file, contiguous and sparse ones included.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something with a type flag that nobody here knows; its data is skipped.
    Unknown(u8),
}

/// Why an archive cannot be read on. Offsets count bytes of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header's checksum does not fit.
    #[error(
        "reading tar header at byte {offset}: wrong checksum, the archive is damaged or no tar"
    )]
    Checksum {
        /// Where the header begins.
        offset: u64,
    },
    /// A lone zero block stands between entries.
    #[error(
        "reading tar header at byte {offset}: a single zero block stands where two would end the archive"
    )]
    LoneZeroBlock {
        /// Where the block after it begins.
        offset: u64,
    },
    /// A numeric field is no number or beyond what the field can mean.
    #[error("reading tar header at byte {offset}: field {field} is no usable number")]
    Number {
        /// Where the header begins.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// An extended header is not made of `length key=value` lines, or a value has a NUL where none may be.
    #[error("reading extended tar header before byte {offset}: malformed record")]
    PaxRecord {
        /// Where the data of the header ends.
        offset: u64,
    },
    /// An extended header or a long name is longer than allowed.
    #[error(
        "reading extended tar header at byte {offset}: {bytes} bytes, at most {SPECIAL_BYTES_MAX} are allowed"
    )]
    SpecialSize {
        /// Where the header begins.
        offset: u64,
        /// How long it claims to be.
        bytes: u64,
    },
    /// The archive has absurdly many headers.
    #[error("reading tar header at byte {offset}: more than {HEADERS_MAX} headers")]
    Headers {
        /// Where the header begins.
        offset: u64,
    },
    /// A sparse file's map contradicts itself or the data.
    #[error(
        "reading sparse file before byte {offset} of the tar: its map is malformed or does not fit its data"
    )]
    SparseMap {
        /// How far the archive was read.
        offset: u64,
    },
    /// A sparse file has absurdly many extents.
    #[error(
        "reading sparse file before byte {offset} of the tar: more than {SPARSE_EXTENTS_MAX} extents"
    )]
    SparseExtents {
        /// How far the archive was read.
        offset: u64,
    },
    /// Sparse files have absurdly long holes.
    #[error(
        "reading sparse file before byte {offset} of the tar: more than {HOLES_BYTES_MAX} bytes of holes"
    )]
    Holes {
        /// How far the archive was read.
        offset: u64,
    },
    /// The archive continues on a volume that is not here.
    #[error("reading tar header at byte {offset}: the entry continues from another volume")]
    MultiVolume {
        /// Where the header begins.
        offset: u64,
    },
    /// The archive ends inside a header or a file.
    #[error("reading tar: it ends at byte {offset} in the middle of an entry")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
}
