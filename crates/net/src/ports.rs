// SPDX-License-Identifier: Apache-2.0
//! Published ports: sockets of this machine joined to sockets inside a network namespace.
//!
//! A connection to a published port could be sent over the container's TAP device, as if it came from outside. Joining two sockets is shorter: the
//! kernel's own TCP is at both ends, and bytes go from one to the other without ever being packets of ours. What is lost that way with everybody else is
//! who called: inside, each connection seems to come from the gateway. Here it comes from the client's own address.
//!
//! # Theory of operation
//! The process is born inside the container's network namespace. Its listeners were made before, in this machine's namespace, by the command that the
//! person runs, so that a port that is taken is told at once, and no connection is lost while the container starts: what a listener accepts belongs to
//! the namespace of the listener, not to that of the process. What the process makes itself is inside.
//!
//! *Streams.* For each connection a socket inside is given the client's address and port as its own (`IP_TRANSPARENT`) and connected to the container. Its
//! packets go over the loopback device inside and carry a mark; the listener's end takes the mark over (`net.ipv4.tcp_fwmark_accept`), so do
//! resets of closed ports (`fwmark_reflect`), and a rule sends whatever is marked back to the loopback device, to a table by which every address is
//! here. So the container answers a stranger's address, and the answer comes to us. No packet filter is needed.
//!
//! *Datagrams.* Each client has a socket inside with its address and port. An unconnected socket gives no mark on, so the rule goes by the port that the
//! container answers from, and the table holds only the addresses of clients that are heard of: what the container sends from the same port to
//! anybody else goes its usual way. Clients are forgotten when nothing was said for a while; there is a bound to them, beyond which the one
//! that was silent for longest goes first.
//!
//! A client on this machine's own loopback, one that has the container's own address, and one with a link-local address are shown as the gateway: inside,
//! 127.0.0.1 is somebody else, whom many programs trust (CVE-2021-20199).
//!
//! If the container does not listen by the client's version of IP, a stream is tried by the other one, and is shown as the gateway then.
//!
//! Limits: [`stream::STREAMS_MAX`], [`datagram::CLIENTS_MAX`]; a connection above the first waits in the listener's queue. On failure of
//! a connection inside, the client's is reset. Sources: ip(7), `Documentation/networking/{tproxy,ip-sysctl}.rst` of the kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use wolffia_sys::{
    capabilities::Set,
    jail::{Jail, JailError, calls},
    rlimit,
};

mod datagram;
mod inside;
mod stream;

use datagram::Datagrams;
use inside::Inside;
use stream::Streams;

/// What the process is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// The container's IPv4 address, and whom it knows as its gateway.
    pub v4: Option<Addresses<Ipv4Addr>>,
    /// The same of IPv6.
    pub v6: Option<Addresses<Ipv6Addr>>,
    /// The listeners, in the order of their descriptors.
    pub listeners: Vec<Listener>,
}

/// The two addresses that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses<A> {
    /// The container.
    pub container: A,
    /// Who clients are that cannot be shown as they are.
    pub gateway: A,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Streams or datagrams.
    pub protocol: Protocol,
    /// The listener is one of IPv6 alone.
    pub is_v6: bool,
    /// The port inside.
    pub port: u16,
}

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Why no port is published, or not any more.
#[derive(Debug, Error)]
pub enum PortsError {
    /// A setting of the namespace could not be written.
    #[error("writing {path}")]
    Setting {
        /// Its file.
        path: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The rules that bring answers back.
    #[error("making routes for the answers to clients")]
    Routes(#[source] Errno),
    /// There are fewer descriptors than listeners.
    #[error("{listeners} listeners and {descriptors} descriptors")]
    Descriptors {
        /// Listeners there should be.
        listeners: usize,
        /// Descriptors that came.
        descriptors: usize,
    },
    /// The walls.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The loop.
    #[error("waiting for connections")]
    Wait(#[source] Errno),
}

/// Events that are read at once.
const EVENTS_MAX: usize = 64;

/// The first numbers of events are listeners'; then those of streams, two each; then those of datagram clients.
const FIRST_STREAM: u64 = 1 << 20;
const FIRST_CLIENT: u64 = 1 << 40;

/// Serves published ports until the process is ended. The process must be inside the container's network namespace, hold `CAP_NET_ADMIN` over it, and
/// see its settings below /proc/sys; `confine` is called when nothing more needs to be opened.
pub fn serve(
    settings: &Settings,
    descriptors: &[OwnedFd],
    confine: impl FnOnce() -> Result<(), JailError>,
) -> Result<(), PortsError> {
    if descriptors.len() != settings.listeners.len() {
        return Err(PortsError::Descriptors {
            listeners: settings.listeners.len(),
            descriptors: descriptors.len(),
        });
    }
    let _ = raise_descriptors();
    let mut inside = Inside::prepare(settings)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(PortsError::Wait)?;
    let mut streams = Streams::default();
    let mut datagrams = Datagrams::default();
    for (at, descriptor) in descriptors.iter().enumerate() {
        rustix::io::ioctl_fionbio(descriptor, true).map_err(PortsError::Wait)?;
        let data = EventData::new_u64(at as u64);
        epoll::add(&epoll, descriptor, data, EventFlags::IN).map_err(PortsError::Wait)?;
    }
    confine()?;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        let limit = if streams.has_more() {
            Some(Timespec::default())
        } else {
            datagrams.next_look()
        };
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&epoll, spare, limit.as_ref()) {
            Err(Errno::INTR) => continue,
            result => result.map_err(PortsError::Wait)?,
        };
        for event in &events {
            let number = event.data.u64();
            if number >= FIRST_CLIENT {
                datagrams.answer(number - FIRST_CLIENT, descriptors);
            } else if number >= FIRST_STREAM {
                streams.attend(number - FIRST_STREAM, event.flags, &inside, &epoll);
            } else if let Some((at, listener)) = usize::try_from(number)
                .ok()
                .and_then(|at| Some((at, settings.listeners.get(at)?)))
            {
                match listener.protocol {
                    Protocol::Tcp => streams.accept(&descriptors[at], *listener, &inside, &epoll),
                    Protocol::Udp => {
                        datagrams.pass_on(at, &descriptors[at], *listener, &mut inside, &epoll);
                    }
                }
            }
        }
        streams.go_on();
        if streams.changed_fullness() {
            // A listener that cannot be served is left alone: it would wake us for ever.
            let flags = if streams.is_full() {
                EventFlags::empty()
            } else {
                EventFlags::IN
            };
            for (at, listener) in settings.listeners.iter().enumerate() {
                if listener.protocol == Protocol::Tcp {
                    let data = EventData::new_u64(at as u64);
                    epoll::modify(&epoll, &descriptors[at], data, flags)
                        .map_err(PortsError::Wait)?;
                }
            }
        }
        datagrams.forget_silent(&mut inside);
    }
}

/// Shuts the calling process in: it keeps its sockets, may make and join others, and nothing else. For `confine` of [`serve`].
pub fn shut_in() -> Result<(), JailError> {
    let mut jail = Jail::new();
    jail.allow(calls::BASIC)
        .allow(calls::WAITING)
        .allow(calls::SPLICING)
        .allow(calls::MESSAGES)
        .allow(calls::INTERNET)
        .internet()
        .keep(
            NET_ADMIN
                .iter()
                .filter_map(|name| Set::named(name))
                .fold(Set::EMPTY, Set::with),
        );
    jail.enter().map(drop)
}

/// For sockets that speak as somebody else, and the routes back to them.
const NET_ADMIN: [&str; 1] = ["CAP_NET_ADMIN"];

/// Raises the limit of descriptors as far as it goes: a stream takes two, and shells begin with 1024.
pub(crate) fn raise_descriptors() -> u64 {
    if let Some(resource) = rlimit::by_name("nofile") {
        let hard = rlimit::get(resource).hard;
        // With the limit as it is, fewer streams are served.
        let _ = rlimit::set(resource, rlimit::Limit { soft: hard, hard });
        return rlimit::get(resource).soft;
    }
    u64::MAX
}

impl Settings {
    /// Returns the container's address of one version.
    fn container(&self, is_v6: bool) -> Option<IpAddr> {
        if is_v6 {
            self.v6.map(|v6| v6.container.into())
        } else {
            self.v4.map(|v4| v4.container.into())
        }
    }

    fn gateway(&self, is_v6: bool) -> Option<IpAddr> {
        if is_v6 {
            self.v6.map(|v6| v6.gateway.into())
        } else {
            self.v4.map(|v4| v4.gateway.into())
        }
    }
}
