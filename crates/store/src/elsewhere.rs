// SPDX-License-Identifier: Apache-2.0
//! Layers that somebody else unpacked: used where they are, never copied.
//!
//! # Theory of operation
//! A *site* is a directory below some root (a CVMFS repository, any read-only tree) that holds a layer, unpacked. Walking it gives a
//! [`Layer`] like any other, which is kept here (`unpacked/KEY`), so that it is walked once. Its files have no digests that anybody
//! computed: each stands under a *place name*, a hash of the site and the path, which no content has.
//!
//! A tree that was merged from such layers is not named by the chain ID, since nobody saw the tars: its name says which sites it stands
//! on. Beside its record lie `sites.json` and `places`: where each place name is. A stub tree of it redirects such files by their full path
//! from the site's root, and the root is joined to the mount as one more data layer: one for each root, not for each layer.
//!
//! A site that is gone (a repository that is not mounted) makes the image unusable until it is back: [`Store::rootfs`] says so. Nothing
//! that was kept here is wrong then, and nothing must be forgotten.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wolffia_image::Digest;
use wolffia_image::tree::{Kind, Layer, Tree};

use crate::error::{Doing, Result, StoreError};
use crate::images::absent_is_none;
use crate::layout::Store;
use crate::record;
use crate::session::{Session, is_there};
use crate::trees::{TREE_BYTES_MAX, TreeId};

/// Where records of unpacked layers lie.
pub(crate) const UNPACKED: &str = "unpacked";
/// The list of sites beside a tree's record.
const SITES: &str = "sites.json";
/// Where each place name is, beside a tree's record.
const PLACES: &str = "places";

/// Longest path from a root, as a redirect: longer ones do not fit beside the other attributes into a block of ext4.
pub const REDIRECT_BYTES_MAX: usize = 2048;

/// A directory that holds a layer, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    /// What is joined to the mount.
    pub root: PathBuf,
    /// The layer's directory, from there.
    pub directory: PathBuf,
}

impl Site {
    /// Returns the layer's directory.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.directory)
    }

    /// Tells whether it is there now.
    pub fn is_there(&self) -> bool {
        self.path().is_dir()
    }

    /// Returns the place name of a file.
    pub fn name_of(&self, path: &[u8]) -> Digest {
        let mut text = b"wolffia place 1\n".to_vec();
        text.extend(self.key().as_bytes());
        text.extend(path);
        Digest::of(&text)
    }

    /// Returns what the site is known by.
    fn key(&self) -> String {
        let mut text = b"wolffia site 1\n".to_vec();
        text.extend(self.root.as_os_str().as_bytes());
        text.push(0);
        text.extend(self.directory.as_os_str().as_bytes());
        Digest::of(&text).hex()
    }

    /// Returns the redirect to a file.
    pub fn redirect(&self, path: &[u8]) -> Vec<u8> {
        let mut redirect = b"/".to_vec();
        redirect.extend(self.directory.as_os_str().as_bytes());
        redirect.push(b'/');
        redirect.extend(path);
        redirect
    }
}

/// Where the files of a tree are that are nobody's objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The sites it stands on.
    pub sites: Vec<Site>,
    files: HashMap<Digest, (u16, Vec<u8>)>,
}

impl Places {
    /// Returns no places.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a site with the layer that was found there.
    pub fn add(&mut self, site: &Site, layer: &Layer) {
        let Ok(number) = u16::try_from(self.sites.len()) else {
            return;
        };
        self.sites.push(site.clone());
        for entry in &layer.entries {
            if let Kind::File { size: 1.., digest } = entry.kind {
                let path = entry.path.as_bytes().to_vec();
                let _same = self.files.insert(digest, (number, path));
            }
        }
    }

    /// Returns the redirect to a file's place.
    pub fn redirect(&self, name: &Digest) -> Option<Vec<u8>> {
        let (site, path) = self.files.get(name)?;
        Some(self.sites.get(usize::from(*site))?.redirect(path))
    }

    /// Returns the name of the tree of these layers, the lowest first: each by its tar's digest, or its site.
    pub fn tree_id(layers: &[(Digest, Option<Site>)]) -> TreeId {
        if layers.iter().all(|(_, site)| site.is_none()) {
            let diff_ids: Vec<Digest> = layers.iter().map(|(diff_id, _)| *diff_id).collect();
            return TreeId::of_layers(&diff_ids);
        }
        let mut text = String::from("wolffia tree of sites 1");
        for (diff_id, site) in layers {
            text.push('\n');
            text.push_str(&site.as_ref().map_or_else(|| diff_id.hex(), Site::key));
        }
        TreeId::of_text(&text)
    }

    fn keep_needed(&mut self, tree: &Tree) {
        let needed: std::collections::HashSet<&Digest> = tree
            .entries
            .iter()
            .filter_map(|entry| match &entry.kind {
                Kind::File { digest, .. } => Some(digest),
                _ => None,
            })
            .collect();
        self.files.retain(|name, _| needed.contains(name));
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut sorted: Vec<_> = self.files.iter().collect();
        sorted.sort();
        let mut bytes = Vec::new();
        for (name, (site, path)) in sorted {
            bytes.extend(name.as_bytes());
            bytes.extend(site.to_le_bytes());
            bytes.extend(u16::try_from(path.len()).unwrap_or(0).to_le_bytes());
            bytes.extend(path);
        }
        bytes
    }

    fn files_of(mut bytes: &[u8], sites: usize) -> Option<HashMap<Digest, (u16, Vec<u8>)>> {
        let mut files = HashMap::new();
        while !bytes.is_empty() {
            let (name, rest) = bytes.split_first_chunk::<32>()?;
            let (site, rest) = rest.split_first_chunk::<2>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (path, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            let site = u16::from_le_bytes(*site);
            if usize::from(site) >= sites {
                return None;
            }
            let _same = files.insert(Digest::from_bytes(*name), (site, path.to_vec()));
            bytes = rest;
        }
        Some(files)
    }
}

impl Store {
    /// Returns what was found at a site when it was walked.
    pub fn unpacked_layer(&self, site: &Site) -> Result<Option<Layer>> {
        let file = Path::new(UNPACKED).join(site.key());
        let path = self.path().join(&file);
        let read = record::read_limited(self.at(), &file, TREE_BYTES_MAX).doing("reading", &path);
        let Some(bytes) = absent_is_none(read)? else {
            return Ok(None);
        };
        let layer = Layer::from_bytes(&bytes);
        layer.map(Some).map_err(|error| StoreError::Damaged {
            path,
            problem: error.to_string(),
        })
    }

    /// Returns the sites that a tree stands on.
    pub fn sites(&self, tree: TreeId) -> Result<Vec<Site>> {
        let file = tree.path().join(SITES);
        let read = record::read_json(self.at(), &file, &self.path().join(&file));
        Ok(absent_is_none(read)?.unwrap_or_default())
    }

    /// Returns where the files of a tree are that are nobody's objects.
    pub fn places(&self, tree: TreeId) -> Result<Places> {
        let sites = self.sites(tree)?;
        if sites.is_empty() {
            return Ok(Places::default());
        }
        let file = tree.path().join(PLACES);
        let path = self.path().join(&file);
        let bytes =
            record::read_limited(self.at(), &file, TREE_BYTES_MAX).doing("reading", &path)?;
        let files = Places::files_of(&bytes, sites.len()).ok_or_else(|| StoreError::Damaged {
            path,
            problem: "it ends in the middle of an entry, or names no site".to_owned(),
        })?;
        Ok(Places { sites, files })
    }
}

impl Session<'_> {
    /// Keeps what was found at a site.
    pub fn put_unpacked_layer(&self, site: &Site, layer: &Layer) -> Result<()> {
        let store = self.store();
        match rustix::fs::mkdirat(store.at(), UNPACKED, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing("making", store.path().join(UNPACKED)),
        }
        self.replace(&Path::new(UNPACKED).join(site.key()), &layer.to_bytes())
    }

    /// Records a tree's shape with the places of its files, unless it is there.
    pub fn put_tree_of_sites(&self, id: TreeId, tree: &Tree, mut places: Places) -> Result<()> {
        if places.sites.is_empty() || is_there(self.store(), &id.path().join("record"))? {
            return self.put_tree(id, tree);
        }
        places.keep_needed(tree);
        let draft = self.next_name();
        let path = self.path_of(&draft);
        rustix::fs::mkdirat(self.at(), &draft, Mode::RWXU).doing("making", &path)?;
        let sites = record::to_json(&places.sites, &path)?;
        for (name, bytes) in [
            (SITES, sites),
            (PLACES, places.to_bytes()),
            ("record", tree.to_bytes()),
        ] {
            record::write_new(self.at(), Path::new(&draft).join(name), &bytes)
                .doing("writing", path.join(name))?;
        }
        self.publish_new(&draft, &id.path()).map(drop)
    }
}

/// Returns the distinct roots of sites, in order: a data layer each.
pub(crate) fn roots(sites: &[Site]) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    for site in sites {
        if !roots.contains(&site.root) {
            roots.push(site.root.clone());
        }
    }
    roots
}
