// SPDX-License-Identifier: Apache-2.0
//! Who answers the guests' questions: the name servers of the host's resolv.conf, as it changes.
//!
//! # Theory of operation
//! The process that moves packets can open no file. So a child of it, which has no network and nothing of the guests', watches resolv.conf (and the
//! file that it may be a link to) by inotify on their directories, since programs put a new file in the place of the old, and writes the
//! servers into a pipe, a line each time. The child ends when the pipe's other end closes. Unlike its parent it may read files, below those
//! directories alone.
//!
//! Questions go to the first server. Where a question is still unanswered when another comes more than [`PATIENCE`] later, or a connection
//! cannot be made, the next one has its turn.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
    io::Errno,
};
use wolffia_packet::Time;
use wolffia_sys::{
    jail::{Jail, Reach, calls},
    process::{CloneFlags, clone_into},
};

use super::policy::DNS_PORT;

/// Where the servers are named.
const FILE: &str = "/etc/resolv.conf";
/// Servers that are used; resolvers themselves use three (`MAXNS`).
const SERVERS_MAX: usize = 8;
/// A file of servers is short.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How long a server has.
const PATIENCE: Duration = Duration::from_secs(2);

/// The servers, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    current: usize,
    unanswered_since: Option<Time>,
}

impl Resolver {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Resolver {
        Resolver {
            servers,
            ..Resolver::default()
        }
    }

    /// Takes other servers.
    pub(crate) fn replace(&mut self, servers: Vec<SocketAddr>) {
        *self = Resolver::new(servers);
    }

    /// Returns whom to ask now.
    pub(crate) fn ask(&mut self, now: Time) -> Option<SocketAddr> {
        match self.unanswered_since {
            Some(since) if now.since(since) > PATIENCE => {
                self.current = self.current.wrapping_add(1);
                self.unanswered_since = Some(now);
            }
            Some(_) => {}
            None => self.unanswered_since = Some(now),
        }
        self.server()
    }

    /// Returns whose turn it is.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        let index = self.current.checked_rem(self.servers.len())?;
        self.servers.get(index).copied()
    }

    /// An answer has come.
    pub(crate) fn answered(&mut self) {
        self.unanswered_since = None;
    }

    /// It cannot be reached.
    pub(crate) fn failed(&mut self) {
        self.current = self.current.wrapping_add(1);
        self.unanswered_since = None;
    }
}

/// Returns the servers that a file names.
pub(crate) fn servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(read_server)
        .take(SERVERS_MAX)
        .collect()
}

fn read_server(word: &str) -> Option<SocketAddr> {
    if let Some((address, zone)) = word.split_once('%') {
        // The number of a device; names of devices are for programs that may ask for them.
        let scope = zone.parse().or_else(|_| scope_of(zone)).ok()?;
        return Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope).into());
    }
    let address: IpAddr = word.parse().ok()?;
    Some(SocketAddr::new(address, DNS_PORT))
}

fn scope_of(device: &str) -> Result<u32, std::io::Error> {
    if device.contains('/') {
        return Err(Errno::INVAL.into());
    }
    let text = fs::read_to_string(Path::new("/sys/class/net").join(device).join("ifindex"))?;
    text.trim().parse().map_err(|_| Errno::INVAL.into())
}

/// Returns the servers that the host's file names now.
pub(crate) fn read() -> Vec<SocketAddr> {
    use std::io::Read;
    let mut text = String::new();
    let read =
        fs::File::open(FILE).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => servers(&text),
        Err(_) => Vec::new(),
    }
}

/// Starts the child that watches the file; its lines come out of the returned pipe. Forks: the caller has one thread.
pub(crate) fn watch() -> Result<OwnedFd, Errno> {
    let (reader, writer) = rustix::pipe::pipe_with(
        rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
    )?;
    clone_into(CloneFlags::FORK, || {
        // It holds nothing of its parent's but the pipe.
        let kept = [writer.as_fd(), std::io::stderr().as_fd()].map(|fd| fd.try_clone_to_owned());
        let _ = wolffia_sys::process::close_except(0, &[writer.as_fd()]);
        drop(kept);
        u8::from(watch_until_closed(&writer).is_err())
    })?;
    Ok(reader)
}

/// The directories in which a new file would be put in the place of the one that is read.
fn directories() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/etc")];
    if let Ok(real) = fs::canonicalize(FILE)
        && let Some(parent) = real.parent()
        && !found.iter().any(|known| known == parent)
    {
        found.push(parent.to_owned());
    }
    found
}

fn watch_until_closed(pipe: &OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let wanted = inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE;
    let mut jail = Jail::new();
    jail.allow(calls::BASIC)
        .allow(calls::WAITING)
        .allow(calls::READ_FILES);
    for directory in directories() {
        if inotify::add_watch(&inotify, &directory, wanted).is_ok() {
            jail.reach(&fs::File::open(&directory)?, Reach::Read)?;
        }
    }
    jail.enter()?;
    let mut last = None;
    loop {
        let servers = read();
        if last.as_ref() != Some(&servers) {
            let words: Vec<String> = servers.iter().map(ToString::to_string).collect();
            let line = words.join(" ") + "\n";
            fs::File::from(pipe.try_clone()?).write_all(line.as_bytes())?;
            last = Some(servers);
        }
        let mut fds = [
            PollFd::new(&inotify, PollFlags::IN),
            PollFd::new(pipe, PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        // What happened is not looked at: the file is read again.
        let mut buffer = [0; 4096];
        while rustix::io::read(&inotify, &mut buffer[..]).is_ok_and(|count| count > 0) {}
    }
}

/// Reads the last whole line that waits in the pipe; `None` where there is none.
pub(crate) fn read_line(pipe: &OwnedFd) -> Option<Vec<SocketAddr>> {
    let mut buffer = [0; 4096];
    let count = rustix::io::read(pipe, &mut buffer[..]).ok()?;
    let text = std::str::from_utf8(&buffer[..count]).ok()?;
    let line = text.strip_suffix('\n')?.lines().last()?;
    Some(
        line.split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# a comment\nnameserver 192.0.2.1\nsearch example.com\nnameserver\t2001:db8::1 \noptions x\nnameserver nonsense\nnameserver fe80::1%7\n nameserver 192.0.2.2\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "192.0.2.1:53",
                "[2001:db8::1]:53",
                "[fe80::1%7]:53",
                "192.0.2.2:53"
            ]
        );
    }

    #[test]
    fn a_silent_server_loses_its_turn_and_an_answer_keeps_it() {
        let servers = ["192.0.2.1:53", "192.0.2.2:53"].map(|word| word.parse().expect(word));
        let mut resolver = Resolver::new(servers.to_vec());
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        assert_eq!(resolver.ask(at(1)), Some(servers[0]));
        assert_eq!(resolver.ask(at(2)), Some(servers[0]));
        assert_eq!(resolver.ask(at(5)), Some(servers[1]));
        resolver.answered();
        assert_eq!(resolver.ask(at(50)), Some(servers[1]));
        resolver.failed();
        assert_eq!(resolver.ask(at(51)), Some(servers[0]));
        resolver.replace(Vec::new());
        assert_eq!(resolver.ask(at(52)), None);
    }
}
