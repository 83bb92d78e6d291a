// SPDX-License-Identifier: Apache-2.0
//! ARP for IPv4 over Ethernet (RFC 826; RFC 5227 for probes).

use std::net::Ipv4Addr;

/// Length of a message in bytes.
pub const BYTES: usize = 28;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: [u8; 6],
    /// Address of the sender; unspecified in a probe.
    pub sender: Ipv4Addr,
    /// Hardware address of the target, if known.
    pub target_mac: [u8; 6],
    /// Address of the target.
    pub target: Ipv4Addr,
}

/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

impl Arp {
    /// Reads a message; `None` if it is short or of other kinds of address.
    pub fn parse(bytes: &[u8]) -> Option<Arp> {
        let bytes: &[u8; BYTES] = bytes.first_chunk()?;
        if bytes[..6] != KIND {
            return None;
        }
        let operation = match u16::from_be_bytes([bytes[6], bytes[7]]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| -> [u8; 6] { std::array::from_fn(|n| bytes[at + n]) };
        let ip = |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|n| bytes[at + n]));
        Some(Arp {
            operation,
            sender_mac: mac(8),
            sender: ip(14),
            target_mac: mac(18),
            target: ip(24),
        })
    }

    /// Writes a message.
    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..6].copy_from_slice(&KIND);
        bytes[7] = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        bytes[8..14].copy_from_slice(&self.sender_mac);
        bytes[14..18].copy_from_slice(&self.sender.octets());
        bytes[18..24].copy_from_slice(&self.target_mac);
        bytes[24..28].copy_from_slice(&self.target.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_short_or_foreign_ones_are_none() {
        for operation in [Operation::Request, Operation::Reply] {
            let arp = Arp {
                operation,
                sender_mac: [2, 0, 0, 0, 0, 1],
                sender: Ipv4Addr::new(10, 0, 2, 100),
                target_mac: [0; 6],
                target: Ipv4Addr::new(10, 0, 2, 2),
            };
            let bytes = arp.to_bytes();
            assert_eq!(Arp::parse(&bytes), Some(arp));
            for length in 0..BYTES {
                assert_eq!(Arp::parse(&bytes[..length]), None);
            }
            for (at, value) in [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3)] {
                let mut foreign = bytes;
                foreign[at] = value;
                assert_eq!(Arp::parse(&foreign), None, "byte {at}");
            }
        }
    }
}
