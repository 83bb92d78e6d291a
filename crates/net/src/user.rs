// SPDX-License-Identifier: Apache-2.0
//! User-mode networking: the other end of a namespace's TAP device, joined to ordinary sockets of this process.
//!
//! An ordinary user may make a network namespace and a TAP device in it, and no more: no address of the machine's own can be shared, no packet of it
//! leaves. So a process outside reads the frames, ends each connection itself (room `packet`), and speaks with the world over sockets of its own.
//!
//! # Theory of operation
//! One thread, one `epoll`. A *turn* takes what the kernel has said about sockets; reads up to [`FRAMES_PER_TURN`] frames; opens, refuses and queues
//! connections as the frames have asked; serves each queued connection once in both directions; and gives out the frames that are due: one
//! acknowledgement for each connection, however many frames came. Nobody is asked who has nothing to say, nothing waits for anybody.
//!
//! Frames are up to 64 KiB whatever the MTU, because the device cuts and sums (`sys::tap`). Towards the host bytes are copied once, from the frame to the
//! socket; towards the guest once, from the socket into the ring that they stay in until they are acknowledged.
//!
//! [`open`] forks and needs rights over the namespaces; [`serve`] needs neither, shuts itself into a jail first, and returns when it is told to.
//!
//! | module | is |
//! |---|---|
//! | `attach` | the device, opened in the namespaces of others |
//! | `device` | a TAP, or a socket of frames |
//! | `policy` | where guests may go |
//! | `stream`, `datagram`, `echo` | TCP, UDP, ping as sockets of the host |
//! | `resolver` | who answers names |
//! | `forward`, `control` | ports of the host, and the socket over which they are asked for |

use std::os::fd::AsFd;
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
};
use thiserror::Error;
use wolffia_packet::{
    Config, ConfigError, Datagram, Echo, Event, FlowId, Limits, Refusal, Sent, Sink, Stack, Time,
    Unreachable, VirtioHeader,
};
use wolffia_sys::{
    capabilities::Set,
    jail::{Jail, JailError, Walls, calls},
    netlink::Netlink,
};

pub mod attach;
pub mod device;

mod control;
mod datagram;
mod echo;
mod forward;
mod policy;
mod resolver;
mod stream;

pub use attach::{AttachError, LinkSettings, Place, open};
pub use device::{Device, Packets};

use crate::settings::{Dns, Settings};
use control::Control;
use datagram::{Datagrams, Purpose};
use echo::Echoes;
use forward::Forwards;
use policy::{Policy, Verdict};
use resolver::Resolver;
use stream::{Attempt, Streams};

/// Frames read in one turn: some megabytes where they are large, and time for everybody else where they are small.
const FRAMES_PER_TURN: usize = 64;
/// Events taken in one turn.
const EVENTS_PER_TURN: usize = 128;
/// How often what is quiet is looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// Our hardware address: locally administered, as slirp has it.
const MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
/// Descriptors that are not connections.
const DESCRIPTORS_RESERVED: usize = 4096;

/// What the process is handed beside its settings.
#[derive(Debug, Default)]
pub struct Doors {
    /// Written to and closed when everything is ready.
    pub ready: Option<OwnedFd>,
    /// When anything happens to it, it is time to end.
    pub end: Option<OwnedFd>,
    /// A listening unix socket for control requests.
    pub control: Option<OwnedFd>,
    /// Which capabilities stay.
    pub keep: Set,
    /// Others of the same user may look at the process from outside.
    pub is_visible: bool,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Nobody is at the other end of the wire any more.
    DeviceGone,
}

/// Why there is no network, or not any more.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The settings contradict themselves.
    #[error("laying out the network")]
    Config(#[from] ConfigError),
    /// Something was not to be had at the start.
    #[error("{doing}")]
    Prepare {
        /// What was done.
        doing: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The jail was not entered.
    #[error("shutting itself in")]
    Jail(#[from] JailError),
    /// Events cannot be waited for.
    #[error("waiting for packets")]
    Wait(#[source] Errno),
    /// The device failed.
    #[error("reading from the network device")]
    Device(#[source] Errno),
}

/// Addresses that what goes out comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outbound {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Outbound {
    /// Returns what to bind to before going there.
    pub(crate) fn address(&self, to: SocketAddr) -> Option<SocketAddr> {
        match to {
            SocketAddr::V4(_) => self.v4.map(|from| SocketAddr::new(from.into(), 0)),
            SocketAddr::V6(_) => self.v6.map(|from| SocketAddr::new(from.into(), 0)),
        }
    }
}

/// What the kernel gives back with an event: which kind, and which one of them.
pub(crate) mod token {
    const SHIFT: u32 = 56;
    pub(super) const DEVICE: u64 = 0;
    pub(super) const END: u64 = 1;
    pub(super) const RESOLVER: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const STREAM: u64 = 4;
    pub(super) const DATAGRAM: u64 = 5;
    pub(super) const ECHO: u64 = 6;
    pub(super) const LISTENER: u64 = 7;
    pub(super) const CLIENT: u64 = 8;

    pub(super) fn single(kind: u64) -> u64 {
        kind << SHIFT
    }
    pub(crate) fn stream(index: usize) -> u64 {
        STREAM << SHIFT | index as u64
    }
    pub(crate) fn datagram(index: usize) -> u64 {
        DATAGRAM << SHIFT | index as u64
    }
    pub(crate) fn echo(index: usize) -> u64 {
        ECHO << SHIFT | index as u64
    }
    pub(crate) fn listener(number: u64) -> u64 {
        LISTENER << SHIFT | number
    }
    pub(crate) fn client(index: usize) -> u64 {
        CLIENT << SHIFT | index as u64
    }
    /// Returns the kind and the number.
    pub(super) fn read(token: u64) -> (u64, u64) {
        (token >> SHIFT, token & ((1 << SHIFT) - 1))
    }
}

/// Something that is answered when the stack is free again.
enum Answer {
    Datagram(SocketAddr, SocketAddr, Unreachable),
    Echo {
        from: IpAddr,
        to: IpAddr,
        identifier: u16,
        sequence: u16,
        payload: Vec<u8>,
        reply: Result<(), Unreachable>,
    },
}

/// Answers kept until then; a flood's rest goes unanswered.
const ANSWERS_MAX: usize = 256;

/// The host's side of everything.
struct Host {
    epoll: OwnedFd,
    now: Time,
    policy: Policy,
    routes: Option<Netlink>,
    outbound: Outbound,
    streams: Streams,
    datagrams: Datagrams,
    echoes: Echoes,
    resolver: Resolver,
    answers: VecDeque<Answer>,
}

impl Host {
    fn judge(&mut self, to: SocketAddr) -> Verdict {
        let routes = &mut self.routes;
        self.policy.judge(to, &mut |address| {
            routes
                .as_mut()
                .is_some_and(|routes| routes.is_local(address).unwrap_or(false))
        })
    }

    fn answer(&mut self, answer: Answer) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back(answer);
        }
    }

    fn open(&mut self, stack: &mut Stack, flow: FlowId, to: SocketAddr) {
        let (to, is_question) = match self.judge(to) {
            Verdict::Go(to) => (to, false),
            Verdict::Resolve => match self.resolver.server() {
                Some(server) => (server, true),
                None => return stack.refuse(flow, Refusal::Reset),
            },
            Verdict::Refuse(refusal) => return stack.refuse(flow, refusal),
        };
        let attempt = self
            .streams
            .open(&self.epoll, stack, flow, to, &self.outbound, is_question);
        if attempt == Attempt::NoNameServer {
            self.resolver.failed();
        }
    }

    fn event(&mut self, stack: &mut Stack, event: Event) {
        match event {
            Event::TcpConnect { flow, to, .. } => self.open(stack, flow, to),
            Event::TcpConnected(flow)
            | Event::TcpReadable(flow)
            | Event::TcpWritable(flow)
            | Event::TcpFinished(flow) => self.streams.enqueue(flow),
            Event::TcpClosed(flow) => self.streams.closed(flow),
            Event::TcpReset { flow, cause } => self.streams.reset(flow, cause),
        }
    }

    fn sweep(&mut self) {
        self.datagrams.sweep(self.now);
        self.echoes.sweep(self.now);
    }

    /// Says what could not be said while a frame was being read.
    fn say(&mut self, stack: &mut Stack) {
        while let Some(answer) = self.answers.pop_front() {
            match answer {
                Answer::Datagram(from, to, why) => stack.udp_unreachable(self.now, from, to, why),
                Answer::Echo {
                    from,
                    to,
                    identifier,
                    sequence,
                    payload,
                    reply,
                } => {
                    let echo = |from, to| Echo {
                        from,
                        to,
                        identifier,
                        sequence,
                        payload: &payload,
                        hops: 64,
                    };
                    match reply {
                        Ok(()) => stack.echo_reply(self.now, echo(to, from)),
                        Err(why) => stack.echo_unreachable(self.now, echo(from, to), why),
                    }
                }
            }
        }
    }
}

impl Sink for Host {
    fn tcp(&mut self, flow: FlowId, payload: &[u8]) -> usize {
        self.streams.direct(flow, payload)
    }

    fn udp(&mut self, datagram: Datagram<'_>) {
        let known = self.datagrams.known(datagram.from, datagram.to);
        let verdict = known.map_or_else(|| self.judge(datagram.to), Verdict::Go);
        let (to, purpose) = match verdict {
            Verdict::Go(to) => (to, Purpose::World),
            Verdict::Resolve => {
                if let Some(server) = self.resolver.ask(self.now) {
                    let is_v6 = server.is_ipv6();
                    (server, Purpose::Question { is_v6 })
                } else {
                    let (from, to) = (datagram.from, datagram.to);
                    return self.answer(Answer::Datagram(from, to, Unreachable::Port));
                }
            }
            Verdict::Refuse(refusal) => {
                let why = match refusal {
                    Refusal::Unreachable(why) => why,
                    Refusal::Reset => Unreachable::Port,
                    Refusal::Silent => return,
                };
                return self.answer(Answer::Datagram(datagram.from, datagram.to, why));
            }
        };
        let sent = self.datagrams.send(
            &self.epoll,
            self.now,
            &datagram,
            to,
            purpose,
            &self.outbound,
        );
        if let Err(errno) = sent {
            if matches!(purpose, Purpose::Question { .. }) {
                self.resolver.failed();
            }
            if let Some(why) = datagram::unreachable(errno) {
                self.answer(Answer::Datagram(datagram.from, datagram.to, why));
            }
        }
    }

    fn echo(&mut self, echo: Echo<'_>) {
        let reply = match self.judge(SocketAddr::new(echo.to, 0)) {
            Verdict::Go(to) => match self.echoes.send(&self.epoll, self.now, &echo, to.ip()) {
                Ok(()) => return,
                Err(why) => Err(why),
            },
            // The name server's address is ours.
            Verdict::Resolve | Verdict::Refuse(Refusal::Reset) => Ok(()),
            Verdict::Refuse(Refusal::Unreachable(why)) => Err(why),
            Verdict::Refuse(Refusal::Silent) => return,
        };
        self.answer(Answer::Echo {
            from: echo.from,
            to: echo.to,
            identifier: echo.identifier,
            sequence: echo.sequence,
            payload: echo.payload.to_vec(),
            reply,
        });
    }
}

/// A network that is ready to be served.
#[derive(Debug)]
pub struct Network {
    device: Box<dyn Device>,
    stack: Stack,
    host: Box<Host>,
    forwards: Forwards,
    control: Option<Control>,
    servers: Option<OwnedFd>,
    doors: Doors,
    started: Instant,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Serves a device until it is told to end. Forks before it goes into its jail: the caller has one thread.
pub fn serve(
    settings: &Settings,
    device: Box<dyn Device>,
    doors: Doors,
) -> Result<Ended, ServeError> {
    let mut network = Network::prepare(settings, device, doors)?;
    network.shut_in()?;
    network.run()
}

impl Network {
    /// Makes everything that asks for rights, or for files.
    pub fn prepare(
        settings: &Settings,
        device: Box<dyn Device>,
        mut doors: Doors,
    ) -> Result<Network, ServeError> {
        let step = |doing| move |source| ServeError::Prepare { doing, source };
        let (v4, v6) = (Some(settings.network4()?), settings.network6()?);
        let mut secret = [0; 16];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
            .map_err(step("asking for random bytes"))?;
        let config = Config {
            mtu: settings.mtu,
            mac: MAC,
            v4,
            v6,
            offload: device.offload(),
            limits: limits(),
            secret,
        };
        let stack = Stack::new(config)?;
        let servers = match &settings.dns {
            Dns::Host => Some(resolver::watch().map_err(step("watching resolv.conf"))?),
            _ => None,
        };
        let resolver = Resolver::new(match &settings.dns {
            Dns::Host => resolver::read(),
            Dns::Servers(servers) => servers.clone(),
            Dns::Off => Vec::new(),
        });
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(step("making an epoll"))?;
        let control = doors.control.take().map(|listener| {
            Control::new(listener, v4.map_or(Ipv4Addr::UNSPECIFIED, |v4| v4.guest))
        });
        let watch = |fd: std::os::fd::BorrowedFd<'_>, kind| {
            let data = EventData::new_u64(token::single(kind));
            epoll::add(&epoll, fd, data, EventFlags::IN).map_err(step("watching a descriptor"))
        };
        watch(device.as_fd(), token::DEVICE)?;
        for (fd, kind) in [
            (doors.end.as_ref(), token::END),
            (servers.as_ref(), token::RESOLVER),
            (control.as_ref().map(Control::listener), token::CONTROL),
        ] {
            if let Some(fd) = fd {
                watch(fd.as_fd(), kind)?;
            }
        }
        // Asked only where the answer matters.
        let routes = if settings.policy.host_addresses {
            None
        } else {
            Some(Netlink::open().map_err(step("opening a socket to the routing table"))?)
        };
        let host = Host {
            epoll,
            now: Time::ZERO,
            policy: Policy::new(&settings.policy, &settings.dns, v4, v6),
            routes,
            outbound: Outbound {
                v4: settings.outbound4,
                v6: settings.outbound6,
            },
            streams: Streams::default(),
            datagrams: Datagrams::new(settings.full_cone),
            echoes: Echoes::new(),
            resolver,
            answers: VecDeque::new(),
        };
        Ok(Network {
            device,
            stack,
            host: Box::new(host),
            forwards: Forwards::default(),
            control,
            servers,
            doors,
            started: Instant::now(),
        })
    }

    /// Goes into a jail: no file, no capability but those that the doors named, the calls of sockets alone.
    pub fn shut_in(&mut self) -> Result<Walls, ServeError> {
        let mut jail = Jail::new();
        jail.allow(calls::BASIC)
            .allow(calls::WAITING)
            .allow(calls::MESSAGES)
            .allow(calls::INTERNET)
            .internet()
            .keep(self.doors.keep);
        if self.doors.is_visible {
            jail.visible();
        }
        Ok(jail.enter()?)
    }

    fn now(&self) -> Time {
        let nanos = self.started.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Serves until it is told to end. The ready byte is written first.
    pub fn run(&mut self) -> Result<Ended, ServeError> {
        if let Some(ready) = self.doors.ready.take() {
            // Nobody may be listening; that is theirs to know.
            let _ = rustix::io::write(&ready, b"1");
        }
        let mut frame = vec![0; device::FRAME_BYTES_MAX];
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut next_sweep = Time::ZERO.after(SWEEP);
        let mut is_device_full = false;
        loop {
            let timeout = self.timeout(next_sweep);
            events.clear();
            match epoll::wait(
                &self.host.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ServeError::Wait(errno)),
            }
            self.host.now = self.now();
            let mut has_frames = false;
            for event in &events {
                let (kind, number) = token::read(event.data.u64());
                let flags = event.flags;
                match kind {
                    token::DEVICE => {
                        has_frames =
                            flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP);
                    }
                    token::END => return Ok(Ended::Told),
                    _ => self.heard(kind, number, flags),
                }
            }
            if has_frames && !self.read_frames(&mut frame)? {
                return Ok(Ended::DeviceGone);
            }
            let now = self.host.now;
            self.stack.advance(now);
            self.host.say(&mut self.stack);
            while let Some(event) = self.stack.next_event() {
                self.host.event(&mut self.stack, event);
            }
            self.host.streams.serve(&mut self.stack);
            let device = &mut self.device;
            let sent = self
                .stack
                .transmit(now, &mut |header: &VirtioHeader, pieces: &[&[u8]]| {
                    device.write(header, pieces)
                });
            if (sent == Sent::Full) != is_device_full {
                is_device_full = sent == Sent::Full;
                self.watch_device(is_device_full)?;
            }
            if now >= next_sweep {
                next_sweep = now.after(SWEEP);
                self.host.sweep();
                if let Some(control) = &mut self.control {
                    control.sweep(now);
                }
            }
        }
    }

    fn timeout(&self, next_sweep: Time) -> Timespec {
        let due = self
            .stack
            .next_timeout()
            .map_or(next_sweep, |due| due.min(next_sweep));
        let wait = if self.host.streams.is_busy() {
            Duration::ZERO
        } else {
            due.since(self.now())
        };
        Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    fn watch_device(&self, is_full: bool) -> Result<(), ServeError> {
        let flags = if is_full {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        let data = EventData::new_u64(token::single(token::DEVICE));
        epoll::modify(&self.host.epoll, self.device.as_fd(), data, flags).map_err(ServeError::Wait)
    }

    /// Reads frames, as many as a turn may; tells whether there is still somebody at the other end.
    fn read_frames(&mut self, frame: &mut [u8]) -> Result<bool, ServeError> {
        for _ in 0..FRAMES_PER_TURN {
            match self.device.read(frame) {
                // The device was removed together with its namespace.
                Ok((_, 0)) | Err(Errno::BADFD | Errno::IO | Errno::CONNRESET) => return Ok(false),
                Ok((header, length)) => {
                    let now = self.host.now;
                    self.stack
                        .receive(now, &header, &frame[..length], &mut *self.host);
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ServeError::Device(errno)),
            }
        }
        Ok(true)
    }

    /// Takes what the kernel says about anything but the device.
    fn heard(&mut self, kind: u64, number: u64, flags: EventFlags) {
        let Network { stack, host, .. } = self;
        let now = host.now;
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        match kind {
            token::STREAM
                if host.streams.ready(now, stack, slot, flags) == Attempt::NoNameServer =>
            {
                host.resolver.failed();
            }
            token::DATAGRAM => {
                let mut returned = Vec::new();
                if flags.contains(EventFlags::ERR) {
                    host.datagrams.failed(slot, &mut returned);
                }
                if flags.contains(EventFlags::IN) {
                    let device = &mut self.device;
                    let answers = host.datagrams.receive(
                        now,
                        slot,
                        stack,
                        &host.policy,
                        &mut |header: &VirtioHeader, pieces: &[&[u8]]| device.write(header, pieces),
                        &mut returned,
                    );
                    if answers > 0 {
                        host.resolver.answered();
                    }
                }
                for (from, to, why) in returned {
                    host.answer(Answer::Datagram(from, to, why));
                }
            }
            token::ECHO => host.echoes.ready(now, slot, stack),
            token::LISTENER => self.forwards.ready(
                &host.epoll,
                now,
                number,
                stack,
                &mut host.streams,
                &host.policy,
            ),
            token::RESOLVER => self.renew_servers(),
            token::CONTROL => {
                if let Some(control) = &mut self.control {
                    control.accept(&host.epoll, now);
                }
            }
            token::CLIENT => {
                if let Some(control) = &mut self.control {
                    control.ready(
                        &host.epoll,
                        now,
                        slot,
                        &mut self.forwards,
                        &mut host.datagrams,
                    );
                }
            }
            _ => {}
        }
    }

    fn renew_servers(&mut self) {
        let Some(pipe) = &self.servers else { return };
        match resolver::read_line(pipe) {
            Some(servers) => self.host.resolver.replace(servers),
            None => {
                // The child is gone; the servers that are known stay.
                self.servers = None;
            }
        }
    }
}

/// Returns the bounds of a stack: as many connections as there can be sockets.
fn limits() -> Limits {
    let limits = Limits::default();
    let descriptors = crate::ports::raise_descriptors();
    let flows_max = usize::try_from(descriptors)
        .unwrap_or(usize::MAX)
        .saturating_sub(DESCRIPTORS_RESERVED)
        .clamp(512, limits.flows_max);
    Limits {
        flows_max,
        ..limits
    }
}
