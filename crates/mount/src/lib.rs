// SPDX-License-Identifier: Apache-2.0
//! Trees and layers become a root file system.
//!
//! | to | use |
//! |---|---|
//! | choose how | [`choice::choose`] over probed facts; [`choice::driver`] remembers the answer |
//! | get the mounts | [`SnapshotDriver::prepare`] with an image's root and a container's [`WorkDir`] |
//! | throw away, or keep, what a container changed | [`WorkDir::discard`], [`WorkDir::commit`] |
//! | run on this machine's own files | [`host`] |
//! | say what is missing here | [`doctor::examine`] |
//! | serve a file system | [`fuse`] |

pub mod choice;
pub mod doctor;
pub mod drivers;
pub mod fuse;
pub mod host;
mod work;

pub use drivers::{DriverError, SnapshotDriver};
pub use work::{WorkDir, WorkError, remove_tree};
