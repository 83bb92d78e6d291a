// SPDX-License-Identifier: Apache-2.0
//! ICMP and `ICMPv6`: echo, and what could not be delivered (RFC 792; RFC 1812, 5.2.7; RFC 4443).

use std::net::IpAddr;

use super::checksum::Sum;
use crate::event::Unreachable;

/// The protocol's number for IPv4.
pub const PROTOCOL_V4: u8 = 1;
/// The protocol's number for IPv6.
pub const PROTOCOL_V6: u8 = 58;
/// Length of the header of an echo, and of the part before what is quoted.
pub const HEADER_BYTES: usize = 8;

const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
const ECHO_REQUEST_V4: u8 = 8;
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Of IPv4: a packet must not be parted and is too big.
const CODE_TOO_BIG_V4: u8 = 4;

/// A message that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A question for an echo.
    EchoRequest {
        /// The sender's number for the series.
        identifier: u16,
        /// The number in the series.
        sequence: u16,
        /// What is to come back.
        payload: &'a [u8],
    },
    /// A packet could not be delivered; its beginning is quoted.
    Unreachable {
        /// The beginning of the packet.
        quoted: &'a [u8],
        /// Nobody listens at the port.
        is_port: bool,
    },
    /// A packet was too big for a link behind the guest; its beginning is quoted.
    TooBig {
        /// What the link takes.
        mtu: u32,
        /// The beginning of the packet.
        quoted: &'a [u8],
    },
    /// Anything else of `ICMPv6`: perhaps neighbour discovery.
    Other {
        /// The type.
        kind: u8,
    },
}

impl<'a> Message<'a> {
    /// Reads a message whose checksum was checked; `None` if it is short.
    pub fn parse(bytes: &'a [u8], is_v6: bool) -> Option<Message<'a>> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(match (is_v6, header[0], header[1]) {
            (false, ECHO_REQUEST_V4, 0) | (true, ECHO_REQUEST_V6, 0) => Message::EchoRequest {
                identifier: number(4),
                sequence: number(6),
                payload,
            },
            (false, UNREACHABLE_V4, CODE_TOO_BIG_V4) => Message::TooBig {
                mtu: u32::from(number(6)),
                quoted: payload,
            },
            (true, TOO_BIG_V6, _) => Message::TooBig {
                mtu: u32::from(number(4)) << 16 | u32::from(number(6)),
                quoted: payload,
            },
            (false, UNREACHABLE_V4, code) => Message::Unreachable {
                quoted: payload,
                is_port: code == 3,
            },
            (true, UNREACHABLE_V6, code) => Message::Unreachable {
                quoted: payload,
                is_port: code == 4,
            },
            (_, kind, _) => Message::Other { kind },
        })
    }
}

/// Writes the header of an echo reply, its checksum over the payload included.
pub fn echo_reply(
    from: IpAddr,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = if from.is_ipv6() {
        ECHO_REPLY_V6
    } else {
        ECHO_REPLY_V4
    };
    bytes[4..6].copy_from_slice(&identifier.to_be_bytes());
    bytes[6..8].copy_from_slice(&sequence.to_be_bytes());
    seal(from, to, &mut bytes, payload);
    bytes
}

/// Writes the header of a message that the quoted packet could not be delivered.
pub fn unreachable(
    from: IpAddr,
    to: IpAddr,
    why: Unreachable,
    quoted: &[u8],
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    (bytes[0], bytes[1]) = match (from.is_ipv6(), why) {
        (false, Unreachable::Network) => (UNREACHABLE_V4, 0),
        (false, Unreachable::Host) => (UNREACHABLE_V4, 1),
        (false, Unreachable::Port) => (UNREACHABLE_V4, 3),
        (false, Unreachable::Prohibited) => (UNREACHABLE_V4, 13),
        (true, Unreachable::Network) => (UNREACHABLE_V6, 0),
        (true, Unreachable::Prohibited) => (UNREACHABLE_V6, 1),
        (true, Unreachable::Host) => (UNREACHABLE_V6, 3),
        (true, Unreachable::Port) => (UNREACHABLE_V6, 4),
    };
    seal(from, to, &mut bytes, quoted);
    bytes
}

/// Puts the checksum into a header whose checksum is empty.
pub fn seal(from: IpAddr, to: IpAddr, header: &mut [u8], payload: &[u8]) {
    let checksum = sum(from, to, header.len() + payload.len())
        .bytes(header)
        .bytes(payload)
        .finish();
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// Begins a message's sum: over a pseudo header in IPv6 only.
pub fn sum(from: IpAddr, to: IpAddr, length: usize) -> Sum {
    if from.is_ipv6() {
        Sum::pseudo(from, to, PROTOCOL_V6, length)
    } else {
        Sum::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: (IpAddr, IpAddr) = (
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 2)),
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 100)),
    );

    #[test]
    fn messages_are_whole_and_short_ones_are_none() {
        let v6: (IpAddr, IpAddr) = ("fd00::2".parse().unwrap(), "fd00::100".parse().unwrap());
        for (from, to) in [V4, v6] {
            let reply = [&echo_reply(from, to, 7, 9, b"hello")[..], b"hello"].concat();
            assert!(sum(from, to, reply.len()).bytes(&reply).is_whole());
            for length in 0..HEADER_BYTES {
                assert_eq!(Message::parse(&reply[..length], from.is_ipv6()), None);
            }
            for why in [
                Unreachable::Network,
                Unreachable::Host,
                Unreachable::Port,
                Unreachable::Prohibited,
            ] {
                let message = [&unreachable(from, to, why, b"packet")[..], b"packet"].concat();
                assert!(sum(from, to, message.len()).bytes(&message).is_whole());
                assert_eq!(
                    Message::parse(&message, from.is_ipv6()),
                    Some(Message::Unreachable {
                        quoted: b"packet",
                        is_port: why == Unreachable::Port
                    })
                );
            }
        }
    }

    #[test]
    fn requests_and_sizes_are_read() {
        let request = [8, 0, 0, 0, 0, 7, 0, 9, b'x'];
        let expected = Message::EchoRequest {
            identifier: 7,
            sequence: 9,
            payload: b"x",
        };
        assert_eq!(Message::parse(&request, false), Some(expected));
        let v6 = [128, 0, 0, 0, 0, 7, 0, 9, b'x'];
        assert_eq!(Message::parse(&v6, true), Some(expected));
        let big = [3, 4, 0, 0, 0, 0, 5, 120, 1];
        assert_eq!(
            Message::parse(&big, false),
            Some(Message::TooBig {
                mtu: 1400,
                quoted: &[1]
            })
        );
        let big = [2, 0, 0, 0, 0, 0, 5, 0, 1];
        assert_eq!(
            Message::parse(&big, true),
            Some(Message::TooBig {
                mtu: 1280,
                quoted: &[1]
            })
        );
    }
}
