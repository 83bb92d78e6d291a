// SPDX-License-Identifier: Apache-2.0
//! Mounts as data: a [`Plan`] says what is mounted where, and can be printed, compared and carried out.
//!
//! Drivers that know layers return a plan; the process that lives in the new mount namespace executes it. A table test can
//! then ask "what would be mounted?" on any machine.
//!
//! # Theory of operation
//! [`Plan::execute`] takes the steps in order. Each place `at` is looked up inside the root ([`crate::fd::Root`]), so that
//! no link of an image leads a mount outside, and what was looked up is held open: a mount is made detached (`fsmount`,
//! `open_tree`) and then moved onto that descriptor, with no path in between that somebody could exchange (CVE-2021-30465).
//! A step at `/` becomes the root for the steps after it. Missing places are made.
//!
//! Kernels and sandboxes without the new mount calls answer `ENOSYS`; then `mount(2)` is used on /proc/self/fd/N, which
//! names the same held descriptors.
//!
//! A bind mount only *adds* attributes to those of its source: what the source's mount namespace locked (read-only, nosuid,
//! nodev, noexec) cannot be taken off by us and stays as it is.
//!
//! Sources: fsopen(2), fsconfig(2), `move_mount(2)`, `open_tree(2)`, `mount_setattr(2)`, `mount_namespaces(7)`,
//! kernel Documentation/filesystems/overlayfs.rst.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use crate::fd::Root;

mod classic;
mod execute;
mod make;

pub use make::{How, Pivot, add_attributes, bind_onto, enter_root, make_slave};
pub use rustix::mount::MountAttrFlags as Attributes;

/// What is mounted, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step of a plan. `at` is a place inside the root, `/` the root itself.
#[derive(Debug)]
pub enum Step {
    /// An overlay.
    Overlay(Overlay),
    /// A directory or file of this machine, seen at another place.
    Bind(Bind),
    /// A new file system: tmpfs, proc, ...
    FileSystem(FileSystem),
    /// A mount that was made elsewhere and handed to us.
    Attach {
        /// The detached mount.
        mount: OwnedFd,
        /// Where it goes.
        at: PathBuf,
    },
    /// A directory that must exist.
    Directory {
        /// Where.
        at: PathBuf,
        /// Its mode where it is made.
        mode: u32,
    },
    /// A symbolic link that must exist.
    Link {
        /// Where.
        at: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// Attributes added to what is mounted at a place.
    Attributes {
        /// Where.
        at: PathBuf,
        /// What is added.
        add: Attributes,
        /// To mounts below it too.
        recursive: bool,
    },
}

/// An overlay mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Lower layers, uppermost first.
    pub lower: Vec<PathBuf>,
    /// Data-only lower layers: no names of their own, only what redirects of `lower` point to.
    pub data: Vec<PathBuf>,
    /// Where changes go; without it the mount is read-only.
    pub writable: Option<Upper>,
    /// Use `user.overlay.*` attributes: the ones a user namespace may write.
    pub userxattr: bool,
    /// Further options, with or without value, that a driver needs.
    pub options: Vec<(String, Option<String>)>,
    /// Where.
    pub at: PathBuf,
}

/// The writable part of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "the names that overlayfs has for them"
)]
pub struct Upper {
    /// Changed files.
    pub upper: PathBuf,
    /// The kernel's scratch directory, on the same file system.
    pub work: PathBuf,
    /// Skip syncing: what is written need not survive a power cut.
    pub volatile: bool,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// What; a trusted path of this machine.
    pub from: PathBuf,
    /// Where; made as a directory or an empty file to match `from`.
    pub at: PathBuf,
    /// With the mounts below it.
    pub recursive: bool,
    /// Attributes added to those of the source.
    pub attributes: Attributes,
    /// Whether `attributes` go to the mounts below too.
    pub attributes_recursive: bool,
    /// Whether mounts that the machine makes later below the source appear.
    pub propagation: Propagation,
}

impl Bind {
    /// Returns a recursive, private bind mount.
    pub fn new(from: impl Into<PathBuf>, at: impl Into<PathBuf>) -> Bind {
        Bind {
            from: from.into(),
            at: at.into(),
            recursive: true,
            attributes: Attributes::empty(),
            attributes_recursive: false,
            propagation: Propagation::Private,
        }
    }

    /// Makes it read-only, with the mounts below it.
    #[must_use]
    pub fn read_only(mut self) -> Bind {
        self.attributes |= Attributes::MOUNT_ATTR_RDONLY;
        self.attributes_recursive = true;
        self
    }
}

/// How later mounts spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the machine to the container.
    Slave,
    /// Both ways, where the kernel allows it.
    Shared,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

/// A new file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type: `tmpfs`, `proc`, ...
    pub kind: String,
    /// The source that /proc/self/mounts shows.
    pub source: String,
    /// Where; made as a directory.
    pub at: PathBuf,
    /// Options of the type, with or without value.
    pub options: Vec<(String, Option<String>)>,
    /// Attributes of the mount.
    pub attributes: Attributes,
}

impl FileSystem {
    /// Returns a tmpfs with these options, nosuid and nodev.
    pub fn tmpfs(at: impl Into<PathBuf>, options: &[(&str, &str)]) -> FileSystem {
        FileSystem {
            kind: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            at: at.into(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
                .collect(),
            attributes: Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV,
        }
    }
}

/// A step that failed: what was being done, and the kernel's answer.
#[derive(Debug, Error)]
pub enum MountError {
    /// A place inside the root could not be opened or made.
    #[error("opening the mount place {at} inside the root")]
    Place {
        /// The place.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The source of a bind mount could not be opened.
    #[error("opening {from} to mount it at {at}")]
    Source {
        /// The source.
        from: PathBuf,
        /// The place.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The kernel refused a file system or one of its options.
    #[error("making a mount of type {kind} for {at} ({doing})")]
    Make {
        /// The type.
        kind: String,
        /// The place.
        at: PathBuf,
        /// The call, or the option with its value.
        doing: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// Attributes or propagation could not be set.
    #[error("setting attributes of the mount at {at}")]
    Attributes {
        /// The place.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// A mount could not be put in its place.
    #[error("putting the mount at {at}")]
    Attach {
        /// The place.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// A link could not be made.
    #[error("making the link {at}")]
    Link {
        /// The place.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
}

impl Plan {
    /// Carries out the steps below the directory `target` and returns the root that results: `target` itself, or what was
    /// mounted upon it. Acts on the mount namespace of the calling process, and stops at the first failure.
    pub fn execute(&self, target: BorrowedFd<'_>) -> Result<Root, MountError> {
        let own = target
            .try_clone_to_owned()
            .map_err(|error| MountError::Place {
                at: Path::new("/").to_owned(),
                source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })?;
        let mut root = Root::from_fd(own);
        for step in &self.steps {
            if let Some(new) = step.execute(&root)? {
                root = new;
            }
        }
        Ok(root)
    }
}
