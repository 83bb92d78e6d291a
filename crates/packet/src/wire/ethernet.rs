// SPDX-License-Identifier: Apache-2.0
//! Ethernet II frames (IEEE 802.3, clause 3; no VLAN tags: they never cross the device).

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 14;
/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// The address of everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The receiver.
    pub to: [u8; 6],
    /// The sender.
    pub from: [u8; 6],
    /// What the payload is.
    pub kind: u16,
    /// The payload, with padding.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a frame apart; `None` if it is too short for its header.
    pub fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [to @ .., _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, _, _, from @ .., high, low] = *header;
        Some(Frame {
            to,
            from,
            kind: u16::from_be_bytes([high, low]),
            payload,
        })
    }
}

/// Writes a header.
pub fn header(to: [u8; 6], from: [u8; 6], kind: u16) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..].copy_from_slice(&kind.to_be_bytes());
    bytes
}

/// Tells whether an address is of more than one receiver.
pub fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}
