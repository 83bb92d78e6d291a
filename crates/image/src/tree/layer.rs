// SPDX-License-Identifier: Apache-2.0
//! A layer's archive turned into checked entries while it passes.
//!
//! Each tar header is judged alone here: path, link, extended attributes, whiteout names. What depends on other entries (links
//! on the way, missing parents, what a hard link means) is decided by the merge, which alone knows the layers below.
//!
//! Whiteouts: `.wh.NAME` removes NAME of lower layers, `.wh..wh..opq` everything of lower layers in its directory, whatever
//! type the marker has. All other names that begin with `.wh.` are reserved by the specification, as are things
//! inside directories of such a name (AUFS kept its own files there): they are left out. So are `.wh.` alone, `.wh..`
//! and `.wh...`, which would mean the directory itself or the one above.
//!
//! Source: OCI image-spec layer.md, "Representing Changes", "Whiteouts".

use super::{
    ENTRIES_MAX, Entry, Kind, LINK_BYTES_MAX, Layer, Meta, PathError, Reason, RelPath,
    TREE_BYTES_MAX, TreeError, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, Xattrs, xattr,
};
use crate::Digest;
use crate::tar::{EntryKind, Header};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// What the builder wants of the data that follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Its digest, by [`LayerBuilder::content`].
    Content {
        /// How many bytes there will be.
        size: u64,
    },
    /// Nothing: there is none, or it is to be thrown away.
    Nothing,
}

/// A layer in the making.
#[derive(Debug, Default)]
pub struct LayerBuilder {
    layer: Layer,
    /// Bytes of names and attributes so far.
    bytes: usize,
    /// A file whose digest is not known yet.
    open: Option<(RelPath, u64, Meta)>,
}

impl LayerBuilder {
    /// Returns a builder of an empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next header of the archive.
    ///
    /// A file whose content was never told is forgotten.
    pub fn begin(&mut self, header: Header) -> Result<Wants, TreeError> {
        self.open = None;
        if self.layer.entries.len() >= ENTRIES_MAX {
            return Err(TreeError::Entries);
        }
        let xattrs_bytes: usize = header
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.bytes += header.path.len() + header.link.len() + xattrs_bytes;
        if self.bytes > TREE_BYTES_MAX {
            return Err(TreeError::Bytes);
        }
        match judge(&header) {
            Err(reason) => {
                self.layer.refused.add(&header.path, reason);
                Ok(Wants::Nothing)
            }
            Ok((path, kind)) => {
                let meta = Meta {
                    mode: header.mode,
                    uid: header.uid,
                    gid: header.gid,
                    mtime: header.mtime,
                    xattrs: self.inert_xattrs(&header.path, header.xattrs),
                };
                match kind {
                    Judged::File => {
                        self.open = Some((path, header.size, meta));
                        Ok(Wants::Content { size: header.size })
                    }
                    Judged::Other(kind @ Kind::HardLink { .. }) | Judged::Marker(kind) => {
                        self.layer.entries.push(Entry {
                            path,
                            kind,
                            meta: Meta::default(),
                        });
                        Ok(Wants::Nothing)
                    }
                    Judged::Other(kind) => {
                        self.layer.entries.push(Entry { path, kind, meta });
                        Ok(Wants::Nothing)
                    }
                }
            }
        }
    }

    /// Takes the digest of the file last begun, holes as zeros.
    pub fn content(&mut self, digest: Digest) {
        if let Some((path, size, meta)) = self.open.take() {
            self.layer.entries.push(Entry {
                path,
                kind: Kind::File { size, digest },
                meta,
            });
        }
    }

    /// Returns the layer.
    #[must_use]
    pub fn finish(self) -> Layer {
        self.layer
    }

    /// Renames attributes that steer, and drops those that cannot be.
    fn inert_xattrs(&mut self, path: &[u8], xattrs: Xattrs) -> Xattrs {
        let mut inert = Xattrs::new();
        for (name, value) in xattrs {
            let Some(stored) = xattr::stored_name(&name) else {
                continue;
            };
            if name.is_empty()
                || name.contains(&0)
                || stored.len() > XATTR_NAME_BYTES_MAX
                || value.len() > XATTR_VALUE_BYTES_MAX
            {
                self.layer.refused.add(path, Reason::Xattr);
                continue;
            }
            inert.insert(stored.into_owned(), value);
        }
        inert
    }
}

enum Judged {
    File,
    Other(Kind),
    Marker(Kind),
}

/// Judges path, link and type of an entry.
fn judge(header: &Header) -> Result<(RelPath, Judged), Reason> {
    let path = RelPath::parse(&header.path).map_err(|error| match error {
        PathError::Upward => Reason::PathUpward,
        PathError::Length => Reason::PathLength,
        PathError::Empty | PathError::Nul => Reason::PathEmpty,
    })?;
    if path.is_root() && header.kind != EntryKind::Directory {
        return Err(Reason::Root);
    }
    if let Some(marker) = whiteout(&path)? {
        return Ok((marker.0, Judged::Marker(marker.1)));
    }
    let (major, minor) = (header.device_major, header.device_minor);
    let kind = match header.kind {
        EntryKind::File => return Ok((path, Judged::File)),
        EntryKind::Directory => Kind::Directory,
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::CharDevice => Kind::CharDevice { major, minor },
        EntryKind::BlockDevice => Kind::BlockDevice { major, minor },
        EntryKind::Symlink => {
            let target = &header.link;
            if target.is_empty() || target.len() > LINK_BYTES_MAX || target.contains(&0) {
                return Err(Reason::SymlinkTarget);
            }
            Kind::Symlink {
                target: target.clone(),
            }
        }
        EntryKind::HardLink => {
            let to = RelPath::parse(&header.link).map_err(|_| Reason::HardLinkPath)?;
            if to.is_root() {
                return Err(Reason::HardLinkDirectory);
            }
            Kind::HardLink { to }
        }
        EntryKind::Unknown(_) => return Err(Reason::UnknownType),
    };
    Ok((path, Judged::Other(kind)))
}

/// Tells whether a path is a whiteout, and of what.
fn whiteout(path: &RelPath) -> Result<Option<(RelPath, Kind)>, Reason> {
    let Some(parent) = path.parent() else {
        return Ok(None);
    };
    if parent.names().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(Reason::ReservedName);
    }
    if path.name() == OPAQUE_NAME {
        return Ok(Some((parent, Kind::Opaque)));
    }
    let Some(hidden) = path.name().strip_prefix(WHITEOUT_PREFIX) else {
        return Ok(None);
    };
    if hidden.starts_with(WHITEOUT_PREFIX) {
        return Err(Reason::ReservedName);
    }
    let hidden = parent.join(hidden).map_err(|_| Reason::ReservedName)?;
    Ok(Some((hidden, Kind::Whiteout)))
}
