// SPDX-License-Identifier: Apache-2.0
//! The virtio network header that stands before each frame of a TAP opened with `IFF_VNET_HDR`.
//!
//! It says what was left undone in the frame: a checksum to be finished, or a segment of many times the MTU to be cut. That
//! is what lets 64 KiB cross the device whole. Sources: virtio 1.2, section 5.1.6; `include/uapi/linux/virtio_net.h`.

/// Length of a header in bytes when `TUNSETVNETHDRSZ` was set to 12, which is what [`VirtioHeader::to_bytes`] makes.
pub const VIRTIO_HEADER_BYTES: usize = 12;

/// What a segment that is larger than the MTU is to be cut as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// The frame is an ordinary one.
    #[default]
    None,
    /// A TCP segment over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// A TCP segment over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// Several UDP datagrams of equal length, the last one perhaps shorter (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
    /// A kind that we never asked for; such a frame is not accepted.
    Unknown,
}

/// The header before a frame; the all-default one says "an ordinary frame with whole checksums".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioHeader {
    /// The transport checksum holds the pseudo header's sum only; it is to be finished from `checksum_start` on.
    pub needs_checksum: bool,
    /// The transport checksum was checked by the device and need not be looked at.
    pub checksum_is_valid: bool,
    /// How the frame is to be cut.
    pub gso: Gso,
    /// Length of all headers of the frame, when it is to be cut.
    pub header_bytes: u16,
    /// Payload of each piece, when the frame is to be cut.
    pub segment_bytes: u16,
    /// Where the sum that is to be finished begins, from the frame's first byte.
    pub checksum_start: u16,
    /// Where the checksum stands, from `checksum_start`.
    pub checksum_offset: u16,
}

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Congestion marks are to be handled when cutting: for us the same as without.
const GSO_ECN: u8 = 0x80;

impl VirtioHeader {
    /// Writes the header as the device wants it, little-endian (`TUNSETVNETLE`, or a little-endian machine).
    ///
    /// With a header length of 10, drop the last two bytes.
    pub fn to_bytes(self) -> [u8; VIRTIO_HEADER_BYTES] {
        let mut bytes = [0; VIRTIO_HEADER_BYTES];
        if self.needs_checksum {
            bytes[0] |= NEEDS_CHECKSUM;
        }
        if self.checksum_is_valid {
            bytes[0] |= DATA_VALID;
        }
        bytes[1] = match self.gso {
            Gso::None | Gso::Unknown => 0,
            Gso::Tcp4 => GSO_TCP4,
            Gso::Tcp6 => GSO_TCP6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_le_bytes());
        bytes
    }

    /// Reads a header of 10 or more bytes; `None` if there are fewer.
    pub fn from_bytes(bytes: &[u8]) -> Option<VirtioHeader> {
        let bytes: &[u8; 10] = bytes.first_chunk()?;
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(VirtioHeader {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            checksum_is_valid: bytes[0] & DATA_VALID != 0,
            gso: match bytes[1] & !GSO_ECN {
                0 => Gso::None,
                GSO_TCP4 => Gso::Tcp4,
                GSO_TCP6 => Gso::Tcp6,
                GSO_UDP_L4 => Gso::Udp,
                _ => Gso::Unknown,
            },
            header_bytes: number(2),
            segment_bytes: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_a_short_one_is_none() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            let header = VirtioHeader {
                needs_checksum: true,
                checksum_is_valid: false,
                gso,
                header_bytes: 54,
                segment_bytes: 1460,
                checksum_start: 34,
                checksum_offset: 16,
            };
            assert_eq!(VirtioHeader::from_bytes(&header.to_bytes()), Some(header));
            assert_eq!(
                VirtioHeader::from_bytes(&header.to_bytes()[..10]),
                Some(header)
            );
        }
        assert_eq!(VirtioHeader::from_bytes(&[0; 9]), None);
        let foreign = VirtioHeader::from_bytes(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(foreign.map(|header| header.gso), Some(Gso::Unknown));
    }
}
