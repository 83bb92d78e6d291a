// SPDX-License-Identifier: Apache-2.0
//! Registries behind a proxy: it is used where the environment says so, and looks the name up itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use wolffia_testkit::registry::{AUTHORITY, Options, Registry, Tls};

use crate::common::{environment, image, open, pull, story};

/// A proxy that leads every CONNECT to one server, and keeps the heads of the requests.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one that is asked by HTTP.
    fn start(to: SocketAddr) -> Self {
        Self::start_as(greet_by_http, to)
    }

    /// Runs until the process ends: it holds one descriptor.
    fn start_as(greet: Greet, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(client, to, greet, &log));
            }
        });
        Self { address, heads }
    }
}

/// Hears what a client wants, grants it, and returns it as text.
type Greet = fn(&mut BufReader<TcpStream>, &mut TcpStream) -> String;

fn greet_by_http(reader: &mut BufReader<TcpStream>, client: &mut TcpStream) -> String {
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    head
}

/// RFC 1928, with a password as in RFC 1929; the request must be one by name.
fn greet_by_socks(reader: &mut BufReader<TcpStream>, client: &mut TcpStream) -> String {
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        reader.read_exact(&mut bytes).unwrap();
        bytes
    };
    let methods = take(2)[1];
    assert!(take(methods.into()).contains(&2), "no password is offered");
    client.write_all(&[5, 2]).unwrap();
    let text = |take: &mut dyn FnMut(usize) -> Vec<u8>| {
        let length = take(1)[0];
        String::from_utf8(take(length.into())).unwrap()
    };
    assert_eq!(take(1), [1]);
    let user = text(&mut take);
    let password = text(&mut take);
    client.write_all(&[1, 0]).unwrap();
    assert_eq!(take(4), [5, 1, 0, 3], "CONNECT to a name");
    let name = text(&mut take);
    let port = u16::from_be_bytes(take(2).try_into().unwrap());
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    format!("{user}:{password} {name}:{port}")
}

fn serve(client: TcpStream, to: SocketAddr, greet: Greet, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut client = client;
    let mut server = TcpStream::connect(to).unwrap();
    let head = greet(&mut reader, &mut client);
    log.lock().unwrap().push(head);
    let (mut up_from, mut up_to) = (reader, server.try_clone().unwrap());
    let upward = std::thread::spawn(move || {
        let _ended = std::io::copy(&mut up_from, &mut up_to);
        let _closed = up_to.shutdown(Shutdown::Write);
    });
    let mut piece = vec![0; 16 << 10];
    while let Ok(length @ 1..) = server.read(&mut piece) {
        if client.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _closed = client.shutdown(Shutdown::Both);
    upward.join().unwrap();
}

#[test]
fn a_proxy_is_used_and_told_the_name() {
    let original = image(&[300_000]);
    let registry = Registry::start_with(Options {
        tls: Some(Tls::OtherName),
        ..Options::default()
    });
    registry.put("a", "b", &original);
    let proxy = Proxy::start(registry.address().parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("ca.pem"), AUTHORITY).unwrap();
    let base = environment(home.path()).with("SSL_CERT_FILE", home.path().join("ca.pem"));
    let through = base
        .clone()
        .with("HTTPS_PROXY", format!("http://me:p%40ss@{}", proxy.address));
    // Nobody here knows this name; the certificate is for it.
    pull(&open("other.test/a:b", &through), &original)
        .unwrap_or_else(|error| panic!("{}", story(&error)));
    let heads = proxy.heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 1, "one connection serves all: {heads:?}");
    assert!(heads[0].starts_with("CONNECT other.test:443 "), "{heads:?}");
    assert!(heads[0].contains("Basic bWU6cEBzcw=="), "{heads:?}");
    let around = through.with("NO_PROXY", "test");
    assert!(pull(&open("other.test/a:b", &around), &original).is_err());
    assert_eq!(proxy.heads.lock().unwrap().len(), 1);
}

#[test]
fn a_socks_proxy_is_used_and_told_the_name() {
    let original = image(&[300_000]);
    let registry = Registry::start_with(Options {
        tls: Some(Tls::OtherName),
        ..Options::default()
    });
    registry.put("a", "b", &original);
    let proxy = Proxy::start_as(greet_by_socks, registry.address().parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("ca.pem"), AUTHORITY).unwrap();
    let through = environment(home.path())
        .with("SSL_CERT_FILE", home.path().join("ca.pem"))
        .with("ALL_PROXY", format!("socks5h://me:pass@{}", proxy.address));
    pull(&open("other.test/a:b", &through), &original)
        .unwrap_or_else(|error| panic!("{}", story(&error)));
    assert_eq!(*proxy.heads.lock().unwrap(), ["me:pass other.test:443"]);
}
