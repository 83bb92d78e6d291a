// SPDX-License-Identifier: Apache-2.0
//! TAP devices: a network device whose other end is a descriptor that frames are read from and written to.
//!
//! # Theory of operation
//! A TAP lies in the network namespace of whoever *opened* /dev/net/tun, not of whoever names the device (`tun_chr_open` in `drivers/net/tun.c` keeps the
//! namespace of the opener): join first, open then, and hand the descriptor to the process that is to serve it.
//!
//! It is opened with a virtio header of [`HEADER_BYTES`] before each frame. What the header makes possible is asked for afterwards (`TUNSETOFFLOAD`), the
//! best first, down to nothing: a kernel before 6.2 has no cutting of UDP, and versions say less than an answer. With it a frame may be 64 KiB long
//! whatever the MTU, with its checksum left undone; the device on the other side takes it whole.
//!
//! A device that somebody else made persistent is attached to by its name; it takes the header even where its maker had none. A
//! descriptor that is attached already ([`Tap::adopt`]) cannot be changed any more and is served as it is.
//!
//! Sources: `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`, `drivers/net/tun.c`.

use std::{
    ffi::CStr,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::process::last_errno;

/// Length of the header before each frame: `struct virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;

/// Where devices are opened.
const DEVICE: &CStr = c"/dev/net/tun";

const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;

/// The ioctls, `_IOW('T', n, int)` and `_IOR('T', 210, unsigned int)`: the same on x86-64 and arm64.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
const TUNGETIFF: libc::c_ulong = 0x8004_54D2;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54D8;
const TUNSETVNETLE: libc::c_ulong = 0x4004_54DC;

bitflags::bitflags! {
    /// What the device may leave undone in frames that it gives us, and takes undone from us (`TUN_F_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offload: u32 {
        /// Checksums.
        const CHECKSUM = 0x01;
        /// TCP segments over IPv4 larger than the MTU.
        const TSO4 = 0x02;
        /// TCP segments over IPv6 larger than the MTU.
        const TSO6 = 0x04;
        /// Several UDP datagrams over IPv4 in one frame.
        const USO4 = 0x20;
        /// Several UDP datagrams over IPv6 in one frame.
        const USO6 = 0x40;
    }
}

impl Offload {
    /// TCP and checksums.
    const TCP: Offload = Offload::CHECKSUM.union(Offload::TSO4).union(Offload::TSO6);

    /// What is asked for, in this order, until the kernel takes one.
    const LADDER: [Offload; 4] = [
        Offload::TCP.union(Offload::USO4).union(Offload::USO6),
        Offload::TCP,
        Offload::CHECKSUM,
        Offload::empty(),
    ];
}

/// A TAP device's other end; non-blocking.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    has_header: bool,
    offload: Offload,
}

impl Tap {
    /// Makes the device of this name in the caller's network namespace, or attaches to it where it is persistent and free.
    ///
    /// It ends with the last descriptor, unless it is persistent. `EBUSY` where somebody serves it; `EPERM` without
    /// `CAP_NET_ADMIN` over the namespace.
    pub fn open(name: &str) -> Result<Tap, Errno> {
        let fd = rustix::fs::open(
            DEVICE,
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        ioctl_request(&fd, TUNSETIFF, &mut request)?;
        Tap::with_header(fd, name_of(&request))
    }

    /// Takes a descriptor that is attached to a TAP already.
    ///
    /// `EINVAL` where it is none, or where it has the packet information that nobody has used since virtio headers came.
    pub fn adopt(fd: OwnedFd) -> Result<Tap, Errno> {
        let mut request = request("")?;
        ioctl_request(&fd, TUNGETIFF, &mut request)?;
        #[expect(unsafe_code, reason = "a union of the kernel's")]
        // SAFETY: TUNGETIFF has written the flags, the member that is read.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags & IFF_TAP == 0 || flags & IFF_NO_PI == 0 {
            return Err(Errno::INVAL);
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        let name = name_of(&request);
        if flags & IFF_VNET_HDR != 0 {
            return Tap::with_header(fd, name);
        }
        // Without a header nobody could say what was left undone, so nothing may be.
        ioctl_number(&fd, TUNSETOFFLOAD, Offload::empty().bits())?;
        Ok(Tap {
            fd,
            name,
            has_header: false,
            offload: Offload::empty(),
        })
    }

    /// Takes a descriptor that another process of ours got by [`Tap::open`] and passed on.
    pub fn received(fd: OwnedFd, name: String, offload: Offload) -> Tap {
        Tap {
            fd,
            name,
            has_header: true,
            offload,
        }
    }

    fn with_header(fd: OwnedFd, name: String) -> Result<Tap, Errno> {
        let bytes = libc::c_int::try_from(HEADER_BYTES).map_err(|_| Errno::INVAL)?;
        ioctl_pointer(&fd, TUNSETVNETHDRSZ, bytes)?;
        // Headers are little-endian whatever the machine; kernels before 4.0 do not know the question.
        match ioctl_pointer(&fd, TUNSETVNETLE, 1) {
            Ok(()) | Err(Errno::INVAL | Errno::NOTTY) => {}
            Err(errno) => return Err(errno),
        }
        let mut refused = Errno::INVAL;
        for offload in Offload::LADDER {
            match ioctl_number(&fd, TUNSETOFFLOAD, offload.bits()) {
                Ok(()) => {
                    return Ok(Tap {
                        fd,
                        name,
                        has_header: true,
                        offload,
                    });
                }
                Err(errno) => refused = errno,
            }
        }
        Err(refused)
    }

    /// Returns the name that the device has got.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether each frame has a header of [`HEADER_BYTES`] before it, in both directions.
    pub fn has_header(&self) -> bool {
        self.has_header
    }

    /// Returns what may be left undone.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Reads one frame, and its header where there is one, into pieces of memory; `EAGAIN` where none waits.
    pub fn read(&self, pieces: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        rustix::io::readv(&self.fd, pieces)
    }

    /// Writes one frame, with its header where there is one.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        rustix::io::writev(&self.fd, pieces)
    }

    /// Returns the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns a request that names a device; `EINVAL` where the name is longer than the kernel's 15 bytes.
fn request(name: &str) -> Result<libc::ifreq, Errno> {
    #[expect(unsafe_code, reason = "a struct of the kernel's")]
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(Errno::INVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ioctl_request(
    fd: &OwnedFd,
    number: libc::c_ulong,
    request: &mut libc::ifreq,
) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "the ioctl has no wrapper")]
    // SAFETY: both ioctls that come here read or write one ifreq, which is borrowed for the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(request)) };
    check(answer)
}

/// An ioctl that is told a number where others are told an address.
fn ioctl_number(fd: &OwnedFd, number: libc::c_ulong, value: u32) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "the ioctl has no wrapper")]
    // SAFETY: TUNSETOFFLOAD takes a number, no address.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number, libc::c_ulong::from(value)) };
    check(answer)
}

fn ioctl_pointer(fd: &OwnedFd, number: libc::c_ulong, value: libc::c_int) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "the ioctl has no wrapper")]
    // SAFETY: both ioctls that come here read one int, which outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number, &raw const value) };
    check(answer)
}

fn check(answer: libc::c_int) -> Result<(), Errno> {
    if answer < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wolffia_testkit::need;

    use super::*;
    use crate::{
        namespace::{self, Namespaces},
        netlink::{Change, Netlink},
    };

    /// Runs `work` as root of user and network namespaces of its own, in a fresh process that has one thread.
    fn inside(work: fn() -> Result<(), Box<dyn std::error::Error>>, test: &str) {
        if std::env::var_os("WOLFFIA_TAP_INSIDE").is_some() {
            namespace::unshare(Namespaces::NETWORK).expect("a network namespace");
            work().expect("the work inside");
            return;
        }
        let own = std::env::current_exe().expect("this program");
        let done = std::process::Command::new("unshare")
            .args(["-U", "-r", "-n", "--"])
            .arg(own)
            .args(["--exact", test, "--test-threads=1"])
            .env("WOLFFIA_TAP_INSIDE", "1")
            .status();
        assert!(done.expect("unshare runs").success());
    }

    #[test]
    fn a_frame_that_the_kernel_sends_arrives_with_its_header() {
        need!(UserNamespace, Tun);
        inside(
            || {
                let tap = Tap::open("tap0")?;
                assert_eq!(tap.name(), "tap0");
                assert!(tap.has_header());
                assert!(tap.offload().contains(Offload::CHECKSUM));
                let mut netlink = Netlink::open()?;
                let index = netlink.link("tap0")?.index;
                netlink.change(
                    index,
                    Change {
                        up: Some(true),
                        ..Change::default()
                    },
                )?;
                // A device that comes up says so to its neighbours (MLD) after at most some hundred milliseconds.
                let mut poll = [rustix::event::PollFd::new(
                    &tap,
                    rustix::event::PollFlags::IN,
                )];
                rustix::event::poll(
                    &mut poll,
                    Some(&rustix::event::Timespec {
                        tv_sec: 10,
                        tv_nsec: 0,
                    }),
                )?;
                let (mut header, mut frame) = ([0xff; HEADER_BYTES], [0; 2048]);
                let count =
                    tap.read(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut frame)])?;
                assert!(count > HEADER_BYTES + 14);
                assert_eq!(frame[12..14], [0x86, 0xdd], "an IPv6 frame");
                assert_eq!(header[1], 0, "not to be cut");
                assert_eq!(
                    tap.write(&[IoSlice::new(&header[..5])]),
                    Err(Errno::INVAL),
                    "shorter than its header"
                );
                Ok(())
            },
            "tap::tests::a_frame_that_the_kernel_sends_arrives_with_its_header",
        );
    }

    #[test]
    fn a_second_server_is_refused_and_a_passed_descriptor_taken() {
        need!(UserNamespace, Tun);
        inside(
            || {
                let first = Tap::open("tap0")?;
                assert_eq!(Tap::open("tap0").map(|_| ()), Err(Errno::BUSY));
                assert_eq!(
                    Tap::open("a-name-of-16-byte").map(|_| ()),
                    Err(Errno::INVAL)
                );
                let second = Tap::adopt(first.into_fd())?;
                assert!(second.has_header());
                assert_eq!(second.name(), "tap0");
                let null = std::fs::File::open("/dev/null")?;
                assert!(Tap::adopt(null.into()).is_err());
                // The device ends with its last descriptor.
                drop(second);
                drop(Tap::open("tap0")?);
                Ok(())
            },
            "tap::tests::a_second_server_is_refused_and_a_passed_descriptor_taken",
        );
    }
}
