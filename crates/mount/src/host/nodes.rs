// SPDX-License-Identifier: Apache-2.0
//! Which node id means which path: a table that survives the server that made it.
//!
//! A node is its parent's id and a name; ids count from 2 and are never used twice. The table only grows, at most by what
//! the tree holds. Every new node is appended to a log in a memory file *before* the kernel hears of it; a server that
//! takes over reads the log and knows every id its predecessor gave out. A record cut off by a kill was never answered.
//!
//! Record: parent (4 bytes), length of the name (1 byte), name.

use std::{collections::HashMap, hash::BuildHasher, os::fd::OwnedFd};

use rustix::io::Errno;

use crate::fuse::protocol::ROOT_NODE;

/// Nodes at most: 64 bytes of ours each. A /usr has 100,000 to 1,000,000.
const NODES_MAX: usize = 4_000_000;
/// Depth at most: the kernel's `PATH_MAX` of one-letter names.
const DEPTH_MAX: usize = 2048;
/// The first id that a record can have.
const FIRST: u64 = ROOT_NODE + 1;
const RECORD_HEAD_BYTES: usize = 5;

/// The table of nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    log: OwnedFd,
    /// The log's content, and what is not written yet.
    bytes: Vec<u8>,
    written: usize,
    /// Where each record begins.
    starts: Vec<u32>,
    /// Hash of parent and name to id; a clash is resolved by counting the hash upward.
    ids: HashMap<u64, u32>,
    hasher: std::hash::RandomState,
}

impl Nodes {
    /// Reads a log: an empty one for a first server, a predecessor's otherwise.
    pub(crate) fn open(log: OwnedFd) -> Result<Self, Errno> {
        let mut nodes = Self {
            log,
            bytes: Vec::new(),
            written: 0,
            starts: Vec::new(),
            ids: HashMap::new(),
            hasher: std::hash::RandomState::new(),
        };
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            let at = bytes.len() as u64;
            match rustix::io::pread(&nodes.log, &mut chunk[..], at)? {
                0 => break,
                len => bytes.extend_from_slice(&chunk[..len]),
            }
        }
        let mut rest = &bytes[..];
        while let Some((parent, name, after)) = split_record(rest) {
            nodes.child(parent.into(), name)?;
            rest = after;
        }
        nodes.written = nodes.bytes.len();
        Ok(nodes)
    }

    /// Returns the id of a name in a directory, a new one if need be.
    pub(crate) fn child(&mut self, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        let parent = u32::try_from(parent).map_err(|_| Errno::STALE)?;
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let mut hash = self.hasher.hash_one((parent, name));
        while let Some(id) = self.ids.get(&hash) {
            if self.record((*id).into()) == Some((parent, name)) {
                return Ok((*id).into());
            }
            hash = hash.wrapping_add(1);
        }
        if self.starts.len() >= NODES_MAX {
            return Err(Errno::NOMEM);
        }
        let id = FIRST + self.starts.len() as u64;
        let id = u32::try_from(id).map_err(|_| Errno::NOMEM)?;
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::NOMEM)?;
        self.starts.push(start);
        self.bytes.extend_from_slice(&parent.to_ne_bytes());
        self.bytes.push(length);
        self.bytes.extend_from_slice(name);
        self.ids.insert(hash, id);
        Ok(id.into())
    }

    /// Writes new records to the log: must come before a reply that names them.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        while self.written < self.bytes.len() {
            let at = self.written as u64;
            self.written += rustix::io::pwrite(&self.log, &self.bytes[self.written..], at)?;
        }
        Ok(())
    }

    /// Returns a node's parent and name; the root has none.
    pub(crate) fn parent_and_name(&self, node: u64) -> Option<(u64, &[u8])> {
        self.record(node)
            .map(|(parent, name)| (parent.into(), name))
    }

    /// Returns a node's path below the root, without a leading slash: empty for the root.
    pub(crate) fn path(&self, node: u64) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT_NODE {
            let (parent, name) = self.record(at).ok_or(Errno::STALE)?;
            names.push(name);
            if names.len() > DEPTH_MAX {
                return Err(Errno::LOOP);
            }
            at = parent.into();
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    fn record(&self, id: u64) -> Option<(u32, &[u8])> {
        let index = usize::try_from(id.checked_sub(FIRST)?).ok()?;
        let start = *self.starts.get(index)? as usize;
        split_record(&self.bytes[start..]).map(|(parent, name, _)| (parent, name))
    }
}

/// Returns the first record and what follows it; `None` where there is no whole one.
fn split_record(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEAD_BYTES)?;
    let (name, rest) = rest.split_at_checked(head[4].into())?;
    Some((u32::from_ne_bytes(head[..4].try_into().ok()?), name, rest))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn log() -> OwnedFd {
        memfd_create("nodes", MemfdFlags::CLOEXEC).expect("a memory file")
    }

    #[test]
    fn one_name_has_one_id_and_its_path() {
        let mut nodes = Nodes::open(log()).expect("an empty log");
        let usr = nodes.child(ROOT_NODE, b"usr").expect("room");
        let bin = nodes.child(usr, b"bin").expect("room");
        assert_eq!(nodes.child(usr, b"bin"), Ok(bin));
        assert_ne!(nodes.child(bin, b"bin"), Ok(bin));
        assert_eq!(nodes.path(bin), Ok(b"usr/bin".to_vec()));
        assert_eq!(nodes.path(ROOT_NODE), Ok(Vec::new()));
        assert_eq!(nodes.path(99), Err(Errno::STALE));
    }

    /// A successor must know what the kernel was told, and nothing may break on a record cut off by a kill.
    #[test]
    fn a_successor_knows_every_id_that_was_written() {
        let log = log();
        let mut first = Nodes::open(log.try_clone().expect("a descriptor")).expect("an empty log");
        let usr = first.child(ROOT_NODE, b"usr").expect("room");
        let bin = first.child(usr, b"bin").expect("room");
        first.flush().expect("memory");
        let end = first.written as u64;
        rustix::io::pwrite(&log, &[2, 0, 0, 0, 9, b'c', b'u', b't'], end).expect("memory");
        let mut second = Nodes::open(log).expect("the log");
        assert_eq!(second.path(bin), Ok(b"usr/bin".to_vec()));
        let next = second.child(usr, b"lib").expect("room");
        assert_eq!(next, bin + 1);
        second.flush().expect("memory");
    }
}
