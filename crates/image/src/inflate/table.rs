// SPDX-License-Identifier: Apache-2.0
//! Huffman codes as tables: one look for the usual codes, two for long ones.
//!
//! An entry has all that is needed to act on it: what it stands for, how many bits its code has, and how many bits with
//! the extra ones that follow the code.
//!
//! ```text
//! bits 16..32  literal, base of a length or distance, or where a second table begins
//! bit 15       a literal
//! bit 14       something else than a literal, length or distance: see bits 12 and 13
//! bit 13       the block ends
//! bit 12       a second table, of as many bits as bits 8..12 say; neither: no code
//! bits 8..12   bits of the code
//! bits 0..8    bits of the code and of the extra bits
//! ```
//!
//! Source: RFC 1951 section 3.2.

use super::InflateError;

/// The entry stands for a literal.
pub(super) const LITERAL: u32 = 1 << 15;
/// The entry is no literal, length or distance.
pub(super) const OTHER: u32 = 1 << 14;
/// The block ends.
pub(super) const END: u32 = 1 << 13;
/// More bits are needed.
pub(super) const SECOND: u32 = 1 << 12;
/// No code has these bits.
const NO_CODE: u32 = OTHER;

/// Bits of the first look for literals and lengths.
pub(super) const LENGTH_BITS: u32 = 11;
/// Bits of the first look for distances.
pub(super) const DISTANCE_BITS: u32 = 9;
/// Bits of codes of code lengths: never more.
pub(super) const ORDER_BITS: u32 = 7;
/// Entries of any table: more than the worst set of codes needs (2,342 for lengths), and a power of two.
pub(super) const ENTRIES: usize = 4096;
/// Longest code.
const CODE_BITS_MAX: usize = 15;

/// A table.
pub(super) type Table = [u32; ENTRIES];

/// What symbols stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// 0 to 18: how the other codes' lengths are told.
    Order,
    /// 0 to 285: literals, the end, lengths.
    Lengths,
    /// 0 to 29: distances.
    Distances,
}

const LENGTH_BASES: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];
const LENGTH_EXTRA: [u8; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const DISTANCE_BASES: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];
const DISTANCE_EXTRA: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];

impl Alphabet {
    const fn root_bits(self) -> u32 {
        match self {
            Self::Order => ORDER_BITS,
            Self::Lengths => LENGTH_BITS,
            Self::Distances => DISTANCE_BITS,
        }
    }

    /// Returns what a symbol's entry has above its code's length.
    fn entry(self, symbol: usize) -> (u32, u32) {
        match self {
            Self::Order => ((symbol as u32) << 16 | LITERAL, 0),
            Self::Lengths if symbol < 256 => ((symbol as u32) << 16 | LITERAL, 0),
            Self::Lengths if symbol == 256 => (OTHER | END, 0),
            Self::Lengths => match LENGTH_BASES.get(symbol - 257) {
                Some(base) => (
                    u32::from(*base) << 16,
                    u32::from(LENGTH_EXTRA[symbol - 257]),
                ),
                None => (NO_CODE, 0),
            },
            Self::Distances => match DISTANCE_BASES.get(symbol) {
                Some(base) => (u32::from(*base) << 16, u32::from(DISTANCE_EXTRA[symbol])),
                None => (NO_CODE, 0),
            },
        }
    }
}

/// Fills a table from the lengths of the codes.
pub(super) fn build(
    table: &mut Table,
    alphabet: Alphabet,
    lengths: &[u8],
) -> Result<(), InflateError> {
    let mut counts = [0_u16; CODE_BITS_MAX + 1];
    for length in lengths {
        counts[usize::from(*length) & 15] += 1;
    }
    counts[0] = 0;
    let root_bits = alphabet.root_bits();
    let root_size = 1_usize << root_bits;
    let max = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let mut left = 1_i32;
    for count in &counts[1..] {
        left = (left << 1) - i32::from(*count);
        if left < 0 {
            return Err(InflateError::Codes);
        }
    }
    // A single code of one bit may stand alone, and a block without matches needs no distances.
    let may_miss = alphabet != Alphabet::Order && max <= 1;
    if left > 0 && !may_miss {
        return Err(InflateError::Codes);
    }
    if left > 0 {
        table[..root_size].fill(NO_CODE | 1);
    }
    let mut places = [0_u16; CODE_BITS_MAX + 2];
    for length in 1..=CODE_BITS_MAX {
        places[length + 1] = places[length] + counts[length];
    }
    let mut sorted = [0_u16; 320];
    for (symbol, length) in (0_u16..).zip(lengths) {
        if *length > 0 {
            let place = &mut places[usize::from(*length) & 15];
            sorted[usize::from(*place)] = symbol;
            *place += 1;
        }
    }
    let codes: usize = counts.iter().map(|count| usize::from(*count)).sum();
    let (mut code, mut code_length) = (0_u32, 0_u32);
    let (mut second_prefix, mut second_start, mut second_bits) = (usize::MAX, root_size, 0_u32);
    let mut next_start = root_size;
    for symbol in &sorted[..codes] {
        let symbol = usize::from(*symbol);
        let length = u32::from(lengths[symbol]);
        code <<= length - code_length;
        code_length = length;
        let reversed = (code.reverse_bits() >> (32 - length)) as usize;
        code += 1;
        let (what, extra) = alphabet.entry(symbol);
        let entry = what | length << 8 | (length + extra);
        if length <= root_bits {
            let mut place = reversed;
            while place < root_size {
                table[place] = entry;
                place += 1 << length;
            }
        } else {
            let prefix = reversed & (root_size - 1);
            if prefix != second_prefix {
                second_prefix = prefix;
                second_start = next_start;
                second_bits = second_table_bits(&counts, length, root_bits, max);
                next_start += 1 << second_bits;
                if next_start > ENTRIES {
                    return Err(InflateError::Codes);
                }
                table[prefix] =
                    (second_start as u32) << 16 | OTHER | SECOND | second_bits << 8 | root_bits;
            }
            let mut place = reversed >> root_bits;
            while place < 1 << second_bits {
                table[second_start + place] = entry;
                place += 1 << (length - root_bits);
            }
        }
        counts[length as usize & 15] -= 1;
    }
    Ok(())
}

/// Returns how many bits a second table needs that begins with codes of `length`, given how many codes are left.
fn second_table_bits(
    counts: &[u16; CODE_BITS_MAX + 1],
    length: u32,
    root_bits: u32,
    max: usize,
) -> u32 {
    let mut bits = length - root_bits;
    let mut left = 1_i32 << bits;
    while ((bits + root_bits) as usize) < max {
        left -= i32::from(counts[(bits + root_bits) as usize & 15]);
        if left <= 0 {
            break;
        }
        bits += 1;
        left <<= 1;
    }
    bits
}
