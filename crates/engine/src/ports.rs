// SPDX-License-Identifier: Apache-2.0
//! Published ports as a person asks for them, and as this machine gives them.
//!
//! `-p` in docker's forms: `[[ip:][hostPort]:]containerPort[/tcp|udp]`, each port also a range; an address of IPv6 in brackets. What is left out is
//! chosen here: every address of this machine, both versions of IP, and any free port. The listeners are made by the command that the person
//! runs, before anything of the container is: so a port that is taken is told at once, and whose right it is to have it is the person's own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    str::FromStr,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
    },
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
pub use wolffia_net::ports::Protocol;
use wolffia_sys::socket::tell_destination;

/// Connections that wait while the container starts or is busy; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Ports of all `-p` of a container together: each is two descriptors.
pub const PORTS_MAX: usize = 4096;

/// Free ports are tried so often where one must be free for both versions of IP.
const CHOICES_MAX: u32 = 16;

/// One port that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// On this address alone.
    pub address: Option<IpAddr>,
    /// At one of these ports of this machine; `None` is any.
    pub ports: Option<(u16, u16)>,
    /// The port inside.
    pub port: u16,
    /// Streams or datagrams.
    pub protocol: Protocol,
}

/// One port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The port inside.
    pub port: u16,
    /// Streams or datagrams.
    pub protocol: Protocol,
    /// Where it is on this machine.
    pub at: SocketAddr,
}

/// A port that is exposed: `EXPOSE`, `--expose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposed {
    /// The port inside.
    pub port: u16,
    /// Streams or datagrams.
    pub protocol: Protocol,
}

/// A `-p` that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadPort {
    /// It is none of the forms.
    #[error("{0:?}: not [[ADDRESS:]PORT:]CONTAINER-PORT[/tcp|udp]")]
    Form(String),
    /// The address is none.
    #[error("{0:?}: the part before the ports is not an IP address")]
    Address(String),
    /// Ranges of different lengths.
    #[error("{0:?}: the ranges have different lengths")]
    Lengths(String),
    /// A protocol that is not served.
    #[error("{0:?}: tcp and udp are served")]
    Protocol(String),
}

/// Why a port is not published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Somebody else has it.
    #[error("publishing {0}: the port is taken")]
    Taken(String),
    /// Only root may have it.
    #[error("publishing {0}: ports below {1} are not for ordinary users")]
    Privileged(String, u16),
    /// The address is not this machine's.
    #[error("publishing {0}: this machine has no such address")]
    NoAddress(String),
    /// None was free.
    #[error("publishing {0}: none of its ports is free")]
    NoneFree(String),
    /// Too many.
    #[error("publishing {0} ports: at most {PORTS_MAX} are served")]
    TooMany(usize),
    /// The kernel refused it for another reason.
    #[error("publishing {port}")]
    Socket {
        /// The port.
        port: String,
        /// The kernel's answer.
        source: Errno,
    },
}

impl PublishError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PublishError::Taken(_) => Some(
                "wolffia ps and ss -ltunp say by whom; leave the port out to get a free one".into(),
            ),
            PublishError::Privileged(port, _) => {
                let number = port
                    .rsplit_once(':')
                    .and_then(|(_, rest)| rest.split('/').next()?.parse::<u16>().ok());
                let number = number.unwrap_or(80);
                Some(format!(
                    "publish a higher one (-p {}:{number}), or let root say: sysctl net.ipv4.ip_unprivileged_port_start={number}",
                    u32::from(number) + 8000
                ))
            }
            PublishError::NoAddress(_) => Some("ip address lists those there are".into()),
            PublishError::NoneFree(_) => Some("give a wider range, or no port".into()),
            PublishError::TooMany(_) => Some("--network host needs no ports".into()),
            PublishError::Socket { .. } => None,
        }
    }
}

/// Reads a `-p`: one request for each port of its range.
pub fn parse(text: &str) -> Result<Vec<Request>, BadPort> {
    let bad = || BadPort::Form(text.to_owned());
    let (rest, protocol) = split_protocol(text)?;
    let (rest, inner) = rest
        .rsplit_once(':')
        .map_or((None, rest), |(rest, inner)| (Some(rest), inner));
    let inner = range(inner).ok_or_else(bad)?;
    let (address, outer) = match rest {
        None => (None, ""),
        // [::1]:80, [::1]: and 127.0.0.1:80, 80, and nothing.
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, outer)) => (Some(address), outer),
            None => (None, rest),
        },
    };
    let address = match address {
        None | Some("") => None,
        Some(given) => {
            let plain = given
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            if plain.is_none() && given.contains(':') {
                return Err(BadPort::Address(text.to_owned()));
            }
            let parsed = plain.unwrap_or(given).parse();
            Some(parsed.map_err(|_| BadPort::Address(text.to_owned()))?)
        }
    };
    let outer = match outer {
        "" => None,
        given => Some(range(given).ok_or_else(bad)?),
    };
    let count = inner.clone().count();
    let outer_count = outer.clone().map_or(count, Iterator::count);
    if outer_count != count && count != 1 {
        return Err(BadPort::Lengths(text.to_owned()));
    }
    let requests = inner.clone().enumerate().map(|(at, port)| Request {
        address,
        ports: outer.as_ref().map(|outer| {
            if count == 1 {
                (*outer.start(), *outer.end())
            } else {
                let own = outer.clone().nth(at).unwrap_or(*outer.start());
                (own, own)
            }
        }),
        port,
        protocol,
    });
    Ok(requests.collect())
}

impl FromStr for Exposed {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Exposed, BadPort> {
        let (port, protocol) = split_protocol(text)?;
        match port.parse() {
            Ok(port) if port > 0 => Ok(Exposed { port, protocol }),
            _ => Err(BadPort::Form(text.to_owned())),
        }
    }
}

/// Reads an `--expose` or a word of an image's `EXPOSE`: a port or a range.
pub fn parse_exposed(text: &str) -> Result<Vec<Exposed>, BadPort> {
    let (ports, protocol) = split_protocol(text)?;
    let ports = range(ports).ok_or_else(|| BadPort::Form(text.to_owned()))?;
    Ok(ports.map(|port| Exposed { port, protocol }).collect())
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), BadPort> {
    match text.rsplit_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((rest, word)) => match word.to_ascii_lowercase().as_str() {
            "tcp" => Ok((rest, Protocol::Tcp)),
            "udp" => Ok((rest, Protocol::Udp)),
            _ => Err(BadPort::Protocol(text.to_owned())),
        },
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let digits = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// Makes the listeners of all requests.
pub fn publish(requests: &[Request]) -> Result<Vec<(Published, OwnedFd)>, PublishError> {
    if requests.len() > PORTS_MAX {
        return Err(PublishError::TooMany(requests.len()));
    }
    let mut all = Vec::new();
    for request in requests {
        all.extend(publish_one(request)?);
    }
    Ok(all)
}

fn publish_one(request: &Request) -> Result<Vec<(Published, OwnedFd)>, PublishError> {
    match request.ports {
        Some((first, last)) if first == last => at_port(request, first),
        Some((first, last)) => {
            for port in first..=last {
                match at_port(request, port) {
                    Err(PublishError::Taken(_)) => {}
                    result => return result,
                }
            }
            Err(PublishError::NoneFree(request.to_string()))
        }
        None => {
            // The kernel chooses for one version of IP; the other may have that port taken.
            for _ in 0..CHOICES_MAX {
                match at_port(request, 0) {
                    Err(PublishError::Taken(_)) => {}
                    result => return result,
                }
            }
            Err(PublishError::NoneFree(request.to_string()))
        }
    }
}

/// Listens on all addresses of a request at one port, 0 for any.
fn at_port(request: &Request, mut port: u16) -> Result<Vec<(Published, OwnedFd)>, PublishError> {
    let (addresses, is_everywhere): (Vec<IpAddr>, bool) = match request.address {
        Some(address) => (vec![address], false),
        None => (
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            true,
        ),
    };
    let mut made = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(address, port);
        let told = || format!("{at}/{}", word(request.protocol));
        match listener(at, request.protocol) {
            Ok(socket) => {
                let at = getsockname(&socket)
                    .and_then(SocketAddr::try_from)
                    .map_err(|source| PublishError::Socket {
                        port: told(),
                        source,
                    })?;
                port = at.port();
                let published = Published {
                    port: request.port,
                    protocol: request.protocol,
                    at,
                };
                made.push((published, socket));
            }
            // A machine without this version of IP.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if is_everywhere => {}
            Err(Errno::ADDRINUSE) => return Err(PublishError::Taken(told())),
            Err(Errno::ACCESS) => {
                return Err(PublishError::Privileged(told(), first_unprivileged()));
            }
            Err(Errno::ADDRNOTAVAIL) => return Err(PublishError::NoAddress(told())),
            Err(source) => {
                return Err(PublishError::Socket {
                    port: told(),
                    source,
                });
            }
        }
    }
    if made.is_empty() {
        return Err(PublishError::NoAddress(request.to_string()));
    }
    Ok(made)
}

fn listener(at: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of a container that ended may linger; nobody else can listen meanwhile.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    match protocol {
        Protocol::Tcp => listen(&socket, BACKLOG)?,
        Protocol::Udp => tell_destination(&socket, at.is_ipv6())?,
    }
    Ok(socket)
}

/// Returns the first port that an ordinary user may have.
fn first_unprivileged() -> u16 {
    /// Where it is not said otherwise.
    const USUAL: u16 = 1024;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USUAL)
}

/// Returns docker's word.
pub fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(out, "[{address}]:")?,
            Some(address) => write!(out, "{address}:")?,
            None => {}
        }
        match self.ports {
            Some((first, last)) if first == last => write!(out, "{first}:")?,
            Some((first, last)) => write!(out, "{first}-{last}:")?,
            None if self.address.is_some() => out.write_str(":")?,
            None => {}
        }
        write!(out, "{}/{}", self.port, word(self.protocol))
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.port, word(self.protocol))
    }
}

impl fmt::Display for Published {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}->{}/{}", self.at, self.port, word(self.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_port_is_read() {
        let cases: &[(&str, &[&str])] = &[
            ("80", &["80/tcp"]),
            ("80/udp", &["80/udp"]),
            ("8080:80", &["8080:80/tcp"]),
            ("127.0.0.1:8080:80/UDP", &["127.0.0.1:8080:80/udp"]),
            ("127.0.0.1::80", &["127.0.0.1::80/tcp"]),
            ("[::1]:8080:80", &["[::1]:8080:80/tcp"]),
            ("[::1]::80", &["[::1]::80/tcp"]),
            (":80", &["80/tcp"]),
            ("90-92:80-82", &["90:80/tcp", "91:81/tcp", "92:82/tcp"]),
            ("80-81", &["80/tcp", "81/tcp"]),
            ("9000-9010:80", &["9000-9010:80/tcp"]),
        ];
        for (text, expected) in cases {
            let read: Vec<String> = parse(text)
                .unwrap()
                .iter()
                .map(Request::to_string)
                .collect();
            assert_eq!(read, *expected, "{text}");
        }
        for bad in [
            "",
            "0",
            "x",
            "80:",
            "8080:0",
            "70000",
            "1.2.3:80:80",
            "::1:80:80",
            "90-91:80-82",
            "82-80",
            "80/sctp",
            "80/",
            "+80",
            "8 0",
            "host:80:80",
            "1:2:3:4",
        ] {
            assert!(parse(bad).is_err(), "{bad}: {:?}", parse(bad));
        }
    }

    #[test]
    fn a_port_is_there_or_the_reason_is() {
        let local = |ports| Request {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            ports,
            port: 80,
            protocol: Protocol::Tcp,
        };
        let first = publish(&[local(None)]).unwrap();
        let taken = first[0].0.at.port();
        assert!(taken > 0);
        let again = publish(&[local(Some((taken, taken)))]);
        assert!(matches!(&again, Err(error @ PublishError::Taken(_)) if error.hint().is_some()));
        let strange = Request {
            address: Some([192, 0, 2, 9].into()),
            ..local(None)
        };
        assert!(matches!(
            publish(&[strange]),
            Err(PublishError::NoAddress(_))
        ));
        let both = Request {
            address: None,
            ..local(None)
        };
        let both = publish(&[both]).unwrap();
        assert!(
            both.iter()
                .all(|(told, _)| told.at.port() == both[0].0.at.port())
        );
    }

    #[test]
    fn the_way_out_of_a_privileged_port_is_named() {
        let hint = PublishError::Privileged("0.0.0.0:80/tcp".into(), 1024)
            .hint()
            .unwrap();
        assert!(hint.contains("-p 8080:80"), "{hint}");
        assert!(
            hint.contains("net.ipv4.ip_unprivileged_port_start=80"),
            "{hint}"
        );
    }
}
