// SPDX-License-Identifier: Apache-2.0
//! Questions to name servers, over UDP and TCP.
//!
//! The order, the bounds and what counts as an answer stand at the head of [`super`]. The wire format is `simple-dns`'s.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use super::ResolveError;
use super::files::ResolverFile;

/// Where name servers listen (RFC 1035 4.2).
pub(super) const PORT: u16 = 53;

/// RFC 1035 4.2.1 allows 512 bytes without EDNS; servers that send more are read all the same.
const UDP_BYTES_MAX: usize = 4096;

/// How many aliases are followed inside one answer.
const ALIASES_MAX: usize = 16;

/// What one server said to one question.
enum Answer {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    Truncated,
    /// The server could not or would not say.
    Failed,
}

/// Returns the addresses that the servers give for a complete name: IPv4 first, since it is what every host can reach.
pub(super) fn ask(
    name: &str,
    settings: &ResolverFile,
    port: u16,
    deadline: Instant,
) -> Result<Vec<IpAddr>, ResolveError> {
    if Name::new(name).is_err() {
        return Err(ResolveError::BadName {
            name: name.to_owned(),
        });
    }
    let sockets = settings.sockets(port, usize::from(random()));
    let mut failure = None;
    for _attempt in 0..settings.attempts {
        for server in &sockets {
            let limit = deadline.min(Instant::now() + settings.timeout);
            match ask_server(name, *server, settings.tcp_only, limit) {
                Ok(Some(addresses)) => return Ok(addresses),
                Ok(None) => {
                    return Err(ResolveError::NoSuchName {
                        name: name.to_owned(),
                    });
                }
                Err(error) => failure = Some(error),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
    }
    Err(ResolveError::NoAnswer {
        name: name.to_owned(),
        servers: sockets,
        source: failure,
    })
}

/// Asks one server both questions; `None` where it says that there is no such name.
///
/// One answer with addresses is enough: there are servers that fail, or fall silent, when asked for AAAA.
fn ask_server(
    name: &str,
    server: SocketAddr,
    tcp_only: bool,
    deadline: Instant,
) -> io::Result<Option<Vec<IpAddr>>> {
    let questions = [query(name, TYPE::A)?, query(name, TYPE::AAAA)?];
    let mut answers = [None, None];
    let mut failure = None;
    if !tcp_only {
        failure = over_udp(name, server, &questions, &mut answers, deadline).err();
    }
    let mut addresses = Vec::new();
    let (mut known, mut unknown) = (false, false);
    for (question, answer) in questions.iter().zip(answers) {
        let answer = match answer {
            Some(Answer::Truncated) => over_tcp(name, server, question, deadline),
            None if tcp_only => over_tcp(name, server, question, deadline),
            Some(answer) => Ok(answer),
            None => Ok(Answer::Failed),
        };
        match answer {
            Ok(Answer::Addresses(found)) => {
                known = true;
                addresses.extend(found);
            }
            Ok(Answer::NoSuchName) => unknown = true,
            Ok(Answer::Truncated | Answer::Failed) => {
                failure.get_or_insert(io::ErrorKind::InvalidData.into());
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(failure) if addresses.is_empty() && !unknown => Err(failure),
        _ => Ok(known.then_some(addresses)),
    }
}

/// One question, as bytes, with its identifier.
struct Query {
    identifier: u16,
    kind: TYPE,
    bytes: Vec<u8>,
}

fn query(name: &str, kind: TYPE) -> io::Result<Query> {
    let identifier = random();
    let mut packet = Packet::new_query(identifier);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(io::Error::other)?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    let bytes = packet.build_bytes_vec().map_err(io::Error::other)?;
    Ok(Query {
        identifier,
        kind,
        bytes,
    })
}

/// Sends both questions and waits for both answers; those that came are there after a failure as well.
fn over_udp(
    name: &str,
    server: SocketAddr,
    questions: &[Query; 2],
    answers: &mut [Option<Answer>; 2],
    deadline: Instant,
) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected, so that the kernel drops what another address sends and tells of a closed port at once.
    socket.connect(server)?;
    for question in questions {
        let _sent_bytes = socket.send(&question.bytes)?;
    }
    let mut buffer = [0; UDP_BYTES_MAX];
    while answers.iter().any(Option::is_none) {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for (question, answer) in questions.iter().zip(answers.iter_mut()) {
            if answer.is_none() {
                *answer = read_answer(name, question, &buffer[..length])?;
            }
        }
    }
    Ok(())
}

fn over_tcp(
    name: &str,
    server: SocketAddr,
    question: &Query,
    deadline: Instant,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let length = u16::try_from(question.bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&question.bytes)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    let mut filled = 0;
    while filled < bytes.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut bytes[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            amount => filled += amount,
        }
    }
    match read_answer(name, question, &bytes)? {
        Some(answer) => Ok(answer),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads an answer; `None` where it answers another question, an error where the server says that it failed.
fn read_answer(name: &str, question: &Query, bytes: &[u8]) -> io::Result<Option<Answer>> {
    let Ok(packet) = Packet::parse(bytes) else {
        return Ok(None);
    };
    let asked = Name::new(name).map_err(io::Error::other)?;
    let is_ours = packet.id() == question.identifier
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet
            .questions
            .first()
            .is_none_or(|said| said.qname == asked && said.qtype == QTYPE::TYPE(question.kind));
    if !is_ours {
        return Ok(None);
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(Some(Answer::Truncated));
    }
    match packet.rcode() {
        RCODE::NoError => Ok(Some(Answer::Addresses(addresses(&asked, &packet)))),
        RCODE::NameError => Ok(Some(Answer::NoSuchName)),
        _failed => Ok(Some(Answer::Failed)),
    }
}

/// Returns the addresses of the asked name, followed through the aliases of the same answer.
fn addresses(asked: &Name<'_>, packet: &Packet<'_>) -> Vec<IpAddr> {
    let mut name = asked.clone();
    for _alias in 0..ALIASES_MAX {
        let next = packet
            .answers
            .iter()
            .find_map(|record| match &record.rdata {
                RData::CNAME(alias) if record.name == name => Some(alias.0.clone()),
                _ => None,
            });
        match next {
            Some(next) => name = next,
            None => break,
        }
    }
    packet
        .answers
        .iter()
        .filter(|record| record.name == name)
        .filter_map(|record| match &record.rdata {
            RData::A(address) => Some(Ipv4Addr::from(address.address).into()),
            RData::AAAA(address) => Some(Ipv6Addr::from(address.address).into()),
            _ => None,
        })
        .collect()
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Returns a number that nobody can guess: the standard library keys its hashes from the kernel's randomness.
fn random() -> u16 {
    let hash = RandomState::new().build_hasher().finish();
    u16::from_be_bytes([hash.to_be_bytes()[0], hash.to_be_bytes()[1]])
}
