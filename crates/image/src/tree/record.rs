// SPDX-License-Identifier: Apache-2.0
//! The record of a layer or a tree: compact bytes for a store's file, believed only after everything in it was checked.
//!
//! Paths share their beginning with the one before; numbers are variable in length; a digest of the whole stands at the
//! end, so that a damaged file is told from a wrong program. A file that was made with the right digest by a stranger is still
//! checked wholly: sizes, names, order, links, and that no attribute stands under a name that steers overlayfs.
//! `docs/formats/tree-record.md` has the layout.

use super::{
    ENTRIES_MAX, Entry, Kind, LINK_BYTES_MAX, Layer, Meta, REFUSALS_MAX, Reason, Refusal, Refusals,
    RelPath, TREE_BYTES_MAX, Time, Tree, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, Xattrs,
    xattr,
};
use crate::Digest;

/// The first bytes of every record, the version of the layout last.
const MAGIC: [u8; 5] = *b"WfTr\x01";
const OF_LAYER: u8 = b'L';
const OF_TREE: u8 = b'T';
const HEAD_BYTES: usize = MAGIC.len() + 1;

const KIND_MASK: u8 = 0x0f;
const HAS_XATTRS: u8 = 0x80;
const HAS_OWNER: u8 = 0x40;
const HAS_NANOSECONDS: u8 = 0x20;
const UNUSED_FLAG: u8 = 0x10;

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;
const FIFO: u8 = 4;
const CHAR_DEVICE: u8 = 5;
const BLOCK_DEVICE: u8 = 6;
const WHITEOUT: u8 = 7;
const OPAQUE: u8 = 8;

const MODE_MAX: u32 = 0o7777;
const NANOSECONDS_MAX: u32 = 999_999_999;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no record of this kind, or of a later layout.
    #[error("reading a tree's record: it is not one, or of another version")]
    Magic,
    /// The digest at the end is not that of the rest.
    #[error("reading a tree's record: it is damaged, its digest does not fit")]
    Digest,
    /// The bytes end within something.
    #[error("reading a tree's record: it ends early")]
    Truncated,
    /// There are bytes behind the end.
    #[error("reading a tree's record: bytes follow its end")]
    Trailing,
    /// A field has a value that it cannot have.
    #[error("reading entry {entry} of a tree's record: wrong {field}")]
    Field {
        /// Which entry, counted from 0; for what is behind the entries, their number.
        entry: usize,
        /// Which field.
        field: &'static str,
    },
}

impl Layer {
    /// Returns the record of this layer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write(OF_LAYER, &self.entries, &self.refused)
    }

    /// Reads the record of a layer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let (entries, refused) = read(OF_LAYER, bytes)?;
        for (place, entry) in entries.iter().enumerate() {
            let only_directory =
                entry.path.is_root() && !matches!(entry.kind, Kind::Directory | Kind::Opaque);
            if only_directory {
                return Err(RecordError::Field {
                    entry: place,
                    field: "kind of the root",
                });
            }
        }
        Ok(Self { entries, refused })
    }
}

impl Tree {
    /// Returns the record of this tree.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        write(OF_TREE, &self.entries, &self.refused)
    }

    /// Reads the record of a tree.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let (entries, refused) = read(OF_TREE, bytes)?;
        check_tree(&entries)?;
        Ok(Self { entries, refused })
    }

    /// Returns the entry of a path.
    #[must_use]
    pub fn get(&self, path: &RelPath) -> Option<&Entry> {
        let place = self
            .entries
            .binary_search_by(|entry| entry.path.cmp(path))
            .ok()?;
        self.entries.get(place)
    }
}

/// Checks what makes entries a tree: order, directories before what is in them, links to what is there.
fn check_tree(entries: &[Entry]) -> Result<(), RecordError> {
    let wrong = |entry, field| Err(RecordError::Field { entry, field });
    if !entries.first().is_some_and(|root| root.path.is_root()) {
        return wrong(0, "root");
    }
    // The directories that the current entry is in.
    let mut open: Vec<&RelPath> = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        if place > 0 && entries[place - 1].path >= entry.path {
            return wrong(place, "order");
        }
        if let Some(parent) = entry.path.parent() {
            while open.last().is_some_and(|last| **last != parent) {
                open.pop();
            }
            if open.is_empty() {
                return wrong(place, "directory");
            }
        }
        match &entry.kind {
            Kind::Directory => open.push(&entry.path),
            Kind::Whiteout | Kind::Opaque => return wrong(place, "kind"),
            _ if entry.path.is_root() => return wrong(place, "root"),
            Kind::HardLink { to } => {
                let target = entries[..place].binary_search_by(|earlier| earlier.path.cmp(to));
                let target = target.ok().map(|target| &entries[target].kind);
                if target.is_none_or(|kind| matches!(kind, Kind::Directory | Kind::HardLink { .. }))
                {
                    return wrong(place, "hard link");
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(of: u8, entries: &[Entry], refused: &Refusals) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(64 * entries.len() + 64));
    out.0.extend_from_slice(&MAGIC);
    out.0.push(of);
    out.number(entries.len() as u64);
    let mut before: &[u8] = b"";
    for entry in entries {
        let path = entry.path.as_bytes();
        let shared = path
            .iter()
            .zip(before)
            .take_while(|(one, other)| one == other)
            .count();
        out.number(shared as u64);
        out.bytes(&path[shared..]);
        out.entry(entry);
        before = path;
    }
    out.number(refused.count);
    out.number(refused.listed.len() as u64);
    for Refusal { path, reason } in &refused.listed {
        out.0.push(*reason as u8);
        out.bytes(path);
    }
    let digest = Digest::of(&out.0);
    out.0.extend_from_slice(digest.as_bytes());
    out.0
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low & 0x7f);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn entry(&mut self, Entry { kind, meta, .. }: &Entry) {
        let tag = match kind {
            Kind::Directory => DIRECTORY,
            Kind::File { .. } => FILE,
            Kind::Symlink { .. } => SYMLINK,
            Kind::HardLink { .. } => HARD_LINK,
            Kind::Fifo => FIFO,
            Kind::CharDevice { .. } => CHAR_DEVICE,
            Kind::BlockDevice { .. } => BLOCK_DEVICE,
            Kind::Whiteout => WHITEOUT,
            Kind::Opaque => OPAQUE,
        };
        if has_meta(tag) {
            self.meta(tag, meta);
        } else {
            self.0.push(tag);
        }
        match kind {
            Kind::File { size, digest } => {
                self.number(*size);
                self.0.extend_from_slice(digest.as_bytes());
            }
            Kind::Symlink { target } => self.bytes(target),
            Kind::HardLink { to } => self.bytes(to.as_bytes()),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::Directory | Kind::Fifo | Kind::Whiteout | Kind::Opaque => {}
        }
    }

    fn meta(&mut self, tag: u8, meta: &Meta) {
        let owned = meta.uid != 0 || meta.gid != 0;
        let flags = [
            (HAS_XATTRS, !meta.xattrs.is_empty()),
            (HAS_OWNER, owned),
            (HAS_NANOSECONDS, meta.mtime.nanoseconds != 0),
        ];
        let flags = flags
            .iter()
            .filter(|(_, set)| *set)
            .fold(0, |flags, (flag, _)| flags | flag);
        self.0.push(tag | flags);
        self.number(meta.mode.into());
        // Zigzag: times before 1970 stay short too.
        self.number((meta.mtime.seconds << 1 ^ meta.mtime.seconds >> 63).cast_unsigned());
        if flags & HAS_NANOSECONDS != 0 {
            self.number(meta.mtime.nanoseconds.into());
        }
        if flags & HAS_OWNER != 0 {
            self.number(meta.uid.into());
            self.number(meta.gid.into());
        }
        if flags & HAS_XATTRS != 0 {
            self.number(meta.xattrs.len() as u64);
            for (name, value) in &meta.xattrs {
                self.bytes(name);
                self.bytes(value);
            }
        }
    }
}

/// Whether an entry of this kind has owner, mode, times and attributes of its own.
fn has_meta(tag: u8) -> bool {
    !matches!(tag, HARD_LINK | WHITEOUT | OPAQUE)
}

fn read(of: u8, bytes: &[u8]) -> Result<(Vec<Entry>, Refusals), RecordError> {
    if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) || bytes.get(MAGIC.len()) != Some(&of) {
        return Err(RecordError::Magic);
    }
    let body = bytes
        .len()
        .checked_sub(Digest::BYTES)
        .filter(|body| *body >= HEAD_BYTES);
    let (body, digest) = bytes.split_at(body.ok_or(RecordError::Truncated)?);
    if Digest::of(body).as_bytes() != digest {
        return Err(RecordError::Digest);
    }
    let mut input = Reader {
        rest: &body[HEAD_BYTES..],
        entry: 0,
        bytes: 0,
    };
    let count = input.length(ENTRIES_MAX, "number of entries")?;
    // An entry has at least three bytes: a wrong count cannot ask for much memory.
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(input.rest.len() / 3));
    for place in 0..count {
        input.entry = place;
        let before = entries
            .last()
            .map_or(&b""[..], |entry| entry.path.as_bytes());
        let path = input.path(before)?;
        let (kind, meta) = input.entry()?;
        entries.push(Entry { path, kind, meta });
    }
    input.entry = count;
    let refused = input.refusals()?;
    if input.rest.is_empty() {
        Ok((entries, refused))
    } else {
        Err(RecordError::Trailing)
    }
}

struct Reader<'bytes> {
    rest: &'bytes [u8],
    /// Which entry is being read.
    entry: usize,
    /// What the paths read so far have in memory.
    bytes: usize,
}

impl<'bytes> Reader<'bytes> {
    fn wrong<T>(&self, field: &'static str) -> Result<T, RecordError> {
        Err(RecordError::Field {
            entry: self.entry,
            field,
        })
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let (first, rest) = self.rest.split_first().ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'bytes [u8], RecordError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a number of at most 64 bits in its shortest form.
    fn number(&mut self, field: &'static str) -> Result<u64, RecordError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part || (byte == 0 && shift > 0) {
                return self.wrong(field);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.wrong(field)
    }

    fn small(&mut self, max: u32, field: &'static str) -> Result<u32, RecordError> {
        match u32::try_from(self.number(field)?) {
            Ok(value) if value <= max => Ok(value),
            _ => self.wrong(field),
        }
    }

    fn length(&mut self, max: usize, field: &'static str) -> Result<usize, RecordError> {
        match usize::try_from(self.number(field)?) {
            Ok(value) if value <= max => Ok(value),
            _ => self.wrong(field),
        }
    }

    fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'bytes [u8], RecordError> {
        let length = self.length(max, field)?;
        self.take(length)
    }

    fn path(&mut self, before: &[u8]) -> Result<RelPath, RecordError> {
        let shared = self.length(before.len(), "path")?;
        let own = self.bytes(super::PATH_BYTES_MAX, "path")?;
        // As much is shared as can be: a path has one form.
        if own
            .first()
            .is_some_and(|first| before.get(shared) == Some(first))
        {
            return self.wrong("path");
        }
        self.normal(&[&before[..shared], own].concat(), "path")
    }

    /// Takes a path only as it would be written.
    fn normal(&mut self, bytes: &[u8], field: &'static str) -> Result<RelPath, RecordError> {
        self.bytes += bytes.len();
        if self.bytes > TREE_BYTES_MAX {
            return self.wrong(field);
        }
        if bytes.is_empty() {
            return Ok(RelPath::root());
        }
        match RelPath::parse(bytes) {
            Ok(path) if path.as_bytes() == bytes => Ok(path),
            _ => self.wrong(field),
        }
    }

    fn entry(&mut self) -> Result<(Kind, Meta), RecordError> {
        let byte = self.byte()?;
        let (tag, flags) = (byte & KIND_MASK, byte & !KIND_MASK);
        if flags & UNUSED_FLAG != 0 || (flags != 0 && !has_meta(tag)) {
            return self.wrong("flags");
        }
        let meta = if has_meta(tag) {
            self.meta(flags)?
        } else {
            Meta::default()
        };
        let kind = match tag {
            DIRECTORY => Kind::Directory,
            FILE => {
                let size = self.number("size")?;
                if i64::try_from(size).is_err() {
                    return self.wrong("size");
                }
                let mut digest = [0; Digest::BYTES];
                digest.copy_from_slice(self.take(Digest::BYTES)?);
                Kind::File {
                    size,
                    digest: Digest::from_bytes(digest),
                }
            }
            SYMLINK => {
                let target = self.bytes(LINK_BYTES_MAX, "link")?;
                if target.is_empty() || target.contains(&0) {
                    return self.wrong("link");
                }
                Kind::Symlink {
                    target: target.to_vec(),
                }
            }
            HARD_LINK => {
                let to = self.bytes(super::PATH_BYTES_MAX, "hard link")?;
                let to = self.normal(to, "hard link")?;
                if to.is_root() {
                    return self.wrong("hard link");
                }
                Kind::HardLink { to }
            }
            FIFO => Kind::Fifo,
            CHAR_DEVICE | BLOCK_DEVICE => {
                let major = self.small(u32::MAX, "device")?;
                let minor = self.small(u32::MAX, "device")?;
                match tag {
                    CHAR_DEVICE => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                }
            }
            WHITEOUT => Kind::Whiteout,
            OPAQUE => Kind::Opaque,
            _ => return self.wrong("kind"),
        };
        Ok((kind, meta))
    }

    fn meta(&mut self, flags: u8) -> Result<Meta, RecordError> {
        let mode = self.small(MODE_MAX, "mode")?;
        let seconds = self.number("time")?;
        let seconds = (seconds >> 1).cast_signed() ^ -(seconds & 1).cast_signed();
        let nanoseconds = match flags & HAS_NANOSECONDS {
            0 => 0,
            _ => match self.small(NANOSECONDS_MAX, "time")? {
                0 => return self.wrong("time"),
                nanoseconds => nanoseconds,
            },
        };
        let (uid, gid) = match flags & HAS_OWNER {
            0 => (0, 0),
            _ => match (
                self.small(u32::MAX, "owner")?,
                self.small(u32::MAX, "owner")?,
            ) {
                (0, 0) => return self.wrong("owner"),
                owner => owner,
            },
        };
        let xattrs = if flags & HAS_XATTRS == 0 {
            Xattrs::new()
        } else {
            self.xattrs()?
        };
        Ok(Meta {
            mode,
            uid,
            gid,
            mtime: Time {
                seconds,
                nanoseconds,
            },
            xattrs,
        })
    }

    fn xattrs(&mut self) -> Result<Xattrs, RecordError> {
        let mut xattrs = Xattrs::new();
        let count = self.number("attributes")?;
        if count == 0 {
            return self.wrong("attributes");
        }
        for _ in 0..count {
            let name = self.bytes(XATTR_NAME_BYTES_MAX, "attribute name")?;
            let in_order = xattrs
                .last_key_value()
                .is_none_or(|(last, _)| last.as_slice() < name);
            if name.is_empty() || name.contains(&0) || !in_order || !xattr::is_inert(name) {
                return self.wrong("attribute name");
            }
            let value = self.bytes(XATTR_VALUE_BYTES_MAX, "attribute value")?;
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        Ok(xattrs)
    }

    fn refusals(&mut self) -> Result<Refusals, RecordError> {
        let count = self.number("number of refusals")?;
        let listed_count = self.length(REFUSALS_MAX, "number of refusals")?;
        if (listed_count as u64) > count {
            return self.wrong("number of refusals");
        }
        let mut listed = Vec::with_capacity(listed_count.min(self.rest.len() / 2));
        for _ in 0..listed_count {
            let number = self.byte()?;
            let reason = Reason::ALL
                .into_iter()
                .find(|reason| *reason as u8 == number);
            let Some(reason) = reason else {
                return self.wrong("reason");
            };
            let path = self.bytes(super::PATH_BYTES_MAX, "refused path")?.to_vec();
            listed.push(Refusal { path, reason });
        }
        Ok(Refusals { listed, count })
    }
}
