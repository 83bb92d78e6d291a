// SPDX-License-Identifier: Apache-2.0
//! Device files: bound from the machine's /dev, because a user namespace cannot make them.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, makedev, mknodat, open, symlinkat},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};
use wolffia_sys::{Errno, fd::Root, mount};

use crate::{
    report::{Doing, Failure},
    spec::Device,
};

/// The devices that every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The links that every container has.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// The machine's /dev/null, checked.
pub(super) struct Null(OwnedFd);

impl Null {
    pub(super) fn open() -> Result<Null, Failure> {
        let failed = || "opening the machine's /dev/null".to_owned();
        let null =
            open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(failed)?;
        check(&null, "/dev/null", 1, 3)?;
        Ok(Null(null))
    }
}

impl AsFd for Null {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Fails where the open file is not the character device that it should be.
fn check(fd: &OwnedFd, name: &str, major: u32, minor: u32) -> Result<(), Failure> {
    let failed = || format!("taking {name} of this machine for device {major}:{minor}");
    let status = fstat(fd).doing(failed)?;
    let is_device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    if is_device && status.st_rdev == makedev(major, minor) {
        Ok(())
    } else {
        Err(Errno::NXIO).doing(failed)
    }
}

/// Fills a /dev that is ours, and binds what the configuration names besides.
pub(super) fn make(root: &Root, more: &[Device], own_dev: bool) -> Result<(), Failure> {
    if own_dev {
        // Our own tmpfs: reached through the root, where we have just mounted it.
        let failed = || "opening the container's /dev".to_owned();
        let dev = root.open_place(Path::new("/dev")).doing(failed)?;
        for (name, major, minor) in DEVICES {
            bind(&dev, name, major, minor)?;
        }
        for (name, target) in LINKS {
            match symlinkat(target, &dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).doing(|| format!("making the link /dev/{name}")),
            }
        }
    }
    more.iter().try_for_each(|device| place(root, device))
}

fn bind(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> Result<(), Failure> {
    let failed = || format!("binding /dev/{name}");
    let path = format!("/dev/{name}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match open_tree(CWD, &path, flags) {
        Err(Errno::NOSYS) => return bind_classic(dev, name, &path),
        answer => answer.doing(failed)?,
    };
    check(&tree, &path, major, minor)?;
    match mknodat(
        dev,
        name,
        FileType::RegularFile,
        Mode::from_raw_mode(0o666),
        0,
    ) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).doing(failed),
    }
    move_mount(
        &tree,
        "",
        dev,
        name,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .doing(failed)
}

/// Without the new mount calls.
fn bind_classic(dev: &OwnedFd, name: &str, path: &str) -> Result<(), Failure> {
    let dev = Root::from_fd(
        dev.try_clone()
            .doing(|| "opening the container's /dev".to_owned())?,
    );
    mount::Step::Bind(mount::Bind::new(path, name))
        .execute(&dev)
        .map(|_| ())
        .map_err(|error| super::place::mount_failure(&error))
}

/// Binds a device that the configuration names, from the same path of the machine; makes a fifo.
fn place(root: &Root, device: &Device) -> Result<(), Failure> {
    let path = &device.path;
    let failed = || format!("making the device {}", path.display());
    let is_default = path.strip_prefix("/dev").is_ok_and(|name| {
        DEVICES
            .iter()
            .any(|(known, ..)| name.as_os_str() == OsStr::new(known))
    });
    if is_default {
        return Ok(());
    }
    if device.kind == "p" {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = root
            .make_directories(parent, Mode::from_raw_mode(0o755))
            .doing(failed)?;
        let name = path.file_name().ok_or(Errno::INVAL).doing(failed)?;
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666));
        return mknodat(&parent, name, FileType::Fifo, mode, 0).doing(failed);
    }
    let found = open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(failed)?;
    let status = fstat(&found).doing(failed)?;
    let number = u32::try_from(device.major)
        .ok()
        .zip(u32::try_from(device.minor).ok());
    let wanted_kind = if device.kind == "b" {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let same = FileType::from_raw_mode(status.st_mode) == wanted_kind
        && number.is_some_and(|(major, minor)| status.st_rdev == makedev(major, minor));
    if !same {
        return Err(Errno::NXIO).doing(|| format!("{}: this machine has another there", failed()));
    }
    mount::Bind::new(path, path)
        .mount_from(found.as_fd(), root)
        .map(|_| ())
        .map_err(|error| super::place::mount_failure(&error))
}
