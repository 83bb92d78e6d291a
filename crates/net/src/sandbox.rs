// SPDX-License-Identifier: Apache-2.0
//! The sandbox that slirp4netns has and people look at from outside: a root with /etc and /run in it, read-only, and nothing else.
//!
//! Our own helper shuts itself into more than that whoever asks ([`crate::user::Network::shut_in`]); this is the visible shape, for the
//! drop-in. The process joins the container's user namespace, where it may mount; new mounts of the machine below the two directories come
//! through (resolvers that are restarted), none go back.

use std::{os::fd::AsFd, path::Path};

use rustix::io::Errno;
use thiserror::Error;
use wolffia_sys::{
    mount::{Bind, FileSystem, MountError, Pivot, Plan, Propagation, Step, enter_root, make_slave},
    namespace::{self, Namespaces},
    process,
};

use crate::user::Place;

/// What is seen.
const SEEN: [&str; 2] = ["/etc", "/run"];

/// Why there is no sandbox.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A step failed.
    #[error("making the sandbox: {doing}")]
    Step {
        /// What was done.
        doing: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// A mount failed.
    #[error("making the sandbox")]
    Mount(#[from] MountError),
}

/// Puts the calling process into it. The process has one thread, and keeps its capabilities for now.
pub fn enter(place: Option<&Place>) -> Result<(), SandboxError> {
    let step = |doing| move |source| SandboxError::Step { doing, source };
    if let Some(user) = place.and_then(|place| place.user.as_ref()) {
        namespace::join(user, Namespaces::USER).map_err(step("joining the user namespace"))?;
    }
    namespace::unshare(Namespaces::MOUNT).map_err(step("making a mount namespace"))?;
    make_slave().map_err(step("keeping mounts from going back"))?;
    let mut steps = vec![Step::FileSystem(FileSystem::tmpfs(
        "/",
        &[("mode", "755"), ("size", "64k")],
    ))];
    for directory in SEEN {
        let mut bind = Bind::new(directory, directory).read_only();
        bind.propagation = Propagation::Slave;
        steps.push(Step::Bind(bind));
    }
    let ground = ["/tmp", "/proc"]
        .into_iter()
        .find_map(|place| std::fs::File::open(Path::new(place)).ok())
        .ok_or(Errno::NOENT)
        .map_err(step("finding a place for the new root"))?;
    let root = Plan { steps }.execute(ground.as_fd())?;
    enter_root(root.into_fd(), Pivot::Pivot).map_err(step("changing the root"))?;
    // Descriptors of the old root would lead out of it.
    drop(ground);
    process::set_no_new_privileges().map_err(step("setting no_new_privs"))
}
