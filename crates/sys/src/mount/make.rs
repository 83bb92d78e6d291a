// SPDX-License-Identifier: Apache-2.0
//! Detached mounts, made and moved by descriptor; and the change of root.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
        fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
};

use super::{Attributes, MountError, Propagation, classic};
use crate::fd::Root;

/// A file system that is wanted.
pub(super) struct Request<'a> {
    pub(super) kind: &'a str,
    pub(super) source: Option<&'a str>,
    pub(super) attributes: Attributes,
    pub(super) at: &'a Path,
    pub(super) root: &'a Root,
}

impl Request<'_> {
    /// Makes the mount and puts it upon `there`; returns its root.
    pub(super) fn mount<'b>(
        &self,
        options: impl Iterator<Item = (&'b str, Option<&'b OsStr>)> + Clone,
        there: BorrowedFd<'_>,
    ) -> Result<OwnedFd, MountError> {
        let context = match fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => context,
            Err(Errno::NOSYS) => return classic::mount(self, options, there),
            Err(error) => return Err(self.fail("fsopen", error)),
        };
        if let Some(source) = self.source {
            let answer = fsconfig_set_string(&context, "source", source);
            answer.map_err(|error| self.fail("source", error))?;
        }
        for (key, value) in options.clone() {
            let answer = match value {
                Some(value) => fsconfig_set_string(&context, key, value),
                None => fsconfig_set_flag(&context, key),
            };
            match answer {
                Ok(()) => {}
                // Overlay before 6.7 takes its layers only in one string.
                Err(Errno::INVAL) if matches!(key, "lowerdir+" | "datadir+") => {
                    return classic::mount(self, options, there);
                }
                Err(error) => return Err(self.fail(&spell(key, value), error)),
            }
        }
        fsconfig_create(&context).map_err(|error| self.fail("fsconfig create", error))?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)
            .map_err(|error| self.fail("fsmount", error))?;
        attach(&mount, there).map_err(|source| MountError::Attach {
            at: self.at.to_owned(),
            source,
        })?;
        Ok(mount)
    }

    pub(super) fn fail(&self, doing: &str, source: Errno) -> MountError {
        MountError::Make {
            kind: self.kind.to_owned(),
            at: self.at.to_owned(),
            doing: doing.to_owned(),
            source,
        }
    }
}

fn spell(key: &str, value: Option<&OsStr>) -> String {
    match value {
        Some(value) => format!("{key}={}", value.display()),
        None => key.to_owned(),
    }
}

/// Moves a detached mount onto what is open as `there`.
pub(super) fn attach(mount: impl AsFd, there: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", there, "", flags)
}

/// Makes a detached copy of what is mounted at `from`, with the mounts below it if `recursive`.
pub(super) fn bind_detached(from: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, "", flags)
}

/// How something is bound.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// With the mounts below it.
    pub recursive: bool,
    /// Attributes added.
    pub attributes: Attributes,
    /// To the mounts below it too.
    pub attributes_recursive: bool,
    /// How later mounts spread; as at the source where this is absent.
    pub propagation: Option<Propagation>,
}

impl Default for How {
    fn default() -> How {
        How {
            recursive: false,
            attributes: Attributes::empty(),
            attributes_recursive: false,
            propagation: None,
        }
    }
}

/// Binds what is open as `from` upon `there`, the open place `at` inside `root`, and returns the new mount's root.
///
/// By `mount(2)` where the new calls are missing, which then makes no propagation and cannot reach mounts below.
pub fn bind_onto(
    from: BorrowedFd<'_>,
    root: &Root,
    at: &Path,
    there: BorrowedFd<'_>,
    how: How,
) -> Result<OwnedFd, Errno> {
    let made = bind_detached(from, how.recursive).and_then(|mount| {
        if how.attributes_recursive == how.recursive || !how.recursive {
            set_attributes(&mount, how.attributes, how.propagation, how.recursive)?;
        } else {
            set_attributes(&mount, Attributes::empty(), how.propagation, true)?;
            set_attributes(&mount, how.attributes, None, false)?;
        }
        Ok(mount)
    });
    match made {
        Ok(mount) => attach(&mount, there).map(|()| mount),
        Err(Errno::NOSYS) => classic::bind(from, root, at, there, how),
        Err(error) => Err(error),
    }
}

/// Adds attributes to the mount whose root is open.
pub fn add_attributes(mount: impl AsFd, add: Attributes) -> Result<(), Errno> {
    match set_attributes(&mount, add, None, false) {
        Err(Errno::NOSYS) => classic::remount(mount.as_fd(), add),
        answer => answer,
    }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds attributes to a mount and sets its propagation (`mount_setattr(2)`, Linux 5.12).
pub(super) fn set_attributes(
    mount: impl AsFd,
    add: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> Result<(), Errno> {
    if add.is_empty() && propagation.is_none() {
        return Ok(());
    }
    let times = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let attributes = MountAttributes {
        set: u64::from(add.bits()),
        // The kernel wants the field of access times cleared before one of them is set.
        clear: if add.intersects(times) {
            u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits())
        } else {
            0
        },
        propagation: propagation.map_or(0, |kind| u64::from(change(kind).bits())),
        user_namespace: 0,
    };
    let flags = if recursive {
        libc::AT_EMPTY_PATH | libc::AT_RECURSIVE
    } else {
        libc::AT_EMPTY_PATH
    };
    #[expect(unsafe_code, reason = "mount_setattr has no wrapper")]
    // SAFETY: the descriptor is open, the path is an empty C string, the structure has the size that is passed and
    // outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<MountAttributes>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(crate::process::last_errno())
    }
}

fn change(kind: Propagation) -> MountPropagationFlags {
    match kind {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    }
}

/// How the root of the calling process is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pivot {
    /// `pivot_root(2)`, then the old root is detached.
    Pivot,
    /// The new root is moved over the old one, which stays below it: for an initial ramdisk, where the first fails.
    Move,
}

/// Makes every mount of the namespace take mounts from the machine, but give none back.
///
/// A mount namespace with a new user namespace is born like this.
pub fn make_slave() -> Result<(), Errno> {
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
}

/// Makes `root`, the root of a mount, the root of the mount namespace and of the calling process; detaches the old one.
pub fn enter_root(root: impl AsFd, how: Pivot) -> Result<(), Errno> {
    rustix::process::fchdir(&root)?;
    match how {
        Pivot::Pivot => {
            // Both at one place: the old root then lies upon the new one, and no directory is needed for it.
            rustix::process::pivot_root(".", ".")?;
            unmount(".", UnmountFlags::DETACH)?;
        }
        Pivot::Move => {
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
    }
    rustix::process::chdir("/")
}
