// SPDX-License-Identifier: Apache-2.0
//! Switching: an outgoing TCP connection of a container becomes one of the host, and no byte of it passes through us.
//!
//! # Theory of operation
//! A container's sockets live in its network namespace, whose packets are carried by a user-mode stack. When one asks to `connect`, we
//! copy the address *once*, ask the policy ([`Destinations`]), make a socket of our own in the host's namespace, carry the options over and
//! connect it ourselves. Only when its connection *stands* is it put in the place of the caller's socket, and the call answered with success.
//! Whatever else happens (refused, unreachable, too slow, an odd socket) the call goes on in the kernel, on the caller's own
//! socket, and so over the user-mode stack, which answers as it always does.
//!
//! # What a container could try with a socket of the host
//! A thread can exchange the file behind a number, or the address in memory, between our look and the kernel's. So nothing rests on what was looked
//! at when a call goes on in the kernel; a given socket is safe by what it *is*:
//! - It is held to the device that leads to the peer, and deaf to everybody but the peer, for good
//!   ([`wolffia_sys::socket_option`]). Disconnected (`AF_UNSPEC`) and connected again it reaches nobody; listening, it hears nobody.
//! - `connect` and `listen` on a socket that is not of the container's namespace are refused here, by looking at the file itself.
//! - `listen` on the container's own internet sockets is made by us on the file that was looked at, not by the kernel on a number.
//! - What would connect without `connect` is closed by the filter ([`calls`]).
//!
//! Each has a test that tries it (`tests/switch.rs`).
//!
//! # Limits
//! A socket that has been bound, that is open under two numbers, or that an epoll set watches already, is not switched: the file behind it
//! would be exchanged under the program's feet. A caller that does not want to wait gets [`PATIENCE_NON_BLOCKING`] at most, any other
//! [`PATIENCE_BLOCKING`]; then the call goes on in the kernel. The program sees the host's address as its own (`getsockname`).
//!
//! Sources: `seccomp_unotify(2)`, tcp(7), `net/ipv4/af_inet.c` (`__inet_stream_connect`), ../docs/decisions.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use wolffia_sys::Errno;
use wolffia_sys::netlink::Netlink;
use wolffia_sys::seccomp::notification::Answer;
use wolffia_sys::seccomp::policy::{Architecture, Rule};
use wolffia_sys::socket_option;

use crate::handler::{Handler, Outcome, Then, Wait};
use crate::{Caller, caller::Opened};

mod address;
mod calls;

use calls::Call;

/// How long a caller waits that does not want to: a program with an event loop stands still meanwhile. Connections within a site take less.
pub const PATIENCE_NON_BLOCKING: Duration = Duration::from_millis(20);
/// How long any other waits before the user-mode stack tries: longer than the first retransmission of a SYN, after one second.
pub const PATIENCE_BLOCKING: Duration = Duration::from_millis(1_500);

/// Which connections may leave by sockets of the host.
pub trait Destinations {
    /// Returns whether a connection to there may be switched. The address is plain: never a mapped one.
    fn may_switch(&self, to: SocketAddr) -> bool;
}

/// Why there is no switching.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The kernel does not tell namespaces of sockets apart (it is older than 5.14), or lacks a call.
    #[error("learning which network namespace sockets are of")]
    Namespace(#[source] Errno),
    /// The host's routes cannot be asked for.
    #[error("asking for the host's routes")]
    Routes(#[source] Errno),
    /// The container shares the host's network namespace.
    #[error("switching connections of a container that has the host's network")]
    Same,
}

/// The handler.
pub struct Switch {
    destinations: Box<dyn Destinations>,
    routes: Netlink,
    spaces: Spaces,
}

/// The numbers of the two network namespaces.
#[derive(Clone, Copy, Debug)]
struct Spaces {
    container: u64,
    host: u64,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Switch")
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

impl Switch {
    /// Makes the handler; connections leave by the network namespace of the calling thread. `socket` is any socket of the container's.
    ///
    /// # Errors
    /// See [`SwitchError`].
    pub fn new(
        destinations: Box<dyn Destinations>,
        socket: impl AsFd,
    ) -> Result<Switch, SwitchError> {
        let container = socket_option::network_namespace(socket).map_err(SwitchError::Namespace)?;
        let routes = Netlink::open().map_err(SwitchError::Routes)?;
        let host = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .and_then(socket_option::network_namespace)
        .map_err(SwitchError::Namespace)?;
        if host == container {
            return Err(SwitchError::Same);
        }
        Ok(Switch {
            destinations,
            routes,
            spaces: Spaces { container, host },
        })
    }

    fn connect(&mut self, caller: &Caller<'_>, number: i32) -> Outcome {
        let go_on = Outcome::Now(Answer::Continue);
        let own = match caller.descriptor(number) {
            Ok(own) => own,
            Err(Errno::BADF) => return Outcome::Now(Answer::Error(Errno::BADF)),
            Err(_) => return go_on,
        };
        match place(&own, self.spaces) {
            Place::Host => return Outcome::Now(Answer::Error(Errno::ISCONN)),
            Place::Elsewhere => return go_on,
            Place::Inside => {}
        }
        let Some(to) = destination(caller) else {
            return go_on;
        };
        if !self.destinations.may_switch(to) || !is_fresh(&own) {
            return go_on;
        }
        let Ok(opened) = caller.opened(number) else {
            return go_on;
        };
        if opened.is_shared {
            return go_on;
        }
        match self.begin(&own, to) {
            Ok(descriptor) => {
                let patience = patience(&own);
                let then = move |caller: &Caller<'_>, made: OwnedFd| {
                    hand_over(caller, number, &opened, &own, &made)
                };
                Outcome::Later(Wait {
                    descriptor,
                    until: Instant::now() + patience,
                    then: Then(Box::new(then)),
                })
            }
            Err(errno) => {
                tracing::debug!(%to, %errno, "a connection is left to the user-mode stack");
                go_on
            }
        }
    }

    /// Makes a socket like the caller's own and begins to connect it.
    fn begin(&mut self, own: &OwnedFd, to: SocketAddr) -> Result<OwnedFd, Errno> {
        let way = self.routes.way_to(to.ip())?;
        if !way.leads_out {
            return Err(Errno::HOSTUNREACH);
        }
        let links = self.routes.links()?;
        let device = links.iter().find(|link| link.index == way.device);
        let device = device.ok_or(Errno::NODEV)?;
        let family = sockopt::socket_domain(own)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        socket_option::carry(own, &made);
        socket_option::hold_to_device(&made, &device.name)?;
        socket_option::hold_to_peer(&made, to)?;
        let target = match (family, to) {
            (AddressFamily::INET6, SocketAddr::V4(to)) => {
                SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        };
        match rustix::net::connect(&made, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(made),
            Err(errno) => Err(errno),
        }
    }

    fn listen(&mut self, caller: &Caller<'_>, number: i32) -> Answer {
        let own = match caller.descriptor(number) {
            Ok(own) => own,
            Err(Errno::BADF) => return Answer::Error(Errno::BADF),
            Err(_) => return Answer::Continue,
        };
        match place(&own, self.spaces) {
            Place::Host => Answer::Error(Errno::INVAL),
            // A UNIX socket keeps who began to listen: that is the caller and not we.
            Place::Elsewhere => Answer::Continue,
            Place::Inside => {
                let backlog = low_word(caller.notification.arguments[1]);
                match rustix::net::listen(&own, backlog) {
                    Ok(()) => Answer::Value(0),
                    Err(errno) => Answer::Error(errno),
                }
            }
        }
    }
}

impl Handler for Switch {
    fn name(&self) -> &'static str {
        "switch"
    }

    fn calls(&self, architecture: Architecture) -> &'static [u32] {
        calls::answered(architecture)
    }

    fn rules(&self, architecture: Architecture) -> Vec<(u32, Rule)> {
        rules(architecture)
    }

    fn answer(&mut self, caller: &Caller<'_>) -> Outcome {
        let notification = &caller.notification;
        let number = low_word(notification.arguments[0]);
        let kind = notification.number.cast_unsigned();
        match calls::call(notification.audit_token, kind) {
            Some(Call::Connect) => self.connect(caller, number),
            Some(Call::Listen) => Outcome::Now(self.listen(caller, number)),
            None => Outcome::Now(Answer::Continue),
        }
    }
}

/// What the filter of a container whose connections are switched must say: see [`Handler::rules`].
pub fn rules(architecture: Architecture) -> Vec<(u32, Rule)> {
    calls::rules(architecture)
}

/// An `int` argument as the kernel takes it.
fn low_word(argument: u64) -> i32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// Whose a socket is.
enum Place {
    /// An internet socket of the container's namespace.
    Inside,
    /// An internet socket of the host's: one that we gave, or one that came in from outside.
    Host,
    /// Another family, no socket at all, or of a namespace that the container made within.
    Elsewhere,
}

fn place(socket: &OwnedFd, spaces: Spaces) -> Place {
    match sockopt::socket_domain(socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => {}
        _ => return Place::Elsewhere,
    }
    match socket_option::network_namespace(socket) {
        Ok(namespace) if namespace == spaces.container => Place::Inside,
        Ok(namespace) if namespace == spaces.host => Place::Host,
        _ => Place::Elsewhere,
    }
}

/// Copies the address out of the caller's memory.
fn destination(caller: &Caller<'_>) -> Option<SocketAddr> {
    let [_, address, length, ..] = caller.notification.arguments;
    let length = usize::try_from(low_word(length)).ok()?;
    let mut bytes = [0; address::ADDRESS_BYTES_MAX];
    let bytes = bytes.get_mut(..length)?;
    let read = caller.memory(address, bytes).ok()?;
    address::read(bytes.get(..read)?)
}

/// Returns whether this is a TCP socket that has been neither bound nor connected.
fn is_fresh(socket: &OwnedFd) -> bool {
    let is_tcp = matches!(sockopt::socket_type(socket), Ok(SocketType::STREAM))
        && matches!(sockopt::socket_protocol(socket), Ok(Some(ipproto::TCP)));
    let port = rustix::net::getsockname(socket)
        .ok()
        .and_then(|name| SocketAddr::try_from(name).ok())
        .map(|name| name.port());
    is_tcp && port == Some(0)
}

fn patience(socket: &OwnedFd) -> Duration {
    let is_non_blocking =
        rustix::fs::fcntl_getfl(socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
    if is_non_blocking {
        return PATIENCE_NON_BLOCKING;
    }
    let asked = sockopt::socket_timeout(socket, sockopt::Timeout::Send);
    asked
        .ok()
        .flatten()
        .map_or(PATIENCE_BLOCKING, |asked| asked.min(PATIENCE_BLOCKING))
}

/// Puts the made socket in the place of the caller's own, if its connection stands and the caller's number still means what it meant.
fn hand_over(
    caller: &Caller<'_>,
    number: i32,
    opened: &Opened,
    own: &OwnedFd,
    made: &OwnedFd,
) -> Answer {
    if !socket_option::is_established(made) {
        return Answer::Continue;
    }
    let is_same = caller
        .opened(number)
        .is_ok_and(|now| now.link == opened.link && !now.is_shared);
    if !is_same {
        return Answer::Continue;
    }
    let flags = rustix::fs::fcntl_getfl(own);
    let put = flags
        .and_then(|flags| rustix::fs::fcntl_setfl(made, flags))
        .and_then(|()| caller.replace(number, made, opened.close_on_exec));
    match put {
        Ok(()) => Answer::Value(0),
        Err(_) => Answer::Continue,
    }
}
