// SPDX-License-Identifier: Apache-2.0
//! The resolver against name servers of our own, on loopback addresses of their own and one port.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::*;

/// What a server does with a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Says nothing.
    Silent,
    /// Says that it failed.
    Failing,
    /// Says nothing when asked for AAAA.
    SilentOnAaaa,
    /// Says over UDP that the answer is too long.
    Truncating,
    /// First sends answers that belong to other questions.
    Confusing,
}

/// A name server that knows `*.known.test`.
struct Server {
    ip: Ipv4Addr,
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    over_tcp: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts one; `port` 0 chooses one.
    fn start(ip: [u8; 4], port: u16, manner: Manner) -> Self {
        let ip = Ipv4Addr::from(ip);
        let (udp, tcp) = sockets(ip, port);
        let port = udp.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::default());
        let over_tcp = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let (log, stop) = (Arc::clone(&asked), Arc::clone(&stopping));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                for answer in answers(&buffer[..length], manner, &log) {
                    udp.send_to(&answer, client).unwrap();
                }
            }
        });
        let (log, stop, count) = (
            Arc::clone(&asked),
            Arc::clone(&stopping),
            Arc::clone(&over_tcp),
        );
        let streams = std::thread::spawn(move || {
            for stream in tcp.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answers(&question, Manner::Honest, &log).remove(0);
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&length.to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        Self {
            ip,
            port,
            asked,
            over_tcp,
            stopping,
            threads: vec![datagrams, streams],
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Binds one port for both protocols.
fn sockets(ip: Ipv4Addr, port: u16) -> (UdpSocket, TcpListener) {
    for _try in 0..50 {
        let udp = UdpSocket::bind((ip, port)).unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both protocols");
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let wake = UdpSocket::bind((self.ip, 0)).unwrap();
        wake.send_to(&[], (self.ip, self.port)).unwrap();
        drop(std::net::TcpStream::connect((self.ip, self.port)));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn answers(question: &[u8], manner: Manner, log: &Mutex<Vec<String>>) -> Vec<Vec<u8>> {
    let Ok(question) = Packet::parse(question) else {
        return Vec::new();
    };
    let asked = question.questions[0].clone();
    let name = asked.qname.to_string();
    let is_aaaa = asked.qtype == QTYPE::TYPE(TYPE::AAAA);
    log.lock()
        .unwrap()
        .push(format!("{name} {}", if is_aaaa { "AAAA" } else { "A" }));
    if manner == Manner::Silent || manner == Manner::SilentOnAaaa && is_aaaa {
        return Vec::new();
    }
    let mut reply = Packet::new_reply(question.id());
    reply.questions.push(asked.clone());
    let record = |name: &str, data: RData<'static>| {
        ResourceRecord::new(Name::new(name).unwrap().into_owned(), CLASS::IN, 60, data)
    };
    match manner {
        Manner::Failing => *reply.rcode_mut() = RCODE::ServerFailure,
        Manner::Truncating => reply.set_flags(PacketFlag::TRUNCATION),
        _ if name.ends_with("known.test") => {
            // An alias, and an address of somebody else.
            let alias = CNAME(Name::new("real.test").unwrap().into_owned());
            reply.answers.push(record(&name, RData::CNAME(alias)));
            let other = A {
                address: 0x0909_0909,
            };
            reply.answers.push(record("other.test", RData::A(other)));
            reply.answers.push(record(
                "real.test",
                if is_aaaa {
                    RData::AAAA(AAAA {
                        address: 0xfd00 << 112 | 1,
                    })
                } else {
                    RData::A(A {
                        address: 0x0a00_0001,
                    })
                },
            ));
        }
        _ => *reply.rcode_mut() = RCODE::NameError,
    }
    let honest = reply.build_bytes_vec().unwrap();
    if manner != Manner::Confusing {
        return vec![honest];
    }
    let mut wrong_identifier = honest.clone();
    wrong_identifier[0] ^= 1;
    let mut another = Packet::new_reply(question.id());
    let mut elsewhere = asked;
    elsewhere.qname = Name::new("elsewhere.test").unwrap().into_owned();
    another.questions.push(elsewhere);
    vec![
        b"nonsense".to_vec(),
        wrong_identifier,
        another.build_bytes_vec().unwrap(),
        honest,
    ]
}

/// A machine with these two files.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(hosts: &str, resolv_conf: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hosts"), hosts).unwrap();
        std::fs::write(root.path().join("etc/resolv.conf"), resolv_conf).unwrap();
        Self(root)
    }

    fn look_up(&self, name: &str, port: u16) -> Result<Vec<String>, ResolveError> {
        let resolver = Resolver::new(&Environment::below(self.0.path())).with_port(port);
        let deadline = Instant::now() + Duration::from_secs(10);
        let addresses = resolver.look_up(name, deadline)?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }
}

const FOUND: [&str; 2] = ["10.0.0.1", "fd00::1"];

#[test]
fn addresses_localhost_and_hosts_need_no_server() {
    let machine = Machine::new(
        "127.0.0.1 localhost evil.localhost\n10.1.1.1 registry.test Hub # hub2\nfe80::1%eth0 hub\n10.9.9.9 localhost\n",
        "nameserver 127.0.0.99\n",
    );
    let found = |name| machine.look_up(name, 1).unwrap();
    assert_eq!(found("10.2.3.4"), ["10.2.3.4"]);
    assert_eq!(found("[fd00::5]"), ["fd00::5"]);
    for name in ["localhost", "LOCALHOST.", "any.localhost"] {
        assert_eq!(found(name), ["127.0.0.1", "::1"], "{name}");
    }
    assert_eq!(found("Registry.Test."), ["10.1.1.1"]);
    assert_eq!(found("hub"), ["10.1.1.1", "fe80::1"]);
    assert!(machine.look_up("hub2", 1).is_err());
}

#[test]
fn both_families_come_through_an_alias_and_the_search_list() {
    let server = Server::start([127, 0, 0, 11], 0, Manner::Honest);
    let machine = Machine::new("", "search absent.test known.test\nnameserver 127.0.0.11\n");
    assert_eq!(machine.look_up("hub", server.port).unwrap(), FOUND);
    let mut asked = server.asked();
    asked.sort();
    assert_eq!(
        asked,
        [
            "hub.absent.test A",
            "hub.absent.test AAAA",
            "hub.known.test A",
            "hub.known.test AAAA"
        ]
    );
    let error = machine.look_up("nobody.example.", server.port).unwrap_err();
    assert!(matches!(error, ResolveError::NoSuchName { .. }), "{error}");
    let error = machine.look_up("a..b", server.port).unwrap_err();
    assert!(
        matches!(
            error,
            ResolveError::BadName { .. } | ResolveError::NoSuchName { .. }
        ),
        "{error}"
    );
}

#[test]
fn every_manner_of_the_first_server_leads_to_an_answer() {
    let cases = [
        (Manner::Honest, true),
        (Manner::Silent, false),
        (Manner::Failing, false),
        (Manner::SilentOnAaaa, true),
        (Manner::Truncating, true),
        (Manner::Confusing, true),
    ];
    for (number, (manner, is_enough)) in (0_u8..).zip(cases) {
        let first = Server::start([127, 0, 1, number], 0, manner);
        let second = Server::start([127, 0, 2, number], first.port, Manner::Honest);
        let text = format!(
            "options timeout:1\nnameserver {}\nnameserver {}\n",
            first.ip, second.ip
        );
        let found = Machine::new("", &text)
            .look_up("x.known.test", first.port)
            .unwrap();
        let expected = if manner == Manner::SilentOnAaaa {
            &FOUND[..1]
        } else {
            &FOUND[..]
        };
        assert_eq!(found, expected, "{number}");
        assert_eq!(second.asked().is_empty(), is_enough, "{number}");
        let by_tcp = first.over_tcp.load(Ordering::SeqCst);
        assert_eq!(
            by_tcp,
            if manner == Manner::Truncating { 2 } else { 0 },
            "{number}"
        );
    }
}

#[test]
fn use_vc_asks_over_tcp_alone() {
    let server = Server::start([127, 0, 0, 12], 0, Manner::Silent);
    let machine = Machine::new("", "nameserver 127.0.0.12\noptions use-vc\n");
    assert_eq!(machine.look_up("x.known.test", server.port).unwrap(), FOUND);
    assert_eq!(server.over_tcp.load(Ordering::SeqCst), 2);
}

#[test]
fn silence_ends_at_the_deadline_and_names_the_servers() {
    let server = Server::start([127, 0, 0, 13], 0, Manner::Silent);
    let machine = Machine::new("", "nameserver 127.0.0.13\noptions timeout:30 attempts:5\n");
    let resolver = Resolver::new(&Environment::below(machine.0.path())).with_port(server.port);
    let begun = Instant::now();
    let error = resolver
        .look_up("x.known.test", begun + Duration::from_millis(300))
        .unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(error.to_string().contains("127.0.0.13"), "{error}");
    // A closed port is known at once.
    let begun = Instant::now();
    let machine = Machine::new("", "nameserver 127.0.0.14\noptions timeout:30\n");
    assert!(machine.look_up("x.known.test", server.port).is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}
