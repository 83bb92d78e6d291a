// SPDX-License-Identifier: Apache-2.0
//! A simulated wire between a stack and a guest that is smoltcp, an independent TCP: seeded, in virtual time.
//!
//! Nothing here reads a clock or draws a number from outside: the same seed is the same run. Frames are lost, doubled and
//! delayed (a delay of one and not of the next is what reorders them) in both directions alike.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config as GuestConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};
use wolffia_packet::{
    Config, Datagram, Echo, Event, FlowId, Limits, Network4, Network6, Offload, Sent, Sink, Stack,
    Time, VirtioHeader,
};

use super::segmentation;

const OUR_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 100];
/// Virtual time after which a run has failed.
const PATIENCE: u64 = 1_200_000_000_000;
/// Turns after which a run has failed: it goes round in circles.
const STEPS_MAX: u64 = 2_000_000;

/// Numbers that look random (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound.max(1)
    }

    pub(crate) fn happens(&mut self, in_ten_thousand: u64) -> bool {
        self.below(10_000) < in_ten_thousand
    }
}

/// What is wrong with the wire; chances are in 1/10,000.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) doubling: u64,
    pub(crate) delay: u64,
    /// The most that a delayed frame is late, in nanoseconds.
    pub(crate) late_max: u64,
}

/// Who opens, how much goes where, and through what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) is_v6: bool,
    /// The host opens the connection instead of the guest.
    pub(crate) is_active: bool,
    pub(crate) mtu: u16,
    pub(crate) offload: Offload,
    pub(crate) faults: Faults,
    /// One way, in nanoseconds.
    pub(crate) latency: u64,
    /// Bytes per second of the wire, 0 for no bound.
    pub(crate) rate: u64,
    pub(crate) up: usize,
    pub(crate) down: usize,
    pub(crate) guest_buffer: usize,
    pub(crate) ring_first: usize,
    pub(crate) ring_max: usize,
    /// In 1/10,000: the host side or the guest's program does nothing in this turn.
    pub(crate) laziness: u64,
}

impl Plan {
    pub(crate) fn quiet(seed: u64) -> Plan {
        Plan {
            seed,
            is_v6: false,
            is_active: false,
            mtu: 1500,
            offload: Offload::NONE,
            faults: Faults::default(),
            latency: 20_000,
            rate: 0,
            up: 100_000,
            down: 100_000,
            guest_buffer: 65_536,
            ring_first: 64 << 10,
            ring_max: 1 << 20,
            laziness: 0,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "shown when a run is looked at by hand")]
pub(crate) struct Result {
    /// Virtual time from the first frame to the last byte, in nanoseconds.
    pub(crate) nanos: u64,
    pub(crate) frames: u64,
}

struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Incoming(frame), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// The byte at a place of a stream.
fn content(seed: u64, place: usize) -> u8 {
    let word = (place as u64 / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> (place % 8 * 8)) as u8
}

/// Where the stack's content goes in the simulation: compared at once.
struct Reader {
    seed: u64,
    place: usize,
    random: Random,
    laziness: u64,
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(
                *byte,
                content(self.seed, self.place),
                "seed {}: byte {} of up",
                self.seed,
                self.place
            );
            self.place += 1;
        }
    }
}

impl Sink for Reader {
    fn tcp(&mut self, _: FlowId, payload: &[u8]) -> usize {
        let taken = match self.random.below(3) {
            0 => 0,
            1 if self.laziness > 0 => self.random.below(payload.len() as u64 + 1) as usize,
            _ => payload.len(),
        };
        self.take(&payload[..taken]);
        taken
    }

    fn udp(&mut self, _: Datagram<'_>) {}

    fn echo(&mut self, _: Echo<'_>) {}
}

/// A frame on its way: when it arrives, a running number, whether it goes to the guest, the frame.
type Flying = Reverse<(u64, u64, bool, Vec<u8>)>;

/// One run of a plan.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
pub(crate) struct World {
    plan: Plan,
    now: u64,
    random: Random,
    flying: BinaryHeap<Flying>,
    number: u64,
    /// When the wire is free again, each way.
    busy_until: [u64; 2],
    frames: u64,
    steps: u64,
    pub(crate) stack: Stack,
    wire: Wire,
    guest: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    reader: Reader,
    flow: Option<FlowId>,
    produced: usize,
    has_finished: bool,
    sent_up: usize,
    seen_down: usize,
    has_closed: bool,
    is_closed: bool,
    saw_finish: bool,
}

impl World {
    pub(crate) fn new(plan: Plan) -> World {
        let limits = Limits {
            ring_bytes_first: plan.ring_first,
            ring_bytes_max: plan.ring_max,
            ..Limits::default()
        };
        let config = Config {
            mtu: plan.mtu,
            mac: OUR_MAC,
            v4: Some(Network4::new([10, 0, 2, 0].into(), 24).unwrap()),
            v6: Some(Network6::new("fd00::".parse().unwrap(), 64).unwrap()),
            offload: plan.offload,
            limits,
            secret: [plan.seed as u8; 16],
        };
        let mut wire = Wire {
            incoming: VecDeque::new(),
            outgoing: Vec::new(),
            mtu: plan.mtu.into(),
        };
        let mut guest_config = GuestConfig::new(EthernetAddress(GUEST_MAC).into());
        guest_config.random_seed = plan.seed;
        let mut guest = Interface::new(guest_config, &mut wire, Instant::ZERO);
        let stack = Stack::new(config.clone()).unwrap();
        let (v4, v6) = (config.v4.unwrap(), config.v6.unwrap());
        guest.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(v4.guest.into(), 24)).unwrap();
            addresses.push(IpCidr::new(v6.guest.into(), 64)).unwrap();
        });
        guest
            .routes_mut()
            .add_default_ipv4_route(v4.gateway)
            .unwrap();
        guest
            .routes_mut()
            .add_default_ipv6_route(v6.gateway)
            .unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || tcp::SocketBuffer::new(vec![0; plan.guest_buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let socket = sockets.add(socket);
        let random = Random::new(plan.seed);
        let reader = Reader {
            seed: plan.seed,
            place: 0,
            random: Random::new(plan.seed ^ 0x4d),
            laziness: plan.laziness,
        };
        World {
            plan,
            now: 0,
            random,
            flying: BinaryHeap::new(),
            number: 0,
            busy_until: [0; 2],
            frames: 0,
            steps: 0,
            stack,
            wire,
            guest,
            sockets,
            socket,
            reader,
            flow: None,
            produced: 0,
            has_finished: false,
            sent_up: 0,
            seen_down: 0,
            has_closed: false,
            is_closed: false,
            saw_finish: false,
        }
    }

    fn time(&self) -> Time {
        Time::from_nanos(self.now)
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        let (guest, peer): (IpAddr, IpAddr) = if self.plan.is_v6 {
            ("fd00::100".parse().unwrap(), "2001:db8::7".parse().unwrap())
        } else {
            ([10, 0, 2, 100].into(), [192, 0, 2, 7].into())
        };
        (SocketAddr::new(guest, 4000), SocketAddr::new(peer, 80))
    }

    fn open(&mut self) {
        let (guest, peer) = self.ends();
        let now = self.time();
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        if self.plan.is_active {
            socket.listen(guest.port()).unwrap();
            let gateway: IpAddr = if self.plan.is_v6 {
                "fd00::2".parse().unwrap()
            } else {
                [10, 0, 2, 2].into()
            };
            let from = SocketAddr::new(gateway, 50_000);
            self.flow = Some(self.stack.connect(now, from, guest).unwrap());
        } else {
            socket
                .connect(self.guest.context(), peer, guest.port())
                .unwrap();
        }
    }

    fn fly(&mut self, to_guest: bool, frame: &[u8]) {
        self.frames += 1;
        let faults = self.plan.faults;
        let copies = if self.random.happens(faults.loss) {
            0
        } else if self.random.happens(faults.doubling) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let start = self.now.max(self.busy_until[usize::from(to_guest)]);
            let takes = (frame.len() as u64 * 1_000_000_000)
                .checked_div(self.plan.rate)
                .unwrap_or(0);
            self.busy_until[usize::from(to_guest)] = start + takes;
            let mut at = start + takes + self.plan.latency;
            if self.random.happens(faults.delay) {
                at += self.random.below(faults.late_max);
            }
            self.number += 1;
            self.flying
                .push(Reverse((at, self.number, to_guest, frame.to_vec())));
        }
    }

    /// Runs until both streams have ended on both sides, comparing each byte.
    pub(crate) fn run(&mut self) -> Result {
        self.open();
        while !self.step() {}
        assert!(
            self.saw_finish,
            "seed {}: the end of up was never told",
            self.plan.seed
        );
        Result {
            nanos: self.now,
            frames: self.frames,
        }
    }

    /// Does everything that is due at one instant; returns whether all is over.
    fn step(&mut self) -> bool {
        let plan = self.plan;
        self.steps += 1;
        assert!(
            self.now < PATIENCE && self.steps < STEPS_MAX,
            "seed {}: stuck at {} ns, step {}, next {:?} {:?}: up {}/{} sent {}, down {}/{} produced {}, {:?}\n{plan:?}",
            plan.seed,
            self.now,
            self.steps,
            self.stack.next_timeout(),
            self.guest.poll_at(
                Instant::from_micros((self.now / 1000) as i64),
                &self.sockets
            ),
            self.reader.place,
            plan.up,
            self.sent_up,
            self.seen_down,
            plan.down,
            self.produced,
            self.sockets.get::<tcp::Socket>(self.socket).state(),
        );
        while let Some(Reverse((at, ..))) = self.flying.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, to_guest, frame))) = self.flying.pop() else {
                break;
            };
            if to_guest {
                self.wire.incoming.push_back(frame);
            } else {
                self.stack.receive(
                    self.time(),
                    &VirtioHeader::default(),
                    &frame,
                    &mut self.reader,
                );
            }
        }
        self.guest.poll(
            Instant::from_micros((self.now / 1000) as i64),
            &mut self.wire,
            &mut self.sockets,
        );
        if !self.random.happens(plan.laziness) {
            self.guest_acts();
        }
        self.guest.poll(
            Instant::from_micros((self.now / 1000) as i64),
            &mut self.wire,
            &mut self.sockets,
        );
        for frame in std::mem::take(&mut self.wire.outgoing) {
            self.fly(false, &frame);
        }
        self.stack.advance(self.time());
        self.host_acts();
        let mut frames = Vec::new();
        let is_full_now = plan.laziness > 0 && self.random.happens(plan.laziness / 4);
        self.stack.transmit(self.time(), &mut |header, slices| {
            if is_full_now && frames.len() > 2 {
                return Sent::Full;
            }
            frames.extend(segmentation::cut(header, &slices.concat()));
            Sent::Taken
        });
        for frame in frames {
            assert!(
                frame.len() <= usize::from(plan.mtu) + 14,
                "a frame of {} bytes",
                frame.len()
            );
            self.fly(true, &frame);
        }
        let is_over = self.is_closed
            && self.seen_down == plan.down
            && !matches!(
                self.sockets.get::<tcp::Socket>(self.socket).state(),
                tcp::State::Established
                    | tcp::State::CloseWait
                    | tcp::State::FinWait1
                    | tcp::State::FinWait2
            );
        self.next_instant();
        is_over
    }

    fn next_instant(&mut self) {
        let polled = self.guest.poll_at(
            Instant::from_micros((self.now / 1000) as i64),
            &self.sockets,
        );
        let guest = polled.map(|at| at.total_micros() as u64 * 1000);
        let wire = self.flying.peek().map(|Reverse((at, ..))| *at);
        let stack = self.stack.next_timeout().map(Time::as_nanos);
        let earliest = [guest, wire, stack]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX);
        // A lazy program wakes up again; nobody is woken more than once a microsecond.
        let lazy = if self.plan.laziness > 0 {
            self.now + 2_000_000
        } else {
            self.now + 500_000_000
        };
        self.now = earliest.min(lazy).max(self.now + 1000);
    }

    fn guest_acts(&mut self) {
        let plan = self.plan;
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        while socket.can_recv() {
            let seen = &mut self.seen_down;
            socket
                .recv(|bytes| {
                    for byte in &*bytes {
                        assert_eq!(
                            *byte,
                            content(plan.seed, *seen),
                            "seed {}: byte {seen} of down",
                            plan.seed
                        );
                        *seen += 1;
                    }
                    (bytes.len(), ())
                })
                .unwrap();
        }
        while socket.can_send() && self.sent_up < plan.up {
            let sent_up = &mut self.sent_up;
            socket
                .send(|room| {
                    let length = room.len().min(plan.up - *sent_up);
                    for byte in &mut room[..length] {
                        *byte = content(plan.seed, *sent_up);
                        *sent_up += 1;
                    }
                    (length, ())
                })
                .unwrap();
        }
        if self.sent_up == plan.up && socket.may_send() && !self.has_closed {
            socket.close();
            self.has_closed = true;
        }
    }

    fn host_acts(&mut self) {
        let (plan, now) = (self.plan, self.time());
        while let Some(event) = self.stack.next_event() {
            match event {
                Event::TcpConnect { flow, from, to } => {
                    assert_eq!((from, to), self.ends());
                    self.stack.accept(now, flow);
                    self.flow = Some(flow);
                }
                Event::TcpFinished(_) => self.saw_finish = true,
                Event::TcpClosed(_) => self.is_closed = true,
                Event::TcpReset { cause, .. } => {
                    panic!("seed {}: reset: {cause:?} {plan:?}", plan.seed)
                }
                Event::TcpConnected(_) | Event::TcpReadable(_) | Event::TcpWritable(_) => {}
            }
        }
        let Some(flow) = self.flow else { return };
        if self.random.happens(plan.laziness) || self.is_closed {
            return;
        }
        let [front, back] = self.stack.readable(flow);
        let both = [front, back].concat();
        let taken = if plan.laziness > 0 {
            self.random.below(both.len() as u64 + 1) as usize
        } else {
            both.len()
        };
        self.reader.take(&both[..taken]);
        self.stack.consume(flow, taken);
        let mut put = 0;
        if self.produced < plan.down {
            for slice in self.stack.room(flow) {
                for byte in slice {
                    if self.produced + put < plan.down {
                        *byte = content(plan.seed, self.produced + put);
                        put += 1;
                    }
                }
            }
        }
        if put > 0 {
            self.stack.produce(flow, put);
            self.produced += put;
        }
        if self.produced == plan.down && !self.has_finished {
            self.stack.finish(flow);
            self.has_finished = true;
        }
        if self.stack.is_finished(flow) {
            assert_eq!(
                self.reader.place, plan.up,
                "seed {}: the end came early",
                plan.seed
            );
        }
    }
}
