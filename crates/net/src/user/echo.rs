// SPDX-License-Identifier: Apache-2.0
//! A guest's pings, by the kernel's own ping sockets, which ask for no rights.
//!
//! # Theory of operation
//! One socket for each guest, identifier and version of IP (`socket(2)` with `IPPROTO_ICMP`, icmp(7)). The kernel puts an identifier of its own into what goes
//! out and gives us what answers it; the guest gets its own back. A machine whose `net.ipv4.ping_group_range` leaves our group out refuses the socket:
//! that is said once, and the guest is told "prohibited" rather than nothing.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt},
};
use wolffia_packet::{Echo, Stack, Time, Unreachable};
use wolffia_sys::datagram::{self, Receiver};

use super::{datagram::unreachable, token};

/// Series of pings at once; the quietest makes room.
const SERIES_MAX: usize = 64;
/// A series that is quiet for so long is over.
const IDLE: Duration = Duration::from_secs(30);
/// Type of a request (ICMP, `ICMPv6`).
const REQUEST: [u8; 2] = [8, 128];
/// Type of a reply.
const REPLY: [u8; 2] = [0, 129];
/// Hops that our answers may go: one is enough.
const HOPS: u8 = 64;
/// The header: type, code, checksum, identifier, sequence.
const HEADER_BYTES: usize = 8;

/// All the series.
#[derive(Debug)]
pub(crate) struct Echoes {
    series: Vec<Option<Series>>,
    receiver: Receiver,
    has_complained: bool,
}

#[derive(Debug)]
struct Series {
    guest: IpAddr,
    identifier: u16,
    /// Whom the guest asked, as it named it, and who that is.
    to: (IpAddr, IpAddr),
    sequence: u16,
    socket: OwnedFd,
    last: Time,
}

impl Echoes {
    pub(crate) fn new() -> Echoes {
        Echoes {
            series: Vec::new(),
            receiver: Receiver::new(1, 65_536),
            has_complained: false,
        }
    }

    /// Sends a guest's request to `real`; what cannot be sent is returned as a reason.
    pub(crate) fn send(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        echo: &Echo<'_>,
        real: IpAddr,
    ) -> Result<(), Unreachable> {
        let known = self.series.iter().position(|one| {
            one.as_ref().is_some_and(|one| {
                one.guest == echo.from
                    && one.identifier == echo.identifier
                    && one.to == (echo.to, real)
            })
        });
        let slot = match known {
            Some(slot) => slot,
            None => self.insert(epoll, now, echo, real)?,
        };
        let Some(series) = self.series.get_mut(slot).and_then(Option::as_mut) else {
            return Ok(());
        };
        series.last = now;
        series.sequence = echo.sequence;
        let hops = echo.hops.max(1);
        // Without it the packet goes farther than it was to go; traceroute would see less.
        let _ = match real {
            IpAddr::V4(_) => sockopt::set_ip_ttl(&series.socket, u32::from(hops)),
            IpAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&series.socket, Some(hops)),
        };
        let mut message = Vec::with_capacity(HEADER_BYTES + echo.payload.len());
        message.extend_from_slice(&[REQUEST[usize::from(real.is_ipv6())], 0, 0, 0, 0, 0]);
        message.extend_from_slice(&echo.sequence.to_be_bytes());
        message.extend_from_slice(echo.payload);
        match datagram::send(
            &series.socket,
            Some(SocketAddr::new(real, 0)),
            &message,
            None,
        ) {
            Ok(_) => Ok(()),
            Err(errno) => unreachable(errno).map_or(Ok(()), Err),
        }
    }

    fn insert(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        echo: &Echo<'_>,
        real: IpAddr,
    ) -> Result<usize, Unreachable> {
        let (family, protocol) = match real {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = match socket_with(family, SocketType::DGRAM, flags, Some(protocol)) {
            Ok(socket) => socket,
            Err(Errno::ACCESS | Errno::PERM) => {
                if !self.has_complained {
                    self.has_complained = true;
                    tracing::warn!(
                        hint = "sysctl net.ipv4.ping_group_range='0 2147483647'",
                        "this machine lets nobody of our group ping"
                    );
                }
                return Err(Unreachable::Prohibited);
            }
            Err(errno) => return Err(unreachable(errno).unwrap_or(Unreachable::Host)),
        };
        let _ = datagram::keep_errors(&socket, real.is_ipv6());
        let slot = match self.series.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.series.len() < SERIES_MAX => {
                self.series.push(None);
                self.series.len() - 1
            }
            None => {
                let quietest = self.series.iter().enumerate();
                let quietest = quietest.min_by_key(|(_, one)| one.as_ref().map(|one| one.last));
                quietest.map_or(0, |(slot, _)| slot)
            }
        };
        let data = EventData::new_u64(token::echo(slot));
        if epoll::add(epoll, &socket, data, EventFlags::IN).is_err() {
            return Err(Unreachable::Host);
        }
        self.series[slot] = Some(Series {
            guest: echo.from,
            identifier: echo.identifier,
            to: (echo.to, real),
            sequence: echo.sequence,
            socket,
            last: now,
        });
        Ok(slot)
    }

    /// Ends what was quiet for too long.
    pub(crate) fn sweep(&mut self, now: Time) {
        for one in &mut self.series {
            if one.as_ref().is_some_and(|one| now.since(one.last) > IDLE) {
                *one = None;
            }
        }
    }

    /// Takes replies, and what came back, to the guest.
    pub(crate) fn ready(&mut self, now: Time, slot: usize, stack: &mut Stack) {
        let Some(series) = self.series.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let (guest, identifier, last) = (series.guest, series.identifier, series.sequence);
        let (asked, real) = series.to;
        // As many as a guest can have sent since, within reason; the kernel asks again.
        for _ in 0..16 {
            match self.receiver.receive(&series.socket) {
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    let _ = sockopt::socket_error(&series.socket);
                    while let Ok(Some(undelivered)) = datagram::undelivered(&series.socket) {
                        let Some(why) = unreachable(undelivered.errno) else {
                            continue;
                        };
                        let request = Echo {
                            from: guest,
                            to: asked,
                            identifier,
                            sequence: last,
                            payload: &[],
                            hops: HOPS,
                        };
                        stack.echo_unreachable(now, request, why);
                    }
                    break;
                }
            }
            for message in self.receiver.messages() {
                let Some((header, payload)) = message.payload.split_first_chunk::<HEADER_BYTES>()
                else {
                    continue;
                };
                if header[0] == REPLY[usize::from(real.is_ipv6())] {
                    let reply = Echo {
                        from: asked,
                        to: guest,
                        identifier,
                        sequence: u16::from_be_bytes([header[6], header[7]]),
                        payload,
                        hops: HOPS,
                    };
                    stack.echo_reply(now, reply);
                }
            }
        }
    }
}
