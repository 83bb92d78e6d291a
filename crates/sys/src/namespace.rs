// SPDX-License-Identifier: Apache-2.0
//! Namespaces: leaving them, joining them, telling them apart.
//!
//! Joining goes by pidfd in one `setns(2)` call (Linux 5.8), which joins the user namespace first and the rest with the
//! rights gained there; a path below /proc/PID/ns could name another process by the time it is used.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

bitflags::bitflags! {
    /// Kinds of namespaces.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Namespaces: u32 {
        /// User and group ids, capabilities.
        const USER = 0x1000_0000;
        /// Mounts.
        const MOUNT = 0x0002_0000;
        /// Process ids.
        const PID = 0x2000_0000;
        /// System V IPC and POSIX message queues.
        const IPC = 0x0800_0000;
        /// Host and domain name.
        const UTS = 0x0400_0000;
        /// Network.
        const NETWORK = 0x4000_0000;
        /// The visible root of the control groups.
        const CGROUP = 0x0200_0000;
        /// Offsets of the monotonic and boot-time clocks. A process enters a new one only by `unshare`.
        const TIME = 0x0000_0080;
    }
}

/// Moves the calling process into new namespaces; with [`Namespaces::PID`] only its later children.
///
/// The calling process must have one thread.
pub fn unshare(kinds: Namespaces) -> Result<(), Errno> {
    let flags = libc::c_int::from_ne_bytes(kinds.bits().to_ne_bytes());
    #[expect(
        unsafe_code,
        reason = "rustix marks unshare of descriptor tables unsafe"
    )]
    // SAFETY: only CLONE_NEW* bits are passed (the type has no others), so no memory or descriptor table is unshared.
    let answer = unsafe { libc::unshare(flags) };
    check(answer)
}

/// Joins the namespaces of the process behind `pidfd`.
///
/// `EINVAL` comes where [`Namespaces::USER`] is asked and the target's user namespace is our own.
pub fn join_process(pidfd: impl AsFd, kinds: Namespaces) -> Result<(), Errno> {
    setns(pidfd, kinds)
}

/// The files of /proc/PID/ns, and the kinds that they are of.
const FILES: [(&str, Namespaces); 7] = [
    ("user", Namespaces::USER),
    ("mnt", Namespaces::MOUNT),
    ("pid", Namespaces::PID),
    ("ipc", Namespaces::IPC),
    ("uts", Namespaces::UTS),
    ("net", Namespaces::NETWORK),
    ("cgroup", Namespaces::CGROUP),
];

/// Returns the kinds of namespaces in which the process behind `pidfd` is in another one than the caller.
///
/// `ESRCH` where it has ended. One that is shared need not be joined, and, if it is the machine's, must not.
pub fn different(pidfd: impl AsFd) -> Result<Namespaces, Errno> {
    let information = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(information)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<u32>().ok())
        .ok_or(Errno::SRCH)?;
    let identity = |process: &str, name: &str| -> Result<(u64, u64), Errno> {
        let status = rustix::fs::stat(format!("/proc/{process}/ns/{name}"))?;
        Ok((status.st_dev, status.st_ino))
    };
    let mut different = Namespaces::empty();
    for (name, kind) in FILES {
        if identity("self", name)? != identity(&pid.to_string(), name)? {
            different |= kind;
        }
    }
    Ok(different)
}

/// Joins one namespace by its own descriptor (an opened /proc/PID/ns file or a bind mount of one).
pub fn join(namespace: impl AsFd, kind: Namespaces) -> Result<(), Errno> {
    setns(namespace, kind)
}

fn setns(fd: impl AsFd, kinds: Namespaces) -> Result<(), Errno> {
    let flags = libc::c_int::from_ne_bytes(kinds.bits().to_ne_bytes());
    #[expect(
        unsafe_code,
        reason = "the system call has no safe wrapper for both forms"
    )]
    // SAFETY: the descriptor is open (it is borrowed), no memory is passed.
    let answer = unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags) };
    check(answer)
}

/// Brings the loopback device of the calling process's network namespace up; its addresses come with it.
pub fn raise_loopback() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    #[expect(unsafe_code, reason = "the ioctl has no wrapper")]
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::INVAL)?;
    #[expect(unsafe_code, reason = "the ioctl has no wrapper")]
    // SAFETY: the kernel reads an ifreq whose name ends with a zero byte and whose flags are set; it outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(answer)
}

fn check(answer: libc::c_int) -> Result<(), Errno> {
    if answer == 0 {
        Ok(())
    } else {
        Err(crate::process::last_errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::PidFd;

    #[test]
    fn nothing_is_different_about_ourselves() {
        let ourselves = PidFd::open(std::process::id()).expect("a pidfd");
        assert_eq!(different(&ourselves), Ok(Namespaces::empty()));
    }
}
