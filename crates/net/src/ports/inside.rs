// SPDX-License-Identifier: Apache-2.0
//! The inside of the container's network namespace: sockets that speak as somebody else, and the routes that bring answers back to them.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
};
use wolffia_sys::{
    netlink::{Netlink, Prefix, Route, Rule},
    socket::{set_mark, set_transparent},
};

use super::{PortsError, Protocol, Settings};

/// The mark of streams that are joined: `WO`, `LF`.
const MARK: u32 = 0x574f_4c46;

/// The table by which every address is here, for what is marked.
const STREAM_TABLE: u32 = 0x574f_0001;

/// The table by which clients' addresses are here, for answers from published ports.
const DATAGRAM_TABLE: u32 = 0x574f_0002;

/// After the local table (0) and long before the main one (32766).
const PRIORITY: u32 = 100;

/// Sockets inside.
#[derive(Debug)]
pub(super) struct Inside {
    settings: Settings,
    netlink: Netlink,
    loopback: u32,
    /// How many datagram clients have an address.
    clients: HashMap<IpAddr, u32>,
}

impl Inside {
    /// Makes rules and routes.
    pub(super) fn prepare(settings: &Settings) -> Result<Inside, PortsError> {
        write("/proc/sys/net/ipv4/tcp_fwmark_accept")?;
        write("/proc/sys/net/ipv4/fwmark_reflect")?;
        if settings.v6.is_some() {
            write("/proc/sys/net/ipv6/fwmark_reflect")?;
        }
        let mut netlink = Netlink::open().map_err(PortsError::Routes)?;
        let loopback = netlink.link("lo").map_err(PortsError::Routes)?.index;
        for is_v6 in [false, true] {
            if settings.container(is_v6).is_none() {
                continue;
            }
            let rule = Rule {
                is_v6,
                table: STREAM_TABLE,
                priority: PRIORITY,
                mark: Some(MARK),
                ..Rule::default()
            };
            let everything = Route {
                is_v6,
                device: Some(loopback),
                table: STREAM_TABLE,
                is_local: true,
                ..Route::default()
            };
            once(netlink.add_rule(rule))?;
            once(netlink.add_route(everything))?;
            for listener in &settings.listeners {
                if listener.protocol == Protocol::Udp {
                    let rule = Rule {
                        is_v6,
                        table: DATAGRAM_TABLE,
                        priority: PRIORITY,
                        protocol: Some(IPPROTO_UDP),
                        from_ports: Some((listener.port, listener.port)),
                        ..Rule::default()
                    };
                    once(netlink.add_rule(rule))?;
                }
            }
        }
        Ok(Inside {
            settings: settings.clone(),
            netlink,
            loopback,
            clients: HashMap::new(),
        })
    }

    /// Returns as whom a client is shown.
    pub(super) fn shown(&self, client: IpAddr) -> Option<IpAddr> {
        let is_v6 = client.is_ipv6();
        let is_plain = match client {
            IpAddr::V4(v4) => {
                !v4.is_loopback()
                    && !v4.is_unspecified()
                    && !v4.is_link_local()
                    && !v4.is_multicast()
            }
            IpAddr::V6(v6) => {
                let is_mapped = v6.to_ipv4_mapped().is_some();
                !v6.is_loopback()
                    && !v6.is_unspecified()
                    && !v6.is_unicast_link_local()
                    && !v6.is_multicast()
                    && !is_mapped
            }
        };
        if is_plain && self.settings.container(is_v6) != Some(client) {
            Some(client)
        } else {
            self.settings.gateway(is_v6)
        }
    }

    /// Returns the container's address of the client's version of IP, else of the other.
    pub(super) fn container(&self, is_v6: bool) -> Option<IpAddr> {
        self.settings.container(is_v6)
    }

    /// Returns the gateway's address.
    pub(super) fn gateway(&self, is_v6: bool) -> Option<IpAddr> {
        self.settings.gateway(is_v6)
    }

    /// Begins a stream to the container as `from`; the socket does not wait, and is connected when it can be written.
    pub(super) fn begin_stream(from: SocketAddr, to: SocketAddr) -> Result<OwnedFd, Errno> {
        let begin = |from: SocketAddr| {
            let socket = Inside::socket(SocketType::STREAM, from)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            match connect(&socket, &to) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno),
            }
        };
        match begin(from) {
            // The same client with the same port has another stream: the address is what matters.
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => begin(SocketAddr::new(from.ip(), 0)),
            result => result,
        }
    }

    /// Makes a datagram socket that speaks to the container as `from`.
    pub(super) fn datagram_socket(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<OwnedFd, Errno> {
        let make = |from: SocketAddr| {
            let socket = Inside::socket(SocketType::DGRAM, from)?;
            connect(&socket, &to)?;
            Ok(socket)
        };
        let socket = match make(from) {
            Err(Errno::ADDRINUSE) => make(SocketAddr::new(from.ip(), 0))?,
            result => result?,
        };
        self.bring_back(from.ip(), to.ip())?;
        Ok(socket)
    }

    fn socket(kind: SocketType, from: SocketAddr) -> Result<OwnedFd, Errno> {
        let family = if from.is_ipv6() {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, kind, flags, None)?;
        if kind == SocketType::STREAM {
            set_mark(&socket, MARK)?;
            // Two streams of one client to two ports have one address and port here. Datagram sockets would share what comes.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        set_transparent(&socket, from.is_ipv6())?;
        bind(&socket, &from)?;
        Ok(socket)
    }

    /// Makes answers to a datagram client's address come here. The container's own address is named as theirs: without that the kernel would
    /// answer in the client's name.
    fn bring_back(&mut self, client: IpAddr, container: IpAddr) -> Result<(), Errno> {
        let count = self.clients.entry(client).or_default();
        if *count == 0 {
            let route = route_back(client, Some(container), self.loopback);
            match self.netlink.add_route(route) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    self.clients.remove(&client);
                    return Err(errno);
                }
            }
        }
        *count += 1;
        Ok(())
    }

    /// Undoes one [`Self::datagram_socket`].
    pub(super) fn forget(&mut self, client: IpAddr) {
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
                // A route that is gone is what was wanted.
                let _ = self
                    .netlink
                    .remove_route(route_back(client, None, self.loopback));
            }
        }
    }
}

const IPPROTO_UDP: u8 = 17;

fn route_back(client: IpAddr, source: Option<IpAddr>, loopback: u32) -> Route {
    Route {
        destination: Some(Prefix::host(client)),
        source,
        device: Some(loopback),
        table: DATAGRAM_TABLE,
        is_local: true,
        ..Route::default()
    }
}

fn once(done: Result<(), Errno>) -> Result<(), PortsError> {
    match done {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(PortsError::Routes(errno)),
    }
}

fn write(path: &'static str) -> Result<(), PortsError> {
    fs::write(path, "1").map_err(|source| PortsError::Setting { path, source })
}
