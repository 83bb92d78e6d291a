// SPDX-License-Identifier: Apache-2.0
//! Chance that can be had again: numbers by seed.

/// A generator of numbers by seed: `SplitMix64`, by Sebastiano Vigna.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `bound`, which is not 0.
    ///
    /// # Panics
    /// Where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a usize fits");
        usize::try_from(self.number() % bound).expect("smaller than a usize")
    }

    /// Returns one of several.
    ///
    /// # Panics
    /// Where there are none.
    pub fn one<'of, T>(&mut self, of: &'of [T]) -> &'of T {
        &of[self.below(of.len())]
    }

    /// Returns whether an event of this chance, in percent, happens.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Returns this many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8))
            .flat_map(|_| self.number().to_le_bytes())
            .collect();
        bytes.truncate(length);
        bytes
    }
}
