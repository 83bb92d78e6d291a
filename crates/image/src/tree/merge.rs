// SPDX-License-Identifier: Apache-2.0
//! Layers applied one upon another, giving the tree that somebody sees who unpacks them in turn.
//!
//! # Theory of operation
//!
//! Names and what they stand for are apart, as on a disk: a name's node points at an inode, and hard links share one. Every node
//! remembers the last layer that wrote it or something in it; a whiteout, wherever it stands in its layer, removes only
//! what this layer has not written. For each entry:
//!
//! 1. Its directory is looked for from the root, through symbolic links of this and lower layers, which always stay
//!    inside: an absolute target begins at the root, and `..` at the root is the root. Missing directories are made, root's and
//!    0755. A lower layer's file in the way gives way, as in a union of directories; one of the same layer does not.
//! 2. A directory upon a directory gives it its own owner, mode, times and attributes, and keeps what is in it. Anything
//!    else takes away what was there, with everything in it: the last entry of a name holds.
//! 3. A hard link's target is looked for in the same way, before anything is taken away; it is what the name stands for
//!    at that moment, of this or a lower layer.
//!
//! Times of directories are what their last entry says, however much was put in later.
//!
//! A hostile image is bounded by twice [`ENTRIES_MAX`] names made, [`TREE_BYTES_MAX`] bytes of paths written and [`STEPS_MAX`] names looked up.
//!
//! Sources: OCI image-spec layer.md "Applying Changesets"; umoci `oci/layer/tar_extract.go` for the order of things.

use std::collections::BTreeMap;

use super::{
    ENTRIES_MAX, Entry, Kind, LINKS_FOLLOWED_MAX, Layer, Meta, PATH_BYTES_MAX, Reason, Refusals,
    RelPath, STEPS_MAX, TREE_BYTES_MAX, Tree, TreeError,
};

impl Tree {
    /// Applies layers one upon another, the lowest first.
    ///
    /// What a layer wants and cannot have is listed in the tree's refusals, after what the layers themselves left out.
    pub fn merge<'layers>(
        layers: impl IntoIterator<Item = &'layers Layer>,
    ) -> Result<Self, TreeError> {
        let mut forest = Forest::new();
        for layer in layers {
            forest.layer += 1;
            forest.refused.extend(&layer.refused);
            for entry in &layer.entries {
                match forest.apply(entry) {
                    Ok(()) => {}
                    Err(Stop::Refused(reason)) => {
                        forest.refused.add(entry.path.as_bytes(), reason);
                    }
                    Err(Stop::Limit(error)) => return Err(error),
                }
            }
        }
        forest.into_tree(TREE_BYTES_MAX)
    }
}

/// Why an entry was not applied.
enum Stop {
    Refused(Reason),
    Limit(TreeError),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

type NodeId = usize;
type InodeId = usize;
type Name = Box<[u8]>;

/// Most names made during a merge, those that later layers replace included.
const NODES_MAX: usize = 2 * ENTRIES_MAX;
/// The root's node.
const ROOT: NodeId = 0;

/// A name.
struct Node {
    inode: InodeId,
    children: BTreeMap<Name, NodeId>,
    /// The last layer that wrote this or something in it.
    layer: usize,
}

/// What names stand for.
struct Inode {
    kind: Kind,
    meta: Meta,
}

/// All names and inodes, those no longer reachable included.
struct Forest {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    /// The layer that is being applied, counted from 1.
    layer: usize,
    steps: u64,
    refused: Refusals,
}

/// Where a path leads.
struct Place {
    /// The directories on the way that are there, the root first.
    found: Vec<NodeId>,
    /// The names on the way that are not there.
    missing: Vec<Name>,
    /// Bytes of the names on the way, slashes included.
    bytes: usize,
}

impl Place {
    /// The last directory that is there.
    fn last(&self) -> NodeId {
        self.found.last().copied().unwrap_or(ROOT)
    }

    /// The directory that the path names, if it is there.
    fn directory(&self) -> Option<NodeId> {
        self.missing.is_empty().then(|| self.last())
    }
}

impl Forest {
    fn new() -> Self {
        Self {
            nodes: vec![Node {
                inode: 0,
                children: BTreeMap::new(),
                layer: 0,
            }],
            inodes: vec![Inode {
                kind: Kind::Directory,
                meta: Meta::implied_directory(),
            }],
            layer: 0,
            steps: 0,
            refused: Refusals::default(),
        }
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Stop> {
        match &entry.kind {
            Kind::Opaque => {
                let place = self.resolve(&entry.path)?;
                if let Some(directory) = place.directory().filter(|node| self.is_directory(*node)) {
                    let children = self.nodes[directory].children.keys().cloned().collect();
                    self.purge(directory, children);
                }
                Ok(())
            }
            Kind::Whiteout => {
                let Some(parent) = entry.path.parent() else {
                    return Ok(());
                };
                let place = self.resolve(&parent)?;
                if let Some(directory) = place.directory() {
                    self.purge(directory, vec![entry.path.name().into()]);
                }
                Ok(())
            }
            _ => self.put(entry),
        }
    }

    /// Puts an entry at its place.
    fn put(&mut self, entry: &Entry) -> Result<(), Stop> {
        let Some(parent) = entry.path.parent() else {
            self.inodes[self.nodes[ROOT].inode].meta = entry.meta.clone();
            return Ok(());
        };
        let name = entry.path.name();
        let place = self.resolve(&parent)?;
        if place.bytes + name.len() > PATH_BYTES_MAX {
            return Err(Reason::PathLength.into());
        }
        let there = place
            .directory()
            .and_then(|directory| self.nodes[directory].children.get(name).copied());
        let linked = match &entry.kind {
            Kind::HardLink { to } => Some(self.link_target(to, there)?),
            _ => None,
        };
        let directory = self.make_missing(place)?;
        if let Some(there) = there
            && entry.kind == Kind::Directory
            && self.is_directory(there)
        {
            let inode = self.nodes[there].inode;
            self.inodes[inode].meta = entry.meta.clone();
            self.nodes[there].layer = self.layer;
            return Ok(());
        }
        let inode = linked.unwrap_or_else(|| {
            self.inodes.push(Inode {
                kind: entry.kind.clone(),
                meta: entry.meta.clone(),
            });
            self.inodes.len() - 1
        });
        self.add_node(directory, name.into(), inode)?;
        Ok(())
    }

    /// Finds what a hard link that shall replace `there` stands for.
    fn link_target(&mut self, to: &RelPath, there: Option<NodeId>) -> Result<InodeId, Stop> {
        let parent = to.parent().ok_or(Reason::HardLinkDirectory)?;
        let place = self.resolve(&parent)?;
        let target = place
            .directory()
            .and_then(|directory| self.nodes[directory].children.get(to.name()).copied())
            .ok_or(Reason::HardLinkMissing)?;
        if self.is_directory(target) {
            return Err(Reason::HardLinkDirectory.into());
        }
        if there.is_some_and(|there| there == target || place.found.contains(&there)) {
            return Err(Reason::HardLinkItself.into());
        }
        Ok(self.nodes[target].inode)
    }

    /// Follows the names of a path, and of the links on it, as far as there are directories.
    fn resolve(&mut self, path: &RelPath) -> Result<Place, Stop> {
        let mut place = Place {
            found: vec![ROOT],
            missing: Vec::new(),
            bytes: 0,
        };
        // Names that were found, so that `..` of a link's target can take their bytes back.
        let mut lengths: Vec<usize> = Vec::new();
        let mut to_come: Vec<Name> = Vec::new();
        push_names(&mut to_come, path.as_bytes());
        let mut links_followed = 0;
        while let Some(name) = to_come.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(Stop::Limit(TreeError::Steps));
            }
            if *name == *b".." {
                if let Some(length) = lengths.pop() {
                    place.bytes -= length;
                    if place.missing.pop().is_none() {
                        place.found.pop();
                    }
                }
                continue;
            }
            let here = place.last();
            let child = if place.missing.is_empty() {
                self.nodes[here].children.get(&name).copied()
            } else {
                None
            };
            if let Some(child) = child {
                match &self.inodes[self.nodes[child].inode].kind {
                    Kind::Directory => {
                        lengths.push(name.len() + 1);
                        place.bytes += name.len() + 1;
                        place.found.push(child);
                        continue;
                    }
                    Kind::Symlink { target } => {
                        links_followed += 1;
                        if links_followed > LINKS_FOLLOWED_MAX {
                            return Err(Reason::LinkLoop.into());
                        }
                        if target.first() == Some(&b'/') {
                            place = Place {
                                found: vec![ROOT],
                                missing: Vec::new(),
                                bytes: 0,
                            };
                            lengths.clear();
                        }
                        push_names(&mut to_come, target);
                        continue;
                    }
                    // A file of a lower layer gives way to a directory, but not to a whiteout in it.
                    _ if self.nodes[child].layer == self.layer => {
                        return Err(Reason::NotDirectory.into());
                    }
                    _ => {}
                }
            }
            lengths.push(name.len() + 1);
            place.bytes += name.len() + 1;
            place.missing.push(name);
        }
        Ok(place)
    }

    /// Makes the directories that are missing at a place, marks all as written by this layer, and returns the last.
    fn make_missing(&mut self, place: Place) -> Result<NodeId, Stop> {
        for node in &place.found {
            self.nodes[*node].layer = self.layer;
        }
        let mut directory = place.last();
        for name in place.missing {
            self.inodes.push(Inode {
                kind: Kind::Directory,
                meta: Meta::implied_directory(),
            });
            directory = self.add_node(directory, name, self.inodes.len() - 1)?;
        }
        Ok(directory)
    }

    /// Gives a name to an inode; what had the name before is gone.
    fn add_node(&mut self, parent: NodeId, name: Name, inode: InodeId) -> Result<NodeId, Stop> {
        if self.nodes.len() > NODES_MAX {
            return Err(Stop::Limit(TreeError::Entries));
        }
        let node = self.nodes.len();
        self.nodes.push(Node {
            inode,
            children: BTreeMap::new(),
            layer: self.layer,
        });
        self.nodes[parent].children.insert(name, node);
        Ok(node)
    }

    /// Removes names of a directory, but for what this layer has written.
    fn purge(&mut self, directory: NodeId, names: Vec<Name>) {
        let mut to_purge: Vec<(NodeId, Name)> =
            names.into_iter().map(|name| (directory, name)).collect();
        while let Some((directory, name)) = to_purge.pop() {
            let Some(child) = self.nodes[directory].children.get(&name).copied() else {
                continue;
            };
            if self.nodes[child].layer == self.layer {
                let below = self.nodes[child].children.keys();
                to_purge.extend(below.map(|name| (child, name.clone())));
            } else {
                self.nodes[directory].children.remove(&name);
            }
        }
    }

    fn is_directory(&self, node: NodeId) -> bool {
        self.inodes[self.nodes[node].inode].kind == Kind::Directory
    }

    /// Writes down every name that is still there.
    fn into_tree(mut self, bytes_max: usize) -> Result<Tree, TreeError> {
        let mut entries = Vec::new();
        // Where an inode that was already met stands.
        let mut first_paths: Vec<Option<usize>> = vec![None; self.inodes.len()];
        let mut to_walk: Vec<(NodeId, RelPath)> = vec![(ROOT, RelPath::root())];
        let mut bytes = 0_usize;
        while let Some((node, path)) = to_walk.pop() {
            bytes += path.as_bytes().len();
            if entries.len() >= ENTRIES_MAX {
                return Err(TreeError::Entries);
            }
            if bytes > bytes_max {
                return Err(TreeError::Bytes);
            }
            // Taken in reverse, since the last that is pushed is walked first.
            for (name, child) in std::mem::take(&mut self.nodes[node].children)
                .into_iter()
                .rev()
            {
                let child_path = if path.is_root() {
                    name.to_vec()
                } else {
                    [path.as_bytes(), b"/", &name].concat()
                };
                to_walk.push((child, RelPath::from_normal(child_path)));
            }
            let inode = self.nodes[node].inode;
            let (kind, meta) = if let Some(first) = first_paths[inode] {
                let first: &Entry = &entries[first];
                let to = first.path.clone();
                bytes += to.as_bytes().len();
                (Kind::HardLink { to }, Meta::default())
            } else {
                first_paths[inode] = Some(entries.len());
                let Inode { kind, meta } = &mut self.inodes[inode];
                (std::mem::replace(kind, Kind::Fifo), std::mem::take(meta))
            };
            entries.push(Entry { path, kind, meta });
        }
        Ok(Tree {
            entries,
            refused: self.refused,
        })
    }
}

/// Puts the names of a path upon those still to come, its first on top.
fn push_names(to_come: &mut Vec<Name>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/').rev();
    to_come.extend(
        names
            .filter(|name| !matches!(*name, b"" | b"."))
            .map(Name::from),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(path: &str) -> Entry {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        Entry {
            path,
            kind: Kind::Fifo,
            meta: Meta::default(),
        }
    }

    #[test]
    fn looking_up_names_without_end_is_an_error() {
        let mut forest = Forest {
            steps: STEPS_MAX - 2,
            ..Forest::new()
        };
        assert!(forest.apply(&fifo("a/b/c")).is_ok());
        let stopped = forest.apply(&fifo("a/b"));
        assert!(matches!(stopped, Err(Stop::Limit(TreeError::Steps))));
    }

    #[test]
    fn paths_of_absurd_length_in_sum_are_an_error() {
        // A link to a deep directory makes long paths of short entries.
        let deep = format!("{}/", "d".repeat(250)).repeat(16);
        let target = Kind::Symlink {
            target: deep.clone().into(),
        };
        let mut entries = vec![fifo(&format!("{deep}first"))];
        entries.push(Entry {
            kind: target,
            ..fifo("l")
        });
        entries.extend((0..10).map(|place| fifo(&format!("l/{place}"))));
        let mut forest = Forest::new();
        assert!(entries.iter().all(|entry| forest.apply(entry).is_ok()));
        assert_eq!(forest.into_tree(10 * deep.len()), Err(TreeError::Bytes));
    }
}
