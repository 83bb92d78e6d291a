// SPDX-License-Identifier: Apache-2.0
//! Trees: the merged shape of an image's layers, and its stub trees.
//!
//! A tree is named by the chain ID of its layers, so images that differ only in their configuration share it. Its record
//! (all entries with their true owners, devices included) is what every stub tree of it is made from.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wolffia_image::Digest;
use wolffia_image::tree::{Layer, Tree};

use crate::error::{Doing, Result, StoreError};
use crate::images::{ImageRecord, absent_is_none};
use crate::layout::Store;
use crate::lock::{Hold, Lock};
use crate::record;
use crate::session::{Session, is_there};

/// Largest record of a layer or a tree that is read: `image` bounds what one is made of by half of it.
pub(crate) const TREE_BYTES_MAX: usize = 512 << 20;

/// How the files of claims end, beside the layers' records.
const CLAIM_SUFFIX: &str = ".claim";

/// The name of the plain directory that a mount driver unpacks beside a stub tree.
pub const UNPACKED: &str = "unpacked";

/// How the directories of a tree's stub trees begin.
pub(crate) const STUBS_PREFIX: &str = "stubs-";

/// Names a tree: the chain ID of its layers.
///
/// Source: OCI image-spec config.md, "Layer `ChainID`".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeId(Digest);

impl TreeId {
    /// Returns the name of the tree of these layers, the lowest first.
    pub fn of_layers(diff_ids: &[Digest]) -> Self {
        let mut layers = diff_ids.iter();
        let Some(lowest) = layers.next() else {
            return Self(Digest::of(b""));
        };
        Self(layers.fold(*lowest, |chain, layer| {
            Digest::of(format!("{chain} {layer}").as_bytes())
        }))
    }

    /// Returns the name of a tree some of whose layers are known by their indexes alone: `parts` is what
    /// [`of_layers`](Self::of_layers), or its like, makes of all their digests.
    #[must_use]
    pub fn of_indexes(parts: Self) -> Self {
        Self::of_text(&format!("wolffia lazy tree 1\n{parts}"))
    }

    /// Returns the name of a tree that is not made of tars: of what, the text says.
    pub(crate) fn of_text(text: &str) -> Self {
        Self(Digest::of(text.as_bytes()))
    }

    pub(crate) fn parse_hex(text: &str) -> Option<Self> {
        Digest::parse_hex(text).map(Self)
    }

    /// Returns the tree's directory, relative to the store.
    pub(crate) fn path(self) -> PathBuf {
        Path::new("trees").join(self.0.hex())
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What a mapping of owners could not show, counted when a stub tree was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StubFacts {
    /// Entries whose owner or group is beyond the mapping.
    pub unmapped: u64,
    /// Device nodes, which are left out.
    pub devices: u64,
    /// Extended attributes that the file system or the namespace refused.
    pub attributes_refused: u64,
    /// The id that stands for an owner beyond the mapping.
    pub shown_as: u32,
}

/// An image as mount drivers take it: a stub tree and where its objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRoot {
    /// Which tree.
    pub tree: TreeId,
    /// The root of the stub tree: the overlay's lower layer.
    pub stubs: PathBuf,
    /// The directory of objects: the overlay's data layer.
    pub objects: PathBuf,
    /// What the mapping could not show.
    pub facts: StubFacts,
    /// Further data layers: roots of what somebody else unpacked.
    pub elsewhere: Vec<PathBuf>,
    /// Where objects are that are still to come; nothing where all are here.
    pub lazy: Option<LazyTree>,
}

/// Objects that are still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LazyTree {
    /// The table that says where they are.
    pub table: PathBuf,
    /// How what nobody asks for is fetched, if it is.
    pub fill: Option<Fill>,
}

/// Bounds of what is fetched while nobody waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Packed bytes a second at most.
    pub bytes_per_second: Option<u64>,
    /// Packed bytes in all, at most.
    pub bytes_max: Option<u64>,
}

impl Store {
    /// Returns the image's stub tree for a mapping of owners, by the mapping's key.
    ///
    /// # Errors
    /// [`StoreError::NoStubs`] where there is none yet: make one with [`Session::put_stubs`]
    /// inside the user namespace. [`StoreError::SiteGone`] where the image stands on a directory that is not there now.
    pub fn rootfs(&self, image: &ImageRecord, mapping_key: &str) -> Result<ImageRoot> {
        self.rootfs_of(&image.display_name(), image.tree, mapping_key)?
            .ok_or_else(|| StoreError::NoStubs {
                image: image.display_name(),
                mapping: mapping_key.to_owned(),
            })
    }

    /// Returns the stub tree on which `owner`, a container, stands since [`Store::pin`]: it outlives its image.
    ///
    /// `None` where it stands on none, or has none for this mapping.
    pub fn pinned_rootfs(&self, owner: &str, mapping_key: &str) -> Result<Option<ImageRoot>> {
        let pins = self.pins()?;
        let Some((_, tree)) = pins.into_iter().find(|(name, _)| name == owner) else {
            return Ok(None);
        };
        self.rootfs_of(owner, tree, mapping_key)
    }

    fn rootfs_of(&self, name: &str, tree: TreeId, mapping_key: &str) -> Result<Option<ImageRoot>> {
        let directory = stubs_path(tree, mapping_key);
        let facts = absent_is_none(self.stub_facts(&directory))?;
        let Some(facts) = facts else {
            return Ok(None);
        };
        let sites = self.sites(tree)?;
        if let Some(gone) = sites.iter().find(|site| !site.is_there()) {
            return Err(StoreError::SiteGone {
                image: name.to_owned(),
                path: gone.path(),
            });
        }
        Ok(Some(ImageRoot {
            tree,
            stubs: self.path().join(directory).join("root"),
            objects: self.objects_path(),
            facts,
            elsewhere: crate::elsewhere::roots(&sites),
            lazy: self
                .lazy_table(tree)?
                .map(|table| LazyTree { table, fill: None }),
        }))
    }

    /// Reads what was counted when the stub tree in `directory` was written.
    pub(crate) fn stub_facts(&self, directory: &Path) -> Result<StubFacts> {
        let file = directory.join("facts.json");
        record::read_json(self.at(), &file, &self.path().join(&file))
    }

    /// Returns the shape of a tree: all entries with their true owners, devices included.
    pub fn tree(&self, id: TreeId) -> Result<Tree> {
        let file = id.path().join("record");
        let path = self.path().join(&file);
        let bytes =
            record::read_limited(self.at(), &file, TREE_BYTES_MAX).doing("reading", &path)?;
        Tree::from_bytes(&bytes).map_err(|error| damaged(&path, &error))
    }

    /// Returns whether the tree's shape is recorded.
    pub fn has_tree(&self, id: TreeId) -> Result<bool> {
        is_there(self, &id.path().join("record"))
    }

    /// Returns what is known about the layer whose tar has this digest, if it was stored here. All its objects are here.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>> {
        let file = layer_path(diff_id);
        let path = self.path().join(&file);
        let read = record::read_limited(self.at(), &file, TREE_BYTES_MAX).doing("reading", &path);
        let Some(bytes) = absent_is_none(read)? else {
            return Ok(None);
        };
        Layer::from_bytes(&bytes)
            .map(Some)
            .map_err(|error| damaged(&path, &error))
    }
}

impl Session<'_> {
    /// Records a tree's shape, unless it is there.
    pub fn put_tree(&self, id: TreeId, tree: &Tree) -> Result<()> {
        if self.store().has_tree(id)? {
            return Ok(());
        }
        let draft = self.next_name();
        let path = self.path_of(&draft);
        rustix::fs::mkdirat(self.at(), &draft, rustix::fs::Mode::RWXU).doing("making", &path)?;
        record::write_new(
            self.at(),
            Path::new(&draft).join("record"),
            &tree.to_bytes(),
        )
        .doing("writing", path.join("record"))?;
        self.publish_new(&draft, &id.path()).map(drop)
    }

    /// Claims the right to fetch a layer: one process fetches, the others wait for its record.
    ///
    /// Returns nothing while another has it. A claim ends with its process; a layer may be fetched without one, which only
    /// costs the others' bandwidth.
    pub fn claim_layer(&self, diff_id: &Digest) -> Result<Option<Claim<'_>>> {
        let file = Path::new("layers").join(format!("{}{CLAIM_SUFFIX}", diff_id.hex()));
        let path = || self.store().path().join(&file);
        match record::write_new(self.store().at(), &file, b"") {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.doing("writing", path())?,
        }
        let locked = match Lock::attempt(self.store().at(), &file, Hold::Exclusive) {
            // Who had it has just finished: whoever asks again makes a new one.
            Err(Errno::NOENT) => None,
            other => other.doing("locking", path())?,
        };
        Ok(locked.map(|lock| Claim {
            store: self.store(),
            file,
            _lock: lock,
        }))
    }

    /// Records a layer, whose tar was found to have this digest and whose objects are all in the store.
    pub fn put_layer(&self, diff_id: &Digest, layer: &Layer) -> Result<()> {
        self.replace(&layer_path(diff_id), &layer.to_bytes())
    }
}

/// The right to fetch a layer, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Claim<'store> {
    store: &'store Store,
    file: PathBuf,
    _lock: Lock,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // One that stays is taken over by the next, and goes with the next collection.
        if let Err(errno) =
            rustix::fs::unlinkat(self.store.at(), &self.file, rustix::fs::AtFlags::empty())
        {
            tracing::debug!(file = %self.file.display(), %errno, "a claim's file stays");
        }
    }
}

fn damaged(path: &Path, error: &dyn fmt::Display) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}

pub(crate) fn layer_path(diff_id: &Digest) -> PathBuf {
    Path::new("layers").join(diff_id.hex())
}

/// Returns the directory of a stub tree, relative to the store.
pub(crate) fn stubs_path(tree: TreeId, mapping_key: &str) -> PathBuf {
    // Keys come from `sys::idmap` and are plain; anything else must not leave the tree's directory.
    let plain = |byte: char| byte.is_ascii_alphanumeric() || byte == '-' || byte == '_';
    let key: String = mapping_key
        .chars()
        .map(|byte| if plain(byte) { byte } else { '_' })
        .collect();
    tree.path().join(format!("{STUBS_PREFIX}{key}"))
}
