// SPDX-License-Identifier: Apache-2.0
//! Frames in, frames out: what stands at the other end of a guest's network segment. No sockets, no clock, no I/O.
//!
//! A [`Stack`] is the gateway, the name server's address, the DHCP server and the router of one Ethernet segment. It ends
//! every TCP connection of its guests itself and hands the bytes to its caller, who has the sockets; datagrams and echo
//! requests it hands over as they come. The caller brings the frames, the time and the random key, so that everything here
//! can be run under a simulated clock, on a simulated wire, by a seed.
//!
//! The loop around it, in short:
//!
//! ```text
//! wait for the device, the sockets, and stack.next_timeout()
//! for up to N frames:   read frame;  stack.receive(now, &header, frame, &mut sink)      // the sink may send at once
//! for each event:       TcpConnect  → connect a socket, later stack.accept(flow) or stack.refuse(flow, why)
//!                       TcpReadable → writev(socket, stack.readable(flow)); stack.consume(flow, n)
//!                       TcpWritable → readv(socket, stack.room(flow)); stack.produce(flow, n)
//! for readable sockets: the same as TcpWritable; at their end stack.finish(flow)
//! stack.advance(now);   stack.transmit(now, &mut |header, slices| writev(device, header, slices))
//! ```
//!
//! One acknowledgement goes out per connection and `transmit`, however many frames came in between: that, and segments of
//! 64 KiB in both directions, is what makes it fast. Between a socket and the device stands one ring per direction and
//! no other copy; where the [`Sink`] takes bytes at once there is none at all.
//!
//! | module | answers |
//! |---|---|
//! | [`config`] | which addresses, which offloads, which bounds |
//! | [`event`] | what happened, what is to be done about it |
//! | [`stack`] | the thing itself: [`Stack`] |
//! | [`wire`] | how each protocol looks on the wire, one file each |

pub mod config;
pub mod event;
mod frame;
mod keyed;
mod neighbours;
mod reassembly;
pub mod stack;
mod tcp;
pub mod time;
pub mod wire;

pub use config::{Config, ConfigError, Limits, Network4, Network6, Offload};
pub use event::{
    Datagram, Echo, Event, FlowId, Output, Refusal, ResetCause, SLICES_MAX, Sent, Sink, Unreachable,
};
pub use stack::{ConnectError, Stack, Usage};
pub use time::Time;
pub use wire::{Gso, VIRTIO_HEADER_BYTES, VirtioHeader};
