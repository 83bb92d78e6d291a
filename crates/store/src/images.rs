// SPDX-License-Identifier: Apache-2.0
//! Images: what was pulled, under which names, standing on which tree.
//!
//! # Theory of operation
//! `images/HEX/` is named by the digest of the configuration, the image's identifier. It holds `config.json` and
//! `manifest.json` byte for byte as they came, and `record.json` with what this store adds. The directory is written in a
//! session and renamed into place; a later pull of the same configuration by another manifest replaces `record.json`
//! and `manifest.json` one by one (either alone is consistent: both are only looked at by people and by `push`).
//!
//! A name is one file below `names/`, called by the digest of the name itself, since a reference is longer than a file
//! name may be. Giving a name replaces that file by rename: a name never points nowhere in between.
//!
//! Taking an image away removes its names first, then its record; what nobody needs any more is collected afterwards
//! (`garbage.rs`), by whoever does it next should this process be killed.
//!
//! Images and names change together under `names.lock`, or a removal could take an image away that somebody is just
//! naming. Readers need no lock.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wolffia_image::config::CONFIG_BYTES_MAX;
use wolffia_image::manifest::MANIFEST_BYTES_MAX;
use wolffia_image::{Descriptor, Digest, ImageConfig, Reference};

use crate::error::{Doing, Result, StoreError};
use crate::layout::{Store, open_directory};
use crate::lock::{Hold, Lock};
use crate::record;
use crate::session::{Session, is_there, list};
use crate::trees::TreeId;

/// Shortest beginning of an identifier that means an image.
const PREFIX_CHARS_MIN: usize = 4;

/// One layer of an image, the lowest first in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Where the packed layer is; `None` for an image that was made here.
    pub descriptor: Option<Descriptor>,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The digest of the configuration: the image's identifier.
    pub id: Digest,
    /// The digest of the manifest it was last pulled by.
    pub manifest_digest: Digest,
    /// That manifest, as it came.
    pub manifest: Vec<u8>,
    /// Its names as given and completed, sorted: `docker.io/library/debian:12`.
    pub names: Vec<Reference>,
    /// How containers of it run.
    pub config: ImageConfig,
    /// Bytes of all regular files of its tree.
    pub size_bytes: u64,
    /// When the image was built, as its configuration says it: RFC 3339 text.
    pub created: Option<String>,
    /// When it was last pulled, in seconds since 1970.
    pub pulled_seconds: u64,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// Which tree it stands on.
    pub tree: TreeId,
}

/// What `record.json` holds beside the other two files.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    manifest_digest: Digest,
    size_bytes: u64,
    pulled_seconds: u64,
    layers: Vec<ImageLayer>,
    /// The tree, where it is another than the layers' chain ID says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<TreeId>,
}

/// One file below `names/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) reference: Reference,
    pub(crate) image: Digest,
}

/// What [`Store::remove`] took away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// The image, if it is gone too.
    pub image: Option<Digest>,
}

impl ImageRecord {
    /// Returns a record that has no names yet. The tree is the one that follows from the configuration.
    pub fn new(
        config: ImageConfig,
        manifest: Vec<u8>,
        layers: Vec<ImageLayer>,
        size_bytes: u64,
        pulled_seconds: u64,
    ) -> Self {
        Self {
            id: config.digest(),
            manifest_digest: Digest::of(&manifest),
            manifest,
            names: Vec::new(),
            size_bytes,
            created: config.document().created.clone(),
            pulled_seconds,
            tree: TreeId::of_layers(config.diff_ids()),
            layers,
            config,
        }
    }

    /// Returns the name that people know the image by, or its short identifier.
    pub fn display_name(&self) -> String {
        self.names
            .first()
            .map_or_else(|| self.id.short(), Reference::familiar)
    }
}

impl Store {
    /// Returns all images, the last pulled first. Damaged ones are left out with a warning.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        let names = self.names()?;
        let mut images = Vec::new();
        for id in self.image_ids()? {
            match self.read_image(&id, &names) {
                Ok(image) => images.extend(image),
                Err(error) => tracing::warn!(%id, %error, "an image cannot be read"),
            }
        }
        images.sort_by(|one, other| {
            (other.pulled_seconds, one.id).cmp(&(one.pulled_seconds, other.id))
        });
        Ok(images)
    }

    /// Returns the image that `text` means: a name, an identifier, or the beginning of one.
    ///
    /// A name wins over an identifier that looks alike, as everywhere.
    pub fn resolve(&self, text: &str) -> Result<ImageRecord> {
        let id = self.resolve_id(text)?;
        self.read_image(&id, &self.names()?)?
            .ok_or_else(|| StoreError::NoImage(text.to_owned()))
    }

    /// Returns the image of that name, if it is here.
    pub fn find(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        match self.image_of(reference)? {
            Some(id) => self.read_image(&id, &self.names()?),
            None => Ok(None),
        }
    }

    /// Returns the image with this identifier, if it is here.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        self.read_image(id, &self.names()?)
    }

    /// Gives the image another name; the name may have meant another image before.
    pub fn tag(&self, image: &Digest, reference: &Reference) -> Result<()> {
        let session = self.session()?;
        let _names = self.lock_names()?;
        if !self.has_image(image)? {
            return Err(StoreError::NoImage(image.to_string()));
        }
        session.name_image(reference, image)
    }

    pub(crate) fn has_image(&self, id: &Digest) -> Result<bool> {
        is_there(self, &image_path(id))
    }

    /// Waits until nobody else changes images and names.
    fn lock_names(&self) -> Result<Lock> {
        Lock::wait(self.at(), "names.lock", Hold::Exclusive)
            .doing("locking", self.path().join("names.lock"))
    }

    /// Takes a name away; says whether it was there.
    pub fn untag(&self, reference: &Reference) -> Result<bool> {
        let _held = self.lock_shared()?;
        let _names = self.lock_names()?;
        self.remove_name(reference)
    }

    fn remove_name(&self, reference: &Reference) -> Result<bool> {
        let path = name_path(reference);
        match rustix::fs::unlinkat(self.at(), &path, rustix::fs::AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(false),
            other => other
                .map(|()| true)
                .doing("removing", self.path().join(path)),
        }
    }

    /// Does what `rmi` promises: takes the name away, and the image with its last name.
    ///
    /// `users` are the containers that stand on the image. With `force` an image goes although it has several names and
    /// was given by identifier; a used one loses its names and its record, while its tree stays as long as
    /// it is pinned. Call [`Store::collect`] afterwards: this frees no space yet.
    pub fn remove(&self, text: &str, users: &[String], force: bool) -> Result<Removed> {
        let session = self.session()?;
        let _names = self.lock_names()?;
        let image = self.resolve(text)?;
        let by_name = self.name_meant(text)?;
        if let Some(name) = by_name
            && image.names.len() > 1
        {
            self.remove_name(&name)?;
            return Ok(Removed {
                names: vec![name],
                image: None,
            });
        }
        if !force {
            if let Some(user) = users.first() {
                return Err(StoreError::InUse {
                    image: image.display_name(),
                    user: user.clone(),
                });
            }
            if image.names.len() > 1 {
                return Err(StoreError::SeveralNames {
                    image: image.id.short(),
                    count: image.names.len(),
                });
            }
        }
        for name in &image.names {
            self.remove_name(name)?;
        }
        session.take_away(&image_path(&image.id))?;
        Ok(Removed {
            names: image.names,
            image: Some(image.id),
        })
    }

    /// Returns the name that `text` is, where it is one that the store has.
    fn name_meant(&self, text: &str) -> Result<Option<Reference>> {
        match Reference::parse(text) {
            Ok(reference) => Ok(self.image_of(&reference)?.map(|_| reference)),
            Err(_) => Ok(None),
        }
    }

    fn resolve_id(&self, text: &str) -> Result<Digest> {
        if let Ok(digest) = Digest::parse(text) {
            return Ok(digest);
        }
        if let Ok(reference) = Reference::parse(text)
            && let Some(id) = self.image_of(&reference)?
        {
            return Ok(id);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix =
            prefix.len() >= PREFIX_CHARS_MIN && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut fitting = Vec::new();
        if is_prefix {
            let prefix = prefix.to_ascii_lowercase();
            fitting = self.image_ids()?;
            fitting.retain(|id| id.hex().starts_with(&prefix));
        }
        match fitting[..] {
            [id] => Ok(id),
            [] => Err(StoreError::NoImage(text.to_owned())),
            _ => Err(StoreError::Ambiguous {
                prefix: text.to_owned(),
                count: fitting.len(),
            }),
        }
    }

    /// Returns the identifier behind a name.
    fn image_of(&self, reference: &Reference) -> Result<Option<Digest>> {
        if let Some(name) = self.read_name(&name_path(reference))? {
            return Ok(Some(name.image));
        }
        let Some(manifest) = reference.digest() else {
            return Ok(None);
        };
        // `debian@sha256:...` also means an image that was pulled as `debian:12` and has that manifest.
        for name in self.names()? {
            if name.reference.name() == reference.name()
                && let Some(image) = self.read_image(&name.image, &[])?
                && image.manifest_digest == *manifest
            {
                return Ok(Some(name.image));
            }
        }
        Ok(None)
    }

    /// Returns all names, unsorted. One that vanishes meanwhile is left out.
    pub(crate) fn names(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for file in self.list("names")? {
            match self.read_name(&Path::new("names").join(&file)) {
                Ok(name) => names.extend(name),
                Err(error) => tracing::warn!(%file, %error, "a name cannot be read"),
            }
        }
        Ok(names)
    }

    pub(crate) fn read_name(&self, path: &Path) -> Result<Option<Name>> {
        absent_is_none(record::read_json(self.at(), path, &self.path().join(path)))
    }

    /// Returns the identifiers of all images, unsorted.
    pub(crate) fn image_ids(&self) -> Result<Vec<Digest>> {
        let names = self.list("images")?;
        Ok(names
            .iter()
            .filter_map(|name| Digest::parse_hex(name))
            .collect())
    }

    /// Lists a directory of the store; what no name of ours can be is left out.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<String>> {
        let path = self.path().join(directory);
        let opened = open_directory(self.at(), Path::new(directory)).doing("opening", &path)?;
        let names = list(&opened).doing("listing", path)?;
        Ok(names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    pub(crate) fn read_image(&self, id: &Digest, names: &[Name]) -> Result<Option<ImageRecord>> {
        let directory = image_path(id);
        let path = self.path().join(&directory);
        let read = |name: &str, bytes_max| {
            record::read_limited(self.at(), directory.join(name), bytes_max)
                .doing("reading", path.join(name))
        };
        let Some(written) = absent_is_none(read("record.json", record::JSON_BYTES_MAX))? else {
            return Ok(None);
        };
        let written: Written = record::from_json(&written, &path.join("record.json"))?;
        let Some(config) = absent_is_none(read("config.json", CONFIG_BYTES_MAX))? else {
            return Ok(None);
        };
        let damaged = |problem: String| StoreError::Damaged {
            path: path.join("config.json"),
            problem,
        };
        let config = ImageConfig::parse(config).map_err(|error| damaged(error.to_string()))?;
        if config.digest() != *id {
            return Err(damaged(format!("its digest is {}", config.digest())));
        }
        let mut names: Vec<Reference> = names
            .iter()
            .filter(|name| name.image == *id)
            .map(|name| name.reference.clone())
            .collect();
        names.sort_unstable();
        Ok(Some(ImageRecord {
            id: *id,
            manifest_digest: written.manifest_digest,
            manifest: read("manifest.json", MANIFEST_BYTES_MAX)?,
            names,
            created: config.document().created.clone(),
            tree: written
                .tree
                .unwrap_or_else(|| TreeId::of_layers(config.diff_ids())),
            config,
            size_bytes: written.size_bytes,
            pulled_seconds: written.pulled_seconds,
            layers: written.layers,
        }))
    }
}

impl Session<'_> {
    /// Makes an image appear, or renews what is recorded about it, and gives it a name. Its tree must be there already.
    ///
    /// The name may have meant another image before.
    pub fn put_image(&self, image: &ImageRecord, name: Option<&Reference>) -> Result<()> {
        let _names = self.store().lock_names()?;
        self.write_image(image)?;
        name.map_or(Ok(()), |name| self.name_image(name, &image.id))
    }

    fn write_image(&self, image: &ImageRecord) -> Result<()> {
        let written = Written {
            manifest_digest: image.manifest_digest,
            size_bytes: image.size_bytes,
            pulled_seconds: image.pulled_seconds,
            layers: image.layers.clone(),
            tree: (image.tree != TreeId::of_layers(image.config.diff_ids())).then_some(image.tree),
        };
        let target = image_path(&image.id);
        let record = record::to_json(&written, &target)?;
        let draft = self.next_name();
        let path = self.path_of(&draft);
        rustix::fs::mkdirat(self.at(), &draft, rustix::fs::Mode::RWXU).doing("making", &path)?;
        for (name, bytes) in [
            ("config.json", image.config.raw()),
            ("manifest.json", &image.manifest),
            ("record.json", &record),
        ] {
            record::write_new(self.at(), Path::new(&draft).join(name), bytes)
                .doing("writing", path.join(name))?;
        }
        if !self.publish_new(&draft, &target)? {
            self.replace(&target.join("manifest.json"), &image.manifest)?;
            self.replace(&target.join("record.json"), &record)?;
        }
        Ok(())
    }

    fn name_image(&self, reference: &Reference, image: &Digest) -> Result<()> {
        let path = name_path(reference);
        let name = Name {
            reference: reference.clone(),
            image: *image,
        };
        self.replace(&path, &record::to_json(&name, &path)?)
    }
}

pub(crate) fn image_path(id: &Digest) -> PathBuf {
    Path::new("images").join(id.hex())
}

/// Returns the file of a name: a reference may be longer than a file name.
pub(crate) fn name_path(reference: &Reference) -> PathBuf {
    Path::new("names").join(Digest::of(reference.to_string().as_bytes()).hex())
}

/// Turns "there is no such file" into `None`.
pub(crate) fn absent_is_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
