// SPDX-License-Identifier: Apache-2.0
//! Socket options and datagram addresses that rustix does not have.
//!
//! A socket that stands for somebody else needs two things: a source address that is not its machine's (`IP_TRANSPARENT`), and a mark by which
//! routing tells its packets from others (`SO_MARK`). A datagram socket that listens on every address must learn which of them a datagram was sent to
//! (`IP_PKTINFO`), and answer from there: an answer from another address is thrown away by whoever asked. Sources: ip(7), ipv6(7), socket(7), cmsg(3).

#![expect(
    unsafe_code,
    reason = "socket options and ancillary data without a wrapper in rustix"
)]

use std::{
    mem::{self, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use rustix::io::Errno;

use crate::process::last_errno;

// As addresses have them.
const FAMILY_V4: libc::sa_family_t = 2;
const FAMILY_V6: libc::sa_family_t = 10;

/// Room for one `in6_pktinfo` with its header, and some to spare.
const CONTROL_BYTES: usize = 128;

/// Lets a socket be bound to, and speak from, an address that is not its machine's. Takes `CAP_NET_ADMIN` or `CAP_NET_RAW` over its network namespace.
pub fn set_transparent(socket: impl AsFd, is_v6: bool) -> Result<(), Errno> {
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)
    }
}

/// Marks what a socket sends, for routing rules. Takes `CAP_NET_ADMIN` or `CAP_NET_RAW` over its network namespace.
pub fn set_mark(socket: impl AsFd, mark: u32) -> Result<(), Errno> {
    let mark = libc::c_int::from_ne_bytes(mark.to_ne_bytes());
    set(socket, libc::SOL_SOCKET, libc::SO_MARK, mark)
}

/// Makes a datagram socket say where each datagram was sent to; see [`receive`].
pub fn tell_destination(socket: impl AsFd, is_v6: bool) -> Result<(), Errno> {
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

fn set(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the descriptor is open (it is borrowed); the kernel reads one int, whose size is passed and which outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(|_| Errno::INVAL)?,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// A datagram that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes, at most those of the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to, where the socket was asked to [tell](tell_destination).
    pub to: Option<IpAddr>,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Receives a datagram; `EAGAIN` where there is none. Never waits.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Datagram, Errno> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero msghdr is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = u32::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or_default();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: every pointer of the header leads to memory of the length beside it, which outlives the call and is written by the kernel alone.
    let count = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut header,
            libc::MSG_DONTWAIT,
        )
    };
    let length = usize::try_from(count).map_err(|_| last_errno())?;
    // SAFETY: it was zeroed, and then the kernel wrote an address or nothing; every value of its bytes is valid.
    let name = unsafe { name.assume_init() };
    Ok(Datagram {
        length,
        from: read_name(&name).ok_or(Errno::AFNOSUPPORT)?,
        to: read_control(&header),
    })
}

/// Sends a datagram, from this one of our addresses where it is said. Never waits.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> Result<(), Errno> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        // The kernel only reads it.
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let (name, name_bytes) = write_name(to);
    // SAFETY: an all-zero msghdr is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw const name).cast_mut().cast();
    header.msg_namelen = name_bytes;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(from) = from {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        header.msg_controllen = write_control(&header, from) as _;
    }
    // SAFETY: every pointer of the header leads to memory of the length beside it, which outlives the call and is only read.
    let count = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if count < 0 { Err(last_errno()) } else { Ok(()) }
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this; a sockaddr_storage is large and aligned enough for every address.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(address, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_name(to: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: an all-zero sockaddr_storage is a valid value.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let bytes = match to {
        SocketAddr::V4(to) => {
            // SAFETY: a sockaddr_storage is large and aligned enough for every address, and all zero.
            let v4 = unsafe { &mut *(&raw mut name).cast::<libc::sockaddr_in>() };
            v4.sin_family = FAMILY_V4;
            v4.sin_port = to.port().to_be();
            v4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(to) => {
            // SAFETY: as above.
            let v6 = unsafe { &mut *(&raw mut name).cast::<libc::sockaddr_in6>() };
            v6.sin6_family = FAMILY_V6;
            v6.sin6_port = to.port().to_be();
            v6.sin6_addr.s6_addr = to.ip().octets();
            v6.sin6_scope_id = to.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (name, libc::socklen_t::try_from(bytes).unwrap_or_default())
}

fn read_control(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the header's control buffer was filled by the kernel, which also set its length.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: the macros return headers that lie wholly within the control buffer, which is aligned for them.
        let (level, kind, data) =
            unsafe { ((*at).cmsg_level, (*at).cmsg_type, libc::CMSG_DATA(at)) };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel puts an in_pktinfo behind such a header.
                let told = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                return Some(Ipv4Addr::from(u32::from_be(told.ipi_addr.s_addr)).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the kernel puts an in6_pktinfo behind such a header.
                let told = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                return Some(Ipv6Addr::from(told.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: as for the first one.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
    None
}

/// Writes from where to send into the control buffer of `header`; returns how long that is.
fn write_control(header: &libc::msghdr, from: IpAddr) -> usize {
    // SAFETY: the control buffer is larger than a header and both kinds of contents, and aligned for them.
    unsafe {
        let at = libc::CMSG_FIRSTHDR(header);
        match from {
            IpAddr::V4(from) => {
                let mut told: libc::in_pktinfo = mem::zeroed();
                told.ipi_spec_dst.s_addr = u32::from(from).to_be();
                (*at).cmsg_level = libc::IPPROTO_IP;
                (*at).cmsg_type = libc::IP_PKTINFO;
                put(at, told)
            }
            IpAddr::V6(from) => {
                let mut told: libc::in6_pktinfo = mem::zeroed();
                told.ipi6_addr.s6_addr = from.octets();
                (*at).cmsg_level = libc::IPPROTO_IPV6;
                (*at).cmsg_type = libc::IPV6_PKTINFO;
                put(at, told)
            }
        }
    }
}

/// Writes the contents behind a control header, and its length.
///
/// # Safety
/// Behind `at` there is room for a `T`.
unsafe fn put<T>(at: *mut libc::cmsghdr, contents: T) -> usize {
    let bytes = u32::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the caller knows that there is room; lengths are computed by the kernel's own rules.
    unsafe {
        (*at).cmsg_len = libc::CMSG_LEN(bytes) as _;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(contents);
        libc::CMSG_SPACE(bytes) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_datagram_says_where_it_was_sent_and_is_answered_from_there() {
        let cases: [(&str, &str); 2] = [("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1")];
        for (everywhere, to) in cases {
            let Ok(server) = UdpSocket::bind(everywhere) else {
                continue; // no IPv6 here
            };
            let to: IpAddr = to.parse().expect("an address");
            tell_destination(&server, to.is_ipv6()).expect("asking");
            let mut buffer = [0; 16];
            assert_eq!(receive(&server, &mut buffer), Err(Errno::AGAIN));
            let port = server.local_addr().expect("its address").port();
            let client = UdpSocket::bind(SocketAddr::new(to, 0)).expect("a client");
            client.connect((to, port)).expect("connecting");
            client.send(b"ask").expect("sending");
            let mut poll = [rustix::event::PollFd::new(
                &server,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut poll, None).expect("waiting");
            let came = receive(&server, &mut buffer).expect("a datagram");
            assert_eq!((came.length, came.to), (3, Some(to)));
            assert_eq!(came.from, client.local_addr().expect("its address"));
            send(&server, b"answer", came.from, came.to).expect("answering");
            // A connected socket hears only whom it asked.
            assert_eq!(client.recv(&mut buffer).expect("the answer"), 6);
        }
    }
}
