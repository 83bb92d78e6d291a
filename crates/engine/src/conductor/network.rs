// SPDX-License-Identifier: Apache-2.0
//! The network of a container, as the conductor makes it.
//!
//! Theory of operation. The conductor leaves this machine's network namespace for a new one, which belongs to its user namespace, before it clones
//! process 1; so the container is born into it, and so are helpers that are to stand inside. What has to speak on this machine's network is started
//! before. Helpers are forks of the conductor, which has one thread: nothing needs to be told to them that is not in their memory already. They end with
//! the outer PID namespace, hence with the conductor. Where one ends by itself, the container is ended and says why: half a network is worse than none.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
    },
    process::Signal,
};
use thiserror::Error;
use wolffia_net::{
    drivers::{NetDriver, tap::TapDriver},
    ports as forward,
    user::{Doors, Place},
};
use wolffia_sys::{
    Errno,
    namespace::{Namespaces, raise_loopback, unshare},
    process::{CloneFlags, PidFd, clone_into, close_except, set_death_signal},
};

use super::{OWN_FAILURE, channel::Problem};
use crate::{
    networks::{Network, UserNetwork},
    ports::Published,
};

/// A helper's last words are at most so long.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// What a helper exits with that failed.
const FAILED: u8 = 1;

/// A process of ours that a container cannot be without.
#[derive(Debug)]
pub struct Helper {
    /// Its number in our PID namespace.
    pub pid: i32,
    /// What it does, for whoever is told that it ended.
    pub what: &'static str,
    words: File,
}

/// Why a container has no network.
#[derive(Debug, Error)]
enum NetworkError {
    #[error("making a network namespace")]
    Namespace(#[source] Errno),
    #[error("writing {path}")]
    Setting {
        path: &'static str,
        source: io::Error,
    },
    #[error("starting what {what}")]
    Helper { what: &'static str, source: Errno },
}

/// The network of a container.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// What keeps it up.
    pub(super) helpers: Vec<Helper>,
    /// A byte comes when the first helper is ready.
    ready: Option<File>,
}

/// Makes the network of a container: afterwards the calling process is in its namespace.
pub(super) fn make(
    network: &Network,
    listeners: Vec<(Published, OwnedFd)>,
) -> Result<Made, Problem> {
    let made = match network {
        Network::None | Network::Host => return Ok(Made::default()),
        Network::User(user) => make_user(user, listeners),
    };
    made.map_err(|error| Problem::of(OWN_FAILURE, &error, vec![DOCTOR.to_owned()]))
}

const DOCTOR: &str = "wolffia doctor says what is missing; --network none needs nothing";

impl Made {
    /// Tells whether somebody must be waited for before the program starts.
    pub(super) fn waits(&self) -> bool {
        self.ready.is_some()
    }

    /// Waits until the device is there, with its addresses.
    pub(super) fn await_ready(&mut self) -> Result<(), Problem> {
        let Some(mut ready) = self.ready.take() else {
            return Ok(());
        };
        let mut word = [0];
        match ready.read(&mut word) {
            Ok(1) => Ok(()),
            _ => Err(Problem {
                code: OWN_FAILURE,
                message: "making the container's network".to_owned(),
                causes: self
                    .helpers
                    .first()
                    .map(Helper::last_words)
                    .into_iter()
                    .collect(),
                hints: vec![DOCTOR.to_owned()],
            }),
        }
    }
}

fn make_user(
    network: &UserNetwork,
    listeners: Vec<(Published, OwnedFd)>,
) -> Result<Made, NetworkError> {
    let carrier = Carrier::start(network)?;
    enter_new()?;
    let (helper, ready) = carrier.give_namespace()?;
    let (container, gateway) = (network.container(), network.gateway());
    let addresses = forward::Settings {
        v4: Some(forward::Addresses {
            container: container.0,
            gateway: gateway.0,
        }),
        v6: Some(forward::Addresses {
            container: container.1,
            gateway: gateway.1,
        }),
        listeners: Vec::new(),
    };
    let mut helpers = vec![helper];
    helpers.extend(publish(addresses, listeners)?);
    Ok(Made {
        helpers,
        ready: Some(ready),
    })
}

/// The process that carries packets: born in this machine's network namespace, whose sockets it uses, it is told later of the one it serves.
struct Carrier {
    helper: Helper,
    link: OwnedFd,
    ready: File,
}

const CARRIES: &str = "carries the container's packets";

impl Carrier {
    fn start(network: &UserNetwork) -> Result<Carrier, NetworkError> {
        let failed = |source| NetworkError::Helper {
            what: CARRIES,
            source,
        };
        let settings = network.settings();
        let (link, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let (ready, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        let work = || -> Result<(), Box<dyn Error>> {
            let place = Place {
                user: None,
                network: receive(&theirs)?,
            };
            let link = TapDriver.attach(&place, &settings)?;
            drop(place);
            let doors = Doors {
                ready: Some(writer.try_clone()?),
                ..Doors::default()
            };
            link.serve(&settings, doors)?;
            Ok(())
        };
        let kept = [theirs.as_fd(), writer.as_fd()];
        let helper = start(CARRIES, "wolffia-netd", &kept, work)?;
        Ok(Carrier {
            helper,
            link,
            ready: File::from(ready),
        })
    }

    /// Tells it to serve the namespace that the calling process is in now.
    fn give_namespace(self) -> Result<(Helper, File), NetworkError> {
        let namespace =
            File::open("/proc/self/ns/net").map_err(|source| NetworkError::Setting {
                path: "/proc/self/ns/net",
                source,
            })?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let passed = [namespace.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&passed));
        // One that is gone already is found out when nobody says that it is ready.
        let _ = sendmsg(
            &self.link,
            &[IoSlice::new(b"n")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        Ok((self.helper, self.ready))
    }
}

/// Waits for a descriptor.
fn receive(link: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    recvmsg(
        link,
        &mut [IoSliceMut::new(&mut word)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(Errno::PIPE)
}

/// Enters a new network namespace in which ordinary users may do what they may in docker's: ping, and listen at any port.
fn enter_new() -> Result<(), NetworkError> {
    unshare(Namespaces::NETWORK)
        .and_then(|()| raise_loopback())
        .map_err(NetworkError::Namespace)?;
    let last = last_group();
    write("/proc/sys/net/ipv4/ping_group_range", &format!("0 {last}"))?;
    write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

fn write(path: &'static str, text: &str) -> Result<(), NetworkError> {
    fs::write(path, text).map_err(|source| NetworkError::Setting { path, source })
}

/// Returns the last of the groups from 0 on that exist in our user namespace: the kernel takes a range only if both its ends do.
fn last_group() -> u32 {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    let mut rows: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|row| {
            let mut numbers = row.split_whitespace().map(str::parse);
            let (inside, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            Some((inside.ok()?, count.ok()?))
        })
        .collect();
    rows.sort_unstable();
    let mut next = 0u32;
    for (inside, count) in rows {
        if inside == next {
            next = next.saturating_add(count);
        }
    }
    next.saturating_sub(1)
}

/// Starts what serves published ports, where there are any.
fn publish(
    mut settings: forward::Settings,
    listeners: Vec<(Published, OwnedFd)>,
) -> Result<Option<Helper>, NetworkError> {
    if listeners.is_empty() {
        return Ok(None);
    }
    settings.listeners = listeners
        .iter()
        .map(|(told, _)| forward::Listener {
            protocol: told.protocol,
            is_v6: told.at.is_ipv6(),
            port: told.port,
        })
        .collect();
    let descriptors: Vec<OwnedFd> = listeners.into_iter().map(|(_, fd)| fd).collect();
    let kept: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    start("serves published ports", "wolffia-ports", &kept, || {
        forward::serve(&settings, &descriptors, forward::shut_in).map_err(Into::into)
    })
    .map(Some)
}

/// Forks a helper that keeps `kept` of our descriptors and works until it fails.
fn start(
    what: &'static str,
    name: &str,
    kept: &[BorrowedFd<'_>],
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Helper, NetworkError> {
    let failed = |source| NetworkError::Helper { what, source };
    let (words, writer) = rustix::pipe::pipe_with(
        rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
    )
    .map_err(failed)?;
    let mut words = Some(words);
    let child = clone_into(CloneFlags::FORK, || {
        drop(words.take());
        let kept: Vec<_> = kept.iter().copied().chain([writer.as_fd()]).collect();
        let done = settle(name, &kept)
            .map_err(Into::into)
            .and_then(|()| work());
        if let Err(error) = done {
            // If we are gone ourselves, nobody is there to be told.
            drop(File::from(writer).write_all(chain(&*error).as_bytes()));
        }
        FAILED
    })
    .map_err(failed)?;
    let pid = i32::try_from(child.pid).unwrap_or_default();
    let words = words.take().map(File::from).ok_or(failed(Errno::PIPE))?;
    drop::<PidFd>(child.pidfd);
    Ok(Helper { pid, what, words })
}

/// Takes a helper out of what it was forked from: its streams, its descriptors, its name.
fn settle(name: &str, kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    set_death_signal(Some(Signal::KILL))?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    close_except(3, kept)?;
    // A name is for people who look; it is not worth a failure.
    drop(fs::write("/proc/self/comm", name));
    Ok(())
}

/// Returns an error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Helper {
    /// Returns what it said before it ended.
    fn last_words(&self) -> String {
        let mut words = Vec::new();
        drop((&self.words).take(WORDS_BYTES_MAX).read_to_end(&mut words));
        String::from_utf8_lossy(&words).into_owned()
    }

    /// Says that it ended, and why as far as it said.
    pub(super) fn obituary(&self) -> String {
        let (what, words) = (self.what, self.last_words());
        if words.is_empty() {
            format!("the container was ended because the process that {what} was killed")
        } else {
            format!("the container was ended because the process that {what} failed: {words}")
        }
    }
}
