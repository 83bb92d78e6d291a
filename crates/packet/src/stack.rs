// SPDX-License-Identifier: Apache-2.0
//! The other end of a guest's network segment: [`Stack`].

mod dhcp;
mod input;
mod output;

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::event::{Datagram, Echo, Event, FlowId, Output, Refusal, Sent, Sink, Unreachable};
use crate::frame::Outbox;
use crate::keyed::Key;
use crate::neighbours::Neighbours;
use crate::reassembly::Reassembly;
use crate::tcp::{Ends, Tcp, Wire};
use crate::time::Time;
use crate::wire::VirtioHeader;
use crate::wire::tcp as wire_tcp;

/// The other end of a guest's network segment. See the [crate] for the loop around it.
///
/// A [`FlowId`] whose connection is over is harmless everywhere: there is nothing to read, no room, nothing happens.
#[derive(Debug)]
pub struct Stack {
    config: Config,
    wire: Wire,
    /// The latest time that it was told.
    now: Time,
    tcp: Tcp,
    neighbours: Neighbours,
    outbox: Outbox,
    reassembly: Reassembly,
    leases: dhcp::Leases,
    /// Datagrams that wait for a guest's hardware address.
    waiting: output::Waiting,
    /// Number of the next packet that goes in parts.
    identification: u32,
    advertise_at: Time,
}

/// How much a stack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// TCP connections in all states.
    pub flows: usize,
    /// Bytes of windows promised and of rings held.
    pub memory_bytes: usize,
}

/// Why [`Stack::connect`] could not even begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The same two ends have a connection.
    #[error("a connection between the two ends exists")]
    InUse,
    /// The bound on connections is reached.
    #[error("too many connections")]
    TooMany,
    /// The ends are of different versions of IP, or of one that this stack does not speak.
    #[error("no network of that version")]
    NoNetwork,
}

impl Stack {
    /// Makes a stack without connections.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn new(config: Config) -> Result<Stack, ConfigError> {
        check(&config)?;
        let key = Key::new(config.secret);
        Ok(Stack {
            wire: Wire {
                mac: config.mac,
                offload: config.offload,
            },
            now: Time::ZERO,
            tcp: Tcp::new(&config, key),
            neighbours: Neighbours::new(key),
            outbox: Outbox::default(),
            reassembly: Reassembly::new(
                key,
                config.limits.reassembly_datagrams_max,
                config.limits.reassembly_bytes_max,
            ),
            leases: dhcp::Leases::new(&config),
            waiting: output::Waiting::default(),
            identification: 1,
            advertise_at: Time::NEVER,
            config,
        })
    }

    /// Returns what it was told at its start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    // Frames.

    /// Takes a frame from a guest: up to 64 KiB with what the virtio header says, any garbage included.
    ///
    /// Content goes to the sink at once or into the ring of its connection; events are queued; answers are made by the
    /// next [`transmit`](Stack::transmit). Call it for all frames that wait (up to some number), then `transmit` once.
    pub fn receive(&mut self, now: Time, header: &VirtioHeader, frame: &[u8], sink: &mut dyn Sink) {
        self.now = self.now.max(now);
        self.receive_frame(header, frame, sink);
    }

    /// Gives out the frames that are due, until there are none or the device is full.
    ///
    /// Returns [`Sent::Full`] if the device refused one: call again when it takes frames again.
    pub fn transmit(&mut self, now: Time, output: &mut Output<'_>) -> Sent {
        self.now = self.now.max(now);
        if self.flush_waiting(output) == Sent::Full || self.outbox.flush(output) == Sent::Full {
            return Sent::Full;
        }
        let (neighbours, outbox, config) = (&mut self.neighbours, &mut self.outbox, &self.config);
        let mut find = |address: IpAddr| {
            let found = neighbours.find(address);
            if found.is_none() && neighbours.should_ask(now, address) {
                output::ask(config, address, outbox);
            }
            found
        };
        if self.tcp.transmit(now, &self.wire, &mut find, output) == Sent::Full {
            return Sent::Full;
        }
        self.outbox.flush(output)
    }

    /// Returns when [`advance`](Stack::advance) is to be called at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        let others = [self.reassembly.next_timeout(), self.waiting.next_timeout()];
        let advertise = (self.advertise_at != Time::NEVER).then_some(self.advertise_at);
        let all = others
            .into_iter()
            .flatten()
            .chain(self.tcp.next_timeout())
            .chain(advertise);
        all.min()
    }

    /// Does what is due by now: repetitions, probes, ends. Follow it with [`transmit`](Stack::transmit).
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.tcp.advance(now);
        self.reassembly.advance(now);
        self.waiting.advance(now);
        if self.advertise_at <= now {
            self.advertise(crate::wire::ndp::ALL_NODES);
        }
    }

    /// Returns the next thing that happened, in order for each connection.
    ///
    /// The queue holds a connection once, however much happened to it: it cannot grow beyond the number of connections.
    pub fn next_event(&mut self) -> Option<Event> {
        self.tcp.next_event()
    }

    // TCP.

    /// Lets a guest's connection open, once the other side is connected.
    pub fn accept(&mut self, now: Time, flow: FlowId) {
        self.now = self.now.max(now);
        self.tcp.accept(now, flow);
    }

    /// Turns a guest's connection down. The name is void; no event follows.
    pub fn refuse(&mut self, flow: FlowId, refusal: Refusal) {
        let Some(refused) = self.tcp.refuse(flow) else {
            return;
        };
        match refusal {
            Refusal::Silent => {}
            Refusal::Reset => {
                let header = wire_tcp::Header {
                    from: refused.ends.peer.port(),
                    to: refused.ends.guest.port(),
                    acknowledged: refused.sequence.wrapping_add(1),
                    flags: wire_tcp::RST | wire_tcp::ACK,
                    ..wire_tcp::Header::default()
                };
                self.tcp_control(refused.ends, refused.mac, &header);
            }
            Refusal::Unreachable(why) => {
                let mut quoted = [0; 20];
                quoted[0..2].copy_from_slice(&refused.ends.guest.port().to_be_bytes());
                quoted[2..4].copy_from_slice(&refused.ends.peer.port().to_be_bytes());
                quoted[4..8].copy_from_slice(&refused.sequence.to_be_bytes());
                quoted[12..14].copy_from_slice(&[0x50, wire_tcp::SYN]);
                let Ends { guest, peer } = refused.ends;
                self.send_unreachable(guest.ip(), peer.ip(), wire_tcp::PROTOCOL, &quoted, why);
            }
        }
    }

    /// Opens a connection to a guest, from an address that the guest sees as its peer.
    ///
    /// `TcpConnected` or `TcpReset` follows. Bytes may be put into [`room`](Stack::room) before.
    ///
    /// # Errors
    /// It could not even begin; nothing follows.
    pub fn connect(
        &mut self,
        now: Time,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<FlowId, ConnectError> {
        self.now = self.now.max(now);
        let is_spoken = match (from, to) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => self.config.v4.is_some(),
            (SocketAddr::V6(_), SocketAddr::V6(_)) => self.config.v6.is_some(),
            _ => false,
        };
        if !is_spoken {
            return Err(ConnectError::NoNetwork);
        }
        self.tcp.connect(
            now,
            Ends {
                guest: plain(to),
                peer: plain(from),
            },
        )
    }

    /// Returns what has come from the guest and was not consumed, in order: for one `writev`.
    pub fn readable(&self, flow: FlowId) -> [&[u8]; 2] {
        self.tcp.readable(flow)
    }

    /// Forgets the first bytes of what is readable; the guest is told of the room.
    pub fn consume(&mut self, flow: FlowId, bytes: usize) {
        self.tcp.consume(self.now, flow, bytes);
    }

    /// Tells whether the guest has ended its direction and everything was consumed: time to shut the socket down for writing.
    pub fn is_finished(&self, flow: FlowId) -> bool {
        self.tcp.is_finished(flow)
    }

    /// Returns the room for bytes to the guest: for one `readv`. Empty when the ring is full; `TcpWritable` follows then.
    pub fn room(&mut self, flow: FlowId) -> [&mut [u8]; 2] {
        self.tcp.room(flow)
    }

    /// Says that this many bytes were put into [`room`](Stack::room); they go out by the next [`transmit`](Stack::transmit).
    pub fn produce(&mut self, flow: FlowId, bytes: usize) {
        self.tcp.produce(flow, bytes);
    }

    /// Ends our direction behind what was produced.
    pub fn finish(&mut self, flow: FlowId) {
        self.tcp.finish(self.now, flow);
    }

    /// Breaks a connection off: a reset to the guest. The name is void; no event follows.
    pub fn abort(&mut self, flow: FlowId) {
        let Some(aborted) = self.tcp.abort(flow) else {
            return;
        };
        let Some(mac) = aborted.mac else { return };
        let header = wire_tcp::Header {
            from: aborted.ends.peer.port(),
            to: aborted.ends.guest.port(),
            sequence: aborted.sequence,
            acknowledged: aborted.acknowledged.unwrap_or(0),
            flags: wire_tcp::RST
                | if aborted.acknowledged.is_some() {
                    wire_tcp::ACK
                } else {
                    0
                },
            ..wire_tcp::Header::default()
        };
        self.tcp_control(aborted.ends, mac, &header);
    }

    // Datagrams and messages.

    /// Sends a datagram to a guest, or several in a row of `segment_bytes` each (the last one perhaps shorter).
    ///
    /// Goes out at once, without a copy: whole where the device cuts, else cut here; beyond the MTU as fragments. Dropped
    /// as UDP may be: if the device is full, or while the hardware address of the guest is not known (it is asked for;
    /// a few datagrams wait).
    pub fn udp_send(&mut self, now: Time, datagram: Datagram<'_>, output: &mut Output<'_>) -> Sent {
        self.now = self.now.max(now);
        self.send_datagram(&datagram, output)
    }

    /// Sends an echo reply to a guest: `from` is whom the guest asked.
    pub fn echo_reply(&mut self, now: Time, reply: Echo<'_>) {
        self.now = self.now.max(now);
        self.send_echo(&reply);
    }

    /// Tells a guest that a datagram which it sent from `from` to `to` could not be delivered.
    pub fn udp_unreachable(
        &mut self,
        now: Time,
        from: SocketAddr,
        to: SocketAddr,
        why: Unreachable,
    ) {
        self.now = self.now.max(now);
        let quoted = crate::wire::udp::header(from.port(), to.port(), 8, 0);
        self.send_unreachable(from.ip(), to.ip(), crate::wire::udp::PROTOCOL, &quoted, why);
    }

    /// Tells a guest that an echo request could not be delivered.
    pub fn echo_unreachable(&mut self, now: Time, request: Echo<'_>, why: Unreachable) {
        self.now = self.now.max(now);
        self.send_echo_unreachable(&request, why);
    }

    /// Returns the hardware address last seen behind an address of a guest.
    pub fn neighbour(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.neighbours.find(address)
    }

    /// Returns how much it holds.
    pub fn usage(&self) -> Usage {
        Usage {
            flows: self.tcp.len(),
            memory_bytes: self.tcp.memory(),
        }
    }
}

/// Drops what names an interface or a label: they are no part of who an end is.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let from = if config.v6.is_some() { 1280 } else { 576 };
    if config.mtu < from {
        return Err(ConfigError::Mtu {
            mtu: config.mtu,
            from,
        });
    }
    let offload = config.offload;
    if (offload.tso4 || offload.tso6 || offload.uso) && !offload.checksum {
        return Err(ConfigError::OffloadWithoutChecksum);
    }
    if let Some(v4) = &config.v4 {
        if !(1..=30).contains(&v4.prefix) {
            return Err(ConfigError::Prefix {
                prefix: v4.prefix,
                from: 1,
                to: 30,
            });
        }
        let leases = v4.dhcp.into_iter().flat_map(|(first, last)| [first, last]);
        for address in [v4.gateway, v4.guest]
            .into_iter()
            .chain(v4.dns)
            .chain(leases)
        {
            if !v4.contains(address) {
                return Err(ConfigError::OutsideNetwork {
                    address: address.into(),
                });
            }
        }
    }
    if let Some(v6) = &config.v6 {
        if !(1..=127).contains(&v6.prefix) {
            return Err(ConfigError::Prefix {
                prefix: v6.prefix,
                from: 1,
                to: 127,
            });
        }
        for address in [v6.gateway, v6.guest].into_iter().chain(v6.dns) {
            if !v6.contains(address) {
                return Err(ConfigError::OutsideNetwork {
                    address: address.into(),
                });
            }
        }
    }
    Ok(())
}
