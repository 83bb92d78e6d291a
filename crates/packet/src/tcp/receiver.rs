// SPDX-License-Identifier: Apache-2.0
//! The half of a connection that takes bytes from the guest.
//!
//! # Theory of operation
//! Positions count from the guest's SYN (0) in 64 bits, so that nothing wraps. Bytes up to `next` are contiguous: they went to
//! the sink or stand in the ring. Bytes that came early are written to their place in the ring at once, beyond the
//! contiguous ones, and remembered as ranges (at most [`RANGES_MAX`](super::ranges::RANGES_MAX)); a segment that would make one
//! range too many is not accepted, not acknowledged and not selectively acknowledged, so that *nothing accepted is ever
//! discarded*. The window advertised is the room of the ring, and its right edge never moves back.
//!
//! Sources: RFC 9293, 3.10.7.4; RFC 7323, 2.4; RFC 2018, 4; RFC 1122, 4.2.3.3 (silly windows).

use super::ranges::Ranges;
use super::ring::Ring;
use crate::wire::tcp::SACK_BLOCKS_MAX;

/// Bytes unacknowledged from which on an acknowledgement is not put off, also where segments are huge.
const UNACKNOWLEDGED_MAX: u64 = 8 << 10;
/// Blocks of a SACK option that we send: three leave room for what a middle box may add.
const BLOCKS: usize = 3;

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// The guest's first number.
    start: u32,
    /// The next position awaited.
    pub(crate) next: u64,
    /// The right edge last advertised.
    edge: u64,
    pub(crate) ring: Ring,
    early: Ranges,
    /// Where the last early arrival began: its block is told first.
    latest: u64,
    /// Position of an end that came early.
    end_at: Option<u64>,
    /// The guest has ended, and everything before has come.
    pub(crate) is_finished: bool,
    pub(crate) scale: u8,
    /// Bytes that came since the last acknowledgement.
    pub(crate) unacknowledged: u64,
    /// Bytes that came since the ring grew last.
    since_growth: usize,
}

/// What an arrival has done.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Bytes came into the ring.
    pub(crate) is_readable: bool,
    /// The end has come, everything before it too.
    pub(crate) is_end: bool,
    /// To be acknowledged without delay.
    pub(crate) is_urgent: bool,
    /// Something was there to be acknowledged.
    pub(crate) is_something: bool,
}

impl Receiver {
    pub(crate) fn new(start: u32, scale: u8, size: usize) -> Receiver {
        Receiver {
            start,
            next: 1,
            edge: 1,
            ring: Ring::new(size),
            early: Ranges::default(),
            latest: 0,
            end_at: None,
            is_finished: false,
            scale,
            unacknowledged: 0,
            since_growth: 0,
        }
    }

    /// Returns the position of a number, near the one awaited; below zero if it is of before the beginning.
    pub(crate) fn position(&self, sequence: u32) -> i64 {
        let distance = sequence.wrapping_sub(self.sequence()).cast_signed();
        self.next.cast_signed() + i64::from(distance)
    }

    fn number(&self, position: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "numbers wrap")]
        self.start.wrapping_add(position as u32)
    }

    /// Returns the number awaited next.
    pub(crate) fn sequence(&self) -> u32 {
        self.number(self.next)
    }

    /// Returns the position behind the last byte that there is room for.
    pub(crate) fn limit(&self) -> u64 {
        self.next + self.ring.free() as u64
    }

    /// Takes a segment's content; `sink` is asked first for what comes in order.
    pub(crate) fn take(
        &mut self,
        sequence: u32,
        mut payload: &[u8],
        mut is_end: bool,
        segment: usize,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Arrival {
        let mut arrival = Arrival::default();
        if payload.is_empty() && !is_end {
            // A question whether we are still there, or what we want: it asks about a byte long acknowledged.
            arrival.is_urgent = self.position(sequence) < self.next.cast_signed();
            arrival.is_something = arrival.is_urgent;
            return arrival;
        }
        arrival.is_something = true;
        let start = self.position(sequence);
        let old = usize::try_from(self.next.cast_signed() - start).unwrap_or(0);
        if self.is_finished || old > payload.len() || (old == payload.len() && !is_end) {
            arrival.is_urgent = true;
            return arrival;
        }
        payload = &payload[old..];
        let at = start.max(self.next.cast_signed()).cast_unsigned();
        let room = usize::try_from(self.limit().saturating_sub(at)).unwrap_or(usize::MAX);
        if payload.len() > room {
            payload = &payload[..room];
            is_end = false;
            arrival.is_urgent = true;
        }
        if at > self.next {
            arrival.is_urgent = true;
            self.take_early(at, payload, is_end);
            return arrival;
        }
        self.take_next(payload, sink, &mut arrival);
        if is_end || self.end_at == Some(self.next) {
            self.next += 1;
            self.is_finished = true;
            self.early.clear();
            arrival.is_end = true;
            arrival.is_urgent = true;
        }
        let soon = UNACKNOWLEDGED_MAX.min(2 * segment as u64);
        arrival.is_urgent |= self.unacknowledged >= soon || !self.early.is_empty();
        arrival
    }

    fn take_next(
        &mut self,
        payload: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> usize,
        arrival: &mut Arrival,
    ) {
        if payload.is_empty() {
            return;
        }
        let is_direct = self.ring.is_empty() && self.early.is_empty();
        let taken = if is_direct {
            sink(payload).min(payload.len())
        } else {
            0
        };
        let rest = &payload[taken..];
        self.ring.write(self.ring.len(), rest);
        self.ring.extend(rest.len());
        self.next += payload.len() as u64;
        self.unacknowledged += payload.len() as u64;
        self.since_growth = self.since_growth.saturating_add(payload.len());
        self.early.trim(self.next);
        if let Some((_, to)) = self.early.around(self.next) {
            #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
            self.ring.extend((to - self.next) as usize);
            self.unacknowledged += to - self.next;
            self.next = to;
            self.early.trim(to);
            arrival.is_urgent = true;
        }
        arrival.is_readable = !self.ring.is_empty();
    }

    fn take_early(&mut self, at: u64, payload: &[u8], is_end: bool) {
        let end = at + payload.len() as u64;
        if end > self.limit() || (!payload.is_empty() && !self.early.insert(at, end)) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
        let offset = self.ring.len() + (at - self.next) as usize;
        self.ring.write(offset, payload);
        if !payload.is_empty() {
            self.latest = at;
        }
        if is_end {
            self.end_at = Some(end);
        }
    }

    /// Drops what was handed on; returns whether the guest should be told of the room.
    pub(crate) fn consume(&mut self, bytes: usize, segment: usize) -> bool {
        self.ring.consume(bytes, self.early.is_empty());
        let opened = self.limit().saturating_sub(self.edge);
        let left = self.edge.saturating_sub(self.next);
        let size = self.ring.size() as u64;
        let segment = segment as u64;
        !self.is_finished
            && (opened >= (size / 4).max(2 * segment)
                || (left < size / 4 && opened >= segment.min(size / 2)))
    }

    /// Returns the size to which the ring should grow, if the flow outran it and the other side keeps up.
    pub(crate) fn growth(&self, size_max: usize) -> Option<usize> {
        let size = self.ring.size();
        let keeps_up = self.ring.len() <= size / 4 && self.early.is_empty();
        let is_useful = self.since_growth >= 2 * size && size < size_max && !self.is_finished;
        (keeps_up && is_useful).then(|| (2 * size).min(size_max))
    }

    /// Makes the ring larger.
    pub(crate) fn grow(&mut self, size: usize) {
        if self.early.is_empty() {
            self.ring.grow(size);
        }
        self.since_growth = 0;
    }

    /// Returns the window to be advertised now, scaled, and remembers its edge.
    pub(crate) fn window(&mut self, segment: usize, is_first: bool) -> u16 {
        self.unacknowledged = 0;
        let scale = if is_first { 0 } else { self.scale };
        let unit = 1_u64 << scale;
        let limit = self.limit();
        let worth = (segment as u64).min(self.ring.size() as u64 / 2);
        let edge = if limit >= self.edge + worth {
            limit
        } else {
            self.edge
        };
        // Rounded up when the edge would move back otherwise, unless there is no room for it.
        let window = edge.max(self.edge).saturating_sub(self.next);
        let mut field = window >> scale;
        if self.next + (field << scale) < self.edge && self.next + (field << scale) + unit <= limit
        {
            field += 1;
        }
        let field = u16::try_from(field).unwrap_or(u16::MAX);
        self.edge = self.edge.max(self.next + (u64::from(field) << scale));
        field
    }

    /// Tells whether nothing came early.
    pub(crate) fn has_nothing_early(&self) -> bool {
        self.early.is_empty()
    }

    /// Returns the blocks of a SACK option, the latest first.
    pub(crate) fn blocks(&self) -> ([(u32, u32); SACK_BLOCKS_MAX], usize) {
        let mut blocks = [(0, 0); SACK_BLOCKS_MAX];
        let mut count = 0;
        if self.early.is_empty() {
            return (blocks, 0);
        }
        let first = self.early.around(self.latest);
        let others = self.early.iter().filter(|range| Some(*range) != first);
        for (from, to) in first.into_iter().chain(others).take(BLOCKS) {
            blocks[count] = (self.number(from), self.number(to));
            count += 1;
        }
        (blocks, count)
    }
}
