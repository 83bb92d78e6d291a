// SPDX-License-Identifier: Apache-2.0
//! Where everything of the store lies, and how a store comes to be.
//!
//! ```text
//! store/
//!   version            "wolffia-store 1"
//!   lock               held shared by whoever adds something, exclusively by whoever collects garbage
//!   names.lock         held while images and names change together
//!   ingest.lock        held for microseconds while a session appears or is swept
//!   objects/x/…        contents of files, 0444, named by digest (64 directories, made with the store)
//!   layers/HEX         the record of one layer, named by its diffID
//!   trees/HEX/record   the merged shape of an image, named by its chain ID
//!   trees/HEX/sites.json, places  which of its files somebody else unpacked, and where (`elsewhere.rs`)
//!   unpacked/HEX       what was found where somebody else unpacked a layer
//!   trees/HEX/KEY/     the stub tree of it for one mapping of owners: root/ and facts.json
//!   images/HEX/        config.json and manifest.json as they came, record.json
//!   names/…            one file per name
//!   pins/…             one file per container: the tree it stands on
//!   unflushed          since when a power failure could have damaged something (`power.rs`)
//!   ingest/…           what is being written; every entry belongs to one process
//! ```
//!
//! Everything appears by one rename into its place, so a reader sees it whole or not at all. A store is made under
//! another name and renamed as well: two first commands at once end with one store.
//!
//! The full description is in `docs/formats/store.md`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Result, StoreError};

/// First line of the version file. A program that finds another one does not touch the store.
pub const FORMAT_VERSION: &str = "wolffia-store 1";

/// Longest version file that is read.
const VERSION_BYTES_MAX: usize = 64;

/// The sixty-four characters of object names: one directory each.
const SHARDS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The directories of a store.
const DIRECTORIES: [&str; 7] = [
    "objects", "layers", "trees", "images", "names", "pins", "ingest",
];

/// A store, open.
///
/// Cheap to make (a handful of system calls) and safe to use from several threads; other processes may use the same
/// store at the same time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
    pub(crate) objects: OwnedFd,
}

impl Store {
    /// Opens the store at `path` (the `store` directory of the state root), and makes it where it is missing.
    ///
    /// What interrupted commands left in `ingest/` is swept, as far as this process may: entries owned by
    /// subordinate ids go when a process inside the user namespace opens the store.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let store = match Self::open_existing(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                make(&path)?;
                Self::open_existing(&path)?
            }
            other => other?,
        };
        store.sweep();
        // A store that cannot be written, or is full, can still be read.
        if let Err(error) = store.recover() {
            tracing::warn!(%error, "cannot look at what was written before the machine was restarted");
        }
        Ok(store)
    }

    /// Opens the store at `path` and writes nothing; fails where there is none.
    pub fn open_existing(path: &Path) -> Result<Self> {
        let directory = open_directory(rustix::fs::CWD, path).doing("opening", path)?;
        check_owner(&directory, path)?;
        check_version(&directory, path)?;
        let objects = open_directory(&directory, Path::new("objects"))
            .doing("opening", path.join("objects"))?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            objects,
        })
    }

    /// Returns where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory that holds the objects: the data layer of a mount.
    pub fn objects_path(&self) -> PathBuf {
        self.path.join("objects")
    }

    pub(crate) fn at(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Opens a directory for looking things up in it.
pub(crate) fn open_directory(at: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        at,
        path,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// Refuses a store that somebody else owns or may write: its objects would be theirs to change.
fn check_owner(directory: &OwnedFd, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(directory).doing("looking at", path)?;
    let problem = if stat.st_uid != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if stat.st_mode & 0o077 != 0 {
        "other users may enter it (its mode must be 0700)"
    } else {
        return Ok(());
    };
    Err(StoreError::Exposed {
        path: path.to_owned(),
        problem,
    })
}

fn check_version(directory: &OwnedFd, path: &Path) -> Result<()> {
    let found = crate::record::read_limited(directory, "version", VERSION_BYTES_MAX)
        .doing("opening", path.join("version"))?;
    let found = String::from_utf8_lossy(&found);
    if found.trim_end() == FORMAT_VERSION {
        return Ok(());
    }
    Err(StoreError::Version {
        path: path.to_owned(),
        found: found.trim_end().to_owned(),
    })
}

/// Makes a whole store beside its place and renames it there.
fn make(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).doing("making", parent)?;
    let draft = parent.join(format!(".store-{}", crate::session::random_name()?));
    let made = fill(&draft).and_then(|()| {
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            &draft,
            rustix::fs::CWD,
            path,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            // Another first command was faster: its store is as good.
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                remove_draft(&draft);
                Ok(())
            }
            other => other.doing("making", path),
        }
    });
    if made.is_err() {
        remove_draft(&draft);
    }
    made
}

fn remove_draft(draft: &Path) {
    if let Err(error) = std::fs::remove_dir_all(draft) {
        tracing::debug!(path = %draft.display(), %error, "a draft of a store stays");
    }
}

fn fill(draft: &Path) -> Result<()> {
    let private = Mode::RWXU;
    rustix::fs::mkdir(draft, private).doing("making", draft)?;
    rustix::fs::chmod(draft, private).doing("making", draft)?;
    let at = open_directory(rustix::fs::CWD, draft).doing("opening", draft)?;
    for name in DIRECTORIES {
        rustix::fs::mkdirat(&at, name, private).doing("making", draft.join(name))?;
    }
    let objects = open_directory(&at, Path::new("objects")).doing("opening", draft)?;
    for shard in SHARDS {
        let name = char::from(*shard).to_string();
        rustix::fs::mkdirat(&objects, &name, private).doing("making", draft.join(&name))?;
    }
    for name in ["lock", "names.lock", "ingest.lock"] {
        std::fs::write(draft.join(name), b"").doing("making", draft.join(name))?;
    }
    let version = draft.join("version");
    std::fs::write(&version, format!("{FORMAT_VERSION}\n")).doing("making", &version)
}
