// SPDX-License-Identifier: Apache-2.0
//! Switching with real sockets: what is switched, what is left alone, and what an attacker tries with a socket of the host.

mod world;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket, socket_with, sockopt};
use wolffia_sys::Errno;
use wolffia_sys::namespace::{self, Namespaces};
use wolffia_sys::socket_option::network_namespace;

use world::{CLOSED, NOBODY, OPEN, in_a_container};

/// How long an attack that needs luck is tried.
const ATTACK: Duration = Duration::from_secs(2);

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn tcp_for(address: SocketAddr) -> OwnedFd {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    socket(family, SocketType::STREAM, None).expect("a socket")
}

/// Whether this socket is one of the host's.
fn is_switched(socket: impl AsFd) -> bool {
    let own = tcp_for(at(OPEN[0]));
    network_namespace(socket).expect("its namespace")
        != network_namespace(own).expect("our namespace")
}

/// A connection of the host's in our hands.
fn switched() -> TcpStream {
    let stream = TcpStream::connect(OPEN[0]).expect("a connection");
    assert!(is_switched(&stream));
    stream
}

#[test]
fn a_connection_is_switched() {
    in_a_container("a_connection_is_switched", || {
        for address in OPEN {
            let mut stream = TcpStream::connect(address).expect(address);
            assert!(is_switched(&stream), "{address}");
            stream.write_all(b"hallo").expect("writing");
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).expect("reading");
            assert_eq!(&answer, b"hallo");
            assert_eq!(stream.peer_addr().expect("the peer"), at(address));
        }
        // An IPv4 peer by an IPv6 socket.
        let own = tcp_for(at("[::1]:1"));
        connect(&own, &at("[::ffff:198.51.100.2]:8000")).expect("a connection");
        assert!(is_switched(&own));
    });
}

#[test]
fn a_switched_socket_is_as_its_own_was() {
    in_a_container("a_switched_socket_is_as_its_own_was", || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let own = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let own = own.expect("a socket");
        sockopt::set_tcp_nodelay(&own, true).expect("an option");
        sockopt::set_tcp_keepidle(&own, Duration::from_secs(99)).expect("an option");
        connect(&own, &at(OPEN[0])).expect("a connection");
        assert!(is_switched(&own));
        assert!(sockopt::tcp_nodelay(&own).expect("an option"));
        let idle = sockopt::tcp_keepidle(&own).expect("an option");
        assert_eq!(idle, Duration::from_secs(99));
        let status = rustix::fs::fcntl_getfl(&own).expect("its flags");
        assert!(status.contains(rustix::fs::OFlags::NONBLOCK));
        let kept = rustix::io::fcntl_getfd(&own).expect("its flags");
        assert!(kept.contains(rustix::io::FdFlags::CLOEXEC));
        // And where the program asked for neither.
        let own = tcp_for(at(OPEN[0]));
        connect(&own, &at(OPEN[0])).expect("a connection");
        let status = rustix::fs::fcntl_getfl(&own).expect("its flags");
        assert!(!status.contains(rustix::fs::OFlags::NONBLOCK));
        let kept = rustix::io::fcntl_getfd(&own).expect("its flags");
        assert!(!kept.contains(rustix::io::FdFlags::CLOEXEC));
    });
}

#[test]
fn what_policy_closes_is_not_switched() {
    in_a_container("what_policy_closes_is_not_switched", || {
        let refused = |address: &str| {
            let own = tcp_for(at(address));
            let answer = connect(&own, &at(address));
            assert!(answer.is_err(), "{address} {answer:?}");
            assert!(!is_switched(&own), "{address}");
        };
        CLOSED.into_iter().for_each(refused);
        for hidden in [
            "[::ffff:127.0.0.1]:8001",
            "[::ffff:198.51.100.2]:8001",
            "0.0.0.0:8001",
            "[::]:8001",
        ] {
            refused(hidden);
        }
        // The host's own address on the wire: not out, so not switched.
        refused("198.51.100.1:8000");
    });
}

#[test]
fn odd_sockets_are_left_alone() {
    in_a_container("odd_sockets_are_left_alone", || {
        let to = at(OPEN[0]);
        let alone = |own: &OwnedFd, what: &str| {
            assert_eq!(connect(own, &to), Err(Errno::NETUNREACH), "{what}");
            assert!(!is_switched(own), "{what}");
        };
        let bound = tcp_for(to);
        rustix::net::bind(&bound, &at("127.0.0.1:0")).expect("binding");
        let answer = connect(&bound, &to);
        assert!(answer.is_err() && !is_switched(&bound), "{answer:?}");
        let twice = tcp_for(to);
        let other = rustix::io::dup(&twice).expect("another number");
        alone(&twice, "open under two numbers");
        drop(other);
        let watched = tcp_for(to);
        let set = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::empty())
            .expect("an epoll set");
        rustix::event::epoll::add(
            &set,
            &watched,
            rustix::event::epoll::EventData::new_u64(1),
            rustix::event::epoll::EventFlags::IN,
        )
        .expect("watching it");
        alone(&watched, "watched");
        let datagram = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        alone(&datagram, "datagrams");
        // Sockets of other families go on in the kernel.
        let folder = std::env::temp_dir().join(format!("switch-{}", std::process::id()));
        let server = std::os::unix::net::UnixListener::bind(&folder).expect("a server");
        std::os::unix::net::UnixStream::connect(&folder).expect("a UNIX connection");
        drop(server);
        std::fs::remove_file(&folder).expect("removing it");
        // And what the kernel would say to nonsense, it says.
        assert_eq!(connect(rustix::stdio::stderr(), &to), Err(Errno::NOTSOCK));
    });
}

#[test]
fn a_namespace_made_within_is_not_left_by_switching() {
    in_a_container("a_namespace_made_within_is_not_left_by_switching", || {
        namespace::unshare(Namespaces::NETWORK).expect("a namespace");
        let own = tcp_for(at(OPEN[0]));
        assert_eq!(connect(&own, &at(OPEN[0])), Err(Errno::NETUNREACH));
    });
}

#[test]
fn a_failed_connection_leaves_no_socket_of_the_host() {
    in_a_container("a_failed_connection_leaves_no_socket_of_the_host", || {
        let flags = SocketFlags::NONBLOCK;
        let own = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let own = own.expect("a socket");
        let begun = Instant::now();
        assert_eq!(connect(&own, &at(NOBODY)), Err(Errno::NETUNREACH));
        assert!(begun.elapsed() < Duration::from_secs(1), "it stood still");
        assert!(!is_switched(&own));
        // A socket of the host that was merely asked to connect would now send anywhere.
        for address in CLOSED {
            assert_eq!(send_fast(&own, at(address)), Err(Errno::OPNOTSUPP));
        }
        // Refused by the peer: as if nothing had been tried.
        let own = tcp_for(at(OPEN[0]));
        assert_eq!(connect(&own, &at("198.51.100.2:9")), Err(Errno::NETUNREACH));
        assert!(!is_switched(&own));
    });
}

/// Sends with `MSG_FASTOPEN`, which connects at once.
fn send_fast(own: impl AsFd, to: SocketAddr) -> Result<usize, Errno> {
    let fast = rustix::net::SendFlags::from_bits_retain(0x2000_0000);
    rustix::net::sendto(own, b"secret", fast, &to)
}

#[test]
fn a_switched_socket_stays_what_it_is() {
    in_a_container("a_switched_socket_stays_what_it_is", || {
        let stream = switched();
        assert_eq!(
            rustix::net::connect_unspec(&stream),
            Err(Errno::ISCONN),
            "AF_UNSPEC"
        );
        assert_eq!(rustix::net::listen(&stream, 5), Err(Errno::INVAL), "listen");
        for address in CLOSED {
            assert_eq!(connect(&stream, &at(address)), Err(Errno::ISCONN));
            let own = OwnedFd::from(stream.try_clone().expect("another number"));
            assert_eq!(send_fast(&own, at(address)), Err(Errno::OPNOTSUPP));
        }
        assert_eq!(
            rustix::net::connect(&stream, &at(OPEN[1])),
            Err(Errno::ISCONN)
        );
        let mut stream = stream;
        stream.write_all(b"still").expect("writing");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("reading");
        // One that the peer has ended is no more anybody's.
        stream
            .shutdown(std::net::Shutdown::Both)
            .expect("ending it");
        assert_eq!(connect(&stream, &at(CLOSED[0])), Err(Errno::ISCONN));
    });
}

#[test]
fn an_address_that_changes_after_the_call_leads_nowhere_else() {
    let name = "an_address_that_changes_after_the_call_leads_nowhere_else";
    in_a_container(name, || {
        // The library copies the address onto its stack before the call: so the attack is a race over which of two calls comes
        // first, tried with both orders in flight from two threads on one number.
        let over = AtomicBool::new(false);
        let own = rustix::stdio::stdin();
        exchange(tcp_for(at(OPEN[0])));
        let mut reached = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = connect(own, &at(CLOSED[0]));
                    let _ = connect(own, &at(CLOSED[1]));
                }
            });
            let begun = Instant::now();
            while begun.elapsed() < ATTACK {
                if connect(own, &at(OPEN[0])).is_ok() {
                    reached += 1;
                }
                // A fresh socket under the same number.
                exchange(tcp_for(at(OPEN[0])));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(reached > 0, "nothing was switched: the race was none");
    });
}

/// Puts a file in the place of our standard input, as dup2(2): the number that the races are about.
fn exchange(file: impl AsFd) {
    rustix::stdio::dup2_stdin(file).expect("dup2");
}

#[test]
fn a_file_that_changes_under_the_number_leads_nowhere_else() {
    let name = "a_file_that_changes_under_the_number_leads_nowhere_else";
    in_a_container(name, || {
        let over = AtomicBool::new(false);
        let given = switched();
        // A lost race disconnects it, and then it asks for connections that never stand: not for long.
        let short = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&given, sockopt::Timeout::Send, short).expect("an option");
        let plain = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        let place = rustix::stdio::stdin();
        std::thread::scope(|scope| {
            // The number is now a socket that goes on in the kernel, now one of the host.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(&given);
                    exchange(&plain);
                }
            });
            let begun = Instant::now();
            while begun.elapsed() < ATTACK {
                let _ = rustix::net::connect_unspec(place);
                let _ = rustix::net::listen(place, 5);
                for address in CLOSED {
                    let _ = connect(place, &at(address));
                    let _ = send_fast(place, at(address));
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        // Whatever came of it: it never leads to what is closed.
        for address in CLOSED {
            let own = OwnedFd::from(given.try_clone().expect("another number"));
            assert!(connect(&own, &at(address)).is_err(), "{address}");
        }
    });
}
