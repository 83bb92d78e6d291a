// SPDX-License-Identifier: Apache-2.0
//! The machine's two files about names: `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Both are read leniently: a line that says nothing to us is passed over, a file that is missing or too long is empty,
//! and the bounds are those of resolv.conf(5).

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Some machines block thousands of names by `/etc/hosts`; more than this is no file of names.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// resolv.conf(5): at most three servers are used.
const SERVERS_MAX: usize = 3;
/// glibc since 2.26 has no limit; thirty-two names are more than any site lists.
const SEARCH_MAX: usize = 32;
const NDOTS_DEFAULT: usize = 1;
/// resolv.conf(5): values above are silently capped.
const NDOTS_MAX: usize = 15;
/// resolv.conf(5) says 5 s per server; a registry's name is either answered at once or not at all.
const TIMEOUT_SECONDS_DEFAULT: u64 = 3;
const TIMEOUT_SECONDS_MAX: u64 = 30;
const ATTEMPTS_DEFAULT: usize = 2;
const ATTEMPTS_MAX: usize = 5;

/// Returns the addresses that `/etc/hosts` gives for a lower-case name, in the file's order.
pub(super) fn addresses_in_hosts(path: &Path, name: &str) -> Vec<IpAddr> {
    let text = read(path);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = words(line);
        let Some(address) = words.next().and_then(address) else {
            continue;
        };
        let is_meant = words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name));
        if is_meant && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolverFile {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) ndots: usize,
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
    pub(super) rotate: bool,
    pub(super) tcp_only: bool,
}

impl ResolverFile {
    /// Reads the file; what is missing has its default, and without any server this machine's is asked.
    pub(super) fn read(path: &Path) -> Self {
        Self::parse(&read(path))
    }

    fn parse(text: &str) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: NDOTS_DEFAULT,
            timeout: Duration::from_secs(TIMEOUT_SECONDS_DEFAULT),
            attempts: ATTEMPTS_DEFAULT,
            rotate: false,
            tcp_only: false,
        };
        for line in text.lines() {
            let mut words = words(line);
            match words.next() {
                Some("nameserver") if settings.servers.len() < SERVERS_MAX => {
                    settings.servers.extend(words.next().and_then(address));
                }
                // The last of several counts, and `domain` is a search list of one.
                Some("search" | "domain") => {
                    settings.search = words
                        .take(SEARCH_MAX)
                        .map(|name| name.trim_matches('.').to_owned())
                        .filter(|name| !name.is_empty())
                        .collect();
                }
                Some("options") => words.for_each(|option| settings.option(option)),
                _ => {}
            }
        }
        if settings.servers.is_empty() {
            settings.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        settings
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<usize>().ok()) {
            ("ndots", Some(value)) => self.ndots = value.min(NDOTS_MAX),
            ("timeout", Some(value)) => {
                let seconds = u64::try_from(value).unwrap_or(u64::MAX);
                self.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_SECONDS_MAX));
            }
            ("attempts", Some(value)) => self.attempts = value.clamp(1, ATTEMPTS_MAX),
            ("rotate", _) => self.rotate = true,
            ("use-vc", _) => self.tcp_only = true,
            _ => {}
        }
    }

    /// Returns the complete names that a name as typed may mean, in the order in which they are asked for.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(complete) = name.strip_suffix('.') {
            return vec![complete.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let as_typed = std::iter::once(name.to_owned());
        if dots >= self.ndots {
            as_typed.chain(searched).collect()
        } else {
            searched.chain(as_typed).collect()
        }
    }

    /// Returns the servers as sockets; `turn` moves the list on where the file says `rotate`.
    pub(super) fn sockets(&self, port: u16, turn: usize) -> Vec<SocketAddr> {
        let mut sockets: Vec<SocketAddr> = self
            .servers
            .iter()
            .map(|server| SocketAddr::new(*server, port))
            .collect();
        if self.rotate && !sockets.is_empty() {
            let middle = turn % sockets.len();
            sockets.rotate_left(middle);
        }
        sockets
    }
}

/// Returns the words of a line up to a comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let end = line.find(['#', ';']).unwrap_or(line.len());
    line[..end].split_whitespace()
}

/// Reads an address; the interface of a link-local one (`fe80::1%eth0`) is dropped.
fn address(word: &str) -> Option<IpAddr> {
    word.split('%').next()?.parse().ok()
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_its_manual_says() {
        let settings = ResolverFile::parse(
            "# a comment\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver nonsense\n\
             nameserver 10.0.0.2\nnameserver 10.0.0.3\ndomain old.test\nsearch a.test b.test. ; more\n\
             options ndots:2 timeout:1 attempts:99 rotate use-vc edns0\n",
        );
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1", "fe80::1", "10.0.0.2"]);
        assert_eq!(settings.search, ["a.test", "b.test"]);
        assert_eq!((settings.ndots, settings.attempts), (2, ATTEMPTS_MAX));
        assert_eq!(settings.timeout, Duration::from_secs(1));
        assert!(settings.rotate && settings.tcp_only);
        let local: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(ResolverFile::parse("").servers, [local]);
    }

    #[test]
    fn dots_decide_whether_the_search_list_comes_first() {
        let mut settings = ResolverFile::parse("search a.test b.test\n");
        assert_eq!(
            settings.candidates("hub"),
            ["hub.a.test", "hub.b.test", "hub"]
        );
        assert_eq!(
            settings.candidates("x.y"),
            ["x.y", "x.y.a.test", "x.y.b.test"]
        );
        assert_eq!(settings.candidates("x."), ["x"]);
        settings.ndots = 2;
        assert_eq!(settings.candidates("x.y").last().unwrap(), "x.y");
    }
}
