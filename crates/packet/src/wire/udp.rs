// SPDX-License-Identifier: Apache-2.0
//! UDP datagrams (RFC 768).

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 8;
/// The protocol's number.
pub const PROTOCOL: u8 = 17;

/// A datagram, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpDatagram<'a> {
    /// Port of the sender.
    pub from: u16,
    /// Port of the receiver.
    pub to: u16,
    /// The checksum as it stands; 0 is none.
    pub checksum: u16,
    /// Header and content, as far as the length says.
    pub whole: &'a [u8],
}

impl<'a> UdpDatagram<'a> {
    /// Takes a datagram apart; `None` if its length is not within the packet or less than a header.
    pub fn parse(bytes: &'a [u8]) -> Option<UdpDatagram<'a>> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let length = usize::from(number(4));
        if length < HEADER_BYTES {
            return None;
        }
        Some(UdpDatagram {
            from: number(0),
            to: number(2),
            checksum: number(6),
            whole: bytes.get(..length)?,
        })
    }

    /// Returns the content.
    pub fn payload(&self) -> &'a [u8] {
        &self.whole[HEADER_BYTES..]
    }
}

/// Writes a header for a content of that length.
pub fn header(from: u16, to: u16, length: u16, checksum: u16) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_decide() {
        let bytes = [&header(53, 4000, 13, 9)[..], b"hello", b"padding"].concat();
        let read = UdpDatagram::parse(&bytes).unwrap();
        assert_eq!((read.from, read.to, read.checksum), (53, 4000, 9));
        assert_eq!(read.payload(), b"hello");
        for length in 0..13 {
            assert_eq!(UdpDatagram::parse(&bytes[..length]), None, "{length} bytes");
        }
        for said in [0, 7, 21, 65_535] {
            let bytes = [&header(53, 4000, said, 9)[..], b"hello", b"padding"].concat();
            assert_eq!(UdpDatagram::parse(&bytes), None, "said {said}");
        }
    }
}
