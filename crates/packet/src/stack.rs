// SPDX-License-Identifier: Apache-2.0
//! The other end of a guest's network segment: [`Stack`].

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::event::{Datagram, Echo, Event, FlowId, Output, Refusal, Sent, Sink, Unreachable};
use crate::time::Time;
use crate::wire::VirtioHeader;

/// The other end of a guest's network segment. See the [crate](crate) for the loop around it.
///
/// A [`FlowId`] whose connection is over is harmless everywhere: there is nothing to read, no room, nothing happens.
#[derive(Debug)]
pub struct Stack {
    config: Config,
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
        Ok(Stack { config })
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
        let _ = (now, header, frame, sink);
    }

    /// Gives out the frames that are due, until there are none or the device is full.
    ///
    /// Returns [`Sent::Full`] if the device refused one: call again when it takes frames again.
    pub fn transmit(&mut self, now: Time, output: &mut Output<'_>) -> Sent {
        let _ = (now, output);
        Sent::Taken
    }

    /// Returns when [`advance`](Stack::advance) is to be called at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// Does what is due by now: repetitions, probes, ends. Follow it with [`transmit`](Stack::transmit).
    pub fn advance(&mut self, now: Time) {
        let _ = now;
    }

    /// Returns the next thing that happened, in order for each connection.
    ///
    /// The queue holds a connection once, however much happened to it: it cannot grow beyond the number of connections.
    pub fn next_event(&mut self) -> Option<Event> {
        None
    }

    // TCP.

    /// Lets a guest's connection open, once the other side is connected.
    pub fn accept(&mut self, now: Time, flow: FlowId) {
        let _ = (now, flow);
    }

    /// Turns a guest's connection down. The name is void; no event follows.
    pub fn refuse(&mut self, flow: FlowId, refusal: Refusal) {
        let _ = (flow, refusal);
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
        let _ = (now, from, to);
        Err(ConnectError::NoNetwork)
    }

    /// Returns what has come from the guest and was not consumed, in order: for one `writev`.
    pub fn readable(&self, flow: FlowId) -> [&[u8]; 2] {
        let _ = flow;
        [&[], &[]]
    }

    /// Forgets the first bytes of what is readable; the guest is told of the room.
    pub fn consume(&mut self, flow: FlowId, bytes: usize) {
        let _ = (flow, bytes);
    }

    /// Tells whether the guest has ended its direction and everything was consumed: time to shut the socket down for writing.
    pub fn is_finished(&self, flow: FlowId) -> bool {
        let _ = flow;
        false
    }

    /// Returns the room for bytes to the guest: for one `readv`. Empty when the ring is full; `TcpWritable` follows then.
    pub fn room(&mut self, flow: FlowId) -> [&mut [u8]; 2] {
        let _ = flow;
        [&mut [], &mut []]
    }

    /// Says that this many bytes were put into [`room`](Stack::room); they go out by the next [`transmit`](Stack::transmit).
    pub fn produce(&mut self, flow: FlowId, bytes: usize) {
        let _ = (flow, bytes);
    }

    /// Ends our direction behind what was produced.
    pub fn finish(&mut self, flow: FlowId) {
        let _ = flow;
    }

    /// Breaks a connection off: a reset to the guest. The name is void; no event follows.
    pub fn abort(&mut self, flow: FlowId) {
        let _ = flow;
    }

    // Datagrams and messages.

    /// Sends a datagram to a guest, or several in a row of `segment_bytes` each (the last one perhaps shorter).
    ///
    /// Goes out at once, without a copy: whole where the device cuts, else cut here; beyond the MTU as fragments. Dropped
    /// as UDP may be: if the device is full, or while the hardware address of the guest is not known (it is asked for;
    /// a few datagrams wait).
    pub fn udp_send(&mut self, now: Time, datagram: Datagram<'_>, output: &mut Output<'_>) -> Sent {
        let _ = (now, datagram, output);
        Sent::Taken
    }

    /// Sends an echo reply to a guest: `from` is whom the guest asked.
    pub fn echo_reply(&mut self, now: Time, reply: Echo<'_>) {
        let _ = (now, reply);
    }

    /// Tells a guest that a datagram which it sent from `from` to `to` could not be delivered.
    pub fn udp_unreachable(
        &mut self,
        now: Time,
        from: SocketAddr,
        to: SocketAddr,
        why: Unreachable,
    ) {
        let _ = (now, from, to, why);
    }

    /// Tells a guest that an echo request could not be delivered.
    pub fn echo_unreachable(&mut self, now: Time, request: Echo<'_>, why: Unreachable) {
        let _ = (now, request, why);
    }

    /// Returns the hardware address last seen behind an address of a guest.
    pub fn neighbour(&self, address: IpAddr) -> Option<[u8; 6]> {
        let _ = address;
        None
    }
}
