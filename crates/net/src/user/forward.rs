// SPDX-License-Identifier: Apache-2.0
//! Ports of the host that lead to a guest over the TAP device, made and taken away while it runs.
//!
//! Our own containers' ports are joined socket to socket ([`crate::ports`]); this is what the control socket of the drop-in asks for. A stream
//! shows the guest its client's address, or the gateway's where the client is on the host's loopback.

use std::{
    net::{SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{
        AddressFamily, SocketAddrAny, SocketFlags, SocketType, accept_with, acceptfrom_with, bind,
        ipproto, listen, socket_with, sockopt,
    },
};
use wolffia_packet::{Stack, Time};

use super::{datagram::Datagrams, policy::Policy, stream, stream::Streams, token};
use crate::ports::Protocol;

/// Forwards at once.
const FORWARDS_MAX: usize = 1024;
/// Connections that wait at one of them.
const BACKLOG: i32 = 128;
/// Connections accepted from one of them in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// One forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) protocol: Protocol,
    pub(crate) host: SocketAddrV4,
    pub(crate) guest: SocketAddrV4,
}

/// All of them, by their numbers from 1.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    entries: Vec<(u64, Forward, Place)>,
    last: u64,
}

#[derive(Debug)]
enum Place {
    Listener(OwnedFd),
    /// The slot of its socket.
    Datagrams(usize),
}

impl Forwards {
    /// Opens a port of the host and returns its number.
    pub(crate) fn add(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        datagrams: &mut Datagrams,
        forward: Forward,
    ) -> Result<u64, Errno> {
        if self.entries.len() >= FORWARDS_MAX {
            return Err(Errno::MFILE);
        }
        let (kind, protocol) = match forward.protocol {
            Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
            Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, kind, flags, Some(protocol))?;
        let number = self.last + 1;
        let place = if forward.protocol == Protocol::Tcp {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &forward.host)?;
            listen(&socket, BACKLOG)?;
            let data = EventData::new_u64(token::listener(number));
            epoll::add(epoll, &socket, data, EventFlags::IN)?;
            Place::Listener(socket)
        } else {
            bind(&socket, &forward.host)?;
            Place::Datagrams(datagrams.forward(epoll, now, socket, forward.guest.into())?)
        };
        self.last = number;
        self.entries.push((number, forward, place));
        Ok(number)
    }

    /// Returns the forwards with their numbers.
    pub(crate) fn list(&self) -> impl Iterator<Item = (u64, Forward)> {
        self.entries
            .iter()
            .map(|(number, forward, _)| (*number, *forward))
    }

    /// Closes a port; connections that are open stay. Tells whether there was one of that number.
    pub(crate) fn remove(&mut self, datagrams: &mut Datagrams, number: u64) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.0 == number) else {
            return false;
        };
        if let (_, _, Place::Datagrams(slot)) = self.entries.remove(at) {
            datagrams.remove(slot);
        }
        true
    }

    /// Takes the connections that wait.
    pub(crate) fn ready(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        number: u64,
        stack: &mut Stack,
        streams: &mut Streams,
        policy: &Policy,
    ) {
        let found = self.entries.iter().find(|entry| entry.0 == number);
        let Some((_, forward, Place::Listener(listener))) = found else {
            return;
        };
        for _ in 0..ACCEPTS_PER_TURN {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let Ok((socket, client)) = acceptfrom_with(listener, flags) else {
                return;
            };
            let Some(client) = client.and_then(internet) else {
                continue;
            };
            // Without either the connection works, only later.
            let _ = stream::prepare(&socket);
            let from = policy.seen_by_guest(client);
            if let Ok(flow) = stack.connect(now, from, forward.guest.into())
                && !streams.accepted(epoll, flow, socket)
            {
                stack.abort(flow);
            }
        }
    }
}

/// Accepts one connection of a listener that has no addresses.
pub(crate) fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
}

fn internet(address: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(address).ok()
}
