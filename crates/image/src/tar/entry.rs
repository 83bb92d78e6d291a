// SPDX-License-Identifier: Apache-2.0
//! Entries: put together from a header and what was said before it, with the map of a sparse file.

use super::block::BLOCK_BYTES;
use super::sparse::{self, Extent, SparseMap};
use super::{Body, EntryKind, Header, Reader, State, TarError, padding};

impl Reader {
    /// Puts together an entry from its header and everything that was said before it.
    pub(super) fn read_entry(&mut self, offset: u64) -> Result<(), TarError> {
        let local = self.next_pax.take();
        let attributes = self.globals.attributes(local, offset)?;
        let flag = self.block.type_flag();
        let path = self
            .next_path
            .take()
            .or(attributes.path)
            .unwrap_or_else(|| self.block.path());
        let link = self
            .next_link
            .take()
            .or(attributes.link)
            .unwrap_or_else(|| self.block.link());
        let kind = match flag {
            b'\0' if path.ends_with(b"/") => EntryKind::Directory,
            b'\0' | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            // `D` is a directory of a GNU incremental archive; its data lists names.
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Unknown(other),
        };
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let is_link = matches!(kind, EntryKind::HardLink | EntryKind::Symlink);
        let (device_major, device_minor) = match attributes.device {
            _ if !is_device => (0, 0),
            Some(device) => device,
            None => self.block.device(offset)?,
        };
        let stored_bytes = match attributes.size {
            Some(size) => size,
            None => self.block.size(offset)?,
        };
        let header = Header {
            path,
            kind,
            link: if is_link { link } else { Vec::new() },
            size: if kind == EntryKind::File {
                stored_bytes
            } else {
                0
            },
            mode: self.block.mode(offset)?,
            uid: attributes.uid.map_or_else(|| self.block.uid(offset), Ok)?,
            gid: attributes.gid.map_or_else(|| self.block.gid(offset), Ok)?,
            mtime: attributes
                .mtime
                .map_or_else(|| self.block.mtime(offset), Ok)?,
            device_major,
            device_minor,
            xattrs: attributes.xattrs,
        };
        self.state = match kind {
            EntryKind::File => return self.read_file(header, stored_bytes, attributes.sparse),
            EntryKind::HardLink if stored_bytes > 0 => {
                let tail = stored_bytes.saturating_add(padding(stored_bytes));
                State::Tell(Box::new((
                    header,
                    Body {
                        tail,
                        link_data: true,
                        ..Body::default()
                    },
                )))
            }
            EntryKind::Unknown(_) | EntryKind::Directory if flag != b'5' => {
                let tail = stored_bytes.saturating_add(padding(stored_bytes));
                State::Tell(Box::new((
                    header,
                    Body {
                        tail,
                        ..Body::default()
                    },
                )))
            }
            // These have no data whatever their size says.
            _ => State::Tell(Box::new((header, Body::default()))),
        };
        Ok(())
    }

    /// Goes on with a file: at once, or after its sparse map.
    fn read_file(
        &mut self,
        mut header: Header,
        stored_bytes: u64,
        sparse: Option<sparse::Announced>,
    ) -> Result<(), TarError> {
        if self.block.type_flag() == b'S' {
            let mut map = SparseMap::new(self.block.real_size(self.block_offset())?, stored_bytes);
            map.push_block(self.block.sparse_entries(), self.taken)?;
            header.size = map.size;
            if self.block.sparse_is_extended() {
                self.state = State::SparseBlocks(Box::new((header, map)));
                return Ok(());
            }
            return self.tell_sparse(header, map);
        }
        match sparse {
            None => {
                let extents = vec![Extent {
                    offset: 0,
                    length: stored_bytes,
                }];
                let tail = padding(stored_bytes);
                let body = Body {
                    extents,
                    size: stored_bytes,
                    tail,
                    ..Body::default()
                };
                self.state = State::Tell(Box::new((header, body)));
                Ok(())
            }
            Some(sparse::Announced { name, size, map }) => {
                header.path = name.unwrap_or(header.path);
                header.size = size;
                let Some(extents) = map else {
                    self.state = State::SparseText {
                        header: Box::new(header),
                        text: sparse::MapText::default(),
                        left: stored_bytes,
                    };
                    return Ok(());
                };
                let mut map = SparseMap::new(size, stored_bytes);
                for extent in extents {
                    map.push(extent, self.taken)?;
                }
                self.tell_sparse(header, map)
            }
        }
    }

    /// Takes an extension block of an old GNU sparse header.
    pub(super) fn read_sparse_block(&mut self) -> Result<(), TarError> {
        let State::SparseBlocks(parts) = std::mem::replace(&mut self.state, State::End) else {
            return Ok(());
        };
        let (header, mut map) = *parts;
        map.push_block(self.block.sparse_extension_entries(), self.taken)?;
        if self.block.sparse_extension_is_extended() {
            self.state = State::SparseBlocks(Box::new((header, map)));
            return Ok(());
        }
        self.tell_sparse(header, map)
    }

    /// Takes a block of a PAX 1.0 sparse map.
    pub(super) fn read_sparse_text(&mut self) -> Result<(), TarError> {
        let State::SparseText {
            header,
            mut text,
            left,
        } = std::mem::replace(&mut self.state, State::End)
        else {
            return Ok(());
        };
        let offset = self.taken;
        let left = left
            .checked_sub(BLOCK_BYTES)
            .ok_or(TarError::SparseMap { offset })?;
        if !text.push(&self.block.0, offset)? {
            self.state = State::SparseText { header, text, left };
            return Ok(());
        }
        let mut map = SparseMap::new(header.size, left);
        for extent in text.into_extents() {
            map.push(extent, offset)?;
        }
        self.tell_sparse(*header, map)
    }

    fn tell_sparse(&mut self, header: Header, map: SparseMap) -> Result<(), TarError> {
        let tail = padding(map.stored_bytes);
        let size = map.size;
        let extents = map.finish(self.taken)?;
        let body = Body {
            extents,
            size,
            tail,
            ..Body::default()
        };
        self.state = State::Tell(Box::new((header, body)));
        Ok(())
    }
}
