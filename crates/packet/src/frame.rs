// SPDX-License-Identifier: Apache-2.0
//! Frames on their way to guests: headers built in fixed room, and a bounded box of small frames that wait.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::event::{Output, Sent};
use crate::wire::{VirtioHeader, ethernet, ipv4, ipv6};

/// Room for Ethernet, IPv6, a fragment's header and TCP with all options.
const HEAD_BYTES_MAX: usize = 14 + 40 + 8 + 60;
/// Hops that our packets may go: they begin at the router.
pub(crate) const HOPS: u8 = 64;

/// The headers of a frame.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: usize,
}

impl Head {
    /// Begins with the header of Ethernet.
    pub(crate) fn new(to: [u8; 6], from: [u8; 6], kind: u16) -> Head {
        let mut head = Head {
            bytes: [0; HEAD_BYTES_MAX],
            length: 0,
        };
        head.push(&ethernet::header(to, from, kind));
        head
    }

    /// Begins with the headers of Ethernet and IP, for a payload of that length and not in parts.
    pub(crate) fn ip(macs: Macs, packet: IpHeader) -> Head {
        let payload_bytes = u16::try_from(packet.payload_bytes).unwrap_or(u16::MAX);
        let IpHeader {
            from,
            to,
            protocol,
            hops,
            ..
        } = packet;
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut head = Head::new(macs.to, macs.from, ethernet::IPV4);
                let header = ipv4::Header4 {
                    from,
                    to,
                    protocol,
                    hops,
                    payload_bytes,
                    fragment: packet.fragment,
                };
                head.push(&header.to_bytes());
                head
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut head = Head::new(macs.to, macs.from, ethernet::IPV6);
                let Some(fragment) = packet.fragment else {
                    head.push(
                        &ipv6::Header6 {
                            from,
                            to,
                            protocol,
                            hops,
                            payload_bytes,
                        }
                        .to_bytes(),
                    );
                    return head;
                };
                let header = ipv6::Header6 {
                    from,
                    to,
                    protocol: ipv6::FRAGMENT_PROTOCOL,
                    hops,
                    payload_bytes: payload_bytes.saturating_add(8),
                };
                head.push(&header.to_bytes());
                head.push(&ipv6::fragment_header(protocol, fragment));
                head
            }
            // No caller mixes versions; a frame that no guest takes is the least harm.
            _ => Head::new(macs.to, macs.from, 0),
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Hardware addresses of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) from: [u8; 6],
    pub(crate) to: [u8; 6],
}

/// What the header of an IP packet says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IpHeader {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) fragment: Option<ipv4::Fragment>,
}

/// Frames that wait, at most; the next one is lost, as on any full wire.
const FRAMES_MAX: usize = 512;
/// Bytes of frames that wait, at most.
const BYTES_MAX: usize = 1 << 20;
/// Emptied buffers that are kept for the next frames, at most, and how large each.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 2048;

/// Small frames that wait for the next `transmit`: answers to ARP and echo, resets. Bounded; without allocations in the long run.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

impl Outbox {
    /// Puts a frame of several pieces into the box.
    pub(crate) fn push(&mut self, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.frames.len() >= FRAMES_MAX || self.bytes + length > BYTES_MAX {
            return;
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        for piece in pieces {
            frame.extend_from_slice(piece);
        }
        self.bytes += length;
        self.frames.push_back(frame);
    }

    /// Gives out what waits.
    pub(crate) fn flush(&mut self, output: &mut Output<'_>) -> Sent {
        while let Some(frame) = self.frames.front() {
            if output(&VirtioHeader::default(), &[frame]) == Sent::Full {
                return Sent::Full;
            }
            if let Some(mut frame) = self.frames.pop_front() {
                self.bytes -= frame.len();
                frame.clear();
                if self.spare.len() < SPARE_MAX && frame.capacity() <= SPARE_BYTES_MAX {
                    self.spare.push(frame);
                }
            }
        }
        Sent::Taken
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers that make up content"
)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_bounded_and_keeps_order_when_the_device_is_full() {
        let mut outbox = Outbox::default();
        for n in 0..10_000_u32 {
            outbox.push(&[&n.to_be_bytes(), &[0; 6000]]);
        }
        assert!(outbox.bytes() <= BYTES_MAX && outbox.frames.len() <= FRAMES_MAX);
        let mut seen = Vec::new();
        let mut turn = 0;
        loop {
            let sent = outbox.flush(&mut |_, slices| {
                turn += 1;
                if turn % 3 == 0 {
                    return Sent::Full;
                }
                seen.push(u32::from_be_bytes(*slices[0].first_chunk().unwrap()));
                Sent::Taken
            });
            if sent == Sent::Taken {
                break;
            }
        }
        assert_eq!(seen, (0..seen.len() as u32).collect::<Vec<_>>());
        assert!(seen.len() > 100 && outbox.bytes() == 0);
    }
}
