// SPDX-License-Identifier: Apache-2.0
//! Putting a host container's root together, inside its namespaces: skeleton, FUSE mount, plan; and what keeps it alive.

use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use rustix::{io::Errno, mount::UnmountFlags};
use thiserror::Error;
use wolffia_sys::mount::{Bind, Overlay, Plan, Step};

use super::{
    exposure::Exposure,
    plain,
    server::{self, Link},
    skeleton::{self, SkeletonError},
};
use crate::{
    fuse,
    work::{WorkDir, WorkError},
};

/// The directory in the container's own that the FUSE tree is mounted on.
const PLACE: &str = "machine";

/// What [`prepare()`] needs to know.
#[derive(Debug)]
pub struct Inside<'a> {
    /// Where skeletons are kept: a directory in the state root, made if it is missing.
    pub skeletons: &'a Path,
    /// The mapping's key: skeletons hold owners.
    pub mapping_key: &'a str,
    /// The container's own directory.
    pub work: &'a WorkDir,
    /// What the server was told to hide; a last successor hides it too.
    pub private: &'a [PathBuf],
    /// The file server, from [`spawn`](super::spawn).
    pub link: Link,
}

/// A host container's root.
#[derive(Debug)]
pub struct HostRoot {
    /// The mounts.
    pub plan: Plan,
    /// What a person should know about it: empty where everything works.
    pub notes: Vec<String>,
    /// Keep what lies in the store of skeletons; the conductor holds them to the end.
    locks: Vec<OwnedFd>,
    /// Where the FUSE tree is mounted.
    place: PathBuf,
    connection: Option<Connection>,
}

/// Takes the mount out of the caller's namespace, so that the container's directory can be removed.
impl Drop for HostRoot {
    fn drop(&mut self) {
        if self.connection.is_some()
            && let Err(errno) = rustix::mount::unmount(&self.place, UnmountFlags::DETACH)
        {
            tracing::debug!(%errno, place = %self.place.display(), "the file tree stays mounted");
        }
    }
}

#[derive(Debug)]
struct Connection {
    link: Option<Link>,
    device: OwnedFd,
    log: OwnedFd,
    private: Vec<PathBuf>,
    /// The last successor, where there is one.
    successor: Option<u32>,
}

/// A host container's root could not be put together.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The made-up part.
    #[error("making the public part of the machine's files")]
    Skeleton(#[from] SkeletonError),
    /// The container's own directory.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The mount place.
    #[error("making the mount place {path}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Puts a root together. Must run inside the user namespace, as its root, in a mount namespace of its own.
pub fn prepare(inside: Inside<'_>) -> Result<HostRoot, PrepareError> {
    let skeleton = skeleton::ensure(inside.skeletons, inside.mapping_key, Path::new("/"))?;
    let place = inside.work.directory.join(PLACE);
    match fs::DirBuilder::new().mode(0o700).create(&place) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(PrepareError::Place {
                path: place,
                source,
            });
        }
        _ => {}
    }
    let mut lower = inside.work.committed.clone();
    lower.push(skeleton.root.clone());
    let mut root = HostRoot {
        plan: Plan::default(),
        notes: Vec::new(),
        locks: vec![skeleton.lock],
        place: place.clone(),
        connection: None,
    };
    let (work, skeletons, key) = (inside.work, inside.skeletons, inside.mapping_key);
    let exposure = Exposure::of_machine(inside.private.iter().cloned());
    let connected = connect(inside, &place);
    if connected.is_ok() {
        lower.push(place);
    }
    let writable = work.writable(&skeleton.root)?;
    root.plan.steps.push(match (&writable, &lower[..]) {
        // The kernel makes no overlay of one layer alone.
        (None, [only]) => Step::Bind(Bind::new(only, "/").read_only()),
        _ => Step::Overlay(Overlay {
            lower,
            data: Vec::new(),
            writable,
            userxattr: true,
            options: Vec::new(),
            at: PathBuf::from("/"),
        }),
    });
    match connected {
        Ok(connection) => root.connection = Some(connection),
        Err(errno) => {
            let tree = plain::add(&mut root.plan, skeletons, key, work, &exposure)?;
            root.locks.push(tree.lock);
            root.notes.push(limits_of(errno));
        }
    }
    Ok(root)
}

fn limits_of(errno: Errno) -> String {
    format!(
        "this machine's files can be removed and replaced, but not changed: no FUSE file system can be mounted ({errno})"
    )
}

/// Mounts the FUSE tree and gives its descriptor to the server.
fn connect(inside: Inside<'_>, place: &Path) -> Result<Connection, Errno> {
    let device = fuse::mount(place)?;
    let log = server::new_log()?;
    inside.link.hand_over(device.as_fd(), log.as_fd())?;
    Ok(Connection {
        link: Some(inside.link),
        device,
        log,
        private: inside.private.to_vec(),
        successor: None,
    })
}

impl HostRoot {
    /// Returns what hangs up (in `poll`) when the server is gone for good and [`revive`](Self::revive) must be called.
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        let link = self.connection.as_ref()?.link.as_ref()?;
        Some(link.as_fd())
    }

    /// Starts a last successor inside the namespace, as a child of the caller, which has one thread.
    pub fn revive(&mut self) -> Result<(), Errno> {
        let connection = self.connection.as_mut().ok_or(Errno::NOTCONN)?;
        connection.link = None;
        let child = server::spawn_successor(
            connection.device.as_fd(),
            connection.log.as_fd(),
            &connection.private,
        )?;
        connection.successor = Some(child.pid);
        Ok(())
    }

    /// Takes note that a child of the caller has ended; where that was the successor, there is another.
    pub fn reaped(&mut self, child: u32) -> Result<(), Errno> {
        let successor = self.connection.as_ref().and_then(|one| one.successor);
        if successor == Some(child) {
            self.revive()
        } else {
            Ok(())
        }
    }
}
