// SPDX-License-Identifier: Apache-2.0
//! Connections become frames: what is due goes out, in turns, as headers and slices of the rings.

use std::net::{IpAddr, SocketAddr};

use super::flow::{Flow, Reply, State};
use super::sender::Piece;
use super::{Ends, Tcp};
use crate::config::Offload;
use crate::event::{Output, Sent};
use crate::frame::{HOPS, Head, IpHeader, Macs};
use crate::time::Time;
use crate::wire::checksum::Sum;
use crate::wire::tcp::{self, Header, Options};
use crate::wire::{Gso, VirtioHeader};

/// Frames that a connection sends before the next one has its turn.
const TURN: usize = 8;
/// Largest IP packet, headers included; IPv6 does not count its own, but nobody gains by 40 bytes.
const PACKET_BYTES_MAX: usize = 65_535;

/// Where frames go, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) mac: [u8; 6],
    pub(crate) offload: Offload,
}

impl Wire {
    /// Returns how much content a frame may have.
    fn length_max(&self, is_v6: bool, segment: usize) -> usize {
        let is_offloaded = if is_v6 {
            self.offload.tso6
        } else {
            self.offload.tso4
        };
        let headers = if is_v6 { 40 } else { 20 } + tcp::HEADER_BYTES_MAX;
        if is_offloaded && segment > 0 {
            ((PACKET_BYTES_MAX - headers) / segment * segment).max(segment)
        } else {
            segment
        }
    }

    /// Gives out a segment.
    pub(crate) fn segment(
        &self,
        ends: Ends,
        mac: [u8; 6],
        header: &Header,
        payload: [&[u8]; 2],
        segment: usize,
        output: &mut Output<'_>,
    ) -> Sent {
        let mut room = [0; tcp::HEADER_BYTES_MAX];
        let header_bytes = header.write(&mut room);
        let length = payload[0].len() + payload[1].len();
        let (from, to) = (ends.peer.ip(), ends.guest.ip());
        let packet = IpHeader {
            from,
            to,
            protocol: tcp::PROTOCOL,
            hops: HOPS,
            payload_bytes: header_bytes + length,
            fragment: None,
        };
        let mut head = Head::ip(
            Macs {
                from: self.mac,
                to: mac,
            },
            packet,
        );
        let start = head.len();
        let sum = Sum::pseudo(from, to, tcp::PROTOCOL, header_bytes + length);
        let mut virtio = VirtioHeader::default();
        let checksum = if self.offload.checksum {
            virtio.needs_checksum = true;
            virtio.checksum_start = short(start);
            virtio.checksum_offset = short(tcp::CHECKSUM_AT);
            sum.partial()
        } else {
            let sum = sum.bytes(&room[..header_bytes]).bytes(payload[0]);
            finish_odd(sum, payload)
        };
        if length > segment && segment > 0 {
            virtio.gso = if from.is_ipv6() { Gso::Tcp6 } else { Gso::Tcp4 };
            virtio.segment_bytes = short(segment);
            virtio.header_bytes = short(start + header_bytes);
        }
        room[tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        head.push(&room[..header_bytes]);
        match (payload[0].is_empty(), payload[1].is_empty()) {
            (true, _) => output(&virtio, &[head.bytes()]),
            (false, true) => output(&virtio, &[head.bytes(), payload[0]]),
            (false, false) => output(&virtio, &[head.bytes(), payload[0], payload[1]]),
        }
    }
}

/// Adds the second slice to a sum whose first one may be of odd length, and finishes it.
fn finish_odd(sum: Sum, payload: [&[u8]; 2]) -> u16 {
    let [front, back] = payload;
    if front.len().is_multiple_of(2) || back.is_empty() {
        return sum.bytes(back).finish();
    }
    // The padding zero of the first slice is the place of the second one's first byte.
    sum.plus(u16::from(back[0])).bytes(&back[1..]).finish()
}

fn short(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

impl Tcp {
    /// Gives out what is due, in turns. `find` tells a guest's hardware address, or asks the segment for it.
    pub(crate) fn transmit(
        &mut self,
        now: Time,
        wire: &Wire,
        find: &mut dyn FnMut(IpAddr) -> Option<[u8; 6]>,
        output: &mut Output<'_>,
    ) -> Sent {
        while let Some(&index) = self.output.front() {
            let segment_max = self.segment_max_of(index);
            let slot = &mut self.slots[index as usize];
            let Some(flow) = slot.flow.as_deref_mut() else {
                slot.is_in_output = false;
                self.output.pop_front();
                continue;
            };
            if flow.mac.is_none() {
                flow.mac = find(flow.guest.ip());
            }
            let sent = flow.transmit(now, wire, segment_max, output);
            match sent {
                Turn::Full => return Sent::Full,
                Turn::More => self.output.rotate_left(1),
                Turn::Done => {
                    slot.is_in_output = false;
                    self.output.pop_front();
                }
            }
            self.settle(now, index);
        }
        Sent::Taken
    }

    fn segment_max_of(&self, index: u32) -> usize {
        let flow = self.slots[index as usize].flow.as_deref();
        self.segment_max(flow.is_some_and(|flow| flow.guest.is_ipv6()))
    }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is nothing more to send.
    Done,
    /// There is more.
    More,
    /// The device is full.
    Full,
}

impl Flow {
    fn ends(&self) -> Ends {
        Ends {
            guest: self.guest,
            peer: self.peer,
        }
    }

    fn header(&self, flags: u8, position: u64) -> Header {
        Header {
            from: SocketAddr::port(&self.peer),
            to: self.guest.port(),
            sequence: self.send.number(position),
            acknowledged: self.receive.sequence(),
            flags,
            window: 0,
            options: Options::default(),
        }
    }

    fn transmit(
        &mut self,
        now: Time,
        wire: &Wire,
        segment_max: usize,
        output: &mut Output<'_>,
    ) -> Turn {
        let Some(mac) = self.mac else {
            // It was asked for; the timer tries again.
            self.is_opening_due = false;
            return Turn::Done;
        };
        match self.state {
            State::Asked => return Turn::Done,
            State::Accepted | State::Asking => {
                return if self.is_opening_due {
                    self.open(now, wire, mac, segment_max, output)
                } else {
                    Turn::Done
                };
            }
            State::Open | State::Lingering => {}
        }
        let length_max = wire.length_max(self.guest.is_ipv6(), self.send.segment);
        if self.state == State::Open {
            for turn in 0.. {
                if turn == TURN {
                    return Turn::More;
                }
                let Some(piece) = self.send.piece(now, length_max) else {
                    break;
                };
                if self.content(wire, mac, &piece, output) == Sent::Full {
                    return Turn::Full;
                }
                self.send.sent(now, &piece);
            }
        }
        if self.is_question_due || self.reply == Reply::Now {
            return self.acknowledge(wire, mac, output);
        }
        Turn::Done
    }

    /// Sends a SYN, or the answer to one.
    fn open(
        &mut self,
        now: Time,
        wire: &Wire,
        mac: [u8; 6],
        segment_max: usize,
        output: &mut Output<'_>,
    ) -> Turn {
        let is_asking = self.state == State::Asking;
        let mut header = self.header(
            if is_asking {
                tcp::SYN
            } else {
                tcp::SYN | tcp::ACK
            },
            0,
        );
        if is_asking {
            header.acknowledged = 0;
        }
        header.window = self.receive.window(0, true);
        header.options.segment_bytes = Some(short(segment_max));
        header.options.sack_permitted = is_asking || self.send.has_sack;
        header.options.scale = (is_asking || self.has_scale).then_some(self.receive.scale);
        if wire.segment(self.ends(), mac, &header, [&[], &[]], 0, output) == Sent::Full {
            return Turn::Full;
        }
        self.is_opening_due = false;
        self.send.opened(now);
        Turn::Done
    }

    fn content(
        &mut self,
        wire: &Wire,
        mac: [u8; 6],
        piece: &Piece,
        output: &mut Output<'_>,
    ) -> Sent {
        let mut flags = tcp::ACK;
        if piece.is_end {
            flags |= tcp::FIN;
        }
        if piece.length > 0 && self.send.is_last(piece) {
            flags |= tcp::PSH;
        }
        let mut header = self.header(flags, piece.at);
        header.window = self.receive.window(self.send.segment, false);
        // No options: they would take room from each of the segments that the device cuts. What came early is told by an
        // acknowledgement of its own.
        let segment = self.send.segment;
        let sent = wire.segment(
            self.ends(),
            mac,
            &header,
            self.send.bytes(piece),
            segment,
            output,
        );
        if sent == Sent::Taken && self.receive.has_nothing_early() {
            self.reply = Reply::None;
        }
        sent
    }

    fn acknowledge(&mut self, wire: &Wire, mac: [u8; 6], output: &mut Output<'_>) -> Turn {
        // A question is a segment without content, of before what is awaited: it must be answered.
        let next = self.send.next;
        let position = if self.is_question_due {
            next.saturating_sub(1)
        } else {
            next
        };
        let mut header = self.header(tcp::ACK, position);
        header.window = self.receive.window(self.send.segment, false);
        if self.send.has_sack {
            (header.options.sack, header.options.sack_count) = self.receive.blocks();
        }
        if wire.segment(self.ends(), mac, &header, [&[], &[]], 0, output) == Sent::Full {
            return Turn::Full;
        }
        self.is_question_due = false;
        self.reply = Reply::None;
        Turn::Done
    }
}
