// SPDX-License-Identifier: Apache-2.0
//! Opening a TAP device in somebody's namespaces, and giving it its addresses, from outside of them.
//!
//! # Theory of operation
//! A child joins the user namespace (for the rights) and the network namespace, opens the device there, configures it over rtnetlink, and hands the
//! descriptor back over a socket; then it ends. The caller stays where it is: that is the namespace whose sockets it will use.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use wolffia_packet::{Network4, Network6};
use wolffia_sys::{
    fd,
    namespace::{self, Namespaces},
    netlink::{Change, Netlink, Prefix, Route},
    process::{CloneFlags, clone_into},
    tap::{Offload, Tap},
};

/// The namespaces that a device is opened in.
#[derive(Debug)]
pub struct Place {
    /// The user namespace that owns the other; none where the caller has the rights as it is.
    pub user: Option<OwnedFd>,
    /// The network namespace.
    pub network: OwnedFd,
}

/// What the device is given.
#[derive(Debug, Clone, Copy)]
pub struct LinkSettings {
    /// The largest packet.
    pub mtu: u16,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Addresses and a route of IPv4.
    pub v4: Option<Network4>,
    /// Addresses and a route of IPv6; without, guests configure themselves by router advertisements.
    pub v6: Option<Network6>,
}

/// Why there is no device.
#[derive(Debug, Error)]
pub enum AttachError {
    /// A step in the child failed.
    #[error("{doing}")]
    Inside {
        /// What was done.
        doing: String,
        /// The system's answer.
        source: Errno,
    },
    /// The settings contradict themselves.
    #[error("laying out the network")]
    Config(#[from] wolffia_packet::ConfigError),
    /// The child could not be made or heard.
    #[error("opening a device in another network namespace")]
    Child(#[source] Errno),
    /// The child ended without an answer.
    #[error("opening a device in another network namespace: no answer")]
    NoAnswer,
}

/// What the child says beside the descriptor.
#[derive(Serialize, Deserialize)]
enum Answer {
    Open { name: String, offload: u32 },
    Failed { doing: String, errno: i32 },
}

/// The answer is small; the doing has a device's name in it at most.
const ANSWER_BYTES_MAX: usize = 1024;

/// Opens the device of this name and configures it, where `link` says so. Forks: the caller has one thread.
pub fn open(place: &Place, name: &str, link: Option<&LinkSettings>) -> Result<Tap, AttachError> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(AttachError::Child)?;
    let child = clone_into(CloneFlags::FORK, || match inside(place, name, link) {
        Ok(tap) => {
            let answer = Answer::Open {
                name: tap.name().to_owned(),
                offload: tap.offload().bits(),
            };
            u8::from(tell(&theirs, &answer, Some(&tap.into_fd())).is_err())
        }
        Err(failed) => u8::from(tell(&theirs, &failed, None).is_err()),
    })
    .map_err(AttachError::Child)?;
    drop(theirs);
    let heard = hear(&ours);
    let _ = child.pidfd.wait();
    match heard? {
        (Answer::Open { name, offload }, Some(fd)) => Ok(Tap::received(
            fd,
            name,
            Offload::from_bits_truncate(offload),
        )),
        (Answer::Failed { doing, errno }, _) => Err(AttachError::Inside {
            doing,
            source: Errno::from_raw_os_error(errno),
        }),
        (Answer::Open { .. }, None) => Err(AttachError::NoAnswer),
    }
}

fn tell(socket: &OwnedFd, answer: &Answer, fd: Option<&OwnedFd>) -> Result<(), Errno> {
    let text = serde_json::to_vec(answer).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let passed = fd.map(|fd| [fd.as_fd()]);
    if let Some(passed) = &passed {
        ancillary.push(SendAncillaryMessage::ScmRights(passed));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn hear(socket: &OwnedFd) -> Result<(Answer, Option<OwnedFd>), AttachError> {
    let mut text = [0; ANSWER_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut pieces = [IoSliceMut::new(&mut text)];
        match recvmsg(socket, &mut pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.map_err(AttachError::Child)?,
        }
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let answer = serde_json::from_slice(&text[..received.bytes.min(text.len())]);
    Ok((answer.map_err(|_| AttachError::NoAnswer)?, fd))
}

/// What the child does.
fn inside(place: &Place, name: &str, link: Option<&LinkSettings>) -> Result<Tap, Answer> {
    let failed = |doing: String| {
        move |errno: Errno| Answer::Failed {
            doing,
            errno: errno.raw_os_error(),
        }
    };
    if let Some(user) = &place.user
        && !is_own(user, "/proc/self/ns/user")
    {
        namespace::join(user, Namespaces::USER)
            .map_err(failed("joining the user namespace".into()))?;
    }
    if !is_own(&place.network, "/proc/self/ns/net") {
        namespace::join(&place.network, Namespaces::NETWORK)
            .map_err(failed("joining the network namespace".into()))?;
    }
    let tap = Tap::open(name).map_err(failed(format!("opening the TAP device {name}")))?;
    if let Some(link) = link {
        configure(tap.name(), link)
            .map_err(|(doing, errno)| failed(format!("{doing} of {}", tap.name()))(errno))?;
    }
    Ok(tap)
}

/// Tells whether a namespace is the one that we are in: joining one's own user namespace is refused.
fn is_own(namespace: &OwnedFd, own: &str) -> bool {
    rustix::fs::open(
        own,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .and_then(|own| fd::is_same_file(namespace, own))
    .unwrap_or(false)
}

/// Switches loopback and the device on and gives it what was asked for.
fn configure(name: &str, link: &LinkSettings) -> Result<(), (&'static str, Errno)> {
    let step = |doing| move |errno| (doing, errno);
    namespace::raise_loopback().map_err(step("switching loopback on for the network"))?;
    let mut netlink = Netlink::open().map_err(step("asking for the settings"))?;
    let index = netlink
        .link(name)
        .map_err(step("finding the number"))?
        .index;
    if link.mac.is_some() {
        netlink
            .change(
                index,
                Change {
                    address: link.mac,
                    ..Change::default()
                },
            )
            .map_err(step("setting the hardware address"))?;
    }
    let up = Change {
        up: Some(true),
        mtu: Some(u32::from(link.mtu)),
        ..Change::default()
    };
    netlink.change(index, up).map_err(step("setting the MTU"))?;
    let mut give = |guest: IpAddr, prefix, gateway: IpAddr, everywhere: IpAddr| {
        let own = Prefix {
            address: guest,
            length: prefix,
        };
        match netlink.add_address(index, own) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(("giving an address to the device", errno)),
        }
        let route = Route {
            gateway: Some(gateway),
            device: Some(index),
            is_v6: everywhere.is_ipv6(),
            ..Route::default()
        };
        match netlink.add_route(route) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(("setting the default route", errno)),
        }
    };
    if let Some(v4) = link.v4 {
        give(
            v4.guest.into(),
            v4.prefix,
            v4.gateway.into(),
            Ipv4Addr::UNSPECIFIED.into(),
        )?;
    }
    if let Some(v6) = link.v6 {
        give(
            v6.guest.into(),
            v6.prefix,
            v6.gateway.into(),
            Ipv6Addr::UNSPECIFIED.into(),
        )?;
    }
    Ok(())
}
