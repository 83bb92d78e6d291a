// SPDX-License-Identifier: Apache-2.0
//! What a [`Stack`](crate::Stack) tells its caller, and what it is answered.

use std::net::{IpAddr, SocketAddr};

use crate::wire::VirtioHeader;

/// A TCP connection with a guest. The name of a connection that is over names nothing; it is never used again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl FlowId {
    /// Returns a small number, unique among the connections that live at the same time: good as an index of a table.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Returns the name as a number, to be kept where a pointer-sized token is wanted (epoll).
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Returns the name again.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the number")]
    pub fn from_u64(token: u64) -> FlowId {
        FlowId {
            index: token as u32,
            generation: (token >> 32) as u32,
        }
    }
}

/// Something that happened to a connection. Read them by [`Stack::next_event`](crate::Stack::next_event) until there is none.
#[expect(
    clippy::enum_variant_names,
    reason = "datagrams and echoes go to the sink; callers match by the name"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A guest wants to connect. Answer by `accept` (once the other side is connected) or by `refuse`.
    TcpConnect {
        /// Its name from now on.
        flow: FlowId,
        /// The guest's end.
        from: SocketAddr,
        /// Where it wants to go: any address, the gateway's and name server's included.
        to: SocketAddr,
    },
    /// A connection made by `connect` is open.
    TcpConnected(FlowId),
    /// Bytes have come into `readable`, which was empty or had been looked at since. Told once per arrival.
    TcpReadable(FlowId),
    /// `room` has become worth using again after it was found (nearly) full.
    TcpWritable(FlowId),
    /// The guest has ended its direction. What it sent may still stand in `readable`; when that is consumed, `is_finished`.
    TcpFinished(FlowId),
    /// Both directions have ended and everything was acknowledged. The name is void.
    TcpClosed(FlowId),
    /// The connection was broken off. The name is void; what was not consumed is lost.
    TcpReset {
        /// Which.
        flow: FlowId,
        /// Why.
        cause: ResetCause,
    },
}

/// Why a connection was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The guest said so, after the connection was open.
    Guest,
    /// The guest does not listen there (`connect` only).
    Refused,
    /// The guest did not acknowledge in time, or did not answer when asked whether it is still there.
    TimedOut,
    /// A packet came back as undeliverable, or nobody has the address (`connect` only).
    Unreachable,
}

/// How a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As nobody listens: "connection refused".
    Reset,
    /// By an ICMP message.
    Unreachable(Unreachable),
    /// Not at all: the guest tries on until it gives up.
    Silent,
}

/// What an ICMP message says about a destination, in both versions of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// "Network is unreachable" (ICMP 3/0; `ICMPv6` 1/0).
    Network,
    /// "No route to host" (ICMP 3/1; `ICMPv6` 1/3).
    Host,
    /// "Connection refused" (ICMP 3/3; `ICMPv6` 1/4).
    Port,
    /// Forbidden (ICMP 3/13; `ICMPv6` 1/1).
    Prohibited,
}

/// One datagram, or several of equal length in a row.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// The content of one datagram, or of several.
    pub payload: &'a [u8],
    /// The length of each of several datagrams, the last one perhaps shorter; `None` for a single one.
    pub segment_bytes: Option<u16>,
}

/// An echo request or reply of ICMP or `ICMPv6`.
#[derive(Debug, Clone, Copy)]
pub struct Echo<'a> {
    /// The sender.
    pub from: IpAddr,
    /// The receiver.
    pub to: IpAddr,
    /// The sender's number for the series.
    pub identifier: u16,
    /// The number in the series.
    pub sequence: u16,
    /// What is to come back.
    pub payload: &'a [u8],
    /// Hops that the packet may still go.
    pub hops: u8,
}

/// Where [`Stack::receive`](crate::Stack::receive) puts content at once, out of the frame, without keeping it.
pub trait Sink {
    /// Takes the next bytes of a connection, in order, and returns how many; the rest goes into the ring, to be had
    /// from [`readable`](crate::Stack::readable).
    ///
    /// Asked only while the ring is empty, so that order is kept. Taking none is always right; writing a large piece
    /// straight to a socket spares a copy.
    fn tcp(&mut self, flow: FlowId, payload: &[u8]) -> usize {
        let _ = (flow, payload);
        0
    }

    /// Takes what a guest sent by UDP. Datagrams to the gateway and the name server come here too.
    fn udp(&mut self, datagram: Datagram<'_>);

    /// Takes an echo request to a foreign address; requests to our own are answered inside.
    fn echo(&mut self, echo: Echo<'_>);
}

/// What became of a frame that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The device has it.
    Taken,
    /// The device takes nothing now (`EAGAIN`): the frame stays ours, and no more are given out this time.
    Full,
}

/// Takes frames for guests: the virtio header, and the frame in pieces (headers, then slices of the ring), for one `writev`.
///
/// Not more than [`SLICES_MAX`] pieces.
pub type Output<'a> = dyn FnMut(&VirtioHeader, &[&[u8]]) -> Sent + 'a;

/// Pieces that a frame is given out in, at most.
pub const SLICES_MAX: usize = 3;
