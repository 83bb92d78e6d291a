// SPDX-License-Identifier: Apache-2.0
//! Layers that a site unpacked: found, walked once, and used where they are.
//!
//! # Theory of operation
//! Where a configured directory has the layer, nothing of it is fetched and nothing copied: the walk gives the layer's shape (names,
//! owners, modes, links, attributes), and the contents are opened through one more data layer of the mount. See [`wolffia_store::Site`].
//!
//! | below a configured directory | is |
//! |---|---|
//! | `.layers/XX/HEX/layerfs/` | one layer, by the digest of the packed layer; as CVMFS' publisher lays it out |
//! | `sha256/HEX/` | one layer, by the digest of the packed layer or of its tar |
//! | `.flat/XX/HEX/` | all layers of an image, by the digest of its configuration; as CVMFS' publisher lays it out |
//!
//! Nothing else of the publisher's is looked at: `.chains` and `.metadata` may be stale or missing.
//!
//! *Whiteouts* are understood in all spellings: `.wh.NAME` and `.wh..wh..opq` as they stand in the archive (CVMFS' publisher leaves them
//! so), character device 0:0, and the attributes of overlayfs. `.cvmfscatalog`, by which the publisher divides his catalogues, is no file of
//! the image.
//!
//! *Owners* are those that the files have outside of any user namespace, so the walk happens there: [`walk`] must run in a process that
//! sees true ids. Where the top directory belongs to an ordinary user, he unpacked it for himself: what is his is shown as root's. (A CVMFS
//! client shows everything as its own user's by default.)
//!
//! A layer that this user cannot read wholly is not used: it is fetched like any other. What is unpacked is believed as its site's word:
//! there is no digest to compare it with.
//!
//! Source: cvmfs `ducc/lib`, `ducc/docker-api/manifest.go`, `cvmfs/sync_union_tarball.cc` (what is published, and how).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use wolffia_image::Digest;
use wolffia_image::tar::{EntryKind, Header};
use wolffia_image::tree::{Layer, LayerBuilder, Time, TreeError, Wants};
use wolffia_store::{REDIRECT_BYTES_MAX, Site, Store, StoreError};

/// By which CVMFS' publisher divides his catalogues.
const CATALOGUE_MARK: &[u8] = b".cvmfscatalog";
/// Bytes of an extended attribute's value, or of all names, at most: the kernel's bound.
const XATTR_BYTES_MAX: usize = 65_536;
/// Attributes that make a directory opaque.
const OPAQUE: [&[u8]; 3] = [
    b"trusted.overlay.opaque",
    b"user.overlay.opaque",
    b"user.fuseoverlayfs.opaque",
];
/// The attribute of a file that stands for a whiteout.
const WHITEOUT: &[u8] = b"user.overlay.whiteout";

/// Why a site's layer is not used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackedError {
    /// The system refused.
    #[error("{doing} {path}")]
    System {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: Errno,
    },
    /// A file that the image has cannot be read by this user, so a container could not either.
    #[error("{path} cannot be read by this user")]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// A path is longer than a redirect may be, or deeper than any image's.
    #[error("{path} lies too deep")]
    Deep {
        /// The file.
        path: PathBuf,
    },
    /// There is too much of it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks for a layer by the digests of the packed layer and of its tar.
pub(crate) fn find(unpacked: &[PathBuf], packed: &Digest, tar: &Digest) -> Option<Site> {
    let shard = |digest: &Digest| digest.hex()[..2].to_owned();
    let below = |root: &Path| {
        let publisher = Path::new(".layers")
            .join(shard(packed))
            .join(packed.hex())
            .join("layerfs");
        let plain = |digest: &Digest| Path::new("sha256").join(digest.hex());
        [publisher, plain(packed), plain(tar)]
            .into_iter()
            .find(|directory| is_directory(&root.join(directory)))
    };
    unpacked.iter().find_map(|root| {
        let directory = below(root)?;
        let root = root.clone();
        Some(Site { root, directory })
    })
}

/// Looks for all layers of an image in one, by the digest of its configuration.
pub(crate) fn find_flat(unpacked: &[PathBuf], config: &Digest) -> Option<Site> {
    let hex = config.hex();
    let directory = Path::new(".flat").join(&hex[..2]).join(&hex);
    unpacked
        .iter()
        .find(|root| is_directory(&root.join(&directory)))
        .map(|root| Site {
            root: root.clone(),
            directory,
        })
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// Walks a site's layer and keeps what was found, unless that is known. Must run where true owners are seen: outside of any user
/// namespace.
///
/// # Errors
/// Fails where the layer cannot be used as it is.
pub fn walk(store: &Store, site: &Site) -> Result<(), UnpackedError> {
    if matches!(store.unpacked_layer(site), Ok(Some(_))) {
        return Ok(());
    }
    let layer = read(site)?;
    Ok(store.session()?.put_unpacked_layer(site, &layer)?)
}

/// Reads the shape of a site's layer.
fn read(site: &Site) -> Result<Layer, UnpackedError> {
    let top = site.path();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let opened = rustix::fs::open(&top, flags, Mode::empty()).map_err(system("opening", &top))?;
    let stat = rustix::fs::fstat(&opened).map_err(system("looking at", &top))?;
    let mut walk = Walk {
        site,
        own: (stat.st_uid != 0).then_some((stat.st_uid, stat.st_gid)),
        top: opened,
        builder: LayerBuilder::new(),
        linked: HashMap::new(),
        buffer: vec![0; XATTR_BYTES_MAX],
    };
    walk.all(stat)?;
    Ok(walk.builder.finish())
}

struct Walk<'site> {
    site: &'site Site,
    /// Whose files are shown as root's.
    own: Option<(u32, u32)>,
    top: OwnedFd,
    builder: LayerBuilder,
    /// Where files with several names were met first.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn all(&mut self, top: Stat) -> Result<(), UnpackedError> {
        let mut directories = vec![(Vec::new(), top)];
        while let Some((path, stat)) = directories.pop() {
            if path.len() > REDIRECT_BYTES_MAX {
                return Err(UnpackedError::Deep {
                    path: self.place(&path),
                });
            }
            let directory = self.open(&path)?;
            let xattrs = self.attributes(&directory, b".");
            if OPAQUE.iter().any(|name| {
                let value = xattrs.get(*name);
                value.is_some_and(|value| value == b"y")
            }) {
                self.marker(join(&path, b".wh..wh..opq"))?;
            }
            let mut header = self.header(&path, &stat, EntryKind::Directory);
            header.xattrs = xattrs;
            if path.is_empty() {
                header.path = b"./".to_vec();
            }
            let _nothing = self.builder.begin(header)?;
            for name in self.names(&directory, &path)? {
                let path = join(&path, name.as_bytes());
                let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(system("looking at", &self.place(&path)))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    directories.push((path, stat));
                } else {
                    self.leaf(&directory, name.as_bytes(), &path, &stat)?;
                }
            }
        }
        Ok(())
    }

    /// Opens a directory, no link on the way being followed.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, UnpackedError> {
        let name = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(
            &self.top,
            Path::new(std::ffi::OsStr::from_bytes(name)),
            OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
            rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::BENEATH,
        )
        .map_err(system("opening", &self.place(path)))
    }

    /// Returns the names in a directory, sorted: the same site gives the same record.
    fn names(&self, directory: &OwnedFd, path: &[u8]) -> Result<Vec<OsString>, UnpackedError> {
        let list = || {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." && name != CATALOGUE_MARK {
                    names.push(OsString::from_vec(name.to_vec()));
                }
            }
            names.sort();
            Ok(names)
        };
        list().map_err(system("listing", &self.place(path)))
    }

    fn leaf(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), UnpackedError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                return self.marker(whiteout_of(path));
            }
            FileType::CharacterDevice => EntryKind::CharDevice,
            // Sockets are nothing that a layer has.
            _ => return Ok(()),
        };
        let mut header = self.header(path, stat, kind);
        if stat.st_nlink > 1 && kind != EntryKind::Symlink {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                header.kind = EntryKind::HardLink;
                header.link.clone_from(first);
                let _nothing = self.builder.begin(header)?;
                return Ok(());
            }
            let _first = self.linked.insert(inode, path.to_vec());
        }
        header.xattrs = self.attributes(directory, name);
        if kind == EntryKind::Symlink {
            let at = std::ffi::OsStr::from_bytes(name);
            let target = rustix::fs::readlinkat(directory, at, Vec::new())
                .map_err(system("reading", &self.place(path)))?;
            header.link = target.into_bytes();
        }
        if kind == EntryKind::File && stat.st_size == 0 && header.xattrs.contains_key(WHITEOUT) {
            return self.marker(whiteout_of(path));
        }
        match self.builder.begin(header)? {
            Wants::Content { size: 0 } => self.builder.content(Digest::of(b"")),
            Wants::Content { .. } => {
                self.readable(directory, name, path, stat)?;
                self.builder.content(self.site.name_of(path));
            }
            Wants::Nothing => {}
        }
        Ok(())
    }

    /// Fails where this user cannot read a file: nobody in a container could then.
    fn readable(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), UnpackedError> {
        if self.site.redirect(path).len() > REDIRECT_BYTES_MAX {
            return Err(UnpackedError::Deep {
                path: self.place(path),
            });
        }
        if stat.st_mode & 0o004 != 0 {
            return Ok(());
        }
        let name = std::ffi::OsStr::from_bytes(name);
        rustix::fs::accessat(directory, name, Access::READ_OK, AtFlags::EACCESS).map_err(|_| {
            UnpackedError::Unreadable {
                path: self.place(path),
            }
        })
    }

    /// Takes a whiteout, as an archive would name it.
    fn marker(&mut self, path: Vec<u8>) -> Result<(), UnpackedError> {
        let header = Header {
            path,
            kind: EntryKind::File,
            link: Vec::new(),
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            device_major: 0,
            device_minor: 0,
            xattrs: BTreeMap::new(),
        };
        let _nothing = self.builder.begin(header)?;
        Ok(())
    }

    fn header(&self, path: &[u8], stat: &Stat, kind: EntryKind) -> Header {
        let shown = |id: u32, own: Option<u32>| if own == Some(id) { 0 } else { id };
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let device = if is_device { stat.st_rdev } else { 0 };
        Header {
            path: path.to_vec(),
            kind,
            link: Vec::new(),
            size: if kind == EntryKind::File {
                u64::try_from(stat.st_size).unwrap_or(0)
            } else {
                0
            },
            mode: stat.st_mode & 0o7777,
            uid: shown(stat.st_uid, self.own.map(|own| own.0)),
            gid: shown(stat.st_gid, self.own.map(|own| own.1)),
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            device_major: rustix::fs::major(device),
            device_minor: rustix::fs::minor(device),
            xattrs: BTreeMap::new(),
        }
    }

    /// Returns the attributes that can be read; a file system without any has none.
    fn attributes(&mut self, directory: &OwnedFd, name: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let at = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let at = Path::new(&at).join(std::ffi::OsStr::from_bytes(name));
        let Ok(length) = rustix::fs::llistxattr(&at, &mut self.buffer[..]) else {
            return BTreeMap::new();
        };
        let names: Vec<Vec<u8>> = self.buffer[..length]
            .split(|byte| *byte == 0)
            // What a security module or a network file system says of this machine's file is none of the image's.
            .filter(|name| {
                name.starts_with(b"user.") && !name.starts_with(b"user.fuseoverlayfs.")
                    || *name == b"security.capability"
                    || *name == OPAQUE[0]
                    || *name == OPAQUE[2]
            })
            .map(<[u8]>::to_vec)
            .collect();
        let mut found = BTreeMap::new();
        for name in names {
            if let Ok(length) = rustix::fs::lgetxattr(&at, &name[..], &mut self.buffer[..]) {
                let _none = found.insert(name, self.buffer[..length].to_vec());
            }
        }
        found
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.site.path().join(std::ffi::OsStr::from_bytes(path))
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}

/// Returns how an archive would say that `path` is gone.
fn whiteout_of(path: &[u8]) -> Vec<u8> {
    let at = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    [&path[..at], b".wh.", &path[at..]].concat()
}

fn system(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> UnpackedError {
    let path = path.to_owned();
    move |source| UnpackedError::System {
        doing,
        path,
        source,
    }
}
