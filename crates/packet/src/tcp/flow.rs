// SPDX-License-Identifier: Apache-2.0
//! One connection: its state, and what a segment from the guest does to it.
//!
//! ```text
//!            SYN from the guest                 connect()
//!                   │                               │
//!                 Asked ── accept() ─► Accepted   Asking
//!          refuse() │                     └─ ACK ─┬─ SYN+ACK
//!                   ▼                             ▼
//!                 (gone) ◄── RST, abort() ──── Open  (each half ends by itself: half close)
//!                                                 │ both ended, all acknowledged, all consumed: TcpClosed
//!                                                 ▼
//!                                              Lingering  (answers late repetitions; skipped if the guest ended first)
//! ```
//!
//! Sources: RFC 9293, 3.10.7; RFC 5961, 3 to 5 (resets and SYNs in the middle are answered, not believed).

use std::net::SocketAddr;
use std::time::Duration;

use super::receiver::Receiver;
use super::sender::{Acknowledgement, Sender};
use crate::event::ResetCause;
use crate::time::Time;
use crate::wire::tcp::{self, Options, Segment};

/// How long an acknowledgement of little may wait for data to ride on.
const DELAY: Duration = Duration::from_millis(1);
/// How long a connection that the caller does not answer is remembered: Linux gives up its own attempts after 127 s.
const ASKED_MAX: Duration = Duration::from_mins(3);
/// Attempts to open, before it is given up; with back-off from 200 ms about 25 s.
const ATTEMPTS_MAX: u8 = 8;
/// How long a guest may leave data unacknowledged.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// Between questions whether a guest is still there, and how many (Linux: `tcp_keepalive_intvl`, `tcp_keepalive_probes`).
const KEEPALIVE_BETWEEN: Duration = Duration::from_secs(75);
const KEEPALIVE_MAX: u8 = 9;
/// Quiet time after which empty rings give their memory back.
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The guest has asked; the caller has not answered.
    Asked,
    /// Accepted, not yet confirmed by the guest.
    Accepted,
    /// We have asked the guest.
    Asking,
    /// Open in at least one direction.
    Open,
    /// Over; late repetitions are answered.
    Lingering,
}

/// When an acknowledgement is to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    None,
    Later(Time),
    Now,
}

/// What happened and was not yet told, as bits.
pub(crate) mod news {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNECTED: u8 = 2;
    pub(crate) const READABLE: u8 = 4;
    pub(crate) const WRITABLE: u8 = 8;
    pub(crate) const FINISHED: u8 = 16;
    pub(crate) const CLOSED: u8 = 32;
    pub(crate) const RESET: u8 = 64;
}

/// One connection.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) state: State,
    pub(crate) guest: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// The guest's hardware address, once known.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) send: Sender,
    pub(crate) receive: Receiver,
    pub(crate) reply: Reply,
    /// What happened and was not yet told.
    pub(crate) news: u8,
    pub(crate) cause: ResetCause,
    /// When something last came from the guest, or the state began.
    pub(crate) heard_at: Time,
    /// The first segment is to be sent (again).
    pub(crate) is_opening_due: bool,
    attempts: u8,
    /// Questions whether the guest is there, unanswered.
    questions: u8,
    pub(crate) is_question_due: bool,
    /// The guest ended before we did: nothing of ours can be repeated late.
    is_ended_by_guest: bool,
    /// What the guest said when it asked.
    pub(crate) has_scale: bool,
    /// Memory that is counted for it.
    pub(crate) memory: usize,
}

/// Bounds in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) keepalive_after: Duration,
    pub(crate) linger: Duration,
}

/// What a segment has done to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes on.
    Alive,
    /// It was broken off.
    Reset(ResetCause),
    /// It belongs to no connection; one that begins anew may take the place.
    Replace,
    /// To be answered by a reset.
    Foreign,
}

impl Flow {
    pub(crate) fn new(
        guest: SocketAddr,
        peer: SocketAddr,
        now: Time,
        start: u32,
        ring: usize,
    ) -> Flow {
        Flow {
            state: State::Asking,
            guest,
            peer,
            mac: None,
            send: Sender::new(start, ring),
            receive: Receiver::new(0, 0, ring),
            reply: Reply::None,
            news: 0,
            cause: ResetCause::Guest,
            heard_at: now,
            is_opening_due: true,
            attempts: 0,
            questions: 0,
            is_question_due: false,
            is_ended_by_guest: false,
            has_scale: true,
            memory: 0,
        }
    }

    /// Takes over what the guest's SYN says. `segment_max`: the largest segment of ours that the MTU allows.
    pub(crate) fn greet(
        &mut self,
        segment: &Segment<'_>,
        segment_max: usize,
        scale: u8,
        ring: usize,
    ) {
        let options = Options::parse(segment.options);
        // RFC 9293, 3.7.1: without the option 536, or 1220 with IPv6.
        let unsaid = if self.guest.is_ipv6() { 1220 } else { 536 };
        let said = options
            .segment_bytes
            .map_or(unsaid, usize::from)
            .max(SEGMENT_MIN);
        self.send.segment = said.min(segment_max);
        self.send.has_sack = options.sack_permitted;
        self.has_scale = options.scale.is_some();
        self.send.scale = options.scale.unwrap_or(0);
        let (scale, ring) = match options.scale {
            Some(_) => (scale, ring),
            None => (0, ring.min(usize::from(u16::MAX))),
        };
        self.receive = Receiver::new(segment.sequence, scale, ring);
    }

    /// Takes a segment of this connection.
    pub(crate) fn take(
        &mut self,
        now: Time,
        segment: &Segment<'_>,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Outcome {
        if segment.has(tcp::RST) {
            return self.take_reset(segment);
        }
        match self.state {
            State::Asked => return self.take_while_asked(segment),
            State::Asking => return Outcome::Alive,
            State::Lingering => return self.take_while_lingering(segment),
            State::Accepted | State::Open => {}
        }
        if segment.has(tcp::SYN) {
            if self.state == State::Accepted
                && segment.sequence == self.receive.sequence().wrapping_sub(1)
            {
                // Our answer was lost, perhaps.
                self.is_opening_due = true;
            } else {
                self.reply = Reply::Now;
            }
            return Outcome::Alive;
        }
        if !segment.has(tcp::ACK) {
            return Outcome::Alive;
        }
        self.heard_at = now;
        self.questions = 0;
        let position = self.receive.position(segment.sequence);
        if position > self.receive.limit().cast_signed() {
            self.reply = Reply::Now;
            return Outcome::Alive;
        }
        let options = if segment.options.is_empty() {
            Options::default()
        } else {
            Options::parse(segment.options)
        };
        let progress = self.send.acknowledge(
            now,
            &Acknowledgement {
                number: segment.acknowledged,
                window: segment.window,
                told_at: position.max(0).cast_unsigned(),
                blocks: &options.sack[..options.sack_count],
                is_pure: segment.payload.is_empty() && !segment.has(tcp::FIN),
            },
        );
        if self.state == State::Accepted {
            if progress.is_wrong || self.send.oldest == 0 {
                return Outcome::Foreign;
            }
            self.state = State::Open;
        } else if progress.is_wrong {
            self.reply = Reply::Now;
            return Outcome::Alive;
        }
        if self.send.take_writable() {
            self.news |= news::WRITABLE;
        }
        self.take_content(now, segment, sink);
        Outcome::Alive
    }

    fn take_content(
        &mut self,
        now: Time,
        segment: &Segment<'_>,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) {
        let is_end = segment.has(tcp::FIN);
        let arrival = self.receive.take(
            segment.sequence,
            segment.payload,
            is_end,
            self.send.segment,
            sink,
        );
        if arrival.is_readable {
            self.news |= news::READABLE;
        }
        if arrival.is_end {
            self.news |= news::FINISHED;
            self.is_ended_by_guest = !self.send.has_sent_end();
        }
        if arrival.is_urgent {
            self.reply = Reply::Now;
        } else if arrival.is_something && self.reply == Reply::None {
            self.reply = Reply::Later(now.after(DELAY));
        }
    }

    fn take_reset(&mut self, segment: &Segment<'_>) -> Outcome {
        match self.state {
            State::Asking => {
                if segment.has(tcp::ACK) && segment.acknowledged == self.send.number(1) {
                    return Outcome::Reset(ResetCause::Refused);
                }
                Outcome::Alive
            }
            State::Lingering => Outcome::Alive,
            // Both have ended: a guest that knows nothing of it any more takes nothing from who has not consumed yet.
            State::Open if self.receive.is_finished && self.send.is_done() => Outcome::Alive,
            State::Asked | State::Accepted | State::Open => {
                let position = self.receive.position(segment.sequence);
                let next = self.receive.next.cast_signed();
                if position == next {
                    return Outcome::Reset(ResetCause::Guest);
                }
                if position > next && position <= self.receive.limit().cast_signed() {
                    self.reply = Reply::Now;
                }
                Outcome::Alive
            }
        }
    }

    fn take_while_asked(&mut self, segment: &Segment<'_>) -> Outcome {
        let is_repetition = segment.sequence == self.receive.sequence().wrapping_sub(1);
        if segment.has(tcp::SYN) && !is_repetition {
            return Outcome::Replace;
        }
        Outcome::Alive
    }

    fn take_while_lingering(&mut self, segment: &Segment<'_>) -> Outcome {
        if segment.has(tcp::SYN) && !segment.has(tcp::ACK) {
            return Outcome::Replace;
        }
        if segment.has(tcp::FIN) || !segment.payload.is_empty() {
            self.reply = Reply::Now;
        }
        Outcome::Alive
    }

    /// Takes the guest's answer to our SYN.
    pub(crate) fn take_answer(&mut self, now: Time, segment: &Segment<'_>) -> Outcome {
        if !segment.has(tcp::ACK)
            || segment.acknowledged != self.send.number(1)
            || self.send.next == 0
        {
            return Outcome::Foreign;
        }
        self.heard_at = now;
        self.state = State::Open;
        self.news |= news::CONNECTED;
        self.reply = Reply::Now;
        let scale = std::mem::take(&mut self.send.scale);
        let acknowledgement = Acknowledgement {
            number: segment.acknowledged,
            window: segment.window,
            told_at: 0,
            blocks: &[],
            is_pure: false,
        };
        self.send.acknowledge(now, &acknowledgement);
        self.send.scale = scale;
        Outcome::Alive
    }

    /// Tells whether both directions are over and everything was consumed.
    pub(crate) fn is_over(&self) -> bool {
        self.receive.is_finished && self.receive.ring.is_empty() && self.send.is_done()
    }

    /// Tells whether late repetitions may still come.
    pub(crate) fn must_linger(&self) -> bool {
        !self.is_ended_by_guest
    }

    /// Returns when something is due.
    pub(crate) fn deadline(&self, times: &Times) -> Time {
        match self.state {
            State::Asked => self.heard_at.after(ASKED_MAX),
            State::Lingering => self.heard_at.after(times.linger),
            State::Asking | State::Accepted => self.send.timer,
            State::Open => {
                let reply = match self.reply {
                    Reply::Later(time) => time,
                    Reply::None | Reply::Now => Time::NEVER,
                };
                let trim = if self.has_idle_memory() {
                    self.heard_at.after(TRIM_AFTER)
                } else {
                    Time::NEVER
                };
                reply
                    .min(self.send.timer)
                    .min(trim)
                    .min(self.keepalive_at(times))
            }
        }
    }

    fn keepalive_at(&self, times: &Times) -> Time {
        self.heard_at
            .after(times.keepalive_after + KEEPALIVE_BETWEEN * u32::from(self.questions))
    }

    fn has_idle_memory(&self) -> bool {
        let is_idle = |ring: &super::ring::Ring| ring.is_empty() && ring.memory() > 0;
        is_idle(&self.send.ring)
            || (is_idle(&self.receive.ring) && self.receive.has_nothing_early())
    }

    /// Does what is due; returns why it is over, if it is.
    pub(crate) fn expire(&mut self, now: Time, times: &Times) -> Option<ResetCause> {
        match self.state {
            State::Asked | State::Lingering => return Some(ResetCause::TimedOut),
            State::Asking | State::Accepted => {
                self.attempts += 1;
                if self.attempts > ATTEMPTS_MAX {
                    let cause = if self.mac.is_some() {
                        ResetCause::TimedOut
                    } else {
                        ResetCause::Unreachable
                    };
                    return Some(cause);
                }
                self.is_opening_due = true;
                self.send.opening_timer_fired(now);
                return None;
            }
            State::Open => {}
        }
        if let Reply::Later(time) = self.reply
            && time <= now
        {
            self.reply = Reply::Now;
        }
        if self.send.timer <= now {
            if self.send.is_in_flight() && now.since(self.heard_at) > SILENCE_MAX {
                return Some(ResetCause::TimedOut);
            }
            self.send.timer_fired(now);
        }
        if self.keepalive_at(times) <= now {
            if self.questions >= KEEPALIVE_MAX {
                return Some(ResetCause::TimedOut);
            }
            self.questions += 1;
            self.is_question_due = true;
        }
        if self.has_idle_memory() && self.heard_at.after(TRIM_AFTER) <= now {
            self.send.ring.release();
            if self.receive.has_nothing_early() {
                self.receive.ring.release();
            }
        }
        None
    }
}

/// The smallest segment that we believe a guest wants; less would make crumbs of everything (as Linux: `TCP_MIN_SND_MSS`).
const SEGMENT_MIN: usize = 48;
