// SPDX-License-Identifier: Apache-2.0
//! A guest's UDP: one host socket for each address and port that it sends from.
//!
//! # Theory of operation
//! The first datagram from an address and port makes a socket; what comes back on it goes to the guest from whoever sent it, if the guest has sent
//! there before (or from anybody, where the network was asked to be a full cone). Questions to the name server have sockets of their own, so
//! that the answer can be given the address that was asked. Several datagrams of one length come and go as one message in both directions.
//!
//! Sockets live until nothing was said for [`IDLE`] (a question: [`IDLE_QUESTION`]); at [`ASSOCIATIONS_MAX`] the quietest makes room.
//! What comes back by ICMP is handed on with the destination it is about.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt},
};
use wolffia_packet::{Datagram, Output, Stack, Time, Unreachable};
use wolffia_sys::datagram::{self, Receiver, SEGMENTS_MAX};

use super::{Outbound, policy::Policy, token};

/// Sockets at once. A guest that scans makes one each; more than a busy resolver needs.
const ASSOCIATIONS_MAX: usize = 2048;

/// Destinations that one socket remembers; the oldest is forgotten first.
const PEERS_MAX: usize = 64;

/// A quiet socket's life: as long as common routers keep a stream of datagrams (RFC 4787, 4.3 asks for two minutes at least).
const IDLE: Duration = Duration::from_mins(2);

/// A question that was not answered by now will not be.
const IDLE_QUESTION: Duration = Duration::from_secs(15);

/// Messages received by one call.
const MESSAGES: usize = 16;
/// Bytes of one message, at most.
const MESSAGE_BYTES: usize = 65_536;
/// Calls for one socket in one turn.
const CALLS_PER_TURN: usize = 4;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The world.
    World,
    /// A name server, reached by this version of IP.
    Question {
        /// IPv6.
        is_v6: bool,
    },
}

/// All the sockets.
#[derive(Debug)]
pub(crate) struct Datagrams {
    slots: Vec<Option<Association>>,
    free: Vec<usize>,
    by_guest: HashMap<(SocketAddr, Purpose), usize>,
    receiver: Receiver,
    full_cone: bool,
}

#[derive(Debug)]
struct Association {
    guest: SocketAddr,
    purpose: Purpose,
    socket: OwnedFd,
    /// Where the guest sent to as it named it, and where that is.
    peers: Vec<(SocketAddr, SocketAddr)>,
    /// A port of the host that is forwarded: anybody may send, and it does not end by itself.
    is_forward: bool,
    last: Time,
}

/// A datagram that came back: the guest, the destination as it knows it, and why.
pub(crate) type Returned = (SocketAddr, SocketAddr, Unreachable);

impl Datagrams {
    pub(crate) fn new(full_cone: bool) -> Datagrams {
        Datagrams {
            slots: Vec::new(),
            free: Vec::new(),
            by_guest: HashMap::new(),
            receiver: Receiver::new(MESSAGES, MESSAGE_BYTES),
            full_cone,
        }
    }

    /// Returns where a destination of a guest was found to be the last time, so that it need not be judged again.
    pub(crate) fn known(&self, guest: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let slot = self.by_guest.get(&(guest, Purpose::World))?;
        let association = self.slots.get(*slot)?.as_ref()?;
        let known = association.peers.iter().rev().find(|peer| peer.0 == to)?;
        Some(known.1)
    }

    /// Sends what a guest has sent to where it is to go.
    pub(crate) fn send(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        datagram: &Datagram<'_>,
        to: SocketAddr,
        purpose: Purpose,
        outbound: &Outbound,
    ) -> Result<(), Errno> {
        // A forwarded port's own clients are answered from that port.
        if purpose == Purpose::World
            && let Some(forward) = self.slots.iter_mut().flatten().find(|one| {
                one.is_forward
                    && one.guest == datagram.from
                    && one.peers.iter().any(|peer| peer.0 == datagram.to)
            })
        {
            forward.last = now;
            return send_all(&forward.socket, to, datagram);
        }
        let key = (datagram.from, purpose);
        let slot = if let Some(slot) = self.by_guest.get(&key) {
            *slot
        } else {
            let socket = make(to, outbound)?;
            self.insert(epoll, now, key, socket, false)?
        };
        let Some(association) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Ok(());
        };
        association.last = now;
        remember(&mut association.peers, datagram.to, to);
        send_all(&association.socket, to, datagram)
    }

    fn insert(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        key: (SocketAddr, Purpose),
        socket: OwnedFd,
        is_forward: bool,
    ) -> Result<usize, Errno> {
        if self.slots.len() - self.free.len() >= ASSOCIATIONS_MAX {
            self.drop_quietest();
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let data = EventData::new_u64(token::datagram(slot));
        if let Err(errno) = epoll::add(epoll, &socket, data, EventFlags::IN) {
            self.free.push(slot);
            return Err(errno);
        }
        self.slots[slot] = Some(Association {
            guest: key.0,
            purpose: key.1,
            socket,
            peers: Vec::new(),
            is_forward,
            last: now,
        });
        if !is_forward {
            self.by_guest.insert(key, slot);
        }
        Ok(slot)
    }

    /// Lets datagrams to a socket of the host go to a guest, until [`Datagrams::remove`] with the number returned.
    pub(crate) fn forward(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        socket: OwnedFd,
        guest: SocketAddr,
    ) -> Result<usize, Errno> {
        dress(&socket, guest.is_ipv6())?;
        self.insert(epoll, now, (guest, Purpose::World), socket, true)
    }

    /// Ends a socket.
    pub(crate) fn remove(&mut self, slot: usize) {
        let Some(association) = self.slots.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if !association.is_forward {
            self.by_guest
                .remove(&(association.guest, association.purpose));
        }
        self.free.push(slot);
    }

    fn drop_quietest(&mut self) {
        let quietest = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, one)| Some((slot, one.as_ref().filter(|one| !one.is_forward)?)))
            .min_by_key(|(_, one)| one.last);
        if let Some((slot, _)) = quietest {
            self.remove(slot);
        }
    }

    /// Ends what was quiet for too long.
    pub(crate) fn sweep(&mut self, now: Time) {
        for slot in 0..self.slots.len() {
            let is_over = self.slots[slot].as_ref().is_some_and(|one| {
                let idle = match one.purpose {
                    Purpose::World => IDLE,
                    Purpose::Question { .. } => IDLE_QUESTION,
                };
                !one.is_forward && now.since(one.last) > idle
            });
            if is_over {
                self.remove(slot);
            }
        }
    }

    /// Takes what waits on a socket to its guest. Answers to questions are counted by the returned number.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        slot: usize,
        stack: &mut Stack,
        policy: &Policy,
        output: &mut Output<'_>,
        returned: &mut Vec<Returned>,
    ) -> usize {
        let Some(association) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return 0;
        };
        let mut answers = 0;
        for _ in 0..CALLS_PER_TURN {
            let count = match self.receiver.receive(&association.socket) {
                Ok(count) => count,
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    errors(association, returned);
                    break;
                }
            };
            association.last = now;
            for message in self.receiver.messages() {
                let Some(real) = message.from else { continue };
                let known = association.peers.iter().rev().find(|peer| peer.1 == real);
                let from = match (association.purpose, known) {
                    (Purpose::Question { .. }, Some(peer)) => {
                        answers += 1;
                        peer.0
                    }
                    (Purpose::World, Some(peer)) => peer.0,
                    (Purpose::World, None) if association.is_forward || self.full_cone => {
                        let seen = policy.seen_by_guest(real);
                        if association.is_forward {
                            remember(&mut association.peers, seen, real);
                        }
                        seen
                    }
                    _ => continue,
                };
                let datagram = Datagram {
                    from,
                    to: association.guest,
                    payload: message.payload,
                    segment_bytes: message.segment_bytes,
                };
                // Where the device is full, a datagram is lost, as datagrams may be.
                let _ = stack.udp_send(now, datagram, output);
            }
            if count < MESSAGES {
                break;
            }
        }
        answers
    }

    /// Takes what has come back on a socket.
    pub(crate) fn failed(&mut self, slot: usize, returned: &mut Vec<Returned>) {
        if let Some(association) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            errors(association, returned);
        }
    }
}

/// Errors that one socket may hand on in one turn: a guest is told enough.
const ERRORS_PER_TURN: usize = 16;

fn errors(association: &mut Association, returned: &mut Vec<Returned>) {
    // The errno that is set beside the queue is taken away first.
    let _ = sockopt::socket_error(&association.socket);
    for _ in 0..ERRORS_PER_TURN {
        let Ok(Some(undelivered)) = datagram::undelivered(&association.socket) else {
            return;
        };
        let Some(why) = unreachable(undelivered.errno) else {
            continue;
        };
        let to = undelivered.to;
        if let Some(peer) = association.peers.iter().find(|peer| Some(peer.1) == to) {
            returned.push((association.guest, peer.0, why));
        }
    }
}

/// Returns what an errno is to a guest; `None` for what is not about the destination.
pub(crate) fn unreachable(errno: Errno) -> Option<Unreachable> {
    match errno {
        Errno::CONNREFUSED => Some(Unreachable::Port),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(Unreachable::Host),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => Some(Unreachable::Network),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        _ => None,
    }
}

fn remember(peers: &mut Vec<(SocketAddr, SocketAddr)>, seen: SocketAddr, real: SocketAddr) {
    if peers.last() == Some(&(seen, real)) || peers.contains(&(seen, real)) {
        return;
    }
    if peers.len() >= PEERS_MAX {
        peers.remove(0);
    }
    peers.push((seen, real));
}

/// Sends one datagram or several, by as few messages as the kernel and the way there take.
fn send_all(socket: &OwnedFd, to: SocketAddr, datagram: &Datagram<'_>) -> Result<(), Errno> {
    let Some(segment) = datagram.segment_bytes.filter(|segment| *segment > 0) else {
        return send_one(socket, to, datagram.payload, None);
    };
    for chunk in datagram
        .payload
        .chunks(usize::from(segment).saturating_mul(SEGMENTS_MAX))
    {
        match send_one(socket, to, chunk, Some(segment)) {
            Ok(()) => {}
            // The way there has a smaller MTU than a segment, or no checksums: one by one then, in fragments if need be.
            Err(Errno::INVAL | Errno::MSGSIZE | Errno::IO | Errno::NOPROTOOPT) => {
                for piece in chunk.chunks(usize::from(segment)) {
                    send_one(socket, to, piece, None)?;
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn send_one(
    socket: &OwnedFd,
    to: SocketAddr,
    payload: &[u8],
    segment: Option<u16>,
) -> Result<(), Errno> {
    let segment = segment.filter(|segment| usize::from(*segment) < payload.len());
    // What came back for an earlier one is told here; the call is then made again.
    for _ in 0..2 {
        match datagram::send(socket, Some(to), payload, segment) {
            // Where there is no room it is lost, as datagrams may be.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(()),
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes a socket to speak with destinations of this version of IP.
fn make(to: SocketAddr, outbound: &Outbound) -> Result<OwnedFd, Errno> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        Some(ipproto::UDP),
    )?;
    if to.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    dress(&socket, to.is_ipv6())?;
    let unspecified = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = outbound
        .address(to)
        .unwrap_or(SocketAddr::new(unspecified, 0));
    bind(&socket, &from)?;
    Ok(socket)
}

fn dress(socket: &OwnedFd, is_v6: bool) -> Result<(), Errno> {
    // Older kernels have neither; datagrams come one by one then.
    let _ = datagram::receive_together(socket);
    datagram::keep_errors(socket, is_v6)
}
