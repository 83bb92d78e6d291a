// SPDX-License-Identifier: Apache-2.0
//! Why the store could not do something, and what a person can do about it.
//!
//! The kernel's answers that a user can act on (no space, read-only, no permission) are kinds of their own, each with a
//! hint; everything else keeps the kernel's answer as its source.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wolffia_image::Digest;

use crate::layout::FORMAT_VERSION;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused a call.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No space or no inodes are left, or a quota is used up.
    #[error("{action} {}", path.display())]
    Full {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("{action} {}", path.display())]
    ReadOnly {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system carries no `user.*` extended attributes, without which there are no stubs.
    #[error("{action} {}", path.display())]
    NoAttributes {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another program, or a newer Wolffia, made this store.
    #[error("opening the store {}: its version is {found:?}, this program knows {FORMAT_VERSION:?}", path.display())]
    Version {
        /// Where the store is.
        path: PathBuf,
        /// What its version file says.
        found: String,
    },
    /// The store belongs to somebody else, or others may enter it.
    #[error("opening the store {}: {problem}", path.display())]
    Exposed {
        /// Where the store is.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An image stands on files that somebody else keeps, and they are not there.
    #[error("image {image} uses the files in {}, which is not there", path.display())]
    SiteGone {
        /// The image.
        image: String,
        /// The directory that is missing.
        path: PathBuf,
    },
    /// No image has that name or identifier.
    #[error("no such image: {0}")]
    NoImage(String),
    /// Several images begin with that identifier.
    #[error("image identifier {prefix:?} means {count} images")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// Something still needs the image.
    #[error("image {image} is used by {user}")]
    InUse {
        /// The image, as people see it.
        image: String,
        /// Who uses it: a container.
        user: String,
    },
    /// The image has several names, and its identifier was given.
    #[error("image {image} has {count} names")]
    SeveralNames {
        /// The image, as people see it.
        image: String,
        /// How many names.
        count: usize,
    },
    /// The image is there, but not its stub tree for this mapping.
    #[error("image {image} has no tree for the mapping {mapping:?}")]
    NoStubs {
        /// The image, as people see it.
        image: String,
        /// The mapping's key.
        mapping: String,
    },
    /// A file of the store is not what it must be.
    #[error("reading {}: {problem}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An object that a tree needs is not there.
    #[error("object {0} is missing")]
    NoObject(Digest),
    /// What was written does not have the digest it was announced with.
    #[error("storing {what}: expected {expected}, got {found}")]
    Mismatch {
        /// What was stored.
        what: &'static str,
        /// The digest that was announced.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
}

/// What the rooms' functions return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// Sorts the kernel's answer to `action` on `path`.
    pub fn from_errno(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        let (path, source) = (path.into(), errno.into());
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::Full {
                action,
                path,
                source,
            },
            Errno::ROFS => Self::ReadOnly {
                action,
                path,
                source,
            },
            Errno::OPNOTSUPP => Self::NoAttributes {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Full { path, .. } => format!(
                "free some space on the file system of {}, or remove images with `wolffia rmi`; nothing that was there is lost",
                existing(path).display()
            ),
            Self::SiteGone { image, .. } => format!(
                "mount it again, or fetch what is missing: wolffia pull {image}"
            ),
            Self::ReadOnly { .. } => {
                "choose another place with --root DIR or WOLFFIA_ROOT".to_owned()
            }
            Self::NoAttributes { .. } => {
                "choose a place on ext4, xfs, btrfs or tmpfs with --root DIR or WOLFFIA_ROOT: this file system keeps no user.* extended attributes"
                    .to_owned()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "choose a place of your own with --root DIR or WOLFFIA_ROOT".to_owned()
            }
            Self::Version { path, .. } => format!(
                "use the program that made it, or move {} away",
                path.display()
            ),
            Self::NoImage(name) => format!("wolffia pull {name}"),
            Self::Ambiguous { .. } => "give more characters of the identifier".to_owned(),
            Self::InUse { .. } => {
                "remove the container first, or use --force to take the name away".to_owned()
            }
            Self::SeveralNames { .. } => "give a name, or use --force to remove them all".to_owned(),
            Self::Damaged { .. } | Self::NoObject(_) => {
                "wolffia system check says what else is damaged; pull the image again".to_owned()
            }
            _ => return None,
        })
    }
}

/// Returns the nearest directory above `path` that a person can see.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|above| above.exists())
        .unwrap_or(path)
}

/// Gives a kernel call its context: `.doing("opening", path)`.
pub(crate) trait Doing<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|errno| StoreError::from_errno(action, path, errno))
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| match Errno::from_io_error(&error) {
            Some(errno) => StoreError::from_errno(action, path, errno),
            None => StoreError::Io {
                action,
                path: path.into(),
                source: error,
            },
        })
    }
}
