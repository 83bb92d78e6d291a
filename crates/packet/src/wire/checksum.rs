// SPDX-License-Identifier: Apache-2.0
//! The Internet checksum: a one's complement sum, taken over pieces, finished here or by the device.
//!
//! Sums are kept in 64 bits and folded once: 64 KiB of payload cost a few microseconds when nothing is offloaded, and
//! nothing when the device finishes the sum (then only the pseudo header is added up here). Source: RFC 1071.

use std::net::IpAddr;

/// A sum under way. Every piece but the last must be of even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last one counts as if a zero followed.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        // Summed as the machine's own words: the order of bytes cancels out when the result is swapped (RFC 1071, 2B).
        let mut sum = 0_u64;
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            sum += u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut last = [0; 4];
        let rest = words.remainder();
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_le_bytes(last));
        self.plus(fold(sum).swap_bytes())
    }

    /// Adds a number of 16 bits.
    #[must_use]
    pub fn plus(self, number: u16) -> Sum {
        Sum(self.0 + u64::from(number))
    }

    /// Begins with the pseudo header of TCP, UDP and `ICMPv6` (RFC 9293, 3.1; RFC 8200, 8.1).
    pub fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Sum {
        let sum = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Sum::default().bytes(&from.octets()).bytes(&to.octets())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Sum::default().bytes(&from.octets()).bytes(&to.octets())
            }
            _ => Sum::default(),
        };
        Sum(sum.0 + u64::from(protocol) + length as u64)
    }

    /// Returns the sum folded to 16 bits, as it stands in a field that the device will finish.
    pub fn partial(self) -> u16 {
        fold(self.0)
    }

    /// Returns the checksum.
    pub fn finish(self) -> u16 {
        !fold(self.0)
    }

    /// Tells whether everything with its checksum adds up.
    pub fn is_whole(self) -> bool {
        fold(self.0) == 0xffff
    }
}

#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers that make up content"
)]
mod tests {
    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn sums_are_those_of_the_plain_way() {
        let bytes: Vec<u8> = (0..2000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
        for length in (0..80).chain([1999, 2000]) {
            assert_eq!(
                Sum::default().bytes(&bytes[..length]).finish(),
                naive(&bytes[..length]),
                "{length}"
            );
            let (front, back) = bytes[..length].split_at(length / 4 * 2);
            assert_eq!(
                Sum::default().bytes(front).bytes(back).finish(),
                naive(&bytes[..length])
            );
        }
        // RFC 1071, section 3.
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&example).partial(), 0xddf2);
        assert_eq!(Sum::default().bytes(&vec![0xff; 65_536]).partial(), 0xffff);
    }
}
