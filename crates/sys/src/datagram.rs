// SPDX-License-Identifier: Apache-2.0
//! Datagram sockets at speed: many messages by one call, many datagrams in one message, and errors with the destination they are about.
//!
//! # Theory of operation
//! Three things that the kernel says and takes only in control messages, which rustix passes over:
//! - `UDP_GRO`: datagrams of equal length from one sender arrive as one message with their length beside it ([`Message::segment_bytes`]);
//! - `UDP_SEGMENT`: the same the other way ([`send`]); one walk down the stack for 64 KiB;
//! - `IP_RECVERR`: what came back by ICMP for a datagram waits in a queue of its own ([`undelivered`]), with the destination. A socket that speaks with
//!   many otherwise hears an errno without learning whom it is about.
//!
//! Nothing here waits: every call has `MSG_DONTWAIT`.
//!
//! Sources: udp(7), ip(7), ipv6(7), recvmmsg(2), cmsg(3).

#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of structs and constants of the kernel's, far below the bounds of their types"
)]

use std::{
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd},
};

use rustix::io::Errno;

use crate::process::last_errno;

/// Room for control messages: the segment's length, or an error with its origin.
const CONTROL_BYTES: usize = 128;

/// Datagrams in one message at most (`UDP_MAX_SEGMENTS` of kernels before 6.8; later ones take 128).
pub const SEGMENTS_MAX: usize = 64;

/// Memory into which messages are received, used again and again.
#[derive(Debug)]
pub struct Receiver {
    memory: Vec<u8>,
    bytes_each: usize,
    received: Vec<Received>,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    from: Option<SocketAddr>,
    bytes: usize,
    segment_bytes: Option<u16>,
}

/// One message: a datagram, or several in a row.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The sender.
    pub from: Option<SocketAddr>,
    /// What it sent.
    pub payload: &'a [u8],
    /// The length of each of several datagrams, the last one perhaps shorter.
    pub segment_bytes: Option<u16>,
}

/// A datagram that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undelivered {
    /// Where it was sent to.
    pub to: Option<SocketAddr>,
    /// What the kernel makes of it.
    pub errno: Errno,
    /// Type and code of the ICMP message, where it was one.
    pub icmp: Option<(u8, u8)>,
}

/// A control message's room, aligned as its header wants.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

impl Receiver {
    /// Returns room for so many messages of so many bytes each. The memory is only used once messages come.
    pub fn new(messages: usize, bytes_each: usize) -> Receiver {
        Receiver {
            memory: vec![0; messages * bytes_each],
            bytes_each,
            received: Vec::with_capacity(messages),
        }
    }

    /// Receives what waits, up to the room there is, and returns how many messages; `EAGAIN` where none waits.
    pub fn receive(&mut self, socket: impl AsFd) -> Result<usize, Errno> {
        let room = self.received.capacity();
        self.received.clear();
        let mut names = vec![MaybeUninit::<libc::sockaddr_storage>::zeroed(); room];
        let mut controls = vec![Control([0; CONTROL_BYTES]); room];
        let mut pieces: Vec<libc::iovec> = self
            .memory
            .chunks_exact_mut(self.bytes_each)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: chunk.len(),
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = names
            .iter_mut()
            .zip(&mut controls)
            .zip(&mut pieces)
            .map(|((name, control), piece)| libc::mmsghdr {
                msg_hdr: header(name, control, piece),
                msg_len: 0,
            })
            .collect();
        let count = libc::c_uint::try_from(headers.len()).map_err(|_| Errno::INVAL)?;
        #[expect(unsafe_code, reason = "rustix has no recvmmsg")]
        // SAFETY: each header points to a name, a control room and a piece of memory that outlive the call, with their true lengths.
        let answer = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(answer).map_err(|_| last_errno())?;
        for header in headers.iter().take(got) {
            let mut segment_bytes = None;
            each_control(&header.msg_hdr, |level, kind, data| {
                if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO)
                    && let Some(bytes) = data.first_chunk::<4>()
                {
                    segment_bytes = u16::try_from(i32::from_ne_bytes(*bytes)).ok();
                }
            });
            let bytes = usize::try_from(header.msg_len).unwrap_or(0);
            self.received.push(Received {
                from: name_of(&header.msg_hdr),
                bytes: bytes.min(self.bytes_each),
                segment_bytes: segment_bytes
                    .filter(|segment| *segment > 0 && usize::from(*segment) < bytes),
            });
        }
        Ok(got)
    }

    /// Returns the messages of the last [`receive`](Receiver::receive), in order.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        self.received
            .iter()
            .zip(self.memory.chunks_exact(self.bytes_each))
            .map(|(received, chunk)| Message {
                from: received.from,
                payload: &chunk[..received.bytes],
                segment_bytes: received.segment_bytes,
            })
    }
}

/// Sends one message: a datagram, or, with a length, several in a row ([`SEGMENTS_MAX`] at most), the last one perhaps shorter.
pub fn send(
    socket: impl AsFd,
    to: Option<SocketAddr>,
    payload: &[u8],
    segment_bytes: Option<u16>,
) -> Result<usize, Errno> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let name_bytes = to.map_or(0, |to| write_name(&mut name, to));
    let mut control = Control([0; CONTROL_BYTES]);
    let mut piece = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    let mut message = header(&mut name, &mut control, &mut piece);
    message.msg_namelen = name_bytes;
    if name_bytes == 0 {
        message.msg_name = std::ptr::null_mut();
    }
    message.msg_controllen = 0;
    if let Some(segment) = segment_bytes {
        // A header of 16 bytes, two of data, filled up to 8: CMSG_LEN and CMSG_SPACE of a u16.
        let length: usize = CMSG_HEADER_BYTES + 2;
        control.0[..8].copy_from_slice(&length.to_ne_bytes());
        control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        control.0[16..18].copy_from_slice(&segment.to_ne_bytes());
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = (CMSG_HEADER_BYTES + 8) as _;
    }
    #[expect(unsafe_code, reason = "rustix has no UDP_SEGMENT message")]
    // SAFETY: the header points to a name, a control message and a payload that outlive the call, with their true lengths; the
    // kernel only reads them.
    let answer = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(answer).map_err(|_| last_errno())
}

/// Lets datagrams of equal length arrive together; `ENOPROTOOPT` before Linux 5.0.
pub fn receive_together(socket: impl AsFd) -> Result<(), Errno> {
    set_number(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Keeps what comes back for [`undelivered`].
pub fn keep_errors(socket: impl AsFd, is_v6: bool) -> Result<(), Errno> {
    if is_v6 {
        set_number(socket, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set_number(socket, libc::SOL_IP, libc::IP_RECVERR, 1)
    }
}

/// Returns the next datagram that came back, `None` where none waits.
pub fn undelivered(socket: impl AsFd) -> Result<Option<Undelivered>, Errno> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL_BYTES]);
    // What was sent comes back too, from its beginning on; nobody here asks for it.
    let mut start = [0_u8; 8];
    let mut piece = libc::iovec {
        iov_base: start.as_mut_ptr().cast(),
        iov_len: start.len(),
    };
    let mut message = header(&mut name, &mut control, &mut piece);
    #[expect(
        unsafe_code,
        reason = "rustix does not give out these control messages"
    )]
    // SAFETY: the header points to a name, a control room and a piece of memory that outlive the call, with their true lengths.
    let answer = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if answer < 0 {
        return match last_errno() {
            Errno::AGAIN => Ok(None),
            errno => Err(errno),
        };
    }
    let mut found = Undelivered {
        to: name_of(&message),
        errno: Errno::IO,
        icmp: None,
    };
    each_control(&message, |level, kind, data| {
        let is_error = matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        );
        // struct sock_extended_err: errno, origin, type, code, ...
        if is_error && let Some(bytes) = data.first_chunk::<8>() {
            let number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            found.errno = Errno::from_raw_os_error(i32::try_from(number).unwrap_or(libc::EIO));
            if matches!(bytes[4], SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6) {
                found.icmp = Some((bytes[5], bytes[6]));
            }
        }
    });
    Ok(Some(found))
}

const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;
/// `sizeof(struct cmsghdr)` on 64-bit machines.
const CMSG_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

fn header(
    name: &mut MaybeUninit<libc::sockaddr_storage>,
    control: &mut Control,
    piece: &mut libc::iovec,
) -> libc::msghdr {
    #[expect(
        unsafe_code,
        reason = "a struct of the kernel's with padding on some machines"
    )]
    // SAFETY: an all-zero msghdr is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    header
}

/// Hands level, type and data of each control message to `each`.
fn each_control(header: &libc::msghdr, mut each: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    let length = header.msg_controllen.min(CONTROL_BYTES);
    if header.msg_control.is_null() || length == 0 {
        return;
    }
    #[expect(unsafe_code, reason = "memory that the kernel wrote to")]
    // SAFETY: `header` made the pointer from a `Control`, which is initialised, still borrowed by its caller, and CONTROL_BYTES long.
    let mut rest = unsafe { std::slice::from_raw_parts(header.msg_control.cast::<u8>(), length) };
    let number = |bytes: &[u8]| {
        bytes
            .first_chunk::<4>()
            .map(|four| i32::from_ne_bytes(*four))
    };
    while let Some(whole) = rest
        .first_chunk::<8>()
        .map(|eight| usize::from_ne_bytes(*eight))
    {
        let (Some(level), Some(kind), Some(data)) = (
            rest.get(8..).and_then(number),
            rest.get(12..).and_then(number),
            rest.get(CMSG_HEADER_BYTES..whole),
        ) else {
            return;
        };
        each(level, kind, data);
        rest = rest.get(whole.next_multiple_of(8)..).unwrap_or_default();
    }
}

fn name_of(header: &libc::msghdr) -> Option<SocketAddr> {
    let length = header.msg_namelen as usize;
    if header.msg_name.is_null() || length > size_of::<libc::sockaddr_storage>() {
        return None;
    }
    #[expect(unsafe_code, reason = "memory that the kernel wrote to")]
    // SAFETY: `header` made the pointer from a sockaddr_storage that was zeroed, so all of it is initialised, and is still borrowed.
    let bytes = unsafe { std::slice::from_raw_parts(header.msg_name.cast::<u8>(), length) };
    let family = u16::from_ne_bytes(*bytes.first_chunk::<2>()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk::<2>()?);
    match i32::from(family) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::new(IpAddr::V4(address), port))
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk::<4>()?);
            Some(SocketAddrV6::new(address, port, 0, scope).into())
        }
        _ => None,
    }
}

/// Writes a name and returns its length.
fn write_name(name: &mut MaybeUninit<libc::sockaddr_storage>, to: SocketAddr) -> libc::socklen_t {
    match to {
        SocketAddr::V4(to) => write_name4(name, to),
        SocketAddr::V6(to) => write_name6(name, to),
    }
}

fn write_name4(
    name: &mut MaybeUninit<libc::sockaddr_storage>,
    to: SocketAddrV4,
) -> libc::socklen_t {
    let value = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    #[expect(unsafe_code, reason = "a struct of the kernel's")]
    // SAFETY: sockaddr_storage is larger than sockaddr_in and at least as strictly aligned.
    unsafe {
        name.as_mut_ptr().cast::<libc::sockaddr_in>().write(value);
    }
    size_of::<libc::sockaddr_in>() as libc::socklen_t
}

fn write_name6(
    name: &mut MaybeUninit<libc::sockaddr_storage>,
    to: SocketAddrV6,
) -> libc::socklen_t {
    let value = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: to.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr {
            s6_addr: to.ip().octets(),
        },
        sin6_scope_id: to.scope_id(),
    };
    #[expect(unsafe_code, reason = "a struct of the kernel's")]
    // SAFETY: sockaddr_storage is larger than sockaddr_in6 and at least as strictly aligned.
    unsafe {
        name.as_mut_ptr().cast::<libc::sockaddr_in6>().write(value);
    }
    size_of::<libc::sockaddr_in6>() as libc::socklen_t
}

fn set_number(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "rustix has no wrapper for these options")]
    // SAFETY: the options that come here read one int, which outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answer < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn datagrams_go_out_and_come_in_together() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiving) = UdpSocket::bind(address) else {
                assert!(address.starts_with('['), "a machine without IPv6");
                continue;
            };
            let sending = UdpSocket::bind(address).expect("a socket");
            receive_together(&receiving).expect("UDP_GRO");
            let to = receiving.local_addr().expect("an address");
            let payload: Vec<u8> = (0..=255).cycle().take(2500).collect();
            assert_eq!(send(&sending, Some(to), &payload, Some(1000)), Ok(2500));
            assert_eq!(send(&sending, Some(to), b"one", None), Ok(3));
            let mut room = Receiver::new(8, 65536);
            let mut all = Vec::new();
            let mut largest = 0;
            while let Ok(count) = room.receive(&receiving) {
                assert_eq!(room.messages().count(), count);
                for message in room.messages() {
                    assert_eq!(message.from, sending.local_addr().ok());
                    largest = largest.max(message.payload.len());
                    match message.segment_bytes {
                        Some(segment) => assert_eq!(segment, 1000),
                        None => assert!(message.payload.len() <= 1000),
                    }
                    all.extend_from_slice(message.payload);
                }
            }
            assert_eq!(all[..2500], payload);
            assert_eq!(&all[2500..], b"one");
            assert_eq!(largest, 2500, "they stayed together");
            assert_eq!(room.receive(&receiving), Err(Errno::AGAIN));
        }
    }

    #[test]
    fn what_came_back_names_where_it_was_sent() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        keep_errors(&socket, false).expect("IP_RECVERR");
        assert_eq!(undelivered(&socket), Ok(None));
        let nobody = {
            let gone = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            gone.local_addr().expect("an address")
        };
        assert_eq!(send(&socket, Some(nobody), b"hello", None), Ok(5));
        let found = undelivered(&socket).expect("a queue").expect("an error");
        assert_eq!(found.to, Some(nobody));
        assert_eq!(found.errno, Errno::CONNREFUSED);
        assert_eq!(found.icmp, Some((3, 3)));
    }
}
