// SPDX-License-Identifier: Apache-2.0
//! IPv6 packets (RFC 8200), extension headers stepped over.

use std::net::Ipv6Addr;

use super::ipv4::Fragment;

/// Length of the fixed header, which is all that we write but for fragments.
pub const HEADER_BYTES: usize = 40;
/// Length of the header of a fragment.
pub const FRAGMENT_BYTES: usize = 8;
/// Extension headers that are stepped over; more than these no honest packet has.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// A packet, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Packet6<'a> {
    /// The sender.
    pub from: Ipv6Addr,
    /// The receiver.
    pub to: Ipv6Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hops it may still go.
    pub hops: u8,
    /// Set if it is a part only.
    pub fragment: Option<Fragment>,
    /// The payload behind all headers, without padding.
    pub payload: &'a [u8],
}

impl<'a> Packet6<'a> {
    /// Takes a packet apart; `None` if a length is wrong, or it wants to be routed by its own list.
    pub fn parse(bytes: &'a [u8]) -> Option<Packet6<'a>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let mut payload = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
        let address =
            |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|n| header[at + n]));
        let mut protocol = header[6];
        let mut fragment = None;
        for _ in 0..EXTENSIONS_MAX {
            match protocol {
                HOP_BY_HOP | DESTINATION | ROUTING => {
                    let extension: &[u8; 8] = payload.first_chunk()?;
                    if protocol == ROUTING && extension[3] != 0 {
                        return None;
                    }
                    protocol = extension[0];
                    payload = payload.get(usize::from(extension[1]) * 8 + 8..)?;
                }
                FRAGMENT => {
                    let (extension, behind) = payload.split_first_chunk::<FRAGMENT_BYTES>()?;
                    let word = u16::from_be_bytes([extension[2], extension[3]]);
                    let part = Fragment {
                        identification: u32::from_be_bytes([
                            extension[4],
                            extension[5],
                            extension[6],
                            extension[7],
                        ]),
                        offset: usize::from(word & !7),
                        more: word & 1 != 0,
                    };
                    protocol = extension[0];
                    payload = behind;
                    // One that is whole is taken as if the header were not there (RFC 6946).
                    if part.more || part.offset != 0 {
                        fragment = Some(part);
                        break;
                    }
                }
                _ => break,
            }
        }
        Some(Packet6 {
            from: address(8),
            to: address(24),
            protocol,
            hops: header[7],
            fragment,
            payload,
        })
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub struct Header6 {
    /// The sender.
    pub from: Ipv6Addr,
    /// The receiver.
    pub to: Ipv6Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hops it may go.
    pub hops: u8,
    /// Length of the payload, the header of a fragment included.
    pub payload_bytes: u16,
}

impl Header6 {
    /// Writes the header.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&self.payload_bytes.to_be_bytes());
        bytes[6] = self.protocol;
        bytes[7] = self.hops;
        bytes[8..24].copy_from_slice(&self.from.octets());
        bytes[24..40].copy_from_slice(&self.to.octets());
        bytes
    }
}

/// Writes the header of a fragment; the fixed header before it names protocol 44.
#[expect(clippy::cast_possible_truncation, reason = "offsets are below 65,536")]
pub fn fragment_header(protocol: u8, fragment: Fragment) -> [u8; FRAGMENT_BYTES] {
    let mut bytes = [0; FRAGMENT_BYTES];
    bytes[0] = protocol;
    let word = fragment.offset as u16 & !7 | u16::from(fragment.more);
    bytes[2..4].copy_from_slice(&word.to_be_bytes());
    bytes[4..8].copy_from_slice(&fragment.identification.to_be_bytes());
    bytes
}

/// The protocol number of a fragment header.
pub const FRAGMENT_PROTOCOL: u8 = FRAGMENT;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = Header6 {
            from: "fd00::100".parse().unwrap(),
            to: "2001:db8::1".parse().unwrap(),
            protocol,
            hops: 64,
            payload_bytes: payload.len().try_into().unwrap(),
        };
        [&header.to_bytes(), payload].concat()
    }

    #[test]
    fn packets_come_back_and_short_ones_are_none() {
        let mut bytes = packet(17, b"hello");
        for length in 0..bytes.len() {
            assert!(Packet6::parse(&bytes[..length]).is_none(), "{length}");
        }
        bytes.extend([0; 9]);
        let read = Packet6::parse(&bytes).unwrap();
        assert_eq!(
            (read.payload, read.protocol, read.fragment),
            (b"hello".as_slice(), 17, None)
        );
        assert_eq!(read.to, "2001:db8::1".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn extensions_are_stepped_over_within_a_bound() {
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let bytes = packet(HOP_BY_HOP, &[&options[..], b"hello"].concat());
        assert_eq!(Packet6::parse(&bytes).unwrap().payload, b"hello");
        let bytes = packet(ROUTING, &[&options[..], b"hello"].concat());
        assert!(Packet6::parse(&bytes).is_none(), "a route still to go");
        let long = [17, 200, 1, 4, 0, 0, 0, 0];
        assert!(
            Packet6::parse(&packet(HOP_BY_HOP, &long)).is_none(),
            "longer than the packet"
        );
        let many = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        assert_eq!(
            Packet6::parse(&packet(DESTINATION, &many))
                .unwrap()
                .protocol,
            DESTINATION
        );
    }

    #[test]
    fn fragments_come_back_and_whole_ones_are_none() {
        let part = Fragment {
            identification: 0xdead_beef,
            offset: 1448,
            more: true,
        };
        let bytes = packet(
            FRAGMENT,
            &[&fragment_header(17, part)[..], b"hello"].concat(),
        );
        let read = Packet6::parse(&bytes).unwrap();
        assert_eq!(
            (read.fragment, read.protocol, read.payload),
            (Some(part), 17, b"hello".as_slice())
        );
        let whole = Fragment {
            offset: 0,
            more: false,
            ..part
        };
        let bytes = packet(
            FRAGMENT,
            &[&fragment_header(17, whole)[..], b"hello"].concat(),
        );
        assert_eq!(Packet6::parse(&bytes).unwrap().fragment, None);
    }
}
