// SPDX-License-Identifier: Apache-2.0
//! SipHash-2-4 with a key from outside: hash tables that guests cannot aim at, and initial sequence numbers.
//!
//! The standard library's maps draw their key from the kernel, which this room may not ask, and no run could be repeated
//! by its seed. Source: Aumasson and Bernstein, "`SipHash`: a fast short-input PRF", 2012; RFC 6528 for the numbers.

use std::hash::{BuildHasher, Hasher};

/// The key; also what makes a map's hashers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(u64, u64);

impl Key {
    pub(crate) fn new(secret: [u8; 16]) -> Key {
        let whole = u128::from_le_bytes(secret);
        #[expect(clippy::cast_possible_truncation, reason = "the halves of the key")]
        Key(whole as u64, (whole >> 64) as u64)
    }

    /// Returns a key of its own for another purpose.
    pub(crate) fn derive(self, purpose: u8) -> Key {
        let half = |number: u8| {
            let mut hasher = self.build_hasher();
            hasher.write(&[purpose, number]);
            hasher.finish()
        };
        Key(half(0), half(1))
    }

    /// Returns the hash of some bytes.
    pub(crate) fn hash(self, bytes: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}

impl BuildHasher for Key {
    type Hasher = SipHasher;

    fn build_hasher(&self) -> SipHasher {
        SipHasher {
            state: [
                self.0 ^ 0x736f_6d65_7073_6575,
                self.1 ^ 0x646f_7261_6e64_6f6d,
                self.0 ^ 0x6c79_6765_6e65_7261,
                self.1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            length: 0,
        }
    }
}

/// A hash under way.
#[derive(Debug)]
pub(crate) struct SipHasher {
    state: [u64; 4],
    tail: u64,
    length: usize,
}

impl SipHasher {
    fn rounds(state: &mut [u64; 4], rounds: usize) {
        let [mut a, mut b, mut c, mut d] = *state;
        for _ in 0..rounds {
            a = a.wrapping_add(b);
            c = c.wrapping_add(d);
            b = b.rotate_left(13) ^ a;
            d = d.rotate_left(16) ^ c;
            a = a.rotate_left(32);
            c = c.wrapping_add(b);
            a = a.wrapping_add(d);
            b = b.rotate_left(17) ^ c;
            d = d.rotate_left(21) ^ a;
            c = c.rotate_left(32);
        }
        *state = [a, b, c, d];
    }

    fn block(&mut self, word: u64) {
        self.state[3] ^= word;
        Self::rounds(&mut self.state, 2);
        self.state[0] ^= word;
    }
}

impl Hasher for SipHasher {
    fn write(&mut self, bytes: &[u8]) {
        if self.length.is_multiple_of(8) {
            let mut words = bytes.chunks_exact(8);
            for word in &mut words {
                self.block(u64::from_le_bytes(std::array::from_fn(|n| word[n])));
            }
            self.tail = 0;
            for (n, byte) in words.remainder().iter().enumerate() {
                self.tail |= u64::from(*byte) << (8 * n);
            }
            self.length += bytes.len();
            return;
        }
        for byte in bytes {
            self.tail |= u64::from(*byte) << (8 * (self.length % 8));
            self.length += 1;
            if self.length.is_multiple_of(8) {
                let word = std::mem::take(&mut self.tail);
                self.block(word);
            }
        }
    }

    fn finish(&self) -> u64 {
        let mut last = SipHasher {
            state: self.state,
            tail: 0,
            length: 0,
        };
        last.block(self.tail | (self.length as u64) << 56);
        last.state[2] ^= 0xff;
        Self::rounds(&mut last.state, 4);
        last.state.iter().fold(0, |all, word| all ^ word)
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
    fn hashes_are_those_of_the_paper() {
        let secret: [u8; 16] = std::array::from_fn(|n| n as u8);
        let bytes: Vec<u8> = (0..64).collect();
        // Appendix A for 15 bytes; the others from the reference implementation's vectors.h.
        for (length, expected) in [
            (0, 0x726f_db47_dd0e_0e31_u64),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            assert_eq!(
                Key::new(secret).hash(&bytes[..length]),
                expected,
                "{length}"
            );
        }
    }

    #[test]
    fn pieces_make_the_same_hash() {
        let key = Key::new([7; 16]);
        let bytes: Vec<u8> = (0..40).collect();
        for cut in 0..40 {
            let mut hasher = key.build_hasher();
            hasher.write(&bytes[..cut]);
            hasher.write(&bytes[cut..]);
            assert_eq!(hasher.finish(), key.hash(&bytes), "{cut}");
        }
    }
}
