// SPDX-License-Identifier: Apache-2.0
//! The half of a connection that sends bytes to the guest.
//!
//! # Theory of operation
//! Positions count from our SYN (0) in 64 bits. The ring holds what is not acknowledged and what is not sent yet; nothing is
//! dropped from it before the guest acknowledged it. There is no congestion control: the wire is a virtual one, and the
//! guest's window is what bounds a flight. Lost frames are found in two ways:
//!
//! - *selectively*: three segments' worth acknowledged beyond a hole (or three plain repetitions of an acknowledgement) start a
//!   pass over the holes; each is sent once. Three segments' worth acknowledged of what was sent after the pass began, with a hole
//!   still open, start the next pass (RFC 6675, without its estimate of the pipe);
//! - *by time*: after the retransmission timeout everything not acknowledged counts as lost. It is sent again slowly at first, twice as
//!   much for each acknowledgement (RFC 5681, 3.1), since whoever lost a whole flight may lose the next.
//!
//! The timeout is that of RFC 6298 with a floor of 10 ms; a flight of less than two segments gets 40 ms more, because its
//! receiver may delay the acknowledgement that long. A window that is shut, or too small for a whole segment, is probed by one
//! byte at the same timer (RFC 9293, 3.8.6.1).

use std::time::Duration;

use super::ranges::Ranges;
use super::ring::Ring;
use crate::time::Time;

/// Floor of the retransmission timeout: the wire is a pair of buffers in one machine.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Before anything was measured.
const TIMEOUT_FIRST: Duration = Duration::from_millis(200);
/// Ceiling of the timeout, backing off included.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// How long Linux delays an acknowledgement (`TCP_DELACK_MIN`).
const DELAY_OF_GUEST: Duration = Duration::from_millis(40);
/// Repetitions of an acknowledgement that mean a loss (RFC 5681, 3.2).
const REPETITIONS: u8 = 3;
/// Below this size a full ring grows whenever the flow has moved its content twice.
const RING_BYTES_LOCAL: usize = 1 << 20;
/// Beyond, only where the guest is this far away.
const DISTANT: Duration = Duration::from_millis(2);

/// The sending half.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
#[derive(Debug)]
pub(crate) struct Sender {
    /// Our first number.
    start: u32,
    /// The oldest position not acknowledged.
    pub(crate) oldest: u64,
    /// The next position to be sent for the first time.
    pub(crate) next: u64,
    /// The right edge of the guest's window.
    edge: u64,
    /// The largest window seen.
    window_max: u64,
    /// The guest's position when it last told its window.
    edge_told_at: u64,
    pub(crate) scale: u8,
    /// The largest segment that the guest takes.
    pub(crate) segment: usize,
    pub(crate) has_sack: bool,
    pub(crate) ring: Ring,
    /// Position of the ring's first byte.
    base: u64,
    /// We have ended behind what is in the ring.
    pub(crate) is_ended: bool,
    told: Ranges,
    recovery: Option<Recovery>,
    repetitions: u8,
    round_trip: Option<(Duration, Duration)>,
    sample: Option<(u64, Time)>,
    /// When the timer fires.
    pub(crate) timer: Time,
    backoff: u32,
    /// A byte is to be sent whatever the window says.
    is_probe_due: bool,
    /// The ring was found too full to be worth filling.
    is_full: bool,
    since_growth: usize,
}

#[derive(Debug, Clone, Copy)]
struct Recovery {
    /// Over when everything before this is acknowledged.
    point: u64,
    /// Where this pass has come to.
    next: u64,
    /// What was not yet sent when the pass began.
    mark: u64,
    /// Everything is taken for lost, and this many bytes may be sent again.
    allowance: Option<u64>,
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) length: usize,
    pub(crate) is_end: bool,
    is_again: bool,
}

/// What an acknowledgement has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// It is of something never sent.
    pub(crate) is_wrong: bool,
    /// There may be something to send now.
    pub(crate) may_send: bool,
}

/// What a segment says about our direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledgement<'a> {
    pub(crate) number: u32,
    pub(crate) window: u16,
    /// Position of the segment in the guest's direction.
    pub(crate) told_at: u64,
    pub(crate) blocks: &'a [(u32, u32)],
    /// It carries nothing else, so that it may be a repetition.
    pub(crate) is_pure: bool,
}

impl Sender {
    pub(crate) fn new(start: u32, size: usize) -> Sender {
        Sender {
            start,
            oldest: 0,
            next: 0,
            edge: 1,
            window_max: 0,
            edge_told_at: 0,
            scale: 0,
            segment: 0,
            has_sack: false,
            ring: Ring::new(size),
            base: 1,
            is_ended: false,
            told: Ranges::default(),
            recovery: None,
            repetitions: 0,
            round_trip: None,
            sample: None,
            timer: Time::NEVER,
            backoff: 0,
            is_probe_due: false,
            is_full: false,
            since_growth: 0,
        }
    }

    /// Returns the number of a position.
    pub(crate) fn number(&self, position: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "numbers wrap")]
        self.start.wrapping_add(position as u32)
    }

    fn position(&self, number: u32) -> i64 {
        let distance = number.wrapping_sub(self.number(self.oldest)).cast_signed();
        self.oldest.cast_signed() + i64::from(distance)
    }

    fn data_end(&self) -> u64 {
        self.base + self.ring.len() as u64
    }

    /// Returns the position behind all there is to send, the end included.
    fn end(&self) -> u64 {
        self.data_end() + u64::from(self.is_ended)
    }

    /// Tells whether everything including the end was acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.is_ended && self.oldest == self.end()
    }

    /// Tells whether the end was sent.
    pub(crate) fn has_sent_end(&self) -> bool {
        self.is_ended && self.next == self.end()
    }

    /// Tells whether something sent waits to be acknowledged.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.next > self.oldest
    }

    fn timeout(&self) -> Duration {
        let base = match self.round_trip {
            None => TIMEOUT_FIRST,
            Some((smooth, variation)) => {
                let allowance = if self.next - self.oldest < 2 * self.segment as u64 {
                    DELAY_OF_GUEST
                } else {
                    Duration::ZERO
                };
                (smooth + 4 * variation).max(TIMEOUT_MIN) + allowance
            }
        };
        (base * 2_u32.saturating_pow(self.backoff.min(10))).min(TIMEOUT_MAX)
    }

    /// Starts the timer.
    pub(crate) fn arm(&mut self, now: Time) {
        self.timer = now.after(self.timeout());
    }

    /// Says that the first segment, which opens, was sent.
    pub(crate) fn opened(&mut self, now: Time) {
        if self.next == 0 {
            self.next = 1;
            self.sample = Some((1, now));
        }
        self.arm(now);
    }

    /// Takes what a segment says about our direction.
    pub(crate) fn acknowledge(&mut self, now: Time, news: &Acknowledgement<'_>) -> Progress {
        let position = self.position(news.number);
        let mut progress = Progress::default();
        let Ok(position) = u64::try_from(position) else {
            return progress;
        };
        if position > self.next {
            progress.is_wrong = true;
            return progress;
        }
        if position < self.oldest {
            return progress;
        }
        let is_news = position > self.oldest;
        if is_news {
            self.advance(now, position);
        }
        let edge = position + (u64::from(news.window) << self.scale);
        let is_same_window = edge == self.edge;
        if is_news || news.told_at >= self.edge_told_at {
            self.edge_told_at = news.told_at;
            self.window_max = self.window_max.max(edge - position);
            // A window that opens makes a probe needless; one that a probe found shut is asked for less and less often.
            self.edge = edge;
        }
        for (from, to) in news.blocks {
            let (from, to) = (self.position(*from), self.position(*to));
            if let (Ok(from), Ok(to)) = (u64::try_from(from), u64::try_from(to))
                && from > self.oldest
                && to <= self.next
            {
                self.told.insert(from, to);
            }
        }
        if !is_news && news.is_pure && is_same_window && self.is_in_flight() {
            self.repetitions = self.repetitions.saturating_add(1);
        }
        self.find_loss();
        progress.may_send = self.recovery.is_some() || self.next < self.end();
        progress
    }

    fn advance(&mut self, now: Time, position: u64) {
        if let Some((awaited, sent_at)) = self.sample
            && position >= awaited
        {
            self.measure(now.since(sent_at));
            self.sample = None;
        }
        let data = position.min(self.data_end()).saturating_sub(self.base);
        #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
        let data = data as usize;
        self.ring.consume(data, true);
        self.base += data as u64;
        self.since_growth = self.since_growth.saturating_add(data);
        if let Some(recovery) = &mut self.recovery {
            if let Some(allowance) = &mut recovery.allowance {
                *allowance += 2 * (position - self.oldest);
            }
            if position >= recovery.point {
                self.recovery = None;
            }
        }
        self.oldest = position;
        self.told.trim(position);
        self.repetitions = 0;
        self.backoff = 0;
        if self.is_in_flight() {
            self.arm(now);
        } else {
            self.timer = Time::NEVER;
        }
    }

    fn measure(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smooth, variation)) => (
                (smooth * 7 + sample) / 8,
                (variation * 3 + smooth.abs_diff(sample)) / 4,
            ),
        });
    }

    fn find_loss(&mut self) {
        let enough = u64::from(REPETITIONS) * self.segment as u64;
        match &mut self.recovery {
            None => {
                let is_lost =
                    self.repetitions >= REPETITIONS || self.told.count_from(self.oldest) >= enough;
                if is_lost && self.is_in_flight() {
                    let (point, mark) = (self.next, self.next);
                    self.recovery = Some(Recovery {
                        point,
                        next: self.oldest,
                        mark,
                        allowance: None,
                    });
                    self.sample = None;
                }
            }
            Some(recovery) => {
                if self.told.count_from(recovery.mark) >= enough {
                    recovery.next = self.oldest;
                    recovery.mark = self.next;
                }
            }
        }
    }

    /// Does what the timer is for.
    pub(crate) fn timer_fired(&mut self, now: Time) {
        self.sample = None;
        if !self.is_in_flight() && self.next >= self.end() {
            self.timer = Time::NEVER;
            return;
        }
        if self.oldest > 0 && self.is_in_flight() {
            let (point, mark) = (self.next, self.next);
            let allowance = Some(2 * self.segment as u64);
            self.recovery = Some(Recovery {
                point,
                next: self.oldest,
                mark,
                allowance,
            });
            self.repetitions = 0;
            // A receiver may forget what it told of (RFC 2018, 8).
            if self.backoff > 0 {
                self.told.clear();
            }
        }
        self.is_probe_due = true;
        self.backoff = self.backoff.saturating_add(1);
        self.arm(now);
    }

    /// The answer to our first segment is missing.
    pub(crate) fn opening_timer_fired(&mut self, now: Time) {
        self.sample = None;
        self.backoff = self.backoff.saturating_add(1);
        self.arm(now);
    }

    /// Returns the next piece to be sent, of at most `length_max` bytes; arms the timer if the window is what hinders.
    pub(crate) fn piece(&mut self, now: Time, length_max: usize) -> Option<Piece> {
        if let Some(piece) = self.piece_again(length_max) {
            return Some(piece);
        }
        if self.next >= self.end() {
            return None;
        }
        let waiting = self.data_end().saturating_sub(self.next);
        let window = self.edge.saturating_sub(self.next);
        let whole = self.segment as u64;
        let mut length = waiting.min(window).min(length_max as u64);
        if length < waiting && length > whole {
            length -= length % whole;
        }
        // Not in crumbs: a whole segment, all there is, or half of the largest window (RFC 1122, 4.2.3.4).
        let is_worth = length >= whole || length == waiting || 2 * length >= self.window_max;
        let has_room_for_end = !self.is_ended || length < waiting || window > length;
        if (!is_worth || (length == 0 && !(waiting == 0 && has_room_for_end))) && !self.take_probe()
        {
            if self.timer == Time::NEVER {
                self.arm(now);
            }
            return None;
        }
        if length == 0 && waiting > 0 {
            length = 1;
        }
        let is_end = self.is_ended && length == waiting && (has_room_for_end || length == 0);
        #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
        Some(Piece {
            at: self.next,
            length: length as usize,
            is_end,
            is_again: false,
        })
    }

    fn take_probe(&mut self) -> bool {
        !self.is_in_flight() && std::mem::take(&mut self.is_probe_due)
    }

    fn piece_again(&mut self, length_max: usize) -> Option<Piece> {
        let recovery = self.recovery?;
        let bound = match recovery.allowance {
            Some(_) => recovery.point,
            None if self.told.is_empty() => (self.oldest + self.segment as u64).min(recovery.point),
            None => self.told.end().unwrap_or(0).min(recovery.point),
        };
        let (from, to) = self.told.hole(recovery.next.max(self.oldest), bound)?;
        let mut length = (to - from).min(length_max as u64);
        if let Some(allowance) = recovery.allowance {
            length = length.min(allowance);
        }
        // A window may have shrunk, or be shut: then one byte, at the pace of the timer.
        let window = self.edge.saturating_sub(from);
        if length > window {
            length = window;
            if length == 0 {
                if from != self.oldest || !std::mem::take(&mut self.is_probe_due) {
                    return None;
                }
                length = 1;
            }
        }
        if length == 0 {
            return None;
        }
        let is_end = from + length > self.data_end();
        #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
        let data = (length - u64::from(is_end)) as usize;
        Some(Piece {
            at: from,
            length: data,
            is_end,
            is_again: true,
        })
    }

    /// Says that a piece was sent.
    pub(crate) fn sent(&mut self, now: Time, piece: &Piece) {
        let end = piece.at + piece.length as u64 + u64::from(piece.is_end);
        if piece.is_again {
            if let Some(recovery) = &mut self.recovery {
                recovery.next = end;
                if let Some(allowance) = &mut recovery.allowance {
                    *allowance = allowance.saturating_sub(end - piece.at);
                }
            }
            self.sample = None;
            if self.timer == Time::NEVER {
                self.arm(now);
            }
        } else {
            let was_in_flight = self.is_in_flight();
            self.next = end;
            if self.sample.is_none() && self.recovery.is_none() {
                self.sample = Some((end, now));
            }
            if !was_in_flight || self.timer == Time::NEVER {
                self.arm(now);
            }
        }
        self.is_probe_due = false;
    }

    /// Tells whether there may be something to send: holes to fill, or what was never sent.
    pub(crate) fn may_send(&self) -> bool {
        self.recovery.is_some() || self.next < self.end()
    }

    /// Tells whether a piece is the last of what there is.
    pub(crate) fn is_last(&self, piece: &Piece) -> bool {
        piece.at + piece.length as u64 == self.data_end()
    }

    /// Tells whether a number is of what waits to be acknowledged.
    pub(crate) fn is_number_in_flight(&self, number: u32) -> bool {
        u64::try_from(self.position(number)).is_ok_and(|at| at >= self.oldest && at < self.next)
    }

    /// Returns the bytes of a piece.
    pub(crate) fn bytes(&self, piece: &Piece) -> [&[u8]; 2] {
        #[expect(clippy::cast_possible_truncation, reason = "within the ring")]
        let offset = piece.at.saturating_sub(self.base) as usize;
        self.ring.slices(offset, piece.length)
    }

    /// Returns the room for more.
    pub(crate) fn room(&mut self) -> [&mut [u8]; 2] {
        if self.is_ended {
            return [&mut [], &mut []];
        }
        self.is_full = self.ring.free() < self.ring.size() / 4;
        self.ring.space()
    }

    /// Tells, once, whether a ring that was found full has become worth filling.
    pub(crate) fn take_writable(&mut self) -> bool {
        let is_news = self.is_full && !self.is_ended && self.ring.free() >= self.ring.size() / 4;
        self.is_full &= !is_news;
        is_news
    }

    /// Counts bytes that were put into the room.
    pub(crate) fn produce(&mut self, bytes: usize) {
        if !self.is_ended {
            self.ring.extend(bytes);
            self.is_full = self.ring.free() < self.ring.size() / 4;
        }
    }

    /// Returns the size to which the ring should grow.
    pub(crate) fn growth(&self, size_max: usize) -> Option<usize> {
        let size = self.ring.size();
        let is_distant = self.round_trip.is_some_and(|(smooth, _)| smooth >= DISTANT);
        let is_hindering = self.edge.saturating_sub(self.oldest) > size as u64;
        let is_due = self.since_growth >= 2 * size && (size < RING_BYTES_LOCAL || is_distant);
        (is_due && is_hindering && size < size_max).then(|| (2 * size).min(size_max))
    }

    /// Makes the ring larger.
    pub(crate) fn grow(&mut self, size: usize) {
        self.ring.grow(size);
        self.since_growth = 0;
    }

    /// Takes smaller segments from now on: a link behind the guest has a smaller MTU. All in flight is sent again.
    pub(crate) fn shrink_segment(&mut self, now: Time, segment: usize) {
        if segment < self.segment {
            self.segment = segment;
            self.timer_fired(now);
            self.backoff = 0;
        }
    }
}
