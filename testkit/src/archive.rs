// SPDX-License-Identifier: Apache-2.0
//! A tar writer that knows every spelling: what tests feed to the reader, and read back.
//!
//! Real writers each use a few of the forms that tar has grown; a reader must know them all. Here an [`Item`] says what
//! shall be in the archive and a [`Spelling`] how it is written, so that a test can say "whatever the spelling, the reader
//! sees the item". It shares no code with the reader.
//!
//! Sources: POSIX.1-2017 `pax`; GNU tar manual, "Tar Internals"; libarchive `tar(5)`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Seconds and nanoseconds since 1970.
pub type Time = (i64, u32);

/// What shall be in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The name, as it shall stand there.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ItemKind,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A directory.
    Directory,
    /// A file: its size, and its data by offset, which may leave holes.
    File {
        /// The size, holes included.
        size: u64,
        /// The data, ascending, not overlapping.
        data: Vec<(u64, Vec<u8>)>,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A hard link.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
}

impl Item {
    /// Returns an item of root's, from 1970, with usual permissions.
    pub fn new(path: impl Into<Vec<u8>>, kind: ItemKind) -> Item {
        let mode = match kind {
            ItemKind::Directory => 0o755,
            ItemKind::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Item {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: BTreeMap::new(),
        }
    }

    /// Returns a file without holes.
    pub fn file(path: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Item {
        let content = content.into();
        let size = content.len() as u64;
        let data = if content.is_empty() {
            Vec::new()
        } else {
            vec![(0, content)]
        };
        Item::new(path, ItemKind::File { size, data })
    }

    /// Returns a directory.
    pub fn directory(path: impl Into<Vec<u8>>) -> Item {
        Item::new(path, ItemKind::Directory)
    }

    /// Returns the content of a file with its holes as zeros; empty for others.
    ///
    /// # Panics
    /// Where the file is larger than memory.
    pub fn content(&self) -> Vec<u8> {
        let ItemKind::File { size, data } = &self.kind else {
            return Vec::new();
        };
        let mut content =
            vec![0; usize::try_from(*size).expect("a file of a test fits into memory")];
        for (offset, bytes) in data {
            let offset = usize::try_from(*offset).expect("offsets lie inside the file");
            content[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        content
    }
}

/// The family of forms in which an item is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Before POSIX: no magic.
    V7,
    /// POSIX 1988, its prefix for long names.
    #[default]
    Ustar,
    /// GNU: long names as entries of their own, binary numbers.
    Gnu,
    /// POSIX 2001: extended headers.
    Pax,
}

/// How a sparse file's map is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sparse {
    /// Not at all: holes as zeros.
    #[default]
    Dense,
    /// In the header and blocks behind it.
    Gnu,
    /// PAX 0.0: repeated records.
    Pax00,
    /// PAX 0.1: one record.
    Pax01,
    /// PAX 1.0: before the data.
    Pax10,
}

/// How an item is written. What the family cannot hold falls back to PAX records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a habit that writers have or have not"
)]
pub struct Spelling {
    /// The family.
    pub form: Form,
    /// The sparse map.
    pub sparse: Sparse,
    /// Attributes as `LIBARCHIVE.xattr` instead of `SCHILY.xattr`.
    pub libarchive_xattrs: bool,
    /// The checksum of signed bytes.
    pub signed_checksum: bool,
    /// Numbers padded by spaces instead of zeros.
    pub spaced_numbers: bool,
    /// Type `\0` for files, as before POSIX.
    pub old_type: bool,
    /// Hard links repeat the size, and the data if there is any.
    pub link_data: bool,
}

/// How an archive ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// By two zero blocks.
    #[default]
    Blocks,
    /// By zero blocks up to 10,240 bytes, as tar's default.
    Record,
    /// By one zero block.
    OneBlock,
    /// Not at all.
    Missing,
    /// By two zero blocks and something else behind.
    Garbage,
}

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl Writer {
    /// Returns an empty archive.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Adds an item, spelt this way.
    pub fn add(&mut self, item: &Item, spelling: Spelling) -> &mut Writer {
        let mut header = Header::new(spelling);
        let mut records: Vec<Record> = Vec::new();
        self.name(item, spelling, &mut header, &mut records);
        header.numbers(item, spelling, &mut records);
        for (name, value) in &item.xattrs {
            records.push(xattr_record(name, value, spelling.libarchive_xattrs));
        }
        let body = header.kind(item, spelling, &mut records);
        if !records.is_empty() {
            let data: Vec<u8> = records
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            self.special(b'x', b"./PaxHeaders/item", &data, spelling);
        }
        self.bytes.extend_from_slice(&header.sealed(spelling));
        self.data(&body);
        self
    }

    /// Adds records that hold for all items from here on.
    pub fn global(&mut self, records: &[(&[u8], &[u8])]) -> &mut Writer {
        let data: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.special(b'g', b"pax_global_header", &data, Spelling::default());
        self
    }

    /// Adds an entry of any type with any data: things that no [`Item`] can say.
    pub fn special(
        &mut self,
        kind: u8,
        name: &[u8],
        data: &[u8],
        spelling: Spelling,
    ) -> &mut Writer {
        let mut header = Header::new(spelling);
        header.put(0, &name[..name.len().min(100)]);
        header.put(100, b"0000644\0");
        header.octal(124, 12, data.len() as u64, spelling);
        header.0[156] = kind;
        self.bytes.extend_from_slice(&header.sealed(spelling));
        self.data(data);
        self
    }

    /// Returns the archive, ended this way.
    pub fn finish(mut self, end: End) -> Vec<u8> {
        let zeros = match end {
            End::Blocks | End::Garbage => 2 * BLOCK,
            End::Record => {
                (self.bytes.len() + 2 * BLOCK).next_multiple_of(10_240) - self.bytes.len()
            }
            End::OneBlock => BLOCK,
            End::Missing => 0,
        };
        self.bytes.resize(self.bytes.len() + zeros, 0);
        if end == End::Garbage {
            self.bytes
                .extend_from_slice(b"this is no block of an archive");
        }
        self.bytes
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Writes path and link: into the header, as GNU entries, or as records.
    fn name(
        &mut self,
        item: &Item,
        spelling: Spelling,
        header: &mut Header,
        records: &mut Vec<Record>,
    ) {
        let link: &[u8] = match &item.kind {
            ItemKind::Symlink(target) | ItemKind::HardLink(target) => target,
            _ => b"",
        };
        let is_file = matches!(item.kind, ItemKind::File { .. });
        let sparse_name = is_file && matches!(spelling.sparse, Sparse::Pax01 | Sparse::Pax10);
        if sparse_name {
            header.put(0, b"./GNUSparseFile.7/item");
            records.push((b"GNU.sparse.name".to_vec(), item.path.clone()));
        } else if item.path.len() <= 100 {
            header.put(0, &item.path);
        } else if let (Form::Ustar, Some(slash)) = (spelling.form, prefix_end(&item.path)) {
            header.put(345, &item.path[..slash]);
            header.put(0, &item.path[slash + 1..]);
        } else if spelling.form == Form::Gnu {
            self.special(
                b'L',
                b"././@LongLink",
                &[&item.path[..], b"\0"].concat(),
                spelling,
            );
            header.put(0, &item.path[..100]);
        } else {
            header.put(0, &item.path[..100]);
            records.push((b"path".to_vec(), item.path.clone()));
        }
        if link.len() <= 100 {
            header.put(157, link);
        } else if spelling.form == Form::Gnu {
            self.special(b'K', b"././@LongLink", &[link, b"\0"].concat(), spelling);
            header.put(157, &link[..100]);
        } else {
            records.push((b"linkpath".to_vec(), link.to_vec()));
        }
    }
}

type Record = (Vec<u8>, Vec<u8>);

/// Where a path can be cut in two for ustar.
fn prefix_end(path: &[u8]) -> Option<usize> {
    (1..path.len().min(156))
        .rev()
        .find(|at| path[*at] == b'/' && path.len() - at - 1 <= 100 && path.len() > at + 1)
}

fn xattr_record(name: &[u8], value: &[u8], libarchive: bool) -> Record {
    if !libarchive {
        return ([b"SCHILY.xattr.", name].concat(), value.to_vec());
    }
    let mut key = b"LIBARCHIVE.xattr.".to_vec();
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"._-".contains(byte) {
            key.push(*byte);
        } else {
            key.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    (key, base64(value))
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let mut bits = [0, 0, 0];
        bits[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for place in 0..=chunk.len() {
            text.push(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
        }
    }
    text
}

/// Writes a record, whose length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A header block in the making.
struct Header([u8; BLOCK]);

impl Header {
    fn new(spelling: Spelling) -> Header {
        let mut header = Header([0; BLOCK]);
        match spelling.form {
            Form::V7 => {}
            Form::Gnu => header.put(257, b"ustar  \0"),
            Form::Ustar | Form::Pax => header.put(257, b"ustar\x0000"),
        }
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn octal(&mut self, at: usize, length: usize, value: u64, spelling: Spelling) {
        let digits = length - 1;
        let text = if spelling.spaced_numbers {
            format!("{value:>digits$o} ")
        } else {
            format!("{value:0digits$o}\0")
        };
        self.put(at, text.as_bytes());
    }

    /// Writes a number in octal, else in binary for GNU; tells whether it fitted.
    fn number(&mut self, at: usize, length: usize, value: i64, spelling: Spelling) -> bool {
        let fits = u64::try_from(value).is_ok_and(|value| value < 1 << (3 * (length - 1)));
        if fits {
            self.octal(at, length, value.unsigned_abs(), spelling);
        } else if spelling.form == Form::Gnu {
            let mut bytes = vec![if value < 0 { 0xff } else { 0 }; length];
            bytes[length - 8..].copy_from_slice(&value.to_be_bytes());
            bytes[0] |= 0x80;
            // With eight bytes the mark takes a bit of the number: those used here leave it free.
            self.put(at, &bytes);
        }
        fits || spelling.form == Form::Gnu
    }

    /// Writes mode, owner and time, and as records what does not fit.
    fn numbers(&mut self, item: &Item, spelling: Spelling, records: &mut Vec<Record>) {
        self.octal(100, 8, item.mode.into(), spelling);
        for (at, key, id) in [(108, "uid", item.uid), (116, "gid", item.gid)] {
            if !self.number(at, 8, id.into(), spelling) {
                records.push((key.into(), id.to_string().into_bytes()));
            }
        }
        let (seconds, nanoseconds) = item.mtime;
        if !self.number(136, 12, seconds, spelling) || nanoseconds != 0 {
            records.push((
                b"mtime".to_vec(),
                decimal(seconds, nanoseconds).into_bytes(),
            ));
        }
    }

    /// Writes type, size and what depends on them, and returns the entry's data.
    fn kind(&mut self, item: &Item, spelling: Spelling, records: &mut Vec<Record>) -> Vec<u8> {
        let flag = match item.kind {
            ItemKind::File { .. } if spelling.sparse == Sparse::Gnu => b'S',
            ItemKind::File { .. } if spelling.old_type && !item.path.ends_with(b"/") => 0,
            ItemKind::File { .. } => b'0',
            ItemKind::HardLink(_) => b'1',
            ItemKind::Symlink(_) => b'2',
            ItemKind::CharDevice(..) => b'3',
            ItemKind::BlockDevice(..) => b'4',
            ItemKind::Directory => b'5',
            ItemKind::Fifo => b'6',
        };
        self.0[156] = flag;
        let body = match &item.kind {
            ItemKind::CharDevice(major, minor) | ItemKind::BlockDevice(major, minor) => {
                let fits = self.number(329, 8, (*major).into(), spelling)
                    && self.number(337, 8, (*minor).into(), spelling);
                if !fits {
                    records.push((b"SCHILY.devmajor".to_vec(), major.to_string().into_bytes()));
                    records.push((b"SCHILY.devminor".to_vec(), minor.to_string().into_bytes()));
                }
                Vec::new()
            }
            ItemKind::HardLink(_) if spelling.link_data => b"the data of the other name".to_vec(),
            ItemKind::File { size, data } => self.file(item, *size, data, spelling, records),
            _ => Vec::new(),
        };
        if !self.number(124, 12, body_size(&body, spelling, item), spelling) {
            records.push((b"size".to_vec(), body.len().to_string().into_bytes()));
        }
        // Blocks of an old GNU map stand behind the header but are no data.
        body
    }

    fn file(
        &mut self,
        item: &Item,
        size: u64,
        data: &[(u64, Vec<u8>)],
        spelling: Spelling,
        records: &mut Vec<Record>,
    ) -> Vec<u8> {
        let mut push = |key: &str, value: String| records.push((key.into(), value.into_bytes()));
        let packed: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        // GNU tar closes a map by an empty extent at the end.
        let mut map: Vec<(u64, u64)> = data
            .iter()
            .map(|(offset, bytes)| (*offset, bytes.len() as u64))
            .collect();
        map.push((size, 0));
        match spelling.sparse {
            Sparse::Dense => item.content(),
            Sparse::Gnu => [self.gnu_map(size, &map), packed].concat(),
            Sparse::Pax00 => {
                push("GNU.sparse.size", size.to_string());
                push("GNU.sparse.numblocks", map.len().to_string());
                for (offset, length) in map {
                    push("GNU.sparse.offset", offset.to_string());
                    push("GNU.sparse.numbytes", length.to_string());
                }
                packed
            }
            Sparse::Pax01 => {
                push("GNU.sparse.size", size.to_string());
                push("GNU.sparse.numblocks", map.len().to_string());
                let numbers: Vec<String> = map
                    .iter()
                    .map(|(offset, length)| format!("{offset},{length}"))
                    .collect();
                push("GNU.sparse.map", numbers.join(","));
                packed
            }
            Sparse::Pax10 => {
                push("GNU.sparse.major", "1".into());
                push("GNU.sparse.minor", "0".into());
                push("GNU.sparse.realsize", size.to_string());
                let mut text = format!("{}\n", map.len());
                for (offset, length) in map {
                    let _ = writeln!(text, "{offset}\n{length}");
                }
                let mut text = text.into_bytes();
                text.resize(text.len().next_multiple_of(BLOCK), 0);
                [text, packed].concat()
            }
        }
    }

    /// Writes the old GNU map: four extents in the header, 21 in each block behind it.
    fn gnu_map(&mut self, size: u64, map: &[(u64, u64)]) -> Vec<u8> {
        let plain = Spelling::default();
        let (first, rest) = map.split_at(map.len().min(4));
        for (slot, (offset, length)) in first.iter().enumerate() {
            self.octal(386 + 24 * slot, 12, *offset, plain);
            self.octal(398 + 24 * slot, 12, *length, plain);
        }
        self.0[482] = u8::from(!rest.is_empty());
        self.octal(483, 12, size, plain);
        let mut blocks = Vec::new();
        let count = rest.len().div_ceil(21);
        for (place, extents) in rest.chunks(21).enumerate() {
            let mut block = Header([0; BLOCK]);
            for (slot, (offset, length)) in extents.iter().enumerate() {
                block.octal(24 * slot, 12, *offset, plain);
                block.octal(24 * slot + 12, 12, *length, plain);
            }
            block.0[504] = u8::from(place + 1 < count);
            blocks.extend_from_slice(&block.0);
        }
        blocks
    }

    fn sealed(mut self, spelling: Spelling) -> [u8; BLOCK] {
        self.put(148, b"        ");
        let sum: i64 = if spelling.signed_checksum {
            self.0
                .iter()
                .map(|byte| i64::from(byte.cast_signed()))
                .sum()
        } else {
            self.0.iter().map(|byte| i64::from(*byte)).sum()
        };
        // A negative sum cannot be written: then the usual one stands there.
        let sum = if sum < 0 {
            self.0.iter().map(|byte| i64::from(*byte)).sum()
        } else {
            sum
        };
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// The size that a header says: that of the data without the blocks of an old GNU map.
fn body_size(body: &[u8], spelling: Spelling, item: &Item) -> i64 {
    let map_blocks = match &item.kind {
        ItemKind::File { data, .. } if spelling.sparse == Sparse::Gnu => {
            (data.len() + 1).saturating_sub(4).div_ceil(21) * BLOCK
        }
        _ => 0,
    };
    i64::try_from(body.len() - map_blocks).expect("a body fits into memory")
}

/// Writes a time as a decimal number; below zero the fraction counts downward.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = match seconds {
        0.. => ("", seconds, nanoseconds),
        _ => ("-", -(seconds + 1), 1_000_000_000 - nanoseconds),
    };
    format!("{sign}{whole}.{fraction:09}")
}
