// SPDX-License-Identifier: Apache-2.0
//! Datagrams and messages for guests: whole, cut, or in parts.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Stack;
use crate::config::Config;
use crate::event::{Datagram, Echo, Output, Sent, Unreachable};
use crate::frame::{HOPS, Head, IpHeader, Macs, Outbox};
use crate::time::Time;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Fragment;
use crate::wire::{Gso, VirtioHeader, arp, ethernet, icmp, ndp, udp};

/// Where the checksum stands in the header of UDP.
const CHECKSUM_AT: usize = 6;
/// The largest content of a datagram, in IPv4: 65,535 bytes less 28 of headers.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Datagrams that wait for a hardware address, at most, and their bytes together.
const WAITING_MAX: usize = 64;
const WAITING_BYTES_MAX: usize = 256 << 10;
/// How long they wait.
const WAIT: Duration = Duration::from_secs(3);
/// Between advertisements that nobody asked for (RFC 4861, 6.2.1: `MaxRtrAdvInterval`).
const ADVERTISE_EVERY: Duration = Duration::from_mins(10);

/// Datagrams that wait for a hardware address.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    datagrams: VecDeque<Kept>,
    bytes: usize,
    is_some_ready: bool,
}

#[derive(Debug)]
struct Kept {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    segment_bytes: Option<u16>,
    until: Time,
}

impl Waiting {
    fn keep(&mut self, now: Time, datagram: &Datagram<'_>) {
        if self.datagrams.len() >= WAITING_MAX
            || self.bytes + datagram.payload.len() > WAITING_BYTES_MAX
        {
            return;
        }
        self.bytes += datagram.payload.len();
        self.datagrams.push_back(Kept {
            from: datagram.from,
            to: datagram.to,
            payload: datagram.payload.to_vec(),
            segment_bytes: datagram.segment_bytes,
            until: now.after(WAIT),
        });
    }

    pub(super) fn learned(&mut self, address: IpAddr) {
        self.is_some_ready |= self.datagrams.iter().any(|kept| kept.to.ip() == address);
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.datagrams.front().map(|kept| kept.until)
    }

    pub(super) fn advance(&mut self, now: Time) {
        while self.datagrams.front().is_some_and(|kept| kept.until <= now) {
            if let Some(kept) = self.datagrams.pop_front() {
                self.bytes -= kept.payload.len();
            }
        }
    }
}

/// Asks the segment who has an address.
pub(super) fn ask(config: &Config, address: IpAddr, outbox: &mut Outbox) {
    match address {
        IpAddr::V4(target) => {
            let Some(v4) = config.v4.filter(|v4| v4.contains(target)) else {
                return;
            };
            let message = arp::Arp {
                operation: arp::Operation::Request,
                sender_mac: config.mac,
                sender: v4.gateway,
                target_mac: [0; 6],
                target,
            };
            let head = Head::new(ethernet::BROADCAST, config.mac, ethernet::ARP);
            outbox.push(&[head.bytes(), &message.to_bytes()]);
        }
        IpAddr::V6(target) => {
            let Some(v6) = config
                .v6
                .filter(|v6| v6.contains(target) || target.is_unicast_link_local())
            else {
                return;
            };
            let (from, to) = (v6.gateway, ndp::solicited_node(target));
            let mut message = ndp::neighbour_solicitation(target, config.mac);
            icmp::seal(from.into(), to.into(), &mut message, &[]);
            let packet = IpHeader {
                from: from.into(),
                to: to.into(),
                protocol: icmp::PROTOCOL_V6,
                hops: ndp::HOPS,
                payload_bytes: message.len(),
                fragment: None,
            };
            let head = Head::ip(
                Macs {
                    from: config.mac,
                    to: ndp::group_mac(to),
                },
                packet,
            );
            outbox.push(&[head.bytes(), &message]);
        }
    }
}

impl Stack {
    /// Sends what waited for a hardware address that is known now.
    pub(super) fn flush_waiting(&mut self, output: &mut Output<'_>) -> Sent {
        if !std::mem::take(&mut self.waiting.is_some_ready) {
            return Sent::Taken;
        }
        for _ in 0..self.waiting.datagrams.len() {
            let Some(kept) = self.waiting.datagrams.pop_front() else {
                break;
            };
            if self.neighbours.find(kept.to.ip()).is_none() {
                self.waiting.datagrams.push_back(kept);
                continue;
            }
            self.waiting.bytes -= kept.payload.len();
            let Kept {
                from,
                to,
                payload,
                segment_bytes,
                ..
            } = kept;
            self.send_datagram(
                &Datagram {
                    from,
                    to,
                    payload: &payload,
                    segment_bytes,
                },
                output,
            );
        }
        Sent::Taken
    }

    pub(super) fn send_datagram(
        &mut self,
        datagram: &Datagram<'_>,
        output: &mut Output<'_>,
    ) -> Sent {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        if from.is_ipv4() != to.is_ipv4() || datagram.payload.len() > DATAGRAM_BYTES_MAX {
            return Sent::Taken;
        }
        let Some(mac) = self.neighbours.find(to) else {
            if self.neighbours.should_ask(self.now, to) {
                ask(&self.config, to, &mut self.outbox);
            }
            self.waiting.keep(self.now, datagram);
            return Sent::Taken;
        };
        let Some(each) = datagram
            .segment_bytes
            .map(usize::from)
            .filter(|each| *each > 0 && *each < datagram.payload.len())
        else {
            return self.send_one(datagram, mac, datagram.payload, None, output);
        };
        let headers = if from.is_ipv6() { 48 } else { 28 };
        // The kernel refuses more than 128 segments in one (UDP_MAX_SEGMENTS; 64 before 6.9).
        let fits =
            each + headers <= usize::from(self.config.mtu) && datagram.payload.len() <= 64 * each;
        if self.config.offload.uso && fits {
            return self.send_one(
                datagram,
                mac,
                datagram.payload,
                datagram.segment_bytes,
                output,
            );
        }
        for payload in datagram.payload.chunks(each) {
            if self.send_one(datagram, mac, payload, None, output) == Sent::Full {
                return Sent::Full;
            }
        }
        Sent::Taken
    }

    fn send_one(
        &mut self,
        datagram: &Datagram<'_>,
        mac: [u8; 6],
        payload: &[u8],
        segment_bytes: Option<u16>,
        output: &mut Output<'_>,
    ) -> Sent {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        let length = udp::HEADER_BYTES + payload.len();
        let said = u16::try_from(length).unwrap_or(0);
        let mut header = udp::header(datagram.from.port(), datagram.to.port(), said, 0);
        let ip_bytes = if from.is_ipv6() { 40 } else { 20 };
        let is_parted = segment_bytes.is_none() && ip_bytes + length > usize::from(self.config.mtu);
        let sum = Sum::pseudo(from, to, udp::PROTOCOL, length);
        let mut virtio = VirtioHeader::default();
        let start = ethernet::HEADER_BYTES + ip_bytes;
        let checksum = if self.config.offload.checksum && !is_parted {
            virtio.needs_checksum = true;
            virtio.checksum_start = u16::try_from(start).unwrap_or(0);
            virtio.checksum_offset = u16::try_from(CHECKSUM_AT).unwrap_or(0);
            sum.partial()
        } else {
            // Zero means none: its other form is sent (RFC 768).
            Some(sum.bytes(&header).bytes(payload).finish())
                .filter(|sum| *sum != 0)
                .unwrap_or(0xffff)
        };
        header[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        if is_parted {
            return self.send_parts(from, to, mac, udp::PROTOCOL, [&header, payload], output);
        }
        if let Some(bytes) = segment_bytes {
            virtio.gso = Gso::Udp;
            virtio.segment_bytes = bytes;
            virtio.header_bytes = u16::try_from(start + udp::HEADER_BYTES).unwrap_or(0);
        }
        let packet = IpHeader {
            from,
            to,
            protocol: udp::PROTOCOL,
            hops: HOPS,
            payload_bytes: length,
            fragment: None,
        };
        let mut head = Head::ip(
            Macs {
                from: self.config.mac,
                to: mac,
            },
            packet,
        );
        head.push(&header);
        if payload.is_empty() {
            output(&virtio, &[head.bytes()])
        } else {
            output(&virtio, &[head.bytes(), payload])
        }
    }

    /// Sends a payload, given as header and content, in parts of the MTU.
    fn send_parts(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        mac: [u8; 6],
        protocol: u8,
        content: [&[u8]; 2],
        output: &mut Output<'_>,
    ) -> Sent {
        let ip_bytes = if from.is_ipv6() { 48 } else { 20 };
        let each = (usize::from(self.config.mtu) - ip_bytes) / 8 * 8;
        let [header, payload] = content;
        let total = header.len() + payload.len();
        let identification = self.identification;
        self.identification = self.identification.wrapping_add(1);
        let mut offset = 0;
        while offset < total {
            let length = each.min(total - offset);
            let more = offset + length < total;
            let packet = IpHeader {
                from,
                to,
                protocol,
                hops: HOPS,
                payload_bytes: length,
                fragment: Some(Fragment {
                    identification,
                    offset,
                    more,
                }),
            };
            let mut head = Head::ip(
                Macs {
                    from: self.config.mac,
                    to: mac,
                },
                packet,
            );
            let from_payload = if offset == 0 {
                head.push(header);
                &payload[..length - header.len()]
            } else {
                &payload[offset - header.len()..offset - header.len() + length]
            };
            if output(&VirtioHeader::default(), &[head.bytes(), from_payload]) == Sent::Full {
                return Sent::Full;
            }
            offset += length;
        }
        Sent::Taken
    }

    /// Puts an echo reply into the outbox.
    pub(super) fn send_echo(&mut self, reply: &Echo<'_>) {
        let header = icmp::echo_reply(
            reply.from,
            reply.to,
            reply.identifier,
            reply.sequence,
            reply.payload,
        );
        self.send_message(reply.from, reply.to, header, reply.payload);
    }

    /// Puts a message of ICMP into the outbox, in parts if need be.
    fn send_message(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        header: [u8; icmp::HEADER_BYTES],
        payload: &[u8],
    ) {
        let Some(mac) = self.neighbours.find(to) else {
            return;
        };
        if from.is_ipv4() != to.is_ipv4() || payload.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        let protocol = if from.is_ipv6() {
            icmp::PROTOCOL_V6
        } else {
            icmp::PROTOCOL_V4
        };
        let ip_bytes = if from.is_ipv6() { 40 } else { 20 };
        let length = header.len() + payload.len();
        if ip_bytes + length <= usize::from(self.config.mtu) {
            let packet = IpHeader {
                from,
                to,
                protocol,
                hops: HOPS,
                payload_bytes: length,
                fragment: None,
            };
            let head = Head::ip(
                Macs {
                    from: self.config.mac,
                    to: mac,
                },
                packet,
            );
            self.outbox.push(&[head.bytes(), &header, payload]);
            return;
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        self.send_parts(
            from,
            to,
            mac,
            protocol,
            [&header, payload],
            &mut |_, slices| {
                outbox.push(slices);
                Sent::Taken
            },
        );
        self.outbox = outbox;
    }

    /// Tells a guest that a packet which it sent from `guest` to `to` could not be delivered; `quoted` stood behind its IP header.
    pub(super) fn send_unreachable(
        &mut self,
        guest: IpAddr,
        to: IpAddr,
        protocol: u8,
        quoted: &[u8],
        why: Unreachable,
    ) {
        let ours: Option<IpAddr> = match guest {
            IpAddr::V4(_) => self.config.v4.map(|v4| v4.gateway.into()),
            IpAddr::V6(_) => self.config.v6.map(|v6| v6.gateway.into()),
        };
        let Some(ours) = ours.filter(|_| guest.is_ipv4() == to.is_ipv4()) else {
            return;
        };
        let original = IpHeader {
            from: guest,
            to,
            protocol,
            hops: HOPS,
            payload_bytes: quoted.len(),
            fragment: None,
        };
        let head = Head::ip(
            Macs {
                from: [0; 6],
                to: [0; 6],
            },
            original,
        );
        let mut bytes = [0; 96];
        let packet = &head.bytes()[ethernet::HEADER_BYTES..];
        let length = (packet.len() + quoted.len()).min(bytes.len());
        bytes[..packet.len()].copy_from_slice(packet);
        bytes[packet.len()..length].copy_from_slice(&quoted[..length - packet.len()]);
        let header = icmp::unreachable(ours, guest, why, &bytes[..length]);
        self.send_message(ours, guest, header, &bytes[..length]);
    }

    pub(super) fn send_echo_unreachable(&mut self, request: &Echo<'_>, why: Unreachable) {
        let (kind, protocol) = if request.from.is_ipv6() {
            (128, icmp::PROTOCOL_V6)
        } else {
            (8, icmp::PROTOCOL_V4)
        };
        let mut quoted = [kind, 0, 0, 0, 0, 0, 0, 0];
        quoted[4..6].copy_from_slice(&request.identifier.to_be_bytes());
        quoted[6..8].copy_from_slice(&request.sequence.to_be_bytes());
        self.send_unreachable(request.from, request.to, protocol, &quoted, why);
    }

    /// Tells guests of the router.
    pub(super) fn advertise(&mut self, to: std::net::Ipv6Addr) {
        let Some(v6) = self.config.v6.filter(|v6| v6.advertise) else {
            self.advertise_at = Time::NEVER;
            return;
        };
        let router = ndp::Router {
            mac: self.config.mac,
            network: v6.network,
            prefix: v6.prefix,
            mtu: self.config.mtu,
            dns: v6.dns,
        };
        let mut message = router.to_bytes();
        self.send_ndp(v6.link_local, to, ndp::group_mac(to), &mut message);
        self.advertise_at = self.now.after(ADVERTISE_EVERY);
    }
}
