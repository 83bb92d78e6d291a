// SPDX-License-Identifier: Apache-2.0
//! What this machine lets us do, found out by trying it: plain data for drivers and for `doctor`.
//!
//! Versions and configuration files say what should work; a sandbox, a security module or a file system may say otherwise,
//! and only the attempt tells. So nothing here compares kernel versions.
//!
//! # Theory of operation
//! Each ability is tried in a child of its own ([`trial`]), in fresh namespaces, bounded by [`trial::TIME_MAX`]: whatever
//! the attempt does to its process or mounts is gone with it. An ability that is there is `Ok`, else there is a [`Lack`]: what
//! was being done, and the kernel's answer. A full [`HostFacts::probe`] takes some 50 ms and is for `doctor` and `info`;
//! on the way to a container only [`overlay::probe`] may be needed, once for a kernel and a store.
//!
//! The calling process must have a single thread (it forks).

pub mod cgroup;
pub mod device;
pub mod ids;
pub mod overlay;
pub mod storage;
pub mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use self::{
    cgroup::Cgroups,
    ids::{SubIdFacts, UserNamespaces},
    overlay::Overlays,
    storage::Storage,
    trial::{Ability, Lack},
};

/// Everything that `doctor` looks at.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// What the kernel calls itself: `uname -r`.
    pub kernel: String,
    /// Whether a user namespace can be made, and what could stand in the way.
    pub user_namespaces: UserNamespaces,
    /// Which ids a container would get.
    pub sub_ids: SubIdFacts,
    /// Overlay mounts in a user namespace, tried on the storage.
    pub overlays: Overlays,
    /// A FUSE mount in a user namespace.
    pub fuse: Ability,
    /// A TAP device in a network namespace.
    pub tun: Ability,
    /// Control groups.
    pub cgroups: Cgroups,
    /// The file system that the state root lies on.
    pub storage: Storage,
}

impl HostFacts {
    /// Tries everything. `storage` is the state root, or the nearest directory above it that exists.
    pub fn probe(storage: &Path) -> HostFacts {
        let existing = nearest_existing(storage);
        HostFacts {
            kernel: kernel_release(),
            user_namespaces: ids::user_namespaces(),
            sub_ids: ids::sub_ids(),
            overlays: overlay::probe(&existing, overlay::Standing::Outside),
            fuse: device::fuse(),
            tun: device::tun(),
            cgroups: cgroup::look(),
            storage: storage::look(&existing),
        }
    }
}

/// Returns what the kernel calls itself.
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn nearest_existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

/// Reads a file of /proc or /sys that holds one number.
fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
