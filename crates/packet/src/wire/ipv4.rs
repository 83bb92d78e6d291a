// SPDX-License-Identifier: Apache-2.0
//! IPv4 packets (RFC 791). Options are stepped over; source routes are not followed.

use std::net::Ipv4Addr;

use super::checksum::Sum;

/// Length of a header without options, which is what we write.
pub const HEADER_BYTES: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Which packet it is of.
    pub identification: u32,
    /// Its first byte in the payload of the whole.
    pub offset: usize,
    /// Whether others follow behind it.
    pub more: bool,
}

/// A packet, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Packet4<'a> {
    /// The sender.
    pub from: Ipv4Addr,
    /// The receiver.
    pub to: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hops it may still go.
    pub hops: u8,
    /// Set if it is a part only.
    pub fragment: Option<Fragment>,
    /// The payload, without what padding followed the packet.
    pub payload: &'a [u8],
}

impl<'a> Packet4<'a> {
    /// Takes a packet apart; `None` if a length or the header's checksum is wrong.
    pub fn parse(bytes: &'a [u8]) -> Option<Packet4<'a>> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let header_bytes = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_bytes < HEADER_BYTES || total < header_bytes {
            return None;
        }
        let packet = bytes.get(..total)?;
        let (head, payload) = packet.split_at_checked(header_bytes)?;
        if !Sum::default().bytes(head).is_whole() {
            return None;
        }
        let fragment_word = u16::from_be_bytes([header[6], header[7]]);
        let offset = usize::from(fragment_word & OFFSET_MASK) * 8;
        let more = fragment_word & MORE_FRAGMENTS != 0;
        let fragment = (more || offset != 0).then(|| Fragment {
            identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset,
            more,
        });
        Some(Packet4 {
            from: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            to: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            protocol: header[9],
            hops: header[8],
            fragment,
            payload,
        })
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub struct Header4 {
    /// The sender.
    pub from: Ipv4Addr,
    /// The receiver.
    pub to: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hops it may go.
    pub hops: u8,
    /// Length of the payload.
    pub payload_bytes: u16,
    /// Set if it is a part; else it must not be parted.
    pub fragment: Option<Fragment>,
}

impl Header4 {
    /// Writes the header; payloads beyond 65,515 bytes do not exist.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "identification and offset are 16 and 13 bits wide"
    )]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 0x45;
        let total = self.payload_bytes.saturating_add(HEADER_BYTES as u16);
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        let word = match self.fragment {
            None => DONT_FRAGMENT,
            Some(fragment) => {
                bytes[4..6].copy_from_slice(&(fragment.identification as u16).to_be_bytes());
                let more = if fragment.more { MORE_FRAGMENTS } else { 0 };
                (fragment.offset / 8) as u16 & OFFSET_MASK | more
            }
        };
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        bytes[8] = self.hops;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&self.from.octets());
        bytes[16..20].copy_from_slice(&self.to.octets());
        let checksum = Sum::default().bytes(&bytes).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let header = Header4 {
            from: Ipv4Addr::new(10, 0, 2, 100),
            to: Ipv4Addr::new(192, 0, 2, 1),
            protocol: 17,
            hops: 64,
            payload_bytes: payload.len().try_into().unwrap(),
            fragment,
        };
        [&header.to_bytes(), payload].concat()
    }

    fn seal(bytes: &mut [u8]) {
        bytes[10..12].fill(0);
        let head = usize::from(bytes[0] & 15).max(5) * 4;
        let checksum = Sum::default()
            .bytes(&bytes[..head.min(bytes.len())])
            .finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn packets_come_back_without_their_padding() {
        let part = Fragment {
            identification: 7,
            offset: 1480,
            more: true,
        };
        for fragment in [
            None,
            Some(part),
            Some(Fragment {
                more: false,
                ..part
            }),
        ] {
            let mut bytes = packet(b"hello", fragment);
            bytes.extend([0; 21]);
            let read = Packet4::parse(&bytes).unwrap();
            assert_eq!(
                (read.payload, read.fragment),
                (b"hello".as_slice(), fragment)
            );
            assert_eq!(
                (read.protocol, read.hops, read.to),
                (17, 64, Ipv4Addr::new(192, 0, 2, 1))
            );
        }
    }

    #[test]
    fn wrong_lengths_and_sums_are_none() {
        let good = packet(b"hello", None);
        for length in 0..good.len() {
            assert!(Packet4::parse(&good[..length]).is_none(), "{length}");
        }
        for (what, at, value) in [
            ("version", 0, 0x65),
            ("header shorter than there is", 0, 0x44),
            ("header longer than the packet", 0, 0x4f),
            ("total shorter than the header", 3, 19),
            ("total longer than the frame", 3, 26),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            seal(&mut bytes);
            assert!(Packet4::parse(&bytes).is_none(), "{what}");
        }
        let mut bytes = good.clone();
        bytes[8] ^= 1;
        assert!(Packet4::parse(&bytes).is_none(), "checksum");
    }

    #[test]
    fn options_are_stepped_over() {
        let good = packet(b"hello", None);
        let mut bytes = [&good[..20], &[1; 4], &good[20..]].concat();
        bytes[0] = 0x46;
        bytes[3] += 4;
        seal(&mut bytes);
        assert_eq!(Packet4::parse(&bytes).unwrap().payload, b"hello");
    }
}
