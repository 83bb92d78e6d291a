// SPDX-License-Identifier: Apache-2.0
//! Published ports between two network namespaces: this machine's part is played by the outer one, the container's by the inner.
//!
//! Each test runs once more as the only one of a process in new namespaces. A *thread* may have a network namespace of its own, so a thread is the
//! container: it serves what the test wants, and another thread beside it is the forwarder under test.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use wolffia_net::ports::{Addresses, Listener, Protocol, Settings, serve};
use wolffia_sys::{
    namespace::{Namespaces, raise_loopback, unshare},
    netlink::{Change, Kind, Netlink, Prefix, Route},
};
use wolffia_testkit::need;

/// As many as the descriptors of one process carry: here both ends, the server's and two of the forwarder's.
const STREAMS: usize = 1000;
const INSIDE: &str = "WOLFFIA_TEST_INSIDE";
/// Long enough for a machine under load; nothing here waits so long when it works.
const PATIENCE: Duration = Duration::from_secs(20);

const CONTAINER_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 100));
const GATEWAY_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 2));
const CONTAINER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let ourselves = std::env::current_exe().expect("our own path");
    let output = Command::new("unshare")
        .args(["-Urn", "--"])
        .arg(ourselves)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("running again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{wrong}"
    );
    false
}

/// This machine: clients' addresses are all its own.
fn machine() {
    raise_loopback().expect("the loopback");
    let mut netlink = Netlink::open().expect("netlink");
    let lo = netlink.link("lo").expect("the loopback").index;
    for address in [
        "192.0.2.1",
        "192.0.2.7",
        "192.0.2.8",
        "2001:db8::1",
        "2001:db8::7",
    ] {
        let address: IpAddr = address.parse().expect("an address");
        netlink
            .add_address(lo, Prefix::host(address))
            .expect("an address");
    }
}

/// The container: serves in `services`, and the forwarder takes the ports of `listeners`.
fn container(services: impl FnOnce() + Send + 'static, listeners: Vec<(Listener, OwnedFd)>) {
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        unshare(Namespaces::NETWORK).expect("a network namespace");
        raise_loopback().expect("the loopback");
        let mut netlink = Netlink::open().expect("netlink");
        let wire = Kind::Veth {
            peer: "far",
            peer_namespace: None,
            peer_address: None,
        };
        let device = netlink.create("tap0", wire).expect("a device");
        let up = Change {
            up: Some(true),
            ..Change::default()
        };
        netlink.change(device, up).expect("switching it on");
        let far = netlink.link("far").expect("its end").index;
        netlink.change(far, up).expect("switching it on");
        for (address, length, gateway) in [
            (CONTAINER_V4, 24, GATEWAY_V4),
            (CONTAINER_V6, 64, GATEWAY_V6),
        ] {
            let prefix = Prefix::new(address, length).expect("a prefix");
            netlink.add_address(device, prefix).expect("an address");
            let route = Route {
                gateway: Some(gateway),
                device: Some(device),
                ..Route::default()
            };
            netlink.add_route(route).expect("the default route");
        }
        services();
        let (listeners, descriptors): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
        let settings = Settings {
            v4: Some(Addresses {
                container: [10, 0, 2, 100].into(),
                gateway: [10, 0, 2, 2].into(),
            }),
            v6: Some(Addresses {
                container: "fd00::100".parse().expect("an address"),
                gateway: "fd00::2".parse().expect("an address"),
            }),
            listeners,
        };
        let ended = serve(&settings, &descriptors, || {
            ready.send(()).expect("a listener");
            Ok(())
        });
        panic!("the forwarder ended: {ended:?}");
    });
    is_ready.recv_timeout(PATIENCE).expect("the forwarder");
}

fn tcp(at: &str, port: u16) -> ((Listener, OwnedFd), SocketAddr) {
    let listener = TcpListener::bind(at).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let told = Listener {
        protocol: Protocol::Tcp,
        is_v6: address.is_ipv6(),
        port,
    };
    ((told, listener.into()), address)
}

fn udp(at: &str, port: u16) -> ((Listener, OwnedFd), SocketAddr) {
    let listener = UdpSocket::bind(at).expect("a listener");
    let address = listener.local_addr().expect("its address");
    wolffia_sys::socket::tell_destination(&listener, address.is_ipv6()).expect("asking");
    let told = Listener {
        protocol: Protocol::Udp,
        is_v6: address.is_ipv6(),
        port,
    };
    ((told, listener.into()), address)
}

/// Says to each caller who called, then sends back what comes.
fn echo(at: &str) {
    let listener = TcpListener::bind(at).expect("a server");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let caller = stream.peer_addr().expect("the caller");
                writeln!(stream, "{caller}").expect("saying so");
                let mut reader = stream.try_clone().expect("a copy");
                drop(std::io::copy(&mut reader, &mut stream));
                drop(stream.shutdown(Shutdown::Write));
            });
        }
    });
}

fn call(from: &str, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let from: SocketAddr = from.parse().expect("an address");
    let family = if to.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let client = socket(family, SocketType::STREAM, None).expect("a socket");
    bind(&client, &from).expect("the client's address");
    connect(&client, &to).expect("connecting");
    let stream = TcpStream::from(client);
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// Reads the first line, byte by byte.
fn line(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    line
}

#[test]
fn a_stream_comes_from_the_clients_address() {
    need!(UserNamespace);
    if !inside("a_stream_comes_from_the_clients_address") {
        return;
    }
    machine();
    let (v4, to_v4) = tcp("0.0.0.0:0", 80);
    let (v6, to_v6) = tcp("[::1]:0", 80);
    let (v6_outer, to_v6_outer) = tcp("[2001:db8::1]:0", 80);
    let (only_v4, to_only_v4) = tcp("[2001:db8::1]:0", 81);
    let services = || {
        echo("0.0.0.0:80");
        echo("[::]:81"); // v4 callers too
        let only_v6: TcpListener = {
            use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
            let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).expect("a socket");
            sockopt::set_ipv6_v6only(&socket, true).expect("alone");
            bind(
                &socket,
                &"[::]:80".parse::<SocketAddr>().expect("an address"),
            )
            .expect("a port");
            listen(&socket, 16).expect("listening");
            socket.into()
        };
        thread::spawn(move || {
            for stream in only_v6.incoming() {
                let mut stream = stream.expect("a connection");
                let caller = stream.peer_addr().expect("the caller");
                writeln!(stream, "{caller}").expect("saying so");
            }
        });
    };
    container(services, vec![v4, v6, v6_outer, only_v4]);
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse().expect("an address"), port);
    // From, to, whom the container saw.
    let cases = [
        ("192.0.2.7:0", at("192.0.2.1", to_v4.port()), "192.0.2.7"),
        ("192.0.2.8:0", at("192.0.2.1", to_v4.port()), "192.0.2.8"),
        ("127.0.0.1:0", at("127.0.0.1", to_v4.port()), "10.0.2.2"),
        ("[2001:db8::7]:0", to_v6_outer, "2001:db8::7"),
        ("[::1]:0", to_v6, "fd00::2"),
        ("[2001:db8::7]:0", to_only_v4, "2001:db8::7"),
    ];
    for (from, to, seen) in cases {
        let mut stream = call(from, to);
        let caller: SocketAddr = line(&mut stream).parse().expect("an address");
        assert_eq!(
            caller.ip(),
            seen.parse::<IpAddr>().expect("an address"),
            "{from} to {to}"
        );
        let own = stream.local_addr().expect("our address");
        assert_eq!(caller.port(), own.port(), "the port is the client's too");
    }
}

#[test]
fn a_stream_carries_everything_and_half_an_end() {
    need!(UserNamespace);
    if !inside("a_stream_carries_everything_and_half_an_end") {
        return;
    }
    machine();
    let (told, to) = tcp("127.0.0.1:0", 80);
    let (refused, to_refused) = tcp("127.0.0.1:0", 81);
    let (fallback, to_fallback) = tcp("[::1]:0", 80);
    container(|| echo("0.0.0.0:80"), vec![told, refused, fallback]);

    // Sixteen megabytes, more than every buffer on the way; read only when all of it is written, or the two would wait for each other.
    let mut stream = call("127.0.0.1:0", to);
    line(&mut stream);
    let mut reader = stream.try_clone().expect("a copy");
    let came = thread::spawn(move || {
        let mut came = Vec::new();
        reader.read_to_end(&mut came).expect("reading");
        came
    });
    let sent: Vec<u8> = (0..16u32 << 18).flat_map(u32::to_le_bytes).collect();
    stream.write_all(&sent).expect("writing");
    stream.shutdown(Shutdown::Write).expect("half an end");
    assert!(
        came.join().expect("the reader") == sent,
        "not what was sent"
    );

    // A port where nobody listens: a reset, at once.
    let begun = Instant::now();
    let mut stream = call("127.0.0.1:0", to_refused);
    let end = stream.read(&mut [0]);
    assert!(
        matches!(&end, Err(error) if error.raw_os_error() == Some(104)),
        "{end:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "at once");

    // A container that listens by the other version of IP only.
    let caller = line(&mut call("[::1]:0", to_fallback));
    assert!(caller.starts_with("10.0.2.2:"), "{caller}");

    // A client that resets.
    for _ in 0..3 {
        let stream = call("127.0.0.1:0", to);
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
        drop(stream);
    }
    assert!(
        !line(&mut call("127.0.0.1:0", to)).is_empty(),
        "still serves"
    );
}

#[test]
fn a_thousand_streams_live_side_by_side() {
    need!(UserNamespace);
    if !inside("a_thousand_streams_live_side_by_side") {
        return;
    }
    machine();
    let (told, to) = tcp("127.0.0.1:0", 80);
    let services = || {
        let server = TcpListener::bind("0.0.0.0:80").expect("a server");
        thread::spawn(move || {
            let mut kept: Vec<TcpStream> = Vec::new();
            while kept.len() < STREAMS {
                kept.push(server.accept().expect("a connection").0);
            }
            for stream in &mut kept {
                let mut word = [0; 4];
                stream.read_exact(&mut word).expect("a word");
                stream.write_all(&word).expect("answering");
            }
        });
    };
    container(services, vec![told]);
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| call("127.0.0.1:0", to)).collect();
    for (number, stream) in (0u32..).zip(&mut streams) {
        stream.write_all(&number.to_le_bytes()).expect("asking");
    }
    for (number, stream) in (0u32..).zip(&mut streams) {
        let mut word = [0; 4];
        stream.read_exact(&mut word).expect("an answer");
        assert_eq!(u32::from_le_bytes(word), number, "each its own");
    }
}

#[test]
fn a_datagram_comes_from_the_clients_address_and_is_answered() {
    need!(UserNamespace);
    if !inside("a_datagram_comes_from_the_clients_address_and_is_answered") {
        return;
    }
    machine();
    let (v4, to_v4) = udp("0.0.0.0:0", 53);
    let (v6, to_v6) = udp("[::]:0", 53);
    let services = || {
        for at in ["0.0.0.0:53", "[::]:53"] {
            use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
            let at: SocketAddr = at.parse().expect("an address");
            let family = if at.is_ipv6() {
                AddressFamily::INET6
            } else {
                AddressFamily::INET
            };
            let server = socket(family, SocketType::DGRAM, None).expect("a socket");
            if at.is_ipv6() {
                sockopt::set_ipv6_v6only(&server, true).expect("alone");
            }
            bind(&server, &at).expect("a port");
            let server = UdpSocket::from(server);
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                loop {
                    let (count, caller) = server.recv_from(&mut buffer).expect("a datagram");
                    let answer = format!("{caller} {}", String::from_utf8_lossy(&buffer[..count]));
                    server
                        .send_to(answer.as_bytes(), caller)
                        .expect("answering");
                }
            });
        }
    };
    container(services, vec![v4, v6]);
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse().expect("an address"), port);
    let cases = [
        ("192.0.2.7:0", at("192.0.2.1", to_v4.port()), "192.0.2.7"),
        ("192.0.2.7:0", at("192.0.2.1", to_v4.port()), "192.0.2.7"),
        ("192.0.2.8:0", at("192.0.2.1", to_v4.port()), "192.0.2.8"),
        ("127.0.0.1:0", at("127.0.0.1", to_v4.port()), "10.0.2.2"),
        (
            "[2001:db8::7]:0",
            at("2001:db8::1", to_v6.port()),
            "2001:db8::7",
        ),
        ("[::1]:0", at("::1", to_v6.port()), "fd00::2"),
    ];
    let mut clients = Vec::new();
    for (from, to, seen) in cases {
        let client = UdpSocket::bind(from).expect("a client");
        client.set_read_timeout(Some(PATIENCE)).expect("a limit");
        // Connected, so that an answer from another address is not heard.
        client.connect(to).expect("connecting");
        clients.push((client, seen));
    }
    for round in 0..3 {
        for (number, (client, seen)) in clients.iter().enumerate() {
            let question = format!("{round} {number}");
            client.send(question.as_bytes()).expect("asking");
            let mut buffer = [0; 2048];
            let count = client.recv(&mut buffer).expect("an answer");
            let answer = String::from_utf8_lossy(&buffer[..count]);
            let (caller, echoed) = answer.split_once(' ').expect("two words");
            let caller: SocketAddr = caller.parse().expect("an address");
            assert_eq!(
                (caller.ip().to_string().as_str(), echoed),
                (*seen, question.as_str())
            );
            assert_eq!(
                caller.port(),
                client.local_addr().expect("our address").port()
            );
        }
    }
}
