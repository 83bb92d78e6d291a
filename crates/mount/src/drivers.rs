// SPDX-License-Identifier: Apache-2.0
//! Snapshot drivers: ways to make a writable root file system of an image, one file each.
//!
//! A driver turns paths into a [`Plan`] and touches nothing but the container's own [`WorkDir`] (and, where it must unpack,
//! a directory of the store, once). Who asks stands inside the container's user namespace, as its root.
//!
//! | driver | lower layers | needs | costs |
//! |---|---|---|---|
//! | [`Stubs`] | the stub tree, contents joined by data-only layers | kernel 6.16 or so | nothing |
//! | [`Unpacked`] | a plain directory, unpacked once for each mapping | overlay in a user namespace: kernel 5.11 | time and disk of one copy |
//!
//! To add one: a file here, a row above, an entry in [`ALL`], and a line in the conformance suite (`tests/drivers.rs`).

mod overlay;
mod stubs;
mod unpack;

use std::path::PathBuf;

use rustix::io::Errno;
use wolffia_store::ImageRoot;
use wolffia_sys::{
    facts::Overlays,
    mount::{Bind, Overlay, Plan, Step},
};

pub use self::{overlay::Unpacked, stubs::Stubs};
use crate::work::{WorkDir, WorkError};

/// All drivers, the best first.
pub static ALL: &[&dyn SnapshotDriver] = &[&Stubs, &Unpacked];

/// A way to make a root file system of an image.
pub trait SnapshotDriver: Sync {
    /// Returns the name that `info` shows and the choice is remembered by.
    fn name(&self) -> &'static str;

    /// Tells whether files may be missing when it mounts, and come later.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Says how good this way is here, or why it cannot be gone.
    fn fitness(&self, facts: &Overlays) -> Result<Score, WhyNot>;

    /// Makes everything ready and returns the mounts; the overlay goes to `/`.
    ///
    /// Must run inside the user namespace, as its root.
    fn prepare(&self, image: &ImageRoot, work: &WorkDir) -> Result<Plan, DriverError>;
}

/// How good a way is: more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(pub u8);

/// Why a way cannot be gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{driver}: {cause}")]
pub struct WhyNot {
    /// The driver.
    pub driver: &'static str,
    /// What is missing, in words.
    pub cause: String,
}

/// A root file system could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The container's own directory could not be made ready.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The image could not be unpacked.
    #[error("unpacking the image into {path}")]
    Unpack {
        /// Where.
        path: PathBuf,
        /// The file and the system's answer.
        source: UnpackError,
    },
}

/// A file of an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
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
    /// A stub names an object that is no plain path of the data layer.
    #[error("the stub {path} names no object")]
    Redirect {
        /// The stub.
        path: PathBuf,
    },
    /// A path is deeper than any image's may be.
    #[error("{path} lies too deep")]
    Depth {
        /// The directory.
        path: PathBuf,
    },
}

/// Returns the plan of one overlay: committed layers of the container's own above `image`'s.
fn plan(lower: PathBuf, data: Vec<PathBuf>, work: &WorkDir) -> Result<Plan, WorkError> {
    let writable = work.writable(&lower)?;
    let at = PathBuf::from("/");
    if writable.is_none() && data.is_empty() && work.committed.is_empty() {
        // The kernel makes no overlay of one layer alone.
        return Ok(Plan {
            steps: vec![Step::Bind(Bind::new(lower, at).read_only())],
        });
    }
    let mut layers = work.committed.clone();
    layers.push(lower);
    Ok(Plan {
        steps: vec![Step::Overlay(Overlay {
            lower: layers,
            data,
            writable,
            userxattr: true,
            options: Vec::new(),
            at,
        })],
    })
}
