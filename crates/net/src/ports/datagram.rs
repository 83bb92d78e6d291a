// SPDX-License-Identifier: Apache-2.0
//! Datagram clients: each has a socket inside that speaks with the client's address and port.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use wolffia_sys::socket;

use super::{FIRST_CLIENT, Listener, inside::Inside};

/// Clients at once, of all ports: each has a socket and a route.
pub(super) const CLIENTS_MAX: usize = 1024;

/// A client that neither asked nor was answered for so long is forgotten; as long as netfilter remembers a conversation.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// How often we look for silent ones.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Datagrams passed on from one socket before others have their turn.
const DATAGRAMS_PER_TURN: usize = 64;

/// The largest datagram there can be.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    clients: HashMap<u64, Client>,
    numbers: HashMap<(usize, SocketAddr), u64>,
    next: u64,
    looked: Option<Instant>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    listener: usize,
    from: SocketAddr,
    /// As whom it is shown inside.
    shown: IpAddr,
    /// Which of our addresses it asked.
    asked: Option<IpAddr>,
    inner: OwnedFd,
    heard: Instant,
}

impl Datagrams {
    /// Returns how long to wait at most.
    pub(super) fn next_look(&self) -> Option<Timespec> {
        let wait = i64::try_from(LOOK_EVERY.as_secs()).unwrap_or(1);
        (!self.clients.is_empty()).then_some(Timespec {
            tv_sec: wait,
            tv_nsec: 0,
        })
    }

    /// Passes on what clients sent to a listener.
    pub(super) fn pass_on(
        &mut self,
        at: usize,
        outer: &OwnedFd,
        told: Listener,
        inside: &mut Inside,
        epoll: &OwnedFd,
    ) {
        let mut buffer = self.take_buffer();
        for _ in 0..DATAGRAMS_PER_TURN {
            let came = match socket::receive(outer, &mut buffer) {
                Ok(came) => came,
                Err(Errno::AGAIN) => break,
                // An error that a former answer caused: it has been read, and the next one may be fine.
                Err(_) => continue,
            };
            let Some(number) = self.number(at, came.from, told, inside, epoll) else {
                continue;
            };
            if let Some(client) = self.clients.get_mut(&number) {
                client.heard = Instant::now();
                client.asked = came.to;
                // A container that does not listen, or not fast enough: datagrams may be lost.
                let _ = send(&client.inner, &buffer[..came.length], SendFlags::NOSIGNAL);
            }
        }
        self.buffer = buffer;
    }

    /// Passes on what the container answered a client.
    pub(super) fn answer(&mut self, number: u64, listeners: &[OwnedFd]) {
        let mut buffer = self.take_buffer();
        if let Some(client) = self.clients.get_mut(&number) {
            for _ in 0..DATAGRAMS_PER_TURN {
                match recv(&client.inner, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((count, _)) => {
                        client.heard = Instant::now();
                        let outer = &listeners[client.listener];
                        let _ = socket::send(outer, &buffer[..count], client.from, client.asked);
                    }
                    Err(Errno::AGAIN) => break,
                    // The container refused what was sent before; that is read now.
                    Err(_) => {}
                }
            }
        }
        self.buffer = buffer;
    }

    /// Forgets those who are silent.
    pub(super) fn forget_silent(&mut self, inside: &mut Inside) {
        let now = Instant::now();
        let is_due = |looked: Instant| now.duration_since(looked) >= LOOK_EVERY;
        if self.clients.is_empty() || !self.looked.is_none_or(is_due) {
            return;
        }
        self.looked = Some(now);
        let is_silent = |client: &Client| now.duration_since(client.heard) >= SILENCE_MAX;
        let silent: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| is_silent(client))
            .map(|(number, _)| *number)
            .collect();
        for number in silent {
            self.forget(number, inside);
        }
    }

    /// Returns the number of a client, a new one's too.
    fn number(
        &mut self,
        listener: usize,
        from: SocketAddr,
        told: Listener,
        inside: &mut Inside,
        epoll: &OwnedFd,
    ) -> Option<u64> {
        if let Some(number) = self.numbers.get(&(listener, from)) {
            return Some(*number);
        }
        if self.clients.len() >= CLIENTS_MAX {
            let quietest = self.clients.iter().min_by_key(|(_, client)| client.heard);
            let quietest = quietest.map(|(number, _)| *number);
            self.forget(quietest?, inside);
        }
        let (shown, to) = match inside.container(from.is_ipv6()) {
            Some(to) => (inside.shown(from.ip())?, to),
            None => (
                inside.gateway(!from.is_ipv6())?,
                inside.container(!from.is_ipv6())?,
            ),
        };
        let to = SocketAddr::new(to, told.port);
        let inner = match inside.datagram_socket(SocketAddr::new(shown, from.port()), to) {
            Ok(inner) => inner,
            Err(errno) => {
                tracing::debug!(%errno, "a datagram client got no socket");
                return None;
            }
        };
        let number = self.next;
        let data = EventData::new_u64(FIRST_CLIENT + number);
        if epoll::add(epoll, &inner, data, EventFlags::IN).is_err() {
            inside.forget(shown);
            return None;
        }
        self.next += 1;
        let client = Client {
            listener,
            from,
            shown,
            asked: None,
            inner,
            heard: Instant::now(),
        };
        self.clients.insert(number, client);
        self.numbers.insert((listener, from), number);
        Some(number)
    }

    fn forget(&mut self, number: u64, inside: &mut Inside) {
        if let Some(client) = self.clients.remove(&number) {
            self.numbers.remove(&(client.listener, client.from));
            inside.forget(client.shown);
        }
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM_BYTES_MAX, 0);
        buffer
    }
}
