// SPDX-License-Identifier: Apache-2.0
//! All TCP connections with guests: the table, its queues and timers.
//!
//! # Theory of operation
//! A connection lives in a slot; its name is the slot's number and generation. A slot stands at most once in each of three
//! queues: *news* (events not told), *output* (something to be sent), and the set of deadlines. A deadline that moves later is
//! not moved in the set; the slot is looked at too early once and put back (most timers are re-armed long before they fire).
//!
//! Memory is what is promised (windows) and what is held (send rings), counted against one bound. The first windows become
//! smaller as it fills up, rings stop growing at three quarters, and at the bound new connections are not answered.

mod flow;
mod output;
mod ranges;
mod receiver;
mod ring;
mod sender;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, Limits};
use crate::event::{Event, FlowId, ResetCause};
use crate::keyed::Key;
use crate::time::Time;
use crate::wire::tcp::{self as wire, Segment};
use flow::{Flow, Outcome, Reply, State, Times, news};

pub(crate) use output::Wire;

/// The two ends of a connection, as the table knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) guest: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// Shares of the memory bound, in percent: from the first on windows begin small, from the second on tiny.
const MEMORY_SMALL: usize = 25;
const MEMORY_TINY: usize = 60;
/// From here on no ring grows.
const MEMORY_STILL: usize = 75;
/// The first windows then.
const RING_SMALL: usize = 16 << 10;
const RING_TINY: usize = 4 << 10;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    flow: Option<Box<Flow>>,
    is_in_news: bool,
    is_in_output: bool,
    deadline: Option<Time>,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Tcp {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_ends: HashMap<Ends, u32, Key>,
    news: VecDeque<u32>,
    output: VecDeque<u32>,
    deadlines: BTreeSet<(Time, u32)>,
    lingering: VecDeque<FlowId>,
    /// Connections asked for by guests and not yet open.
    half_open: usize,
    memory: usize,
    limits: Limits,
    times: Times,
    scale: u8,
    numbers: Key,
    mtu: usize,
}

/// What is to be done about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing more.
    Done,
    /// It belongs to no connection: a reset is due.
    Foreign,
}

impl Tcp {
    pub(crate) fn new(config: &Config, key: Key) -> Tcp {
        let limits = config.limits;
        let scale = (0..14).find(|shift| u16::try_from(limits.ring_bytes_max >> shift).is_ok());
        Tcp {
            slots: Vec::new(),
            free: Vec::new(),
            by_ends: HashMap::with_hasher(key.derive(1)),
            news: VecDeque::new(),
            output: VecDeque::new(),
            deadlines: BTreeSet::new(),
            lingering: VecDeque::new(),
            half_open: 0,
            memory: 0,
            limits,
            times: Times {
                keepalive_after: limits.keepalive_after,
                linger: limits.linger,
            },
            scale: scale.unwrap_or(14),
            numbers: key.derive(2),
            mtu: usize::from(config.mtu),
        }
    }

    /// The largest segment on a wire of that MTU.
    fn segment_max(&self, is_v6: bool) -> usize {
        self.mtu - wire::HEADER_BYTES - if is_v6 { 40 } else { 20 }
    }

    fn flow(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.index())?;
        slot.flow
            .as_deref()
            .filter(|_| slot.generation == id.generation)
    }

    fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.index())?;
        slot.flow
            .as_deref_mut()
            .filter(|_| slot.generation == id.generation)
    }

    fn id(&self, index: u32) -> FlowId {
        FlowId {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    // The table.

    /// A number that cannot be foreseen, and that moves on with time for the same ends (RFC 6528, 3).
    fn first_number(&self, now: Time, ends: &Ends) -> u32 {
        let mut bytes = [0; 36];
        for (at, address) in [(0, ends.guest), (18, ends.peer)] {
            let octets = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            bytes[at..at + 16].copy_from_slice(&octets);
            bytes[at + 16..at + 18].copy_from_slice(&address.port().to_be_bytes());
        }
        // One step in 4 microseconds.
        #[expect(clippy::cast_possible_truncation, reason = "numbers wrap")]
        let clock = (now.as_nanos() / 4000) as u32;
        #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash")]
        clock.wrapping_add(self.numbers.hash(&bytes) as u32)
    }

    /// Returns the first window of a connection, unless there is no memory for one.
    fn first_ring(&self) -> Option<usize> {
        let share = |percent: usize| self.limits.memory_bytes_max / 100 * percent;
        let size = if self.memory < share(MEMORY_SMALL) {
            self.limits.ring_bytes_first
        } else if self.memory < share(MEMORY_TINY) {
            self.limits.ring_bytes_first.min(RING_SMALL)
        } else {
            self.limits.ring_bytes_first.min(RING_TINY)
        };
        (self.memory + size <= self.limits.memory_bytes_max).then_some(size)
    }

    /// Puts a connection into a slot, in place of one that lingers if need be.
    fn insert(&mut self, ends: Ends, flow: Flow) -> Option<u32> {
        if self.by_ends.len() >= self.limits.flows_max {
            while let Some(id) = self.lingering.pop_front() {
                if self
                    .flow(id)
                    .is_some_and(|flow| flow.state == State::Lingering)
                {
                    self.remove(id.index);
                    break;
                }
            }
        }
        if self.by_ends.len() >= self.limits.flows_max {
            return None;
        }
        let index = if let Some(index) = self.free.pop() {
            index
        } else {
            let index = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(Slot::default());
            index
        };
        self.slots[index as usize].flow = Some(Box::new(flow));
        self.by_ends.insert(ends, index);
        self.count_memory(index);
        Some(index)
    }

    /// Frees a slot; its name is void from now on.
    fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(flow) = slot.flow.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(deadline) = slot.deadline.take() {
            self.deadlines.remove(&(deadline, index));
        }
        self.memory -= flow.memory;
        if matches!(flow.state, State::Asked | State::Accepted) {
            self.half_open -= 1;
        }
        let ends = Ends {
            guest: flow.guest,
            peer: flow.peer,
        };
        if self.by_ends.get(&ends) == Some(&index) {
            self.by_ends.remove(&ends);
        }
        self.free.push(index);
    }

    fn count_memory(&mut self, index: u32) {
        if let Some(flow) = self.slots[index as usize].flow.as_deref_mut() {
            let memory = flow.receive.ring.size() + flow.send.ring.memory();
            self.memory = self.memory + memory - flow.memory;
            flow.memory = memory;
        }
    }

    fn may_grow(&self, by: usize) -> bool {
        self.memory + by <= self.limits.memory_bytes_max / 100 * MEMORY_STILL
    }

    /// After something was done to a connection: queues it where it belongs.
    fn settle(&mut self, now: Time, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(flow) = slot.flow.as_deref_mut() else {
            return;
        };
        if flow.state == State::Open && flow.is_over() {
            flow.state = State::Lingering;
            flow.heard_at = now;
            flow.news |= news::CLOSED;
            flow.receive.ring.release();
            flow.send.ring.release();
            let id = FlowId {
                index,
                generation: slot.generation,
            };
            self.lingering.push_back(id);
        }
        let has_output = match flow.state {
            State::Asked => false,
            State::Accepted | State::Asking => flow.is_opening_due,
            State::Open | State::Lingering => flow.reply == Reply::Now || flow.is_question_due,
        };
        if flow.news != 0 && !slot.is_in_news {
            slot.is_in_news = true;
            self.news.push_back(index);
        }
        if has_output && !slot.is_in_output {
            slot.is_in_output = true;
            self.output.push_back(index);
        }
        let wanted = flow.deadline(&self.times);
        if slot.deadline.is_none_or(|deadline| wanted < deadline) {
            if let Some(deadline) = slot.deadline.take() {
                self.deadlines.remove(&(deadline, index));
            }
            if wanted != Time::NEVER {
                slot.deadline = Some(wanted);
                self.deadlines.insert((wanted, index));
            }
        }
    }

    fn queue_output(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if !slot.is_in_output {
            slot.is_in_output = true;
            self.output.push_back(index);
        }
    }

    fn break_off(&mut self, index: u32, cause: ResetCause) {
        let slot = &mut self.slots[index as usize];
        let Some(flow) = slot.flow.as_deref_mut() else {
            return;
        };
        if flow.news & news::CONNECT != 0 || matches!(flow.state, State::Lingering) {
            // Nobody has heard of it yet, or nobody cares any more.
            if flow.state == State::Lingering && flow.news != 0 {
                return;
            }
            self.remove(index);
            return;
        }
        flow.cause = cause;
        flow.news = news::RESET;
        if !slot.is_in_news {
            slot.is_in_news = true;
            self.news.push_back(index);
        }
        // The slot stays until it is told; its ends are free at once.
        if matches!(flow.state, State::Asked | State::Accepted) {
            self.half_open -= 1;
        }
        flow.state = State::Lingering;
        let ends = Ends {
            guest: flow.guest,
            peer: flow.peer,
        };
        if self.by_ends.get(&ends) == Some(&index) {
            self.by_ends.remove(&ends);
        }
        if let Some(deadline) = slot.deadline.take() {
            self.deadlines.remove(&(deadline, index));
        }
    }

    // What the wire brings.

    /// Takes a segment from a guest.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        mac: [u8; 6],
        ends: Ends,
        segment: &Segment<'_>,
        sink: &mut dyn FnMut(FlowId, &[u8]) -> usize,
    ) -> Verdict {
        let Some(&index) = self.by_ends.get(&ends) else {
            return self.receive_unknown(now, mac, ends, segment);
        };
        let id = self.id(index);
        let is_v6 = ends.guest.is_ipv6();
        let segment_max = self.segment_max(is_v6);
        let ring = self.first_ring().unwrap_or(RING_TINY);
        let scale = self.scale;
        let Some(flow) = self.flow_mut(id) else {
            return Verdict::Done;
        };
        let was_half_open = matches!(flow.state, State::Asked | State::Accepted);
        let outcome =
            if flow.state == State::Asking && segment.has(wire::SYN) && !segment.has(wire::RST) {
                flow.mac = Some(mac);
                if segment.has(wire::ACK) {
                    flow.greet(segment, segment_max, scale, ring);
                }
                flow.take_answer(now, segment)
            } else {
                flow.take(now, segment, &mut |bytes| sink(id, bytes))
            };
        if was_half_open && !matches!(flow.state, State::Asked | State::Accepted) {
            self.half_open -= 1;
        }
        match outcome {
            Outcome::Alive => {}
            Outcome::Foreign => return Verdict::Foreign,
            Outcome::Reset(cause) => {
                self.break_off(index, cause);
                return Verdict::Done;
            }
            Outcome::Replace => {
                if self
                    .flow(id)
                    .is_some_and(|flow| flow.news != 0 && flow.state == State::Lingering)
                {
                    // Its end was not told yet: the guest asks again in a moment.
                    return Verdict::Done;
                }
                let is_asked = self.flow(id).is_some_and(|flow| flow.state == State::Asked);
                if is_asked {
                    self.break_off(index, ResetCause::Guest);
                } else {
                    self.remove(index);
                }
                return self.receive_unknown(now, mac, ends, segment);
            }
        }
        self.after_arrival(now, index);
        Verdict::Done
    }

    fn after_arrival(&mut self, now: Time, index: u32) {
        let may_double = |tcp: &Tcp, size: Option<usize>| size.filter(|size| tcp.may_grow(*size));
        let Some(flow) = self.slots[index as usize].flow.as_deref() else {
            return;
        };
        let max = if flow.has_scale {
            self.limits.ring_bytes_max
        } else {
            usize::from(u16::MAX)
        };
        let receive = flow.receive.growth(max);
        let send = flow.send.growth(self.limits.ring_bytes_max);
        let (receive, send) = (may_double(self, receive), may_double(self, send));
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else {
            return;
        };
        if receive.is_some() || send.is_some() {
            if let Some(size) = receive {
                flow.receive.grow(size);
            }
            if let Some(size) = send {
                flow.send.grow(size);
                if flow.send.take_writable() {
                    flow.news |= news::WRITABLE;
                }
            }
            self.count_memory(index);
        }
        let Some(flow) = self.slots[index as usize].flow.as_deref() else {
            return;
        };
        if flow.send.may_send() {
            self.queue_output(index);
        }
        self.settle(now, index);
    }

    fn receive_unknown(
        &mut self,
        now: Time,
        mac: [u8; 6],
        ends: Ends,
        segment: &Segment<'_>,
    ) -> Verdict {
        if segment.has(wire::RST) {
            return Verdict::Done;
        }
        if !segment.has(wire::SYN) || segment.flags & (wire::ACK | wire::FIN) != 0 {
            return Verdict::Foreign;
        }
        if self.half_open >= self.limits.half_open_max {
            return Verdict::Done;
        }
        let Some(ring) = self.first_ring() else {
            return Verdict::Done;
        };
        let start = self.first_number(now, &ends);
        let mut flow = Flow::new(ends.guest, ends.peer, now, start, ring);
        flow.state = State::Asked;
        flow.is_opening_due = false;
        flow.mac = Some(mac);
        flow.greet(
            segment,
            self.segment_max(ends.guest.is_ipv6()),
            self.scale,
            ring,
        );
        flow.news = news::CONNECT;
        let Some(index) = self.insert(ends, flow) else {
            return Verdict::Foreign;
        };
        self.half_open += 1;
        self.settle(now, index);
        Verdict::Done
    }

    /// Takes the news that a packet of ours to a guest came back; `sequence` is what it quotes.
    pub(crate) fn unreachable(&mut self, ends: Ends, sequence: u32) {
        let Some(&index) = self.by_ends.get(&ends) else {
            return;
        };
        let Some(flow) = self.slots[index as usize].flow.as_deref() else {
            return;
        };
        // Of open connections it may be a passing trouble, or a lie (RFC 5927, 5.2).
        if flow.state == State::Asking && sequence == flow.send.number(0) {
            self.break_off(index, ResetCause::Unreachable);
        }
    }

    /// Takes the news that a link behind a guest has a smaller MTU.
    pub(crate) fn too_big(&mut self, now: Time, ends: Ends, sequence: u32, mtu: u32) {
        let Some(&index) = self.by_ends.get(&ends) else {
            return;
        };
        let Some(flow) = self.slots[index as usize].flow.as_deref_mut() else {
            return;
        };
        let (headers, least) = if ends.guest.is_ipv6() {
            (60, 1280)
        } else {
            (40, 576)
        };
        let mtu = usize::try_from(mtu).unwrap_or(usize::MAX).max(least);
        if flow.state == State::Open && flow.send.is_number_in_flight(sequence) {
            flow.send.shrink_segment(now, mtu - headers);
            self.queue_output(index);
            self.settle(now, index);
        }
    }

    /// A guest's hardware address became known: connections that wait for it go on.
    pub(crate) fn learned(&mut self, now: Time, address: IpAddr) {
        // Rare: only a guest that was never heard of is asked for.
        for index in 0..self.slots.len() {
            let Some(flow) = self.slots[index].flow.as_deref_mut() else {
                continue;
            };
            if flow.state == State::Asking && flow.mac.is_none() && flow.guest.ip() == address {
                flow.is_opening_due = true;
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "slots are numbered in 32 bits"
                )]
                self.settle(now, index as u32);
            }
        }
    }

    // Time.

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    pub(crate) fn advance(&mut self, now: Time) {
        while let Some(&(time, index)) = self.deadlines.first() {
            if time > now {
                break;
            }
            self.deadlines.pop_first();
            let slot = &mut self.slots[index as usize];
            slot.deadline = None;
            let Some(flow) = slot.flow.as_deref_mut() else {
                continue;
            };
            if flow.deadline(&self.times) <= now {
                if let Some(cause) = flow.expire(now, &self.times) {
                    self.break_off(index, cause);
                    continue;
                }
                self.queue_output(index);
                self.count_memory(index);
            }
            self.settle(now, index);
        }
        while let Some(id) = self.lingering.front() {
            if self
                .flow(*id)
                .is_some_and(|flow| flow.state == State::Lingering)
            {
                break;
            }
            self.lingering.pop_front();
        }
    }

    // What the caller wants.

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        loop {
            let index = *self.news.front()?;
            let id = self.id(index);
            let slot = &mut self.slots[index as usize];
            let Some(flow) = slot.flow.as_deref_mut().filter(|flow| flow.news != 0) else {
                slot.is_in_news = false;
                self.news.pop_front();
                continue;
            };
            let bit = flow.news & flow.news.wrapping_neg();
            flow.news &= !bit;
            return Some(match bit {
                news::CONNECT => Event::TcpConnect {
                    flow: id,
                    from: flow.guest,
                    to: flow.peer,
                },
                news::CONNECTED => Event::TcpConnected(id),
                news::READABLE => Event::TcpReadable(id),
                news::WRITABLE => Event::TcpWritable(id),
                news::FINISHED => Event::TcpFinished(id),
                news::CLOSED => {
                    if !flow.must_linger() && flow.reply == Reply::None {
                        self.remove(index);
                    }
                    Event::TcpClosed(id)
                }
                _ => {
                    let cause = flow.cause;
                    self.remove(index);
                    Event::TcpReset { flow: id, cause }
                }
            });
        }
    }

    pub(crate) fn accept(&mut self, now: Time, id: FlowId) {
        if let Some(flow) = self.flow_mut(id).filter(|flow| flow.state == State::Asked) {
            flow.state = State::Accepted;
            flow.is_opening_due = true;
            flow.heard_at = now;
            self.settle(now, id.index);
        }
    }

    /// Takes a connection out that the guest asks for; returns it, to be told why.
    pub(crate) fn refuse(&mut self, id: FlowId) -> Option<Refused> {
        let flow = self.flow(id).filter(|flow| flow.state == State::Asked)?;
        let refused = Refused {
            ends: Ends {
                guest: flow.guest,
                peer: flow.peer,
            },
            mac: flow.mac?,
            sequence: flow.receive.sequence().wrapping_sub(1),
        };
        self.remove(id.index);
        Some(refused)
    }

    pub(crate) fn connect(&mut self, now: Time, ends: Ends) -> Result<FlowId, crate::ConnectError> {
        if self.by_ends.contains_key(&ends) {
            return Err(crate::ConnectError::InUse);
        }
        let ring = self.first_ring().ok_or(crate::ConnectError::TooMany)?;
        let start = self.first_number(now, &ends);
        let mut flow = Flow::new(ends.guest, ends.peer, now, start, ring);
        flow.receive.scale = self.scale;
        flow.send.arm(now);
        let index = self
            .insert(ends, flow)
            .ok_or(crate::ConnectError::TooMany)?;
        self.settle(now, index);
        Ok(self.id(index))
    }

    pub(crate) fn readable(&self, id: FlowId) -> [&[u8]; 2] {
        self.flow(id)
            .map_or([&[], &[]], |flow| flow.receive.ring.slices(0, usize::MAX))
    }

    pub(crate) fn consume(&mut self, now: Time, id: FlowId, bytes: usize) {
        let Some(flow) = self.flow_mut(id) else {
            return;
        };
        if flow.receive.consume(bytes, flow.send.segment) {
            flow.reply = Reply::Now;
        }
        self.settle(now, id.index);
    }

    pub(crate) fn is_finished(&self, id: FlowId) -> bool {
        self.flow(id)
            .is_some_and(|flow| flow.receive.is_finished && flow.receive.ring.is_empty())
    }

    pub(crate) fn room(&mut self, id: FlowId) -> [&mut [u8]; 2] {
        let may_hold = {
            let Some(flow) = self.flow(id) else {
                return [&mut [], &mut []];
            };
            if matches!(flow.state, State::Lingering | State::Asked) {
                return [&mut [], &mut []];
            }
            flow.send.ring.memory() > 0
                || self.memory + flow.send.ring.size() <= self.limits.memory_bytes_max
        };
        if !may_hold && let Some(flow) = self.flow_mut(id) {
            // The least that keeps it going, beyond the bound if need be.
            flow.send.ring.shrink(RING_TINY);
        }
        if let Some(flow) = self.flow_mut(id) {
            let _ = flow.send.room();
        }
        self.count_memory(id.index);
        self.flow_mut(id)
            .map_or([&mut [], &mut []], |flow| flow.send.room())
    }

    pub(crate) fn produce(&mut self, id: FlowId, bytes: usize) {
        let Some(flow) = self.flow_mut(id) else {
            return;
        };
        flow.send.produce(bytes);
        if flow.state == State::Open && flow.send.may_send() {
            self.queue_output(id.index);
        }
    }

    pub(crate) fn finish(&mut self, now: Time, id: FlowId) {
        let Some(flow) = self.flow_mut(id) else {
            return;
        };
        if !matches!(flow.state, State::Lingering | State::Asked) {
            flow.send.is_ended = true;
            self.queue_output(id.index);
            self.settle(now, id.index);
        }
    }

    /// Takes a connection out; returns what a reset must say, if the guest knows of it.
    pub(crate) fn abort(&mut self, id: FlowId) -> Option<Aborted> {
        let flow = self.flow(id)?;
        if flow.state == State::Lingering && flow.news == 0 {
            return None;
        }
        let is_known = matches!(flow.state, State::Accepted | State::Asking | State::Open);
        let aborted = Aborted {
            ends: Ends {
                guest: flow.guest,
                peer: flow.peer,
            },
            mac: flow.mac,
            sequence: flow.send.number(flow.send.next),
            acknowledged: (flow.state != State::Asking).then(|| flow.receive.sequence()),
        };
        self.remove(id.index);
        is_known.then_some(aborted)
    }

    /// How much memory is promised or held.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// How many connections there are, in all states.
    pub(crate) fn len(&self) -> usize {
        self.by_ends.len()
    }
}

/// A connection that was turned down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) ends: Ends,
    pub(crate) mac: [u8; 6],
    /// The number of the guest's SYN.
    pub(crate) sequence: u32,
}

/// A connection that was broken off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aborted {
    pub(crate) ends: Ends,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: Option<u32>,
}
