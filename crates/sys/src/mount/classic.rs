// SPDX-License-Identifier: Apache-2.0
//! The same mounts by `mount(2)`, where the new calls are missing: on /proc/self/fd/N, which names a held descriptor.

use std::{
    ffi::{CString, OsStr, OsString},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags, fstatvfs, statx},
    io::Errno,
    mount::{MountFlags, mount_bind, mount_bind_recursive, mount_remount},
};

use super::{
    Attributes, MountError,
    make::{How, Request},
};
use crate::fd::Root;

/// The path of a held descriptor.
fn name(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

pub(super) fn mount<'b>(
    request: &Request<'_>,
    options: impl Iterator<Item = (&'b str, Option<&'b OsStr>)>,
    there: BorrowedFd<'_>,
) -> Result<OwnedFd, MountError> {
    let data = CString::new(join(options).into_vec());
    let data = data.map_err(|_| request.fail("options", Errno::INVAL))?;
    let source = request.source.unwrap_or("none");
    let flags = classic_flags(request.attributes);
    rustix::mount::mount(
        source,
        name(there),
        request.kind,
        flags,
        Some(data.as_c_str()),
    )
    .map_err(|error| request.fail("mount", error))?;
    top(request.root, request.at, there)
        .map_err(|error| request.fail("opening the new mount", error))
}

/// One string of options; the layers of an overlay are joined, data-only ones behind `::`.
fn join<'b>(options: impl Iterator<Item = (&'b str, Option<&'b OsStr>)>) -> OsString {
    let (mut layers, mut rest) = (OsString::new(), OsString::new());
    for (key, value) in options {
        let value = value.unwrap_or_default();
        match key {
            "lowerdir+" => {
                if !layers.is_empty() {
                    layers.push(":");
                }
                layers.push(escape(value));
            }
            "datadir+" => {
                layers.push("::");
                layers.push(escape(value));
            }
            _ => {
                if !rest.is_empty() {
                    rest.push(",");
                }
                rest.push(key);
                if !value.is_empty() {
                    rest.push("=");
                    rest.push(value);
                }
            }
        }
    }
    if layers.is_empty() {
        return rest;
    }
    let mut whole = OsString::from("lowerdir=");
    whole.push(layers);
    if !rest.is_empty() {
        whole.push(",");
        whole.push(rest);
    }
    whole
}

/// A colon or comma in the name of a layer is escaped.
fn escape(path: &OsStr) -> OsString {
    let mut escaped = Vec::with_capacity(path.len());
    for byte in path.as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    OsString::from_vec(escaped)
}

pub(super) fn bind(
    from: BorrowedFd<'_>,
    root: &Root,
    at: &Path,
    there: BorrowedFd<'_>,
    how: How,
) -> Result<OwnedFd, Errno> {
    if how.recursive {
        mount_bind_recursive(name(from), name(there))?;
    } else {
        mount_bind(name(from), name(there))?;
    }
    let mount = top(root, at, there)?;
    if !how.attributes.is_empty() {
        remount(mount.as_fd(), how.attributes)?;
    }
    Ok(mount)
}

/// Adds attributes to a mount, keeping those it has.
pub(super) fn remount(mount: BorrowedFd<'_>, add: Attributes) -> Result<(), Errno> {
    let kept = fstatvfs(mount).map_or(MountFlags::empty(), |status| locked(status.f_flag));
    mount_remount(
        name(mount),
        MountFlags::BIND | kept | classic_flags(add),
        c"",
    )
}

/// Opens what was mounted upon `there`.
///
/// A descriptor's link in /proc leads to what lies below the mount, so its place is looked up again, and the mount that
/// is found there must be another than that of the place.
fn top(root: &Root, at: &Path, there: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mount_of = |fd: BorrowedFd<'_>| -> Result<u64, Errno> {
        let status = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        Ok(status.stx_mnt_id)
    };
    // The root's own place is not to be had through it: what is mounted upon it lies behind its `..` and its name.
    let found = if at
        .components()
        .any(|part| matches!(part, Component::Normal(_)))
    {
        root.open_place(at)?
    } else {
        let path = rustix::fs::readlinkat(rustix::fs::CWD, name(there), Vec::new())?;
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?
    };
    if mount_of(found.as_fd())? == mount_of(there)? {
        return Err(Errno::STALE);
    }
    Ok(found)
}

/// Flags that the source has and that a remount must repeat, because its namespace may have locked them.
fn locked(flags: StatVfsMountFlags) -> MountFlags {
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    pairs
        .into_iter()
        .filter(|(has, _)| flags.contains(*has))
        .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

fn classic_flags(attributes: Attributes) -> MountFlags {
    let pairs = [
        (Attributes::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (Attributes::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (Attributes::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (Attributes::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (Attributes::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (Attributes::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (Attributes::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (Attributes::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ];
    pairs
        .into_iter()
        .filter(|(attribute, _)| attributes.contains(*attribute))
        .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_one_option() {
        let value = |text: &'static str| Some(OsStr::new(text));
        let options = [
            ("lowerdir+", value("/a:b")),
            ("lowerdir+", value("/c")),
            ("datadir+", value("/objects")),
            ("upperdir", value("/up")),
            ("userxattr", None),
        ];
        let joined = join(options.into_iter());
        assert_eq!(
            joined,
            "lowerdir=/a\\:b:/c::/objects,upperdir=/up,userxattr"
        );
    }
}
