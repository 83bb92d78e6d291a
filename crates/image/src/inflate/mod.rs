// SPDX-License-Identifier: Apache-2.0
//! Deflate undone, with what an index needs to know: where blocks end, to the bit, and which earlier bytes are referred to.
//!
//! Libraries that inflate fast do not say both, and their safe faces do not say either. This one begins at any block's border with a given
//! window, stops at each border on demand, and marks what is used of the window before a checkpoint. Why it is our own:
//! `docs/decisions/006-own-inflate.md`.
//!
//! # Theory of operation
//!
//! Input is copied into a buffer ([`Inflater::push`]); [`Inflater::run`] decodes until the output buffer is full, input is used up or a
//! block ends. The inner loop reads eight bytes at a time and needs no check per bit: it stops [`MARGIN_BYTES`] before the
//! end of the input, and goes on when there is more or when `last` says that no more comes (zeros stand in then, and what they
//! would give is an error).
//!
//! ```text
//! out:  [ 32 KiB of history | up to PIECE_BYTES of new output | slack ]
//! ```
//!
//! Output is taken between runs; then the last 32 KiB move to the front. No `unsafe`: indexes are masked or checked once per
//! symbol.
//!
//! Sources: RFC 1951; the layout of table entries follows an idea of libdeflate.

#![expect(
    clippy::cast_possible_truncation,
    reason = "parts of words are taken: that the rest is cut off is meant"
)]
#![expect(
    clippy::inline_always,
    reason = "the inner loop is nothing without these inside: a third slower"
)]

mod gzip;
mod table;
#[cfg(test)]
mod tests;

pub use self::gzip::{GzipStream, Header, Step};

use self::table::{
    Alphabet, DISTANCE_BITS, END, ENTRIES, LENGTH_BITS, LITERAL, ORDER_BITS, OTHER, SECOND, Table,
};

/// How far back a match may reach.
pub const WINDOW_BYTES: usize = 32 << 10;
/// Most output of one run.
pub const PIECE_BYTES: usize = 128 << 10;
/// Longest match.
const MATCH_BYTES_MAX: usize = 258;
/// Room behind the output that a fast copy may spoil.
const SLACK_BYTES: usize = MATCH_BYTES_MAX + 32;
/// Input that the inner loop keeps before it: two reads of eight bytes.
const MARGIN_BYTES: usize = 16;
/// Input that a block's header may need: 316 code lengths of at most 14 bits, and what is before them.
const HEADER_BYTES_MAX: usize = 600;
/// Words of the marks of a window.
const MARK_WORDS: usize = WINDOW_BYTES / 64;

/// Why bytes cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// A block is of no known type, or its stored length contradicts itself.
    #[error("inflating: a block's header is wrong")]
    Block,
    /// Code lengths make no code.
    #[error("inflating: a block's codes are wrong")]
    Codes,
    /// Bits that are no code, or a distance beyond the beginning.
    #[error("inflating: the data is damaged")]
    Data,
    /// The input ends before the last block does.
    #[error("inflating: the data ends early")]
    Truncated,
    /// What is around the deflated data is wrong.
    #[error("reading gzip: {0}")]
    Gzip(&'static str),
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is as much output as fits.
    Full,
    /// More input is needed.
    Hungry,
    /// A block ended, and another follows.
    Border,
    /// The last block ended.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A block's header comes, after so many bits that belong to nobody.
    Header { skip_bits: u32 },
    /// A stored block is copied.
    Stored { left: usize },
    /// A coded block is decoded.
    Codes,
    /// The last block has ended.
    End,
}

/// Why the inner loop ended.
enum Inner {
    Full,
    Hungry,
    End,
}

/// Deflated data on its way out.
pub struct Inflater {
    input: Vec<u8>,
    /// The next byte of the input that is not in `bits`.
    next: usize,
    bits: Bits,
    /// Bytes of input that were dropped from its front.
    dropped: u64,
    /// Zeros at the end of the input that stand in for what does not come.
    padding: usize,
    out: Vec<u8>,
    /// Where the next output goes.
    at: usize,
    /// Up to where output was taken.
    taken: usize,
    /// The first byte of `out` that may be referred to.
    valid_from: usize,
    /// Bytes of output before `taken`.
    taken_bytes: u64,
    state: State,
    last_block: bool,
    lengths: Box<Table>,
    distances: Box<Table>,
    /// The tables are those of fixed codes.
    fixed: bool,
    marks: Marks,
}

/// Bits that were read, the next lowest. Above those that count there may be more of the same stream.
#[derive(Clone, Copy, Default)]
struct Bits {
    hold: u64,
    count: u32,
}

impl Bits {
    /// Reads on, so that at least 56 bits are there; `input` must have eight bytes from `next` on.
    #[inline(always)]
    fn refill(&mut self, input: &[u8], next: &mut usize) {
        if let Some(word) = input.get(*next..*next + 8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self.hold |= u64::from_le_bytes(bytes) << self.count;
            *next += ((63 - self.count) >> 3) as usize;
            self.count |= 0x38;
        }
    }

    #[inline(always)]
    fn drop(&mut self, count: u32) {
        self.hold >>= count & 63;
        self.count = self.count.wrapping_sub(count);
    }

    #[inline(always)]
    fn take(&mut self, count: u32) -> u32 {
        let taken = self.hold & ((1 << count) - 1);
        self.drop(count);
        taken as u32
    }

    /// Returns the first `count` bits.
    #[inline(always)]
    fn look(self, count: u32) -> usize {
        (self.hold & ((1 << count) - 1)) as usize
    }
}

/// Which bytes before a checkpoint are referred to behind it.
struct Marks {
    /// What lies before this was there at the checkpoint; 0: nothing is to be marked any more.
    before: usize,
    /// Where in `out` the byte of the first bit is, wrapping below zero.
    first: usize,
    words: Box<[u64; MARK_WORDS]>,
}

impl Marks {
    #[cold]
    fn mark(&mut self, from: usize, to: usize) {
        for place in from..to.min(self.before) {
            let place = place.wrapping_sub(self.first);
            if let Some(word) = self.words.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Inflater")
            .field("state", &self.state)
            .field("output_bytes", &self.output_bytes())
            .finish_non_exhaustive()
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflater {
    /// Returns an inflater at the beginning of deflated data.
    #[must_use]
    pub fn new() -> Self {
        Self::resume(0, &[])
    }

    /// Returns an inflater at a block's border: `skip_bits` low bits of the first byte belong to what is before, and `window` is the
    /// output before, of which the last 32 KiB count.
    #[must_use]
    pub fn resume(skip_bits: u8, window: &[u8]) -> Self {
        let window = &window[window.len().saturating_sub(WINDOW_BYTES)..];
        let valid_from = WINDOW_BYTES - window.len();
        let mut out = vec![0; WINDOW_BYTES + PIECE_BYTES + SLACK_BYTES];
        out[valid_from..WINDOW_BYTES].copy_from_slice(window);
        Self {
            input: Vec::new(),
            next: 0,
            bits: Bits::default(),
            dropped: 0,
            padding: 0,
            out,
            at: WINDOW_BYTES,
            taken: WINDOW_BYTES,
            valid_from,
            taken_bytes: 0,
            state: State::Header {
                skip_bits: u32::from(skip_bits & 7),
            },
            last_block: false,
            lengths: Box::new([0; ENTRIES]),
            distances: Box::new([0; ENTRIES]),
            fixed: false,
            marks: Marks {
                before: 0,
                first: 0,
                words: Box::new([0; MARK_WORDS]),
            },
        }
    }

    /// Begins another stream at the next whole byte, without history.
    pub fn restart(&mut self) {
        self.give_back();
        self.bits = Bits::default();
        self.state = State::Header { skip_bits: 0 };
        self.last_block = false;
        self.valid_from = self.at;
    }

    /// Adds input. After a run that was told to be the last, nothing is added.
    pub fn push(&mut self, input: &[u8]) {
        if self.padding > 0 {
            return;
        }
        self.give_back();
        self.input.drain(..self.next);
        self.dropped += self.next as u64;
        self.next = 0;
        self.input.extend_from_slice(input);
    }

    /// Returns the input behind what was used, from the next whole byte on.
    pub fn rest(&mut self) -> &[u8] {
        self.give_back();
        &self.input[self.next.min(self.real_end())..self.real_end()]
    }

    /// Skips bytes of what [`Self::rest`] returns.
    pub fn skip(&mut self, bytes: usize) {
        self.give_back();
        self.bits = Bits::default();
        self.next = (self.next + bytes).min(self.real_end());
    }

    /// Returns how many bits of input were used so far.
    #[must_use]
    pub fn used_bits(&self) -> u64 {
        (self.dropped + self.next as u64) * 8 - u64::from(self.bits.count)
    }

    /// Returns how many bytes of output there were so far, those not yet taken included.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        self.taken_bytes + (self.at - self.taken) as u64
    }

    /// Returns the output that was not yet taken.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.out[self.taken..self.at]
    }

    /// Takes the output: there is room for more then.
    pub fn take_output(&mut self) {
        self.taken_bytes += (self.at - self.taken) as u64;
        self.taken = self.at;
    }

    /// Returns the last output, up to 32 KiB of it.
    #[must_use]
    pub fn window(&self) -> &[u8] {
        &self.out[self.valid_from.max(self.at - WINDOW_BYTES)..self.at]
    }

    /// Begins to mark which bytes before here are referred to behind it.
    pub fn begin_marks(&mut self) {
        self.marks.words.fill(0);
        self.marks.before = self.at;
        self.marks.first = self.at - WINDOW_BYTES;
    }

    /// Returns the marks since [`Self::begin_marks`]: a bit for each of the 32 KiB before it, the first lowest. Complete once 32 KiB have come
    /// out.
    #[must_use]
    pub fn marks(&self) -> &[u64] {
        &self.marks.words[..]
    }

    /// Decodes on. `last`: no more input will come.
    pub fn run(&mut self, last: bool) -> Result<Progress, InflateError> {
        if last && self.padding == 0 {
            self.padding = HEADER_BYTES_MAX + MARGIN_BYTES;
            self.input.resize(self.input.len() + self.padding, 0);
        }
        if self.at >= WINDOW_BYTES + PIECE_BYTES {
            if self.taken < self.at {
                return Ok(Progress::Full);
            }
            self.slide();
        }
        loop {
            match self.state {
                State::End => return Ok(Progress::End),
                State::Header { skip_bits } => {
                    if self.input.len() < self.next + HEADER_BYTES_MAX {
                        return self.hungry();
                    }
                    self.read_header(skip_bits)?;
                    if self.used_bits() > (self.dropped + self.real_end() as u64) * 8 {
                        return Err(InflateError::Truncated);
                    }
                }
                State::Stored { left: 0 } => return Ok(self.end_block()),
                State::Stored { left } => {
                    let room = WINDOW_BYTES + PIECE_BYTES - self.at;
                    let there = self.real_end().saturating_sub(self.next);
                    let step = left.min(room).min(there);
                    let from = &self.input[self.next..self.next + step];
                    self.out[self.at..self.at + step].copy_from_slice(from);
                    self.next += step;
                    self.at += step;
                    self.state = State::Stored { left: left - step };
                    if step == left {
                    } else if step == room {
                        return Ok(Progress::Full);
                    } else {
                        return self.hungry();
                    }
                }
                State::Codes => match self.codes()? {
                    Inner::Full => return Ok(Progress::Full),
                    Inner::Hungry => return self.hungry(),
                    Inner::End => return Ok(self.end_block()),
                },
            }
        }
    }

    /// Where the input ends that came from outside.
    fn real_end(&self) -> usize {
        self.input.len() - self.padding
    }

    fn hungry(&self) -> Result<Progress, InflateError> {
        if self.padding > 0 {
            Err(InflateError::Truncated)
        } else {
            Ok(Progress::Hungry)
        }
    }

    fn end_block(&mut self) -> Progress {
        if self.last_block {
            self.state = State::End;
            Progress::End
        } else {
            self.state = State::Header { skip_bits: 0 };
            Progress::Border
        }
    }

    /// Moves the last 32 KiB to the front.
    fn slide(&mut self) {
        let shift = self.at - WINDOW_BYTES;
        self.out.copy_within(shift..self.at, 0);
        self.at = WINDOW_BYTES;
        self.taken = WINDOW_BYTES;
        self.valid_from = self.valid_from.saturating_sub(shift);
        self.marks.before = self.marks.before.saturating_sub(shift);
        self.marks.first = self.marks.first.wrapping_sub(shift);
    }

    /// Puts whole bytes that were read ahead back; fewer than eight bits stay.
    fn give_back(&mut self) {
        self.next -= ((self.bits.count / 8) as usize).min(self.next);
        self.bits.count %= 8;
        self.bits.hold &= (1 << self.bits.count) - 1;
    }

    /// Reads a block's header; all of it is in the input, or zeros that stand in.
    fn read_header(&mut self, skip_bits: u32) -> Result<(), InflateError> {
        let (mut bits, mut next) = (self.bits, self.next);
        bits.refill(&self.input, &mut next);
        bits.drop(skip_bits);
        self.last_block = bits.take(1) == 1;
        let kind = bits.take(2);
        match kind {
            0 => {
                (self.bits, self.next) = (bits, next);
                self.give_back();
                self.bits = Bits::default();
                let [low, high, not_low, not_high] = self.next_four();
                if (low, high) != (!not_low, !not_high) {
                    return Err(InflateError::Block);
                }
                self.next += 4;
                self.state = State::Stored {
                    left: usize::from(u16::from_le_bytes([low, high])),
                };
                return Ok(());
            }
            1 => {
                if !self.fixed {
                    let mut lengths = [8; 288];
                    lengths[144..256].fill(9);
                    lengths[256..280].fill(7);
                    table::build(&mut self.lengths, Alphabet::Lengths, &lengths)?;
                    table::build(&mut self.distances, Alphabet::Distances, &[5; 32])?;
                    self.fixed = true;
                }
            }
            2 => {
                self.fixed = false;
                self.read_codes(&mut bits, &mut next)?;
            }
            _ => return Err(InflateError::Block),
        }
        (self.bits, self.next) = (bits, next);
        self.state = State::Codes;
        Ok(())
    }

    fn next_four(&self) -> [u8; 4] {
        let mut four = [0; 4];
        if let Some(bytes) = self.input.get(self.next..self.next + 4) {
            four.copy_from_slice(bytes);
        }
        four
    }

    /// Reads the code lengths of a block: RFC 1951 section 3.2.7.
    fn read_codes(&mut self, bits: &mut Bits, next: &mut usize) -> Result<(), InflateError> {
        const ORDER: [usize; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        let length_count = bits.take(5) as usize + 257;
        let distance_count = bits.take(5) as usize + 1;
        let order_count = bits.take(4) as usize + 4;
        if length_count > 286 || distance_count > 30 {
            return Err(InflateError::Codes);
        }
        let mut order_lengths = [0_u8; 19];
        for place in &ORDER[..order_count] {
            bits.refill(&self.input, next);
            order_lengths[*place] = bits.take(3) as u8;
        }
        // The table of distances is free until these are read.
        table::build(&mut self.distances, Alphabet::Order, &order_lengths)?;
        let mut lengths = [0_u8; 286 + 30 + 138];
        let (mut filled, total) = (0, length_count + distance_count);
        while filled < total {
            bits.refill(&self.input, next);
            let entry = self.distances[bits.look(ORDER_BITS)];
            bits.drop(entry & 0xff);
            let (value, times) = match entry >> 16 {
                16 if filled == 0 => return Err(InflateError::Codes),
                16 => (lengths[filled - 1], 3 + bits.take(2)),
                17 => (0, 3 + bits.take(3)),
                18 => (0, 11 + bits.take(7)),
                length => (length as u8, 1),
            };
            lengths[filled..filled + times as usize].fill(value);
            filled += times as usize;
        }
        if filled > total || lengths[256] == 0 {
            return Err(InflateError::Codes);
        }
        let (lengths, distances) = lengths[..total].split_at(length_count);
        table::build(&mut self.lengths, Alphabet::Lengths, lengths)?;
        table::build(&mut self.distances, Alphabet::Distances, distances)
    }

    /// Decodes codes: fast as long as there is input for it, then one by one if no more comes.
    fn codes(&mut self) -> Result<Inner, InflateError> {
        match self.decode::<false>()? {
            Inner::Hungry if self.padding > 0 => self.decode::<true>(),
            other => Ok(other),
        }
    }

    /// Decodes codes. `CAREFUL`: one after another, none of which may have bits that are not there.
    fn decode<const CAREFUL: bool>(&mut self) -> Result<Inner, InflateError> {
        let real_end = self.real_end();
        let readable = if CAREFUL { self.input.len() } else { real_end };
        let Some(input_end) = readable.checked_sub(MARGIN_BYTES) else {
            return Ok(Inner::Hungry);
        };
        let input = &self.input[..readable];
        let out = &mut self.out[..];
        let (lengths, distances) = (&*self.lengths, &*self.distances);
        let (mut bits, mut next, mut at) = (self.bits, self.next, self.at);
        let (mut end_bits, mut end_next, mut end_at) = (bits, next, at);
        let result = loop {
            if CAREFUL {
                if next * 8 > real_end * 8 + bits.count as usize {
                    (bits, next, at) = (end_bits, end_next, end_at);
                    break Ok(Inner::Hungry);
                }
                (end_bits, end_next, end_at) = (bits, next, at);
            }
            if at >= WINDOW_BYTES + PIECE_BYTES {
                break Ok(Inner::Full);
            }
            if next > input_end {
                break Ok(Inner::Hungry);
            }
            bits.refill(input, &mut next);
            let mut entry = lengths[bits.look(LENGTH_BITS)];
            if entry & LITERAL != 0 {
                bits.drop(entry & 0xff);
                out[at] = (entry >> 16) as u8;
                at += 1;
                if CAREFUL {
                    continue;
                }
                entry = lengths[bits.look(LENGTH_BITS)];
                if entry & LITERAL != 0 {
                    bits.drop(entry & 0xff);
                    out[at] = (entry >> 16) as u8;
                    at += 1;
                    entry = lengths[bits.look(LENGTH_BITS)];
                    if entry & LITERAL != 0 {
                        bits.drop(entry & 0xff);
                        out[at] = (entry >> 16) as u8;
                        at += 1;
                        continue;
                    }
                }
            }
            if entry & OTHER != 0 {
                if entry & SECOND != 0 {
                    let place =
                        (bits.hold >> LENGTH_BITS) as usize & ((1 << (entry >> 8 & 0xf)) - 1);
                    entry = lengths[((entry >> 16) as usize + place) & (ENTRIES - 1)];
                    if entry & LITERAL != 0 {
                        bits.drop(entry & 0xff);
                        out[at] = (entry >> 16) as u8;
                        at += 1;
                        continue;
                    }
                }
                if entry & OTHER != 0 {
                    if entry & END == 0 {
                        break Err(InflateError::Data);
                    }
                    bits.drop(entry & 0xff);
                    if CAREFUL && next * 8 > real_end * 8 + bits.count as usize {
                        (bits, next) = (end_bits, end_next);
                        break Ok(Inner::Hungry);
                    }
                    break Ok(Inner::End);
                }
            }
            let length = value(entry, bits.hold);
            bits.drop(entry & 0xff);
            bits.refill(input, &mut next);
            let mut entry = distances[bits.look(DISTANCE_BITS)];
            if entry & OTHER != 0 {
                if entry & SECOND == 0 {
                    break Err(InflateError::Data);
                }
                let place = (bits.hold >> DISTANCE_BITS) as usize & ((1 << (entry >> 8 & 0xf)) - 1);
                entry = distances[((entry >> 16) as usize + place) & (ENTRIES - 1)];
                if entry & OTHER != 0 {
                    break Err(InflateError::Data);
                }
            }
            let distance = value(entry, bits.hold);
            bits.drop(entry & 0xff);
            if distance > at - self.valid_from {
                break Err(InflateError::Data);
            }
            let from = at - distance;
            if from < self.marks.before {
                self.marks.mark(from, from + length);
            }
            copy(out, from, at, length);
            at += length;
        };
        (self.bits, self.next, self.at) = (bits, next, at);
        result
    }
}

/// Returns the length or distance that an entry and the bits behind its code make.
#[inline(always)]
fn value(entry: u32, hold: u64) -> usize {
    let extra = (hold & ((1 << (entry & 0x3f)) - 1)) >> (entry >> 8 & 0xf);
    (entry >> 16) as usize + extra as usize
}

/// Copies a match; up to 31 bytes behind it may be spoilt.
#[inline(always)]
fn copy(out: &mut [u8], from: usize, to: usize, length: usize) {
    let distance = to - from;
    let end = to + length;
    if distance >= 16 {
        let (mut from, mut to) = (from, to);
        while to < end {
            let mut chunk = [0; 16];
            chunk.copy_from_slice(&out[from..from + 16]);
            out[to..to + 16].copy_from_slice(&chunk);
            from += 16;
            to += 16;
        }
    } else if distance == 1 {
        let byte = out[from];
        out[to..end].fill(byte);
    } else if distance >= 8 {
        let (mut from, mut to) = (from, to);
        while to < end {
            let mut chunk = [0; 8];
            chunk.copy_from_slice(&out[from..from + 8]);
            out[to..to + 8].copy_from_slice(&chunk);
            from += 8;
            to += 8;
        }
    } else {
        for place in to..end {
            out[place] = out[place - distance];
        }
    }
}
