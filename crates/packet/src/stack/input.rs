// SPDX-License-Identifier: Apache-2.0
//! What guests send: taken apart, checked, and brought to whom it is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Stack;
use crate::event::{Datagram, Echo, Sink};
use crate::frame::{HOPS, Head, IpHeader, Macs};
use crate::reassembly::Whole;
use crate::tcp::{Ends, Verdict};
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{Fragment, Packet4};
use crate::wire::ipv6::Packet6;
use crate::wire::{Gso, VirtioHeader, arp, dhcp, ethernet, icmp, ndp, tcp, udp};

/// An IP packet of either version.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    mac: [u8; 6],
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    hops: u8,
    payload: &'a [u8],
    /// Nobody needs to add it up: the device says so, or will only finish it on the way out.
    is_checked: bool,
    /// Length of each of several datagrams.
    segment_bytes: Option<u16>,
}

impl Stack {
    pub(super) fn receive_frame(
        &mut self,
        header: &VirtioHeader,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) {
        let Some(frame) = ethernet::Frame::parse(bytes) else {
            return;
        };
        let is_ours = frame.to == self.config.mac || ethernet::is_group(frame.to);
        if !is_ours || ethernet::is_group(frame.from) || frame.from == self.config.mac {
            return;
        }
        match frame.kind {
            ethernet::ARP => self.receive_arp(&frame),
            ethernet::IPV4 => self.receive_v4(header, &frame, sink),
            ethernet::IPV6 => self.receive_v6(header, &frame, sink),
            _ => {}
        }
    }

    fn receive_arp(&mut self, frame: &ethernet::Frame<'_>) {
        let (Some(v4), Some(message)) = (self.config.v4, arp::Arp::parse(frame.payload)) else {
            return;
        };
        if message.sender_mac != frame.from {
            return;
        }
        let ours = [Some(v4.gateway), v4.dns];
        if v4.contains(message.sender) && !ours.contains(&Some(message.sender)) {
            self.learn(message.sender.into(), message.sender_mac);
        }
        if message.operation == arp::Operation::Request && ours.contains(&Some(message.target)) {
            let reply = arp::Arp {
                operation: arp::Operation::Reply,
                sender_mac: self.config.mac,
                sender: message.target,
                target_mac: message.sender_mac,
                target: message.sender,
            };
            let head = Head::new(frame.from, self.config.mac, ethernet::ARP);
            self.outbox.push(&[head.bytes(), &reply.to_bytes()]);
        }
    }

    pub(super) fn learn(&mut self, address: IpAddr, mac: [u8; 6]) {
        if self.neighbours.learn(address, mac) {
            self.tcp.learned(self.now, address);
            self.waiting.learned(address);
        }
    }

    fn receive_v4(
        &mut self,
        header: &VirtioHeader,
        frame: &ethernet::Frame<'_>,
        sink: &mut dyn Sink,
    ) {
        let (Some(v4), Some(packet)) = (self.config.v4, Packet4::parse(frame.payload)) else {
            return;
        };
        let ours = [Some(v4.gateway), v4.dns];
        let is_liar = ours.contains(&Some(packet.from))
            || is_group4(packet.from)
            || packet.from.is_loopback();
        // A client of DHCP has no address yet.
        let is_nobody = packet.from.is_unspecified();
        if is_liar || (is_nobody && packet.protocol != udp::PROTOCOL) {
            return;
        }
        if !is_nobody && !ethernet::is_group(frame.to) {
            self.learn(packet.from.into(), frame.from);
        }
        let whole = Packet {
            mac: frame.from,
            from: packet.from.into(),
            to: packet.to.into(),
            protocol: packet.protocol,
            hops: packet.hops,
            payload: packet.payload,
            is_checked: header.needs_checksum || header.checksum_is_valid,
            segment_bytes: segment_bytes(header),
        };
        let is_group =
            is_group4(packet.to) || packet.to == v4.broadcast() || packet.to.is_unspecified();
        if is_group || is_nobody || ethernet::is_group(frame.to) {
            if packet.protocol == udp::PROTOCOL && packet.fragment.is_none() {
                self.receive_dhcp(&whole);
            }
            return;
        }
        self.receive_packet(header, whole, packet.fragment, sink);
    }

    fn receive_v6(
        &mut self,
        header: &VirtioHeader,
        frame: &ethernet::Frame<'_>,
        sink: &mut dyn Sink,
    ) {
        let (Some(v6), Some(packet)) = (self.config.v6, Packet6::parse(frame.payload)) else {
            return;
        };
        let ours = [Some(v6.gateway), v6.dns, Some(v6.link_local)];
        if ours.contains(&Some(packet.from))
            || packet.from.is_multicast()
            || packet.from.is_loopback()
        {
            return;
        }
        let whole = Packet {
            mac: frame.from,
            from: packet.from.into(),
            to: packet.to.into(),
            protocol: packet.protocol,
            hops: packet.hops,
            payload: packet.payload,
            is_checked: header.needs_checksum || header.checksum_is_valid,
            segment_bytes: segment_bytes(header),
        };
        if packet.protocol == icmp::PROTOCOL_V6
            && packet.hops == ndp::HOPS
            && packet.fragment.is_none()
        {
            let is_whole = icmp::sum(whole.from, whole.to, whole.payload.len())
                .bytes(whole.payload)
                .is_whole();
            if is_whole && self.receive_ndp(packet.from, packet.to, frame.from, packet.payload) {
                return;
            }
        }
        if packet.from.is_unspecified()
            || packet.to.is_multicast()
            || packet.to.is_unspecified()
            || ethernet::is_group(frame.to)
        {
            return;
        }
        self.learn(packet.from.into(), frame.from);
        self.receive_packet(header, whole, packet.fragment, sink);
    }

    fn receive_packet(
        &mut self,
        header: &VirtioHeader,
        packet: Packet<'_>,
        fragment: Option<Fragment>,
        sink: &mut dyn Sink,
    ) {
        let Some(fragment) = fragment else {
            self.receive_whole(header, &packet, sink);
            return;
        };
        let Packet {
            from, to, protocol, ..
        } = packet;
        let whole = Whole {
            from,
            to,
            protocol,
            identification: fragment.identification,
        };
        if let Some(payload) = self
            .reassembly
            .take(self.now, whole, fragment, packet.payload)
        {
            // The kernel finishes sums before it parts a packet.
            let packet = Packet {
                payload: &payload,
                is_checked: false,
                segment_bytes: None,
                ..packet
            };
            self.receive_whole(&VirtioHeader::default(), &packet, sink);
        }
    }

    fn receive_whole(&mut self, header: &VirtioHeader, packet: &Packet<'_>, sink: &mut dyn Sink) {
        match packet.protocol {
            tcp::PROTOCOL if matches!(header.gso, Gso::None | Gso::Tcp4 | Gso::Tcp6) => {
                self.receive_tcp(packet, sink);
            }
            udp::PROTOCOL if matches!(header.gso, Gso::None | Gso::Udp) => {
                self.receive_udp(packet, sink);
            }
            icmp::PROTOCOL_V4 if packet.from.is_ipv4() => self.receive_icmp(packet, sink),
            icmp::PROTOCOL_V6 if packet.from.is_ipv6() => self.receive_icmp(packet, sink),
            _ => {}
        }
    }

    fn receive_tcp(&mut self, packet: &Packet<'_>, sink: &mut dyn Sink) {
        let Some(segment) = tcp::Segment::parse(packet.payload) else {
            return;
        };
        let is_whole = packet.is_checked
            || Sum::pseudo(packet.from, packet.to, tcp::PROTOCOL, packet.payload.len())
                .bytes(packet.payload)
                .is_whole();
        if !is_whole || segment.from == 0 || segment.to == 0 {
            return;
        }
        let ends = Ends {
            guest: SocketAddr::new(packet.from, segment.from),
            peer: SocketAddr::new(packet.to, segment.to),
        };
        let verdict = self
            .tcp
            .receive(self.now, packet.mac, ends, &segment, &mut |flow, bytes| {
                sink.tcp(flow, bytes)
            });
        if verdict == Verdict::Foreign {
            self.reset(ends, packet.mac, &segment);
        }
    }

    /// Answers a segment that belongs to no connection (RFC 9293, 3.10.7.1).
    fn reset(&mut self, ends: Ends, mac: [u8; 6], segment: &tcp::Segment<'_>) {
        let mut header = tcp::Header {
            from: ends.peer.port(),
            to: ends.guest.port(),
            flags: tcp::RST,
            ..tcp::Header::default()
        };
        if segment.has(tcp::ACK) {
            header.sequence = segment.acknowledged;
        } else {
            let counted = u32::from(segment.has(tcp::SYN)) + u32::from(segment.has(tcp::FIN));
            let length = u32::try_from(segment.payload.len()).unwrap_or(0) + counted;
            header.acknowledged = segment.sequence.wrapping_add(length);
            header.flags |= tcp::ACK;
        }
        self.tcp_control(ends, mac, &header);
    }

    fn receive_udp(&mut self, packet: &Packet<'_>, sink: &mut dyn Sink) {
        let Some(datagram) = udp::UdpDatagram::parse(packet.payload) else {
            return;
        };
        if !is_datagram_whole(packet, &datagram) || datagram.to == 0 {
            return;
        }
        if datagram.to == dhcp::SERVER_PORT && packet.from.is_ipv4() && self.is_own(packet.to) {
            self.receive_dhcp(packet);
            return;
        }
        let several = packet
            .segment_bytes
            .filter(|bytes| *bytes > 0 && usize::from(*bytes) < datagram.payload().len());
        sink.udp(Datagram {
            from: SocketAddr::new(packet.from, datagram.from),
            to: SocketAddr::new(packet.to, datagram.to),
            payload: datagram.payload(),
            segment_bytes: several,
        });
    }

    fn receive_dhcp(&mut self, packet: &Packet<'_>) {
        let Some(datagram) = udp::UdpDatagram::parse(packet.payload) else {
            return;
        };
        if datagram.to == dhcp::SERVER_PORT && is_datagram_whole(packet, &datagram) {
            self.serve_dhcp(packet.mac, datagram.payload());
        }
    }

    /// Tells whether an address is one of ours.
    fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self
                .config
                .v4
                .is_some_and(|v4| [Some(v4.gateway), v4.dns].contains(&Some(ip))),
            IpAddr::V6(ip) => self.config.v6.is_some_and(|v6| {
                [Some(v6.gateway), v6.dns, Some(v6.link_local)].contains(&Some(ip))
            }),
        }
    }

    fn receive_icmp(&mut self, packet: &Packet<'_>, sink: &mut dyn Sink) {
        let sum = icmp::sum(packet.from, packet.to, packet.payload.len());
        if !packet.is_checked && !sum.bytes(packet.payload).is_whole() {
            return;
        }
        match icmp::Message::parse(packet.payload, packet.from.is_ipv6()) {
            Some(icmp::Message::EchoRequest {
                identifier,
                sequence,
                payload,
            }) => {
                let echo = Echo {
                    from: packet.from,
                    to: packet.to,
                    identifier,
                    sequence,
                    payload,
                    hops: packet.hops,
                };
                if self.is_own(packet.to) {
                    self.send_echo(&Echo {
                        from: packet.to,
                        to: packet.from,
                        ..echo
                    });
                } else {
                    sink.echo(echo);
                }
            }
            Some(icmp::Message::Unreachable { quoted, .. }) => {
                if let Some((ends, sequence)) = quoted_tcp(quoted) {
                    self.tcp.unreachable(ends, sequence);
                }
            }
            Some(icmp::Message::TooBig { mtu, quoted }) => {
                if let Some((ends, sequence)) = quoted_tcp(quoted) {
                    self.tcp.too_big(self.now, ends, sequence, mtu);
                }
            }
            Some(icmp::Message::Other { .. }) | None => {}
        }
    }

    /// Takes a message of neighbour discovery; returns whether it was one.
    fn receive_ndp(&mut self, from: Ipv6Addr, to: Ipv6Addr, mac: [u8; 6], bytes: &[u8]) -> bool {
        let Some(v6) = self.config.v6 else {
            return false;
        };
        match bytes.first().copied() {
            Some(ndp::ROUTER_SOLICITATION) => {
                if v6.advertise {
                    if !from.is_unspecified() {
                        self.learn(from.into(), mac);
                    }
                    self.advertise(ndp::ALL_NODES);
                }
            }
            Some(ndp::NEIGHBOUR_SOLICITATION) => {
                let Some(asked) = ndp::Neighbour::parse(bytes) else {
                    return true;
                };
                if !from.is_unspecified() {
                    self.learn(from.into(), asked.mac.unwrap_or(mac));
                }
                if self.is_own(asked.target.into()) {
                    let (receiver, receiver_mac) = if from.is_unspecified() {
                        (ndp::ALL_NODES, ndp::group_mac(ndp::ALL_NODES))
                    } else {
                        (from, mac)
                    };
                    let mut message = ndp::neighbour_advertisement(
                        asked.target,
                        self.config.mac,
                        !from.is_unspecified(),
                    );
                    self.send_ndp(asked.target, receiver, receiver_mac, &mut message);
                }
                let _ = to;
            }
            Some(ndp::NEIGHBOUR_ADVERTISEMENT) => {
                if let Some(told) = ndp::Neighbour::parse(bytes)
                    && !self.is_own(told.target.into())
                {
                    self.learn(told.target.into(), told.mac.unwrap_or(mac));
                }
            }
            _ => return false,
        }
        true
    }

    pub(super) fn send_ndp(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        mac: [u8; 6],
        message: &mut [u8],
    ) {
        icmp::seal(from.into(), to.into(), message, &[]);
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
                from: self.config.mac,
                to: mac,
            },
            packet,
        );
        self.outbox.push(&[head.bytes(), message]);
    }

    /// Sends a segment without content, at once.
    pub(super) fn tcp_control(&mut self, ends: Ends, mac: [u8; 6], header: &tcp::Header) {
        let mut room = [0; tcp::HEADER_BYTES_MAX];
        let length = header.write(&mut room);
        let (from, to) = (ends.peer.ip(), ends.guest.ip());
        let checksum = Sum::pseudo(from, to, tcp::PROTOCOL, length)
            .bytes(&room[..length])
            .finish();
        room[tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        let packet = IpHeader {
            from,
            to,
            protocol: tcp::PROTOCOL,
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
        self.outbox.push(&[head.bytes(), &room[..length]]);
    }
}

/// Of several datagrams in a row each one's length.
fn segment_bytes(header: &VirtioHeader) -> Option<u16> {
    (header.gso == Gso::Udp).then_some(header.segment_bytes)
}

fn is_group4(address: Ipv4Addr) -> bool {
    address.is_multicast() || address.is_broadcast() || address.octets()[0] >= 240
}

fn is_datagram_whole(packet: &Packet<'_>, datagram: &udp::UdpDatagram<'_>) -> bool {
    let is_unsummed = datagram.checksum == 0 && packet.from.is_ipv4();
    packet.is_checked
        || is_unsummed
        || (datagram.checksum != 0
            && Sum::pseudo(packet.from, packet.to, udp::PROTOCOL, datagram.whole.len())
                .bytes(datagram.whole)
                .is_whole())
}

/// Reads whose TCP segment is quoted: one of ours, so that its receiver is the guest.
fn quoted_tcp(quoted: &[u8]) -> Option<(Ends, u32)> {
    let (from, to, payload): (IpAddr, IpAddr, &[u8]) = match quoted.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = quoted.first_chunk()?;
            let length = usize::from(header[0] & 15) * 4;
            if header[9] != tcp::PROTOCOL || length < 20 {
                return None;
            }
            let address = |at: usize| {
                Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
            };
            (
                address(12).into(),
                address(16).into(),
                quoted.get(length..)?,
            )
        }
        6 => {
            let (header, payload) = quoted.split_first_chunk::<40>()?;
            if header[6] != tcp::PROTOCOL {
                return None;
            }
            let address =
                |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|n| header[at + n]));
            (address(8).into(), address(24).into(), payload)
        }
        _ => return None,
    };
    let ports: &[u8; 8] = payload.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let sequence = u32::from_be_bytes([ports[4], ports[5], ports[6], ports[7]]);
    let ends = Ends {
        guest: SocketAddr::new(to, port(2)),
        peer: SocketAddr::new(from, port(0)),
    };
    Some((ends, sequence))
}
