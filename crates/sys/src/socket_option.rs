// SPDX-License-Identifier: Apache-2.0
//! Options of sockets that rustix does not offer: which namespace one belongs to, which device and which peer it is held to,
//! and the carrying over of options from one socket to another.
//!
//! # Theory of operation
//! A socket that is made here and given to a stranger keeps our network namespace. [`hold_to_device`] and
//! [`hold_to_peer`] are what keeps it to the one connection it was made for, whatever its new owner calls on it: the device
//! cannot be changed without `CAP_NET_RAW` in *our* namespace's user namespace, and the filter, once locked, by nobody. The
//! filter drops every incoming segment that is not from the peer's address and port, so even if the socket is disconnected
//! and connected anew, no handshake with anybody else can end. What it cannot stop is the first segment going out.
//!
//! Kernel 6.18 was seen to let only those attach a filter who hold `CAP_NET_ADMIN` over the socket's namespace: there, an ordinary
//! user's socket in the machine's own namespace cannot be held to its peer ([`hold_to_peer`] says EPERM), and must not be given away.
//!
//! # Sources
//! socket(7), `net/core/sock.c` (`SO_BINDTODEVICE`, `SO_NETNS_COOKIE`), `net/core/filter.c` (`SO_ATTACH_FILTER`,
//! `SOCK_FILTER_LOCKED`; the data of a TCP filter begin at the TCP header, the IP header is reached from `SKF_NET_OFF`), tcp(7).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use crate::Errno;
use crate::seccomp::Instruction;

/// `SO_NETNS_COOKIE`, `include/uapi/asm-generic/socket.h`.
const NETNS_COOKIE: libc::c_int = 71;
/// `SO_BUF_LOCK`.
const BUFFER_LOCK: libc::c_int = 72;
/// `SKF_NET_OFF`: offsets from here count from the IP header.
const NETWORK_HEADER: u32 = 0xFFF0_0000;

/// An option whose value is plain bytes and may be carried from one socket to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    level: libc::c_int,
    name: libc::c_int,
}

const fn carried(level: libc::c_int, name: libc::c_int) -> Carried {
    Carried { level, name }
}

/// What a program may have set on a TCP socket before connecting it. Buffer sizes are apart: see [`carry`].
pub const CARRIED: &[Carried] = &[
    carried(libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    carried(libc::SOL_SOCKET, libc::SO_OOBINLINE),
    carried(libc::SOL_SOCKET, libc::SO_LINGER),
    carried(libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    carried(libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    carried(libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    carried(libc::SOL_SOCKET, libc::SO_PRIORITY),
    carried(libc::SOL_SOCKET, libc::SO_REUSEADDR),
    carried(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    carried(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    carried(libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    carried(libc::IPPROTO_TCP, libc::TCP_CORK),
    carried(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    carried(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    carried(libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    carried(libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    carried(libc::IPPROTO_TCP, libc::TCP_LINGER2),
    carried(libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    carried(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    carried(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    carried(libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    carried(libc::IPPROTO_IP, libc::IP_TOS),
    carried(libc::IPPROTO_IP, libc::IP_TTL),
    carried(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    carried(libc::IPPROTO_IP, libc::IP_RECVERR),
    carried(libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    carried(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    carried(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
];

/// The longest value of [`CARRIED`], the name of a congestion control.
const VALUE_BYTES_MAX: usize = 16;

/// Carries the [`CARRIED`] options of one socket to another of the same domain, and the sizes of its buffers where a program set
/// them itself (kernel 5.14 tells). An option that one of the two has not got, or whose value is only for the privileged,
/// stays as it is.
pub fn carry(from: impl AsFd, to: impl AsFd) {
    let mut value = [0; VALUE_BYTES_MAX];
    for option in CARRIED {
        let mut had = [0; VALUE_BYTES_MAX];
        let Ok(length) = get(&from, option.level, option.name, &mut value) else {
            continue;
        };
        // Setting what is already so is not always without effect: a maximum segment size of the default would be fixed.
        if get(&to, option.level, option.name, &mut had) == Ok(length)
            && had[..length] == value[..length]
        {
            continue;
        }
        let _ = set(&to, option.level, option.name, &value[..length]);
    }
    let word = |name| {
        let mut value = [0; 4];
        match get(&from, libc::SOL_SOCKET, name, &mut value) {
            Ok(4) => i32::from_ne_bytes(value),
            _ => 0,
        }
    };
    let locks = word(BUFFER_LOCK);
    for (lock, name) in [(1, libc::SO_SNDBUF), (2, libc::SO_RCVBUF)] {
        if locks & lock != 0 {
            // The kernel says double what it was told.
            let size = (word(name) / 2).to_ne_bytes();
            let _ = set(&to, libc::SOL_SOCKET, name, &size);
        }
    }
}

/// Returns the number by which the kernel tells this socket's network namespace from all others since boot (kernel 5.14).
pub fn network_namespace(socket: impl AsFd) -> Result<u64, Errno> {
    let mut value = [0; 8];
    match get(&socket, libc::SOL_SOCKET, NETNS_COOKIE, &mut value)? {
        8 => Ok(u64::from_ne_bytes(value)),
        _ => Err(Errno::INVAL),
    }
}

/// Holds a socket to one network device, by name. Anyone may, once (kernel 5.7).
pub fn hold_to_device(socket: impl AsFd, device: &str) -> Result<(), Errno> {
    set(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_BINDTODEVICE,
        device.as_bytes(),
    )
}

/// Makes a TCP socket deaf to all but one peer, for good.
pub fn hold_to_peer(socket: impl AsFd, peer: SocketAddr) -> Result<(), Errno> {
    let program = only_from(peer);
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    attach(&socket, &header)?;
    set(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_LOCK_FILTER,
        &1_i32.to_ne_bytes(),
    )
}

/// Returns whether the TCP connection of this socket stands: not merely asked for, and not ended by either side.
pub fn is_established(socket: impl AsFd) -> bool {
    /// `TCP_ESTABLISHED`, `include/net/tcp_states.h`.
    const ESTABLISHED: u8 = 1;
    let mut state = [0; 1];
    get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state) == Ok(1) && state[0] == ESTABLISHED
}

/// The filter of [`hold_to_peer`]: all of a packet from the peer, nothing of any other.
fn only_from(peer: SocketAddr) -> Vec<Instruction> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const SHIFT_RIGHT: u16 = 0x74;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Every byte of the packet is kept.
    const KEEP: u32 = u32::MAX;
    let (version, words, source): (u32, Vec<u32>, u32) = match peer.ip().to_canonical() {
        IpAddr::V4(address) => (4, vec![address.to_bits()], 12),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let word = |shift: u32| u32::try_from((bits >> shift) & 0xFFFF_FFFF).unwrap_or(0);
            (6, [96, 64, 32, 0].map(word).to_vec(), 8)
        }
    };
    let mut tests = vec![
        vec![
            Instruction::plain(LOAD_BYTE, NETWORK_HEADER),
            Instruction::plain(SHIFT_RIGHT, 4),
        ],
        vec![Instruction::plain(LOAD_HALF, 0)],
    ];
    let mut wanted = vec![version, u32::from(peer.port())];
    for (at, word) in (source..).step_by(4).zip(words) {
        tests.push(vec![Instruction::plain(LOAD_WORD, NETWORK_HEADER + at)]);
        wanted.push(word);
    }
    // Behind the last test: keep, then drop.
    let length: usize = tests.iter().map(|loads| loads.len() + 1).sum();
    let mut program = Vec::with_capacity(length + 2);
    for (loads, operand) in tests.into_iter().zip(wanted) {
        program.extend(loads);
        let to_drop = length - program.len();
        program.push(Instruction {
            code: EQUAL,
            jump_true: 0,
            jump_false: u8::try_from(to_drop).unwrap_or(u8::MAX),
            operand,
        });
    }
    program.push(Instruction::plain(RETURN, KEEP));
    program.push(Instruction::plain(RETURN, 0));
    program
}

/// Reads an option; returns how many bytes it has, at most those of `value`.
#[expect(unsafe_code, reason = "rustix does not offer these options")]
fn get(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `value` has `length` bytes, which the kernel does not go beyond; both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    outcome(done).map(|()| usize::try_from(length).unwrap_or(0))
}

#[expect(unsafe_code, reason = "rustix does not offer these options")]
fn set(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call. No option set in this file carries a
    // pointer.
    outcome(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    })
}

#[expect(unsafe_code, reason = "rustix does not offer this option")]
fn attach(socket: &impl AsFd, header: &libc::sock_fprog) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0);
    // SAFETY: `header` points to the `len` instructions that its maker still holds; the kernel copies both in the call.
    // `Instruction` has the layout of `sock_filter` (asserted in `seccomp`).
    outcome(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(header).cast(),
            length,
        )
    })
}

fn outcome(done: libc::c_int) -> Result<(), Errno> {
    if done < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::net::{self, AddressFamily, SocketType, sockopt};

    use super::*;

    fn unconnected(family: AddressFamily) -> std::os::fd::OwnedFd {
        net::socket(family, SocketType::STREAM, None).unwrap()
    }

    #[test]
    fn options_that_were_set_are_carried() {
        let (from, to) = (
            unconnected(AddressFamily::INET),
            unconnected(AddressFamily::INET),
        );
        sockopt::set_tcp_nodelay(&from, true).unwrap();
        sockopt::set_socket_keepalive(&from, true).unwrap();
        sockopt::set_tcp_keepidle(&from, Duration::from_secs(77)).unwrap();
        sockopt::set_socket_recv_buffer_size(&from, 10_000).unwrap();
        let default = sockopt::socket_send_buffer_size(&to).unwrap();
        carry(&from, &to);
        assert!(sockopt::tcp_nodelay(&to).unwrap());
        assert!(sockopt::socket_keepalive(&to).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&to).unwrap(), Duration::from_secs(77));
        assert_eq!(sockopt::socket_recv_buffer_size(&to).unwrap(), 20_000);
        assert_eq!(sockopt::socket_send_buffer_size(&to).unwrap(), default);
    }

    #[test]
    fn a_held_socket_hears_its_peer_and_nobody_else() {
        let name = "socket_option::tests::a_held_socket_hears_its_peer_and_nobody_else";
        if !crate::netlink::tests::inside(name) {
            return;
        }
        crate::namespace::raise_loopback().unwrap();
        for (family, address) in [
            (AddressFamily::INET, "127.0.0.1:0"),
            (AddressFamily::INET6, "[::1]:0"),
        ] {
            let peer = TcpListener::bind(address).unwrap();
            let other = TcpListener::bind(address).unwrap();
            let socket = unconnected(family);
            hold_to_peer(&socket, peer.local_addr().unwrap()).unwrap();
            // Nobody takes the filter away again.
            assert_eq!(
                set(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &[0; 4]),
                Err(Errno::PERM)
            );
            net::connect(&socket, &peer.local_addr().unwrap()).unwrap();
            assert!(is_established(&socket));
            let (mut answering, _) = peer.accept().unwrap();
            answering.write_all(b"heard").unwrap();
            let mut heard = [0; 5];
            let mut stream = TcpStream::from(socket);
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"heard");
            // Disconnected and connected to another, it never comes to stand.
            net::connect_unspec(&stream).unwrap();
            assert!(!is_established(&stream));
            sockopt::set_socket_timeout(
                &stream,
                sockopt::Timeout::Send,
                Some(Duration::from_millis(200)),
            )
            .unwrap();
            let again = net::connect(&stream, &other.local_addr().unwrap());
            assert!(again.is_err() && !is_established(&stream), "{again:?}");
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_socket_tells_its_namespace_and_its_state() {
        let one = unconnected(AddressFamily::INET);
        let other = unconnected(AddressFamily::INET6);
        assert_eq!(
            network_namespace(&one).unwrap(),
            network_namespace(&other).unwrap()
        );
        assert!(!is_established(&one));
        let pair = net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            net::SocketFlags::empty(),
            None,
        )
        .unwrap();
        assert!(!is_established(&pair.0));
    }

    #[test]
    fn a_device_is_held() {
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = unconnected(AddressFamily::INET);
        assert_eq!(hold_to_device(&socket, "no-such"), Err(Errno::NODEV));
        hold_to_device(&socket, "lo").unwrap();
        net::connect(&socket, &peer.local_addr().unwrap()).unwrap();
    }
}
