// SPDX-License-Identifier: Apache-2.0
//! A guest's TCP connections, each joined to a socket of the host.
//!
//! # Theory of operation
//! A socket is registered once, edge-triggered, for everything; what the edges said is kept as two flags, and a connection with something to do
//! stands in a queue once. Each turn of the loop serves the queue: from the socket into the ring (`pull`, up to [`TURN_BYTES`] so that
//! nobody waits long), from the ring to the socket (`push`). Large pieces go from the frame straight to the socket
//! ([`Streams::direct`]) without a ring in between.
//!
//! A short read has emptied the socket, so the next edge will come; only where the other side has ended does one read on, up to the end.
//!
//! An end of one direction is passed on as such, an abort as an abort in both directions (`SO_LINGER` of zero makes close a reset).

use std::{
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, send, shutdown,
        socket_with, sockopt,
    },
};
use wolffia_packet::{FlowId, Refusal, ResetCause, Stack, Time, Unreachable};

use super::{Outbound, token};

/// What one connection moves in one turn, at most, in each direction: large enough to spare system calls, small enough to stay in the cache
/// between the two copies.
const TURN_BYTES: usize = 256 << 10;

/// Pieces smaller than this go through the ring, where those of one turn become one write.
const DIRECT_BYTES_MIN: usize = 8 << 10;

/// The connections, by the index of their names.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    all: Vec<Option<Stream>>,
    queue: Vec<FlowId>,
    /// The queue of the turn before, empty; kept for its memory.
    spare: Vec<FlowId>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known of two directions that change independently"
)]
struct Stream {
    flow: FlowId,
    socket: OwnedFd,
    /// The host's side is connected (or was accepted), and the guest has been told.
    is_open: bool,
    /// There may be something to read.
    can_read: bool,
    /// There may be room to write.
    can_write: bool,
    /// The other side has said that it ends; what is still in the socket comes first.
    is_ending: bool,
    /// The end was read.
    has_ended: bool,
    /// We have passed the guest's end on.
    is_shut: bool,
    is_queued: bool,
    /// It goes to a name server: the resolver is told when it cannot.
    is_question: bool,
}

/// What the caller has to know of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Nothing.
    None,
    /// A name server could not be reached.
    NoNameServer,
}

impl Streams {
    /// Begins to connect a guest's flow to its destination.
    pub(crate) fn open(
        &mut self,
        epoll: &OwnedFd,
        stack: &mut Stack,
        flow: FlowId,
        to: SocketAddr,
        outbound: &Outbound,
        is_question: bool,
    ) -> Attempt {
        let socket = match begin(to, outbound) {
            Ok(socket) => socket,
            Err(errno) => {
                stack.refuse(flow, refusal(errno));
                return if is_question {
                    Attempt::NoNameServer
                } else {
                    Attempt::None
                };
            }
        };
        if !self.insert(epoll, flow, socket, false, is_question) {
            stack.refuse(flow, Refusal::Reset);
        }
        Attempt::None
    }

    /// Joins a connection that the host has accepted to a flow that is being opened to a guest.
    pub(crate) fn accepted(&mut self, epoll: &OwnedFd, flow: FlowId, socket: OwnedFd) -> bool {
        self.insert(epoll, flow, socket, true, false)
    }

    fn insert(
        &mut self,
        epoll: &OwnedFd,
        flow: FlowId,
        socket: OwnedFd,
        is_open: bool,
        is_question: bool,
    ) -> bool {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(token::stream(flow.index()));
        if epoll::add(epoll, &socket, data, flags).is_err() {
            return false;
        }
        if self.all.len() <= flow.index() {
            self.all.resize_with(flow.index() + 1, || None);
        }
        self.all[flow.index()] = Some(Stream {
            flow,
            socket,
            is_open,
            can_read: false,
            can_write: false,
            is_ending: false,
            has_ended: false,
            is_shut: false,
            is_queued: false,
            is_question,
        });
        true
    }

    /// Takes what the kernel says about a socket.
    pub(crate) fn ready(
        &mut self,
        now: Time,
        stack: &mut Stack,
        index: usize,
        flags: EventFlags,
    ) -> Attempt {
        let Some(stream) = self.all.get_mut(index).and_then(Option::as_mut) else {
            return Attempt::None;
        };
        let flow = stream.flow;
        let mut attempt = Attempt::None;
        if !stream.is_open {
            if !flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                return Attempt::None;
            }
            let result = sockopt::socket_error(&stream.socket).and_then(|result| result);
            if let Err(errno) = result {
                if stream.is_question {
                    attempt = Attempt::NoNameServer;
                }
                self.all[index] = None;
                stack.refuse(flow, refusal(errno));
                return attempt;
            }
            stream.is_open = true;
            stack.accept(now, flow);
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            stream.is_ending = true;
            stream.can_read = true;
        }
        stream.can_read |= flags.contains(EventFlags::IN);
        stream.can_write |= flags.contains(EventFlags::OUT);
        self.enqueue(flow);
        attempt
    }

    /// Lets a connection be served this turn.
    pub(crate) fn enqueue(&mut self, flow: FlowId) {
        if let Some(stream) = find(&mut self.all, flow)
            && !stream.is_queued
        {
            stream.is_queued = true;
            self.queue.push(flow);
        }
    }

    /// Tells whether somebody waits to be served.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Serves everybody in the queue once.
    pub(crate) fn serve(&mut self, stack: &mut Stack) {
        let mut queue = std::mem::replace(&mut self.queue, std::mem::take(&mut self.spare));
        for flow in queue.drain(..) {
            let Some(stream) = find(&mut self.all, flow) else {
                continue;
            };
            stream.is_queued = false;
            if !stream.is_open {
                continue;
            }
            match serve_one(stream, stack) {
                Ok(true) => self.enqueue(flow),
                Ok(false) => {}
                Err(_) => {
                    stack.abort(flow);
                    self.all[flow.index()] = None;
                }
            }
        }
        self.spare = queue;
    }

    /// Writes a piece straight to its socket, and says how much was taken.
    pub(crate) fn direct(&mut self, flow: FlowId, payload: &[u8]) -> usize {
        if payload.len() < DIRECT_BYTES_MIN {
            return 0;
        }
        let Some(stream) = find(&mut self.all, flow) else {
            return 0;
        };
        if !stream.is_open || !stream.can_write {
            return 0;
        }
        match send(
            &stream.socket,
            payload,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(count) => {
                stream.can_write = count == payload.len();
                count
            }
            Err(Errno::AGAIN) => {
                stream.can_write = false;
                0
            }
            // It is found again, and dealt with, where the ring is written.
            Err(_) => 0,
        }
    }

    /// The flow is over in good order.
    pub(crate) fn closed(&mut self, flow: FlowId) {
        if find(&mut self.all, flow).is_some() {
            self.all[flow.index()] = None;
        }
    }

    /// The flow was broken off by the guest: so is the other side.
    pub(crate) fn reset(&mut self, flow: FlowId, _cause: ResetCause) {
        if let Some(stream) = find(&mut self.all, flow) {
            // Where that cannot be set, an orderly end is the next best.
            let _ = sockopt::set_socket_linger(&stream.socket, Some(Duration::ZERO));
            self.all[flow.index()] = None;
        }
    }
}

fn find(streams: &mut [Option<Stream>], flow: FlowId) -> Option<&mut Stream> {
    let stream = streams.get_mut(flow.index())?.as_mut()?;
    (stream.flow == flow).then_some(stream)
}

/// Serves one connection; says whether there is more to do at once.
fn serve_one(stream: &mut Stream, stack: &mut Stack) -> Result<bool, Errno> {
    push(stream, stack)?;
    pull(stream, stack)
}

/// From the socket into the ring.
fn pull(stream: &mut Stream, stack: &mut Stack) -> Result<bool, Errno> {
    let mut moved = 0;
    while stream.can_read && !stream.has_ended {
        if moved >= TURN_BYTES {
            return Ok(true);
        }
        let [first, second] = stack.room(stream.flow);
        let first_length = first.len().min(TURN_BYTES);
        let second_length = second.len().min(TURN_BYTES - first_length);
        let wanted = first_length + second_length;
        if wanted == 0 {
            return Ok(false);
        }
        let mut pieces = [
            IoSliceMut::new(&mut first[..first_length]),
            IoSliceMut::new(&mut second[..second_length]),
        ];
        match rustix::io::readv(&stream.socket, &mut pieces) {
            Ok(0) => {
                stream.has_ended = true;
                stack.finish(stream.flow);
            }
            Ok(count) => {
                stack.produce(stream.flow, count);
                moved += count;
                stream.can_read = count == wanted || stream.is_ending;
            }
            Err(Errno::AGAIN) => stream.can_read = false,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// From the ring to the socket.
fn push(stream: &mut Stream, stack: &mut Stack) -> Result<(), Errno> {
    while stream.can_write {
        let [first, second] = stack.readable(stream.flow);
        let waiting = first.len() + second.len();
        if waiting == 0 {
            break;
        }
        match rustix::io::writev(&stream.socket, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => {
                stack.consume(stream.flow, count);
                stream.can_write = count == waiting;
            }
            Err(Errno::AGAIN) => stream.can_write = false,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    if !stream.is_shut && stack.is_finished(stream.flow) {
        stream.is_shut = true;
        match shutdown(&stream.socket, rustix::net::Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes a socket that is on its way to its destination.
fn begin(to: SocketAddr, outbound: &Outbound) -> Result<OwnedFd, Errno> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        Some(ipproto::TCP),
    )?;
    if to.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    prepare(&socket)?;
    if let Some(from) = outbound.address(to) {
        bind(&socket, &from)?;
    }
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Sets what every stream has.
pub(crate) fn prepare(socket: &OwnedFd) -> Result<(), Errno> {
    // What the guest has put together stays together, and what it has sent goes: its own Nagle has had its say.
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)
}

/// Returns what a guest is told where the host could not connect.
fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => {
            Refusal::Unreachable(Unreachable::Network)
        }
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NODEV => {
            Refusal::Unreachable(Unreachable::Host)
        }
        Errno::ACCESS | Errno::PERM => Refusal::Unreachable(Unreachable::Prohibited),
        Errno::TIMEDOUT => Refusal::Silent,
        _ => Refusal::Reset,
    }
}
