// SPDX-License-Identifier: Apache-2.0
//! Streams that are joined: what one socket gives goes to the other, through a pipe that holds references to the kernel's own pages.
//!
//! # Theory of operation
//! A stream has two directions. Each moves by `splice(2)`: from the socket into a pipe, from the pipe into the other socket, until one of them would
//! have to wait. A direction has a pipe only while something is in it; pipes that are empty wait in a pool for whoever needs one, so that a thousand
//! silent connections cost their sockets alone. An end of one side is passed on when everything before it is (`shutdown`), so half of a
//! connection may be closed; a reset of one side resets the other. Both sockets are watched edge by edge: whoever is told that something may
//! be done does it until it may not be done any more, or until its turn is over; then it waits in line for the next.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{Shutdown, SocketFlags, acceptfrom_with, shutdown, sockopt},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::{FIRST_STREAM, Listener, inside::Inside};

/// Streams at once: two descriptors each, and an ordinary user's hard limit is often not above 524,288 and seldom below 4,096 of them.
pub(super) const STREAMS_MAX: usize = 16_384;

/// What a pipe holds. An unprivileged user's pipes may hold 64 MiB together, each at most 1 MiB (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;

/// Pipes that are kept for whoever needs one next.
const POOL_MAX: usize = 16;

/// Connections taken from one listener before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Rounds that a direction moves before others have their turn.
const ROUNDS_PER_TURN: usize = 16;

/// All streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Vec<Option<Stream>>,
    free: Vec<usize>,
    pool: Vec<Pipe>,
    /// Those whose turn was over before their work.
    waiting: Vec<usize>,
    was_full: bool,
    /// The process has no descriptor left: wait for one to come back.
    is_short: bool,
}

#[derive(Debug)]
struct Stream {
    client: OwnedFd,
    inner: OwnedFd,
    /// The socket inside is connected.
    is_joined: bool,
    /// Who called, and where: for a second try by the other version of IP.
    from: SocketAddr,
    port: u16,
    is_second_try: bool,
    to_container: Direction,
    to_client: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    pipe: Option<Pipe>,
    held_bytes: usize,
    has_ended: bool,
    is_over: bool,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What came of moving.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    /// Something must happen first.
    Waits,
    /// There is more to do.
    More,
    /// One side is broken.
    Broken,
}

impl Streams {
    /// Tells whether a stream waits for its turn.
    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tells whether no stream can be taken.
    pub(super) fn is_full(&self) -> bool {
        self.is_short || self.all.len() - self.free.len() >= STREAMS_MAX
    }

    /// Tells whether [`Self::is_full`] is another than when it was asked last.
    pub(super) fn changed_fullness(&mut self) -> bool {
        let is_full = self.is_full();
        std::mem::replace(&mut self.was_full, is_full) != is_full
    }

    /// Takes what waits at a listener.
    pub(super) fn accept(
        &mut self,
        listener: &OwnedFd,
        told: Listener,
        inside: &Inside,
        epoll: &OwnedFd,
    ) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.is_full() {
                return;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (client, from) = match acceptfrom_with(listener, flags) {
                Ok((client, Some(from))) => (client, from),
                Ok((_, None)) | Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // Without any stream there is nothing that could come back, and the listener wakes us again.
                    self.is_short = self.all.len() > self.free.len();
                    return;
                }
                Err(_) => return,
            };
            let Ok(from) = SocketAddr::try_from(from) else {
                continue;
            };
            // Whoever is gone for good is found out in hours rather than never.
            let _ = sockopt::set_socket_keepalive(&client, true);
            let _ = sockopt::set_tcp_nodelay(&client, true);
            match begin(inside, from, told.port, false) {
                Ok((inner, is_second_try)) => {
                    let stream = Stream {
                        client,
                        inner,
                        is_joined: false,
                        from,
                        port: told.port,
                        is_second_try,
                        to_container: Direction::default(),
                        to_client: Direction::default(),
                    };
                    self.add(stream, epoll);
                }
                Err(errno) => {
                    tracing::debug!(%errno, "a published port could not be joined");
                    reset(client);
                }
            }
        }
    }

    fn add(&mut self, stream: Stream, epoll: &OwnedFd) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        let watched =
            watch(epoll, &stream.client, at, 0).and_then(|()| watch(epoll, &stream.inner, at, 1));
        self.all[at] = Some(stream);
        if watched.is_err() {
            self.end(at, true);
        }
    }

    /// Does what an event allows.
    pub(super) fn attend(
        &mut self,
        number: u64,
        flags: EventFlags,
        inside: &Inside,
        epoll: &OwnedFd,
    ) {
        let Ok(at) = usize::try_from(number / 2) else {
            return;
        };
        let is_inner = number % 2 == 1;
        let Some(Some(stream)) = self.all.get_mut(at) else {
            return;
        };
        if is_inner && !stream.is_joined {
            match sockopt::socket_error(&stream.inner) {
                Ok(Ok(())) if flags.intersects(EventFlags::OUT) => stream.is_joined = true,
                Ok(Ok(())) => return,
                _ => {
                    self.try_again(at, inside, epoll);
                    return;
                }
            }
        } else if flags.contains(EventFlags::ERR) {
            self.end(at, true);
            return;
        }
        self.advance(at);
    }

    /// Goes on with streams whose turn was over.
    pub(super) fn go_on(&mut self) {
        for at in std::mem::take(&mut self.waiting) {
            self.advance(at);
        }
    }

    /// The container does not listen by this version of IP: tries the other.
    fn try_again(&mut self, at: usize, inside: &Inside, epoll: &OwnedFd) {
        let Some(Some(stream)) = self.all.get_mut(at) else {
            return;
        };
        let second = if stream.is_second_try {
            Err(Errno::CONNREFUSED)
        } else {
            begin(inside, stream.from, stream.port, true)
        };
        match second {
            Ok((inner, _)) if watch(epoll, &inner, at, 1).is_ok() => {
                stream.inner = inner;
                stream.is_second_try = true;
            }
            _ => self.end(at, true),
        }
    }

    fn advance(&mut self, at: usize) {
        let Some(Some(stream)) = self.all.get_mut(at) else {
            return;
        };
        if !stream.is_joined {
            return;
        }
        let Stream {
            client,
            inner,
            to_container,
            to_client,
            ..
        } = stream;
        let one = to_container.advance(client, inner, &mut self.pool);
        let other = to_client.advance(inner, client, &mut self.pool);
        if one == Moved::Broken || other == Moved::Broken {
            self.end(at, true);
        } else if to_container.is_over && to_client.is_over {
            self.end(at, false);
        } else if (one == Moved::More || other == Moved::More) && !self.waiting.contains(&at) {
            self.waiting.push(at);
        }
    }

    /// Lets go of a stream; both sides are reset where it did not end in order.
    fn end(&mut self, at: usize, is_broken: bool) {
        let Some(stream) = self.all.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.free.push(at);
        self.is_short = false;
        for direction in [stream.to_container, stream.to_client] {
            // A pipe that holds something is not given to anybody.
            if let Some(pipe) = direction.pipe.filter(|_| direction.held_bytes == 0) {
                give_back(&mut self.pool, pipe);
            }
        }
        if is_broken {
            reset(stream.client);
            reset(stream.inner);
        }
    }
}

impl Direction {
    /// Moves until somebody must wait, or the turn is over.
    fn advance(&mut self, from: &OwnedFd, to: &OwnedFd, pool: &mut Vec<Pipe>) -> Moved {
        for _ in 0..ROUNDS_PER_TURN {
            if self.is_over {
                return Moved::Waits;
            }
            if self.held_bytes == 0 && !self.has_ended {
                let Some(pipe) = self.pipe.take().or_else(|| take(pool)) else {
                    return Moved::Broken;
                };
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                let came = splice(from, None, &pipe.writer, None, PIPE_BYTES, flags);
                self.pipe = Some(pipe);
                match came {
                    Ok(0) => self.has_ended = true,
                    Ok(count) => self.held_bytes = count,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => {
                        if let Some(pipe) = self.pipe.take() {
                            give_back(pool, pipe);
                        }
                        return Moved::Waits;
                    }
                    Err(_) => return Moved::Broken,
                }
            }
            if let Some(pipe) = &self.pipe
                && self.held_bytes > 0
            {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                match splice(&pipe.reader, None, to, None, self.held_bytes, flags) {
                    Ok(0) => return Moved::Broken,
                    Ok(count) => self.held_bytes -= count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Moved::Waits,
                    Err(_) => return Moved::Broken,
                }
            }
            if self.held_bytes == 0 && self.has_ended {
                if let Some(pipe) = self.pipe.take() {
                    give_back(pool, pipe);
                }
                self.is_over = true;
                // A side that is gone already hears nothing more.
                let _ = shutdown(to, Shutdown::Write);
            }
        }
        Moved::More
    }
}

/// Begins the inner half; `is_second_try` asks for the other version of IP. Returns whether that was used.
fn begin(
    inside: &Inside,
    from: SocketAddr,
    port: u16,
    is_second_try: bool,
) -> Result<(OwnedFd, bool), Errno> {
    let own = from.is_ipv6();
    if !is_second_try
        && let (Some(shown), Some(to)) = (inside.shown(from.ip()), inside.container(own))
    {
        let from = SocketAddr::new(shown, from.port());
        return Inside::begin_stream(from, SocketAddr::new(to, port)).map(|socket| (socket, false));
    }
    let other = |what: Option<IpAddr>| what.ok_or(Errno::CONNREFUSED);
    let (shown, to) = (other(inside.gateway(!own))?, other(inside.container(!own))?);
    Inside::begin_stream(SocketAddr::new(shown, 0), SocketAddr::new(to, port))
        .map(|socket| (socket, true))
}

fn watch(epoll: &OwnedFd, socket: &OwnedFd, at: usize, side: u64) -> Result<(), Errno> {
    let number = FIRST_STREAM + 2 * at as u64 + side;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, socket, EventData::new_u64(number), flags)
}

fn take(pool: &mut Vec<Pipe>) -> Option<Pipe> {
    if let Some(pipe) = pool.pop() {
        return Some(pipe);
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // A user who has used up what pipes may hold gets smaller ones, which work as well.
    let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
    Some(Pipe { reader, writer })
}

fn give_back(pool: &mut Vec<Pipe>, pipe: Pipe) {
    if pool.len() < POOL_MAX {
        pool.push(pipe);
    }
}

/// Closes a connection so that the other side hears of a failure and not of an end.
fn reset(socket: OwnedFd) {
    let _ = sockopt::set_socket_linger(socket.as_fd(), Some(Duration::ZERO));
    drop(socket);
}
