// SPDX-License-Identifier: Apache-2.0
//! Devices that a user may be given: /dev/fuse and /dev/net/tun, tried by using them.

use std::os::fd::AsRawFd;

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags},
};

use super::trial::{Ability, Lack, attempt};
use crate::namespace::Namespaces;

/// Tries a FUSE mount in a user namespace. Nobody serves it; the mount alone tells.
pub fn fuse() -> Ability {
    attempt(Namespaces::USER | Namespaces::MOUNT, || {
        let place = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", place).map_err(Lack::at("making mounts private"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())
            .map_err(Lack::at("opening /dev/fuse"))?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options)
            .map_err(|_| Lack::new("mounting a FUSE file system", Errno::INVAL))?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("probe", "/proc", "fuse", flags, Some(options.as_c_str()))
            .map_err(Lack::at("mounting a FUSE file system"))
    })
}

/// Tries to open a TAP device in a network namespace of its own.
pub fn tun() -> Ability {
    attempt(Namespaces::USER | Namespaces::NETWORK, || {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map(drop)
            .map_err(Lack::at("opening /dev/net/tun"))
    })
}
