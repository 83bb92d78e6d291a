// SPDX-License-Identifier: Apache-2.0
//! The DHCP server: a guest's hardware address gets an address of the pool, always the same one while there are enough.

use std::net::Ipv4Addr;

use super::Stack;
use crate::config::Config;
use crate::frame::{HOPS, Head, IpHeader, Macs};
use crate::wire::checksum::Sum;
use crate::wire::dhcp::{CLIENT_PORT, Kind, Reply, Request, SERVER_PORT};
use crate::wire::{ethernet, udp};

/// How long a guest may keep an address without asking again.
const LEASE_SECONDS: u32 = 24 * 60 * 60;
/// Addresses that are given out at most, however large the pool: a guest can ask under any hardware address.
const LEASES_MAX: u32 = 1024;

/// Who has which address of the pool.
#[derive(Debug)]
pub(super) struct Leases {
    first: u32,
    /// By place in the pool: who has it, and when it was given, in turns.
    given: Vec<Option<([u8; 6], u64)>>,
    turn: u64,
}

impl Leases {
    pub(super) fn new(config: &Config) -> Leases {
        let pool = config.v4.and_then(|v4| v4.dhcp);
        let (first, last) =
            pool.map_or((1, 0), |(first, last)| (u32::from(first), u32::from(last)));
        let count = (last + 1).saturating_sub(first).min(LEASES_MAX);
        Leases {
            first,
            given: vec![None; count as usize],
            turn: 0,
        }
    }

    fn address(&self, place: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.first + u32::try_from(place).unwrap_or(0))
    }

    fn place(&self, address: Ipv4Addr) -> Option<usize> {
        let place = u32::from(address).checked_sub(self.first)? as usize;
        (place < self.given.len()).then_some(place)
    }

    /// Returns the address for a guest: its own, the one it wants, a free one, or the one that was given longest ago.
    fn offer(&mut self, mac: [u8; 6], wants: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let own = self
            .given
            .iter()
            .position(|given| given.is_some_and(|(owner, _)| owner == mac));
        let wanted = wants
            .and_then(|address| self.place(address))
            .filter(|place| self.given[*place].is_none());
        let free = || self.given.iter().position(Option::is_none);
        let oldest = || {
            let turns = self.given.iter().enumerate();
            turns
                .min_by_key(|(_, given)| given.map(|(_, turn)| turn))
                .map(|(place, _)| place)
        };
        let place = own.or(wanted).or_else(free).or_else(oldest)?;
        self.turn += 1;
        self.given[place] = Some((mac, self.turn));
        Some(self.address(place))
    }

    /// Tells whether a guest may have that address.
    fn may_have(&self, mac: [u8; 6], address: Ipv4Addr) -> bool {
        let given = self.place(address).map(|place| self.given[place]);
        given.is_some_and(|given| given.is_none_or(|(owner, _)| owner == mac))
    }

    fn release(&mut self, mac: [u8; 6]) {
        for given in &mut self.given {
            if given.is_some_and(|(owner, _)| owner == mac) {
                *given = None;
            }
        }
    }
}

impl Stack {
    pub(super) fn serve_dhcp(&mut self, mac: [u8; 6], bytes: &[u8]) {
        let Some(v4) = self.config.v4.filter(|v4| v4.dhcp.is_some()) else {
            return;
        };
        let Some(request) = Request::parse(bytes).filter(|request| request.mac == mac) else {
            return;
        };
        if request.server.is_some_and(|server| server != v4.gateway) {
            return;
        }
        let (kind, gets) = match request.kind {
            Kind::Discover => {
                let Some(address) = self.leases.offer(request.mac, request.wants) else {
                    return;
                };
                (Kind::Offer, address)
            }
            Kind::Request => {
                let wanted = request.wants.unwrap_or(request.has);
                if self.leases.may_have(request.mac, wanted) {
                    self.leases.release(request.mac);
                    let Some(address) = self.leases.offer(request.mac, Some(wanted)) else {
                        return;
                    };
                    (Kind::Acknowledge, address)
                } else {
                    (Kind::Refuse, Ipv4Addr::UNSPECIFIED)
                }
            }
            Kind::Inform => (Kind::Acknowledge, Ipv4Addr::UNSPECIFIED),
            Kind::Release => {
                self.leases.release(request.mac);
                return;
            }
            Kind::Offer | Kind::Acknowledge | Kind::Refuse => return,
        };
        let reply = Reply {
            kind,
            gets,
            server: v4.gateway,
            netmask: v4.netmask(),
            broadcast: v4.broadcast(),
            dns: v4.dns,
            mtu: self.config.mtu,
            lease_seconds: LEASE_SECONDS,
        };
        let payload = reply.to_bytes(&request);
        // To everybody: the guest has no address yet, and whoever else hears it does not mind.
        let (from, to) = (v4.gateway, Ipv4Addr::BROADCAST);
        let length = udp::HEADER_BYTES + payload.len();
        let mut header = udp::header(
            SERVER_PORT,
            CLIENT_PORT,
            u16::try_from(length).unwrap_or(0),
            0,
        );
        let sum = Sum::pseudo(from.into(), to.into(), udp::PROTOCOL, length)
            .bytes(&header)
            .bytes(&payload);
        header[6..8].copy_from_slice(&sum.finish().to_be_bytes());
        let packet = IpHeader {
            from: from.into(),
            to: to.into(),
            protocol: udp::PROTOCOL,
            hops: HOPS,
            payload_bytes: length,
            fragment: None,
        };
        let head = Head::ip(
            Macs {
                from: self.config.mac,
                to: ethernet::BROADCAST,
            },
            packet,
        );
        self.outbox.push(&[head.bytes(), &header, &payload]);
    }
}
