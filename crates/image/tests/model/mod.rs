// SPDX-License-Identifier: Apache-2.0
//! A naive model of merging: one flat map from path to inode, and every rule spelt out anew for every entry.

use std::collections::BTreeMap;

use wolffia_image::Layer;
use wolffia_image::tree::{Entry, Kind, Meta, RelPath};

type Path = Vec<String>;

#[derive(Default)]
struct World {
    /// What is there: the inode, and the layer that last wrote it or something below it.
    names: BTreeMap<Path, (usize, usize)>,
    inodes: Vec<(Kind, Meta)>,
    layer: usize,
}

/// Applies layers; returns the entries of the tree, and how many were refused.
pub(crate) fn merge(layers: &[Layer]) -> (Vec<Entry>, u64) {
    let mut world = World::default();
    world
        .inodes
        .push((Kind::Directory, Meta::implied_directory()));
    world.names.insert(Vec::new(), (0, 0));
    let mut refused = 0;
    for layer in layers {
        world.layer += 1;
        refused += layer.refused.count;
        for entry in &layer.entries {
            refused += u64::from(world.apply(entry).is_none());
        }
    }
    (world.entries(), refused)
}

fn path_of(path: &RelPath) -> Path {
    path.names()
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

impl World {
    fn kind(&self, path: &[String]) -> Option<&Kind> {
        self.names
            .get(path)
            .map(|(inode, _)| &self.inodes[*inode].0)
    }

    /// Follows links on all of `path`; the result may not exist. `None`: refused.
    fn real(&self, path: &[String]) -> Option<Path> {
        let mut real = Path::new();
        let mut rest: Path = path.to_vec();
        let mut followed = 0;
        while !rest.is_empty() {
            let name = rest.remove(0);
            if name == ".." {
                real.pop();
                continue;
            }
            let mut next = real.clone();
            next.push(name);
            match self.kind(&next) {
                Some(Kind::Symlink { target }) => {
                    followed += 1;
                    if followed > 255 {
                        return None;
                    }
                    let target = String::from_utf8(target.clone()).unwrap();
                    if target.starts_with('/') {
                        real.clear();
                    }
                    let names = target.split('/').filter(|name| !name.is_empty());
                    rest = names.map(str::to_owned).chain(rest).collect();
                    continue;
                }
                Some(Kind::Directory) | None => {}
                // Something of this layer that is no directory does not give way.
                Some(_) if self.names[&next].1 == self.layer => return None,
                Some(_) => {}
            }
            real = next;
        }
        Some(real)
    }

    fn below(&self, path: &[String]) -> Vec<Path> {
        self.names
            .keys()
            .filter(|other| other.len() > path.len() && other.starts_with(path))
            .cloned()
            .collect()
    }

    fn remove(&mut self, path: &[String]) {
        for path in self.below(path) {
            self.names.remove(&path);
        }
        self.names.remove(path);
    }

    /// Removes what this layer has not written.
    fn hide(&mut self, path: &[String]) {
        if self
            .names
            .get(path)
            .is_some_and(|(_, layer)| *layer < self.layer)
        {
            self.names.remove(path);
        }
    }

    fn apply(&mut self, entry: &Entry) -> Option<()> {
        let path = path_of(&entry.path);
        match &entry.kind {
            Kind::Opaque => {
                let real = self.real(&path)?;
                if self.kind(&real) == Some(&Kind::Directory) {
                    self.below(&real).iter().for_each(|path| self.hide(path));
                }
                Some(())
            }
            Kind::Whiteout => {
                let (name, parent) = path.split_last()?;
                let mut real = self.real(parent)?;
                if self.kind(&real) == Some(&Kind::Directory) {
                    real.push(name.clone());
                    self.below(&real).iter().for_each(|path| self.hide(path));
                    self.hide(&real);
                }
                Some(())
            }
            kind => self.put(&path, kind, &entry.meta),
        }
    }

    fn put(&mut self, path: &[String], kind: &Kind, meta: &Meta) -> Option<()> {
        let Some((name, parent)) = path.split_last() else {
            self.inodes[0].1 = meta.clone();
            return Some(());
        };
        let parent = self.real(parent)?;
        let mut real = parent.clone();
        real.push(name.clone());
        let inode = match kind {
            Kind::HardLink { to } => {
                let to = path_of(to);
                let (name, to_parent) = to.split_last()?;
                let mut to = self.real(to_parent)?;
                // Through a file there is no way.
                if self.kind(&to) != Some(&Kind::Directory) {
                    return None;
                }
                to.push(name.clone());
                if self.kind(&to)? == &Kind::Directory || to.starts_with(&real) {
                    return None;
                }
                self.names[&to].0
            }
            Kind::Directory if self.kind(&real) == Some(&Kind::Directory) => {
                let inode = self.names[&real].0;
                self.inodes[inode].1 = meta.clone();
                inode
            }
            kind => {
                self.inodes.push((kind.clone(), meta.clone()));
                self.inodes.len() - 1
            }
        };
        for depth in 1..=parent.len() {
            let directory = &parent[..depth];
            if self.kind(directory) != Some(&Kind::Directory) {
                self.remove(directory);
                self.inodes
                    .push((Kind::Directory, Meta::implied_directory()));
                self.names
                    .insert(directory.to_vec(), (self.inodes.len() - 1, self.layer));
            }
            self.names.get_mut(directory)?.1 = self.layer;
        }
        if self.inodes[inode].0 != Kind::Directory || self.kind(&real) != Some(&Kind::Directory) {
            self.remove(&real);
        }
        self.names.insert(real, (inode, self.layer));
        Some(())
    }

    fn entries(self) -> Vec<Entry> {
        let mut first: BTreeMap<usize, RelPath> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, (inode, _)) in self.names {
            let text = path.join("/");
            let path = if text.is_empty() {
                RelPath::root()
            } else {
                RelPath::parse(text.as_bytes()).unwrap()
            };
            let (kind, meta) = match first.get(&inode) {
                Some(to) => (Kind::HardLink { to: to.clone() }, Meta::default()),
                None => self.inodes[inode].clone(),
            };
            first.entry(inode).or_insert_with(|| path.clone());
            entries.push(Entry { path, kind, meta });
        }
        entries
    }
}
