// SPDX-License-Identifier: Apache-2.0
//! Links, addresses, routes and rules of a network namespace, by rtnetlink.
//!
//! A network namespace of a user's own starts empty: a loopback device that is down. What makes it a network (a TAP, a `veth`, a bridge, addresses,
//! routes, the rules that say which table is asked) is told to the kernel over a `NETLINK_ROUTE` socket. The few messages that we need are written
//! here by hand: a crate for all of netlink is larger than everything that uses it.
//!
//! # Theory of operation
//! A [`Netlink`] speaks to the namespace in which it was *opened*, whatever the caller joins later; but each request is also judged by the
//! rights that the caller has when it is made (`netlink_net_capable` in `net/netlink/af_netlink.c`), so a process that gave up `CAP_NET_ADMIN` can
//! look, and change nothing. One request is out at a time: it is sent, and answers are read until the one with its number has come. A change is answered
//! with an error number or zero, a question with messages up to `NLMSG_DONE`. Nothing here waits for the network.
//!
//! Sources: netlink(7), rtnetlink(7), `include/uapi/linux/{rtnetlink,if_link,if_addr,fib_rules,veth}.h`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

mod message;
mod way;

use message::{Message, attributes};
pub use way::Way;

/// A socket to the kernel's network configuration of one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// Its hardware address, where it has one of six bytes.
    pub address: Option<[u8; 6]>,
    /// It is switched on.
    pub is_up: bool,
    /// The bridge that it is a port of.
    pub bridge: Option<u32>,
}

/// What is made.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A bridge.
    Bridge,
    /// A pair of devices joined by a wire: this end, and another in the namespace of `peer_namespace` (here, without one).
    Veth {
        /// The other end's name.
        peer: &'a str,
        /// Where the other end goes; the caller needs `CAP_NET_ADMIN` there too.
        peer_namespace: Option<BorrowedFd<'a>>,
        /// The other end's hardware address.
        peer_address: Option<[u8; 6]>,
    },
}

/// What is changed about a device; what is left out stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Switch it on or off.
    pub up: Option<bool>,
    /// The largest packet, bytes.
    pub mtu: Option<u32>,
    /// Its hardware address; some devices want to be off for that.
    pub address: Option<[u8; 6]>,
    /// Make it a port of this bridge; 0 takes it out.
    pub bridge: Option<u32>,
    /// Give it another name; it must be off.
    pub name: Option<&'a str>,
    /// Move it into this namespace.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Whether it makes itself an IPv6 address of its own.
    pub link_local: Option<bool>,
}

/// An address with the length of its network's prefix: `10.0.2.100/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// How many bits name the network.
    pub length: u8,
}

/// A route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; `None` is everywhere, and then `gateway` or `is_v6` decides about the family.
    pub destination: Option<Prefix>,
    /// Over whom.
    pub gateway: Option<IpAddr>,
    /// By which device.
    pub device: Option<u32>,
    /// Which address programs get that have chosen none.
    pub source: Option<IpAddr>,
    /// In which table; 0 is the main one.
    pub table: u32,
    /// What it leads to is here: packets are delivered to sockets of this namespace.
    pub is_local: bool,
    /// The family where neither destination nor gateway tells.
    pub is_v6: bool,
}

/// A rule that sends packets to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// For IPv6.
    pub is_v6: bool,
    /// The table that is asked.
    pub table: u32,
    /// Smaller is earlier; the local table is 0, the main one 32766.
    pub priority: u32,
    /// Only packets with this mark.
    pub mark: Option<u32>,
    /// Only packets of this protocol (`IPPROTO_*`).
    pub protocol: Option<u8>,
    /// Only packets from one of these ports.
    pub from_ports: Option<(u16, u16)>,
}

impl Netlink {
    /// Opens a socket to the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // `NETLINK_ROUTE` is 0.
            None,
        )?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Returns all devices.
    pub fn links(&mut self) -> Result<Vec<Link>, Errno> {
        let mut message = Message::new(message::GET_LINK, message::DUMP);
        message.link_header(0, 0, 0);
        let mut links = Vec::new();
        self.ask(message, |kind, body| {
            if kind == message::NEW_LINK {
                links.extend(read_link(body));
            }
        })?;
        Ok(links)
    }

    /// Returns the device of this name; `ENODEV` where there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, Errno> {
        let mut message = Message::new(message::GET_LINK, 0);
        message.link_header(0, 0, 0);
        message.text(message::IFLA_IFNAME, name);
        let mut found = None;
        self.ask(message, |_, body| found = read_link(body))?;
        found.ok_or(Errno::NODEV)
    }

    /// Makes a device, switched off; returns its number.
    pub fn create(&mut self, name: &str, kind: Kind<'_>) -> Result<u32, Errno> {
        let mut message = Message::new(message::NEW_LINK, message::CREATE | message::EXCL);
        message.link_header(0, 0, 0);
        message.text(message::IFLA_IFNAME, name);
        message.nest(message::IFLA_LINKINFO, |message| {
            let word = match kind {
                Kind::Bridge => "bridge",
                Kind::Veth { .. } => "veth",
            };
            message.text(message::IFLA_INFO_KIND, word);
            if let Kind::Veth {
                peer,
                peer_namespace,
                peer_address,
            } = kind
            {
                message.nest(message::IFLA_INFO_DATA, |message| {
                    message.nest(message::VETH_INFO_PEER, |message| {
                        message.link_header(0, 0, 0);
                        message.text(message::IFLA_IFNAME, peer);
                        if let Some(address) = peer_address {
                            message.bytes(message::IFLA_ADDRESS, &address);
                        }
                        if let Some(namespace) = peer_namespace {
                            message.descriptor(message::IFLA_NET_NS_FD, namespace);
                        }
                    });
                });
            }
        });
        self.tell(message)?;
        Ok(self.link(name)?.index)
    }

    /// Removes a device; the other end of a `veth` goes with it.
    pub fn remove(&mut self, index: u32) -> Result<(), Errno> {
        let mut message = Message::new(message::DEL_LINK, 0);
        message.link_header(index, 0, 0);
        self.tell(message)
    }

    /// Changes a device.
    pub fn change(&mut self, index: u32, change: Change<'_>) -> Result<(), Errno> {
        let mut message = Message::new(message::NEW_LINK, 0);
        let (flags, mask) = match change.up {
            Some(true) => (message::IFF_UP, message::IFF_UP),
            Some(false) => (0, message::IFF_UP),
            None => (0, 0),
        };
        message.link_header(index, flags, mask);
        if let Some(mtu) = change.mtu {
            message.bytes(message::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(address) = change.address {
            message.bytes(message::IFLA_ADDRESS, &address);
        }
        if let Some(bridge) = change.bridge {
            message.bytes(message::IFLA_MASTER, &bridge.to_ne_bytes());
        }
        if let Some(name) = change.name {
            message.text(message::IFLA_IFNAME, name);
        }
        if let Some(namespace) = change.namespace {
            message.descriptor(message::IFLA_NET_NS_FD, namespace);
        }
        if let Some(wanted) = change.link_local {
            message.nest(message::IFLA_AF_SPEC, |message| {
                message.nest(u16::from(message::INET6), |message| {
                    let mode = u8::from(!wanted);
                    message.bytes(message::IFLA_INET6_ADDR_GEN_MODE, &[mode]);
                });
            });
        }
        self.tell(message)
    }

    /// Gives a device an address; an IPv6 one is used at once, without asking the neighbours whether it is taken.
    pub fn add_address(&mut self, index: u32, prefix: Prefix) -> Result<(), Errno> {
        let flags = message::CREATE | message::EXCL;
        let message = address_message(message::NEW_ADDRESS, flags, index, prefix);
        self.tell(message)
    }

    /// Takes an address from a device.
    pub fn remove_address(&mut self, index: u32, prefix: Prefix) -> Result<(), Errno> {
        let message = address_message(message::DEL_ADDRESS, 0, index, prefix);
        self.tell(message)
    }

    /// Returns the addresses of all devices, with the numbers of their devices.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Prefix)>, Errno> {
        let mut message = Message::new(message::GET_ADDRESS, message::DUMP);
        message.raw(&[0; message::ADDRESS_HEADER_BYTES]);
        let mut addresses = Vec::new();
        self.ask(message, |kind, body| {
            if kind == message::NEW_ADDRESS {
                addresses.extend(read_address(body));
            }
        })?;
        Ok(addresses)
    }

    /// Adds a route; `EEXIST` where it is there.
    pub fn add_route(&mut self, route: Route) -> Result<(), Errno> {
        let message = route_message(message::NEW_ROUTE, message::CREATE | message::EXCL, route);
        self.tell(message)
    }

    /// Removes a route.
    pub fn remove_route(&mut self, route: Route) -> Result<(), Errno> {
        let message = route_message(message::DEL_ROUTE, 0, route);
        self.tell(message)
    }

    /// Tells whether packets to an address end here: it is one of this namespace's own, or broadcast.
    pub fn is_local(&mut self, address: IpAddr) -> Result<bool, Errno> {
        let mut message = Message::new(message::GET_ROUTE, 0);
        let length = if address.is_ipv4() { 32 } else { 128 };
        message.raw(&[message::family(address.is_ipv6()), length, 0, 0]);
        message.raw(&[0; 8]);
        message.ip(message::RTA_DST, address);
        let mut kind = None;
        self.ask(message, |_, body| kind = body.get(7).copied())?;
        Ok(kind.is_some_and(|kind| kind != message::ROUTE_UNICAST))
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, rule: Rule) -> Result<(), Errno> {
        let message = rule_message(message::NEW_RULE, message::CREATE | message::EXCL, rule);
        self.tell(message)
    }

    /// Removes a rule.
    pub fn remove_rule(&mut self, rule: Rule) -> Result<(), Errno> {
        let message = rule_message(message::DEL_RULE, 0, rule);
        self.tell(message)
    }

    /// Sends a change and waits for the kernel's verdict.
    fn tell(&mut self, mut message: Message) -> Result<(), Errno> {
        message.want_verdict();
        self.ask(message, |_, _| {})
    }

    /// Sends a request and hands each answer to `each`.
    fn ask(&mut self, message: Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let is_dump = message.is_dump();
        let wants_verdict = message.wants_verdict();
        let bytes = message.finish(self.sequence)?;
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; message::ANSWER_BYTES_MAX];
        loop {
            let count = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            for answer in message::answers(&buffer[..count]) {
                if answer.sequence != self.sequence {
                    continue;
                }
                match answer.kind {
                    message::DONE => return Ok(()),
                    message::VERDICT => return answer.verdict(),
                    kind => {
                        each(kind, answer.body);
                        if !is_dump && !wants_verdict {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Prefix {
    /// Returns an address with a prefix; `None` where the prefix is longer than the address.
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Option<Prefix> {
        let address = address.into();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (length <= bits).then_some(Prefix { address, length })
    }

    /// Returns an address alone.
    pub fn host(address: impl Into<IpAddr>) -> Prefix {
        let address = address.into();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Prefix { address, length }
    }
}

fn read_link(body: &[u8]) -> Option<Link> {
    let header = body.get(..message::LINK_HEADER_BYTES)?;
    let index = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
    let flags = u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?);
    let mut link = Link {
        index,
        name: String::new(),
        mtu: 0,
        address: None,
        is_up: flags & message::IFF_UP != 0,
        bridge: None,
    };
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).ok();
    for (kind, value) in attributes(&body[message::LINK_HEADER_BYTES..]) {
        match kind {
            message::IFLA_IFNAME => {
                let end = value.iter().position(|byte| *byte == 0);
                link.name = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into();
            }
            message::IFLA_MTU => link.mtu = number(value).unwrap_or_default(),
            message::IFLA_ADDRESS => link.address = value.try_into().ok(),
            message::IFLA_MASTER => link.bridge = number(value),
            _ => {}
        }
    }
    Some(link)
}

fn read_address(body: &[u8]) -> Option<(u32, Prefix)> {
    let header = body.get(..message::ADDRESS_HEADER_BYTES)?;
    let length = header[1];
    let index = u32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
    // IPv4 says both, and the local one is ours; IPv6 says the first alone.
    let mut address = None;
    for (kind, value) in attributes(&body[message::ADDRESS_HEADER_BYTES..]) {
        match kind {
            message::IFA_LOCAL => address = read_ip(value),
            message::IFA_ADDRESS if address.is_none() => address = read_ip(value),
            _ => {}
        }
    }
    Some((index, Prefix::new(address?, length)?))
}

fn read_ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    let v6 = || <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
    v4.or_else(|_| v6()).ok()
}

fn address_message(kind: u16, flags: u16, index: u32, prefix: Prefix) -> Message {
    let mut message = Message::new(kind, flags);
    let family = message::family(prefix.address.is_ipv6());
    let scope = match prefix.address {
        IpAddr::V4(address) if address.is_loopback() => message::SCOPE_HOST,
        IpAddr::V6(address) if address.is_unicast_link_local() => message::SCOPE_LINK,
        _ => 0,
    };
    message.raw(&[family, prefix.length, message::IFA_F_NODAD, scope]);
    message.raw(&index.to_ne_bytes());
    message.ip(message::IFA_LOCAL, prefix.address);
    message.ip(message::IFA_ADDRESS, prefix.address);
    message
}

fn route_message(kind: u16, flags: u16, route: Route) -> Message {
    let told = route.destination.map(|prefix| prefix.address);
    let told = told.or(route.gateway).or(route.source);
    let is_v6 = told.map_or(route.is_v6, |address| address.is_ipv6());
    let (scope, to) = match (route.is_local, route.gateway) {
        (true, _) => (message::SCOPE_HOST, message::ROUTE_LOCAL),
        (false, Some(_)) => (0, message::ROUTE_UNICAST),
        (false, None) => (message::SCOPE_LINK, message::ROUTE_UNICAST),
    };
    let length = route.destination.map_or(0, |prefix| prefix.length);
    let mut message = Message::new(kind, flags);
    // The number of a table may be larger than its byte here; the attribute counts.
    let table = if route.table == 0 {
        message::MAIN_TABLE
    } else {
        route.table
    };
    message.raw(&[message::family(is_v6), length, 0, 0]);
    message.raw(&[0, message::BY_ADMINISTRATOR, scope, to]);
    message.raw(&[0; 4]);
    message.bytes(message::RTA_TABLE, &table.to_ne_bytes());
    if let Some(destination) = route.destination {
        message.ip(message::RTA_DST, destination.address);
    }
    if let Some(gateway) = route.gateway {
        message.ip(message::RTA_GATEWAY, gateway);
    }
    if let Some(device) = route.device {
        message.bytes(message::RTA_OIF, &device.to_ne_bytes());
    }
    if let Some(source) = route.source {
        message.ip(message::RTA_PREFSRC, source);
    }
    message
}

fn rule_message(kind: u16, flags: u16, rule: Rule) -> Message {
    let mut message = Message::new(kind, flags);
    message.raw(&[message::family(rule.is_v6), 0, 0, 0]);
    message.raw(&[0, 0, 0, message::TO_TABLE]);
    message.raw(&[0; 4]);
    message.bytes(message::FRA_TABLE, &rule.table.to_ne_bytes());
    message.bytes(message::FRA_PRIORITY, &rule.priority.to_ne_bytes());
    if let Some(mark) = rule.mark {
        message.bytes(message::FRA_FWMARK, &mark.to_ne_bytes());
        message.bytes(message::FRA_FWMASK, &u32::MAX.to_ne_bytes());
    }
    if let Some(protocol) = rule.protocol {
        message.bytes(message::FRA_IP_PROTO, &[protocol]);
    }
    if let Some((first, last)) = rule.from_ports {
        let mut range = [0; 4];
        range[..2].copy_from_slice(&first.to_ne_bytes());
        range[2..].copy_from_slice(&last.to_ne_bytes());
        message.bytes(message::FRA_SPORT_RANGE, &range);
    }
    message
}

#[cfg(test)]
pub(crate) mod tests;
