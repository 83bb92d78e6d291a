// SPDX-License-Identifier: Apache-2.0
//! Garbage: what nobody needs any more, found by marking from the records, and pins, which keep trees from becoming it.
//!
//! # Theory of operation
//! Roots are the images and the pins; a pin says that a container stands on a tree. From there: images need their tree and
//! their layers, trees and layers need objects. Everything else is garbage, except layers that a pull brought in
//! the last [`UNUSED_LAYER_SECONDS`] and that no image names yet: a pull that was interrupted goes on from them.
//!
//! Collecting runs under the store's exclusive lock, so no session is adding anything meanwhile; where one is, nothing is
//! collected and the next command that removes something tries again. Records go before what they need: killed
//! at any point, the store has at worst garbage left. Stub trees go whole by a rename into a session before they are deleted.
//!
//! Nothing counts references: the kernel's link counts cannot be used (an object has one link), and a counter of our own
//! could be wrong.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir};
use serde::{Deserialize, Serialize};
use wolffia_image::tree::{Entry, Kind};
use wolffia_image::{Digest, ObjectName};

use crate::error::{Doing, Result, StoreError};
use crate::images::ImageRecord;
use crate::layout::{Store, open_directory};
use crate::lock::{Hold, Lock};
use crate::record;
use crate::session::Session;
use crate::trees::{TreeId, layer_path};

/// How long a layer is kept that no image names.
pub const UNUSED_LAYER_SECONDS: u64 = 24 * 60 * 60;

/// Longest pin that is read: a digest.
const PIN_BYTES_MAX: usize = 128;

/// What was collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Objects that are gone.
    pub objects: u64,
    /// Bytes that they had.
    pub bytes: u64,
    /// Trees that are gone, with all their stub trees.
    pub trees: u64,
    /// Layer records that are gone.
    pub layers: u64,
    /// Nothing was collected, because something was being added.
    pub put_off: bool,
}

/// Which layers count as garbage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnusedLayers {
    /// Keep young ones: an interrupted pull will want them.
    #[default]
    KeepYoung,
    /// All that no image names: after a disk became full.
    Drop,
}

/// What is needed.
#[derive(Debug, Default)]
struct Needed {
    trees: HashSet<TreeId>,
    layers: HashSet<Digest>,
    objects: HashSet<ObjectName>,
}

impl Store {
    /// Keeps the image's tree, with everything it needs, for a container, until [`Store::unpin`].
    ///
    /// `owner` is the container's identifier. Waits while somebody collects garbage.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] where the tree was collected in the meantime.
    pub fn pin(&self, owner: &str, image: &ImageRecord) -> Result<()> {
        let session = self.session()?;
        if !self.has_tree(image.tree)? {
            return Err(StoreError::NoImage(image.display_name()));
        }
        session.replace(&pin_path(owner), format!("{}\n", image.tree).as_bytes())
    }

    /// Ends what [`Store::pin`] began. The tree is collected by whoever collects next.
    pub fn unpin(&self, owner: &str) -> Result<()> {
        let path = pin_path(owner);
        match rustix::fs::unlinkat(self.at(), &path, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => other.doing("removing", self.path().join(path)),
        }
    }

    /// Returns who pins what.
    pub fn pins(&self) -> Result<Vec<(String, TreeId)>> {
        let mut pins = Vec::new();
        for owner in self.list("pins")? {
            let path = Path::new("pins").join(&owner);
            let bytes = record::read_limited(self.at(), &path, PIN_BYTES_MAX)
                .doing("reading", self.path().join(&path))?;
            let text = String::from_utf8_lossy(&bytes);
            let tree = text
                .trim_end()
                .strip_prefix("sha256:")
                .and_then(TreeId::parse_hex);
            let tree = tree.ok_or_else(|| StoreError::Damaged {
                path: self.path().join(&path),
                problem: "it names no tree".to_owned(),
            })?;
            pins.push((owner, tree));
        }
        Ok(pins)
    }

    /// Deletes what nobody needs. Stub trees can only be deleted inside the user namespace.
    ///
    /// # Errors
    /// Where any record cannot be read: what it needs would be unknown, so nothing is deleted.
    pub fn collect(&self, unused: UnusedLayers) -> Result<Collected> {
        let lock = Lock::attempt(self.at(), "lock", Hold::Exclusive)
            .doing("locking", self.path().join("lock"))?;
        let Some(lock) = lock else {
            return Ok(Collected {
                put_off: true,
                ..Collected::default()
            });
        };
        let needed = self.needed(unused)?;
        let mut collected = Collected::default();
        // A session of its own would wait for the lock that is held here.
        let session = self.session_under(lock)?;
        self.collect_trees(&session, &needed, &mut collected)?;
        self.collect_layers(&needed, &mut collected)?;
        self.collect_objects(&needed, &mut collected)?;
        Ok(collected)
    }

    /// Marks everything that images and pins need.
    fn needed(&self, unused: UnusedLayers) -> Result<Needed> {
        let mut needed = Needed::default();
        for id in self.image_ids()? {
            if let Some(image) = self.read_image(&id, &[])? {
                needed.trees.insert(image.tree);
                needed.layers.extend(image.config.diff_ids());
            }
        }
        needed
            .trees
            .extend(self.pins()?.into_iter().map(|(_, tree)| tree));
        if unused == UnusedLayers::KeepYoung {
            needed.layers.extend(self.young_layers()?);
        }
        let mut digests = HashSet::new();
        for tree in &needed.trees {
            // An image whose tree is lost keeps its layers: a new pull makes the tree from them.
            if self.has_tree(*tree)? {
                digests.extend(contents(&self.tree(*tree)?.entries));
            }
        }
        for layer in &needed.layers {
            if let Some(layer) = self.layer(layer)? {
                digests.extend(contents(&layer.entries));
            }
        }
        for digest in digests {
            needed.objects.extend(self.locate(&digest)?);
        }
        Ok(needed)
    }

    fn young_layers(&self) -> Result<Vec<Digest>> {
        let oldest = SystemTime::now() - Duration::from_secs(UNUSED_LAYER_SECONDS);
        let oldest = oldest
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |age| age.as_secs());
        let mut young = Vec::new();
        for (diff_id, path) in self.layer_files()? {
            let stat = rustix::fs::statat(self.at(), &path, AtFlags::SYMLINK_NOFOLLOW)
                .doing("looking at", self.path().join(&path))?;
            if u64::try_from(stat.st_mtime).is_ok_and(|written| written >= oldest) {
                young.push(diff_id);
            }
        }
        Ok(young)
    }

    pub(crate) fn layer_files(&self) -> Result<Vec<(Digest, PathBuf)>> {
        let names = self.list("layers")?;
        let digests = names.iter().filter_map(|name| Digest::parse_hex(name));
        Ok(digests
            .map(|digest| (digest, layer_path(&digest)))
            .collect())
    }

    pub(crate) fn tree_ids(&self) -> Result<Vec<TreeId>> {
        let names = self.list("trees")?;
        Ok(names
            .iter()
            .filter_map(|name| TreeId::parse_hex(name))
            .collect())
    }

    fn collect_trees(
        &self,
        session: &Session<'_>,
        needed: &Needed,
        collected: &mut Collected,
    ) -> Result<()> {
        for id in self.tree_ids()? {
            if !needed.trees.contains(&id) {
                session.take_away(&id.path())?;
                collected.trees += 1;
            }
        }
        Ok(())
    }

    fn collect_layers(&self, needed: &Needed, collected: &mut Collected) -> Result<()> {
        for (diff_id, path) in self.layer_files()? {
            if !needed.layers.contains(&diff_id) {
                rustix::fs::unlinkat(self.at(), &path, AtFlags::empty())
                    .doing("removing", self.path().join(&path))?;
                collected.layers += 1;
            }
        }
        self.collect_indexes()?;
        self.collect_unpacked()?;
        // Claims of killed processes: nobody fetches anything now.
        for name in self.list("layers")? {
            if Digest::parse_hex(&name).is_none() && crate::indexes::layer_of(&name).is_none() {
                let path = Path::new("layers").join(&name);
                rustix::fs::unlinkat(self.at(), &path, AtFlags::empty())
                    .doing("removing", self.path().join(&path))?;
            }
        }
        Ok(())
    }

    /// What was found at sites spares a walk, and nothing depends on it: it goes when it is old.
    fn collect_unpacked(&self) -> Result<()> {
        let directory = Path::new(crate::elsewhere::UNPACKED);
        if !crate::session::is_there(self, directory)? {
            return Ok(());
        }
        let oldest = SystemTime::now() - Duration::from_secs(UNUSED_LAYER_SECONDS);
        let oldest = oldest
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |age| age.as_secs());
        for name in self.list(crate::elsewhere::UNPACKED)? {
            let path = directory.join(name);
            let stat = rustix::fs::statat(self.at(), &path, AtFlags::SYMLINK_NOFOLLOW)
                .doing("looking at", self.path().join(&path))?;
            if u64::try_from(stat.st_mtime).is_ok_and(|written| written < oldest) {
                rustix::fs::unlinkat(self.at(), &path, AtFlags::empty())
                    .doing("removing", self.path().join(&path))?;
            }
        }
        Ok(())
    }

    fn collect_objects(&self, needed: &Needed, collected: &mut Collected) -> Result<()> {
        self.each_object(|name, path| {
            if name.is_some_and(|name| needed.objects.contains(&name)) {
                return Ok(());
            }
            let stat = rustix::fs::statat(&self.objects, path, AtFlags::SYMLINK_NOFOLLOW)
                .doing("looking at", self.objects_path().join(path))?;
            rustix::fs::unlinkat(&self.objects, path, AtFlags::empty())
                .doing("removing", self.objects_path().join(path))?;
            collected.objects += 1;
            collected.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            Ok(())
        })
    }

    /// Calls `visit` with every file below `objects/`: its name, if it is one, and its path there.
    pub(crate) fn each_object(
        &self,
        mut visit: impl FnMut(Option<ObjectName>, &Path) -> Result<()>,
    ) -> Result<()> {
        for shard in self.list("objects")? {
            let path = self.objects_path().join(&shard);
            let directory =
                open_directory(&self.objects, Path::new(&shard)).doing("opening", &path)?;
            for entry in Dir::read_from(&directory).doing("listing", &path)? {
                let entry = entry.doing("listing", &path)?;
                let rest = entry.file_name().to_string_lossy();
                if rest != "." && rest != ".." {
                    let relative = format!("{shard}/{rest}");
                    visit(ObjectName::parse(&relative), Path::new(&relative))?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the contents that entries need: an empty file needs none.
pub(crate) fn contents(entries: &[Entry]) -> impl Iterator<Item = Digest> {
    entries.iter().filter_map(|entry| match entry.kind {
        Kind::File { size, digest } if size > 0 => Some(digest),
        _ => None,
    })
}

fn pin_path(owner: &str) -> PathBuf {
    // Identifiers of containers are plain; anything else must not leave the directory.
    let plain = |byte: char| byte.is_ascii_alphanumeric() || byte == '-' || byte == '_';
    let owner: String = owner
        .chars()
        .map(|byte| if plain(byte) { byte } else { '_' })
        .collect();
    Path::new("pins").join(owner)
}
