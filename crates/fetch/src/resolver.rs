// SPDX-License-Identifier: Apache-2.0
//! The name resolver: host names become addresses without the C library.
//!
//! The program is one static binary, in which the C library's resolver must not be called: it loads modules of the very
//! libc it was built with. What a registry client needs of it is small.
//!
//! # Theory of operation
//! An address stays what it is. `localhost` and names below it are this machine, whatever a name server says (RFC 6761
//! 6.3). Then `/etc/hosts`. Then the name servers of `/etc/resolv.conf`, with its search list and `ndots`: per candidate
//! name the questions for A and for AAAA leave together, over UDP; a truncated answer is asked again over TCP. A server
//! that does not answer in time, or answers that it failed, is followed by the next, for `attempts` rounds. All of it
//! ends at the caller's deadline. Nothing is cached: a pull asks for two or three names.
//!
//! Answers in which nobody has an interest are dropped: wrong source (the socket is connected), wrong identifier or
//! question. Identifiers and source ports are the kernel's randomness.
//!
//! Sources: RFC 1035, RFC 6761, resolv.conf(5), hosts(5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use crate::environment::Environment;
use crate::resolver::files::ResolverFile;

mod dns;
mod files;

/// How many addresses of one name are tried; more than a client would wait for.
const ADDRESSES_MAX: usize = 8;

/// How long names are looked for where the caller sets no limit.
const LOOKUP_SECONDS_MAX: u64 = 20;

/// Looks names up in the machine's files and at its name servers.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    port: u16,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers say that there is no such name.
    #[error("looking up {name:?}: no such name")]
    NoSuchName {
        /// The name that was looked up.
        name: String,
    },
    /// No name server gave an answer.
    #[error("looking up {name:?}: {}", list(servers))]
    NoAnswer {
        /// The name that was looked up.
        name: String,
        /// The servers that were asked.
        servers: Vec<SocketAddr>,
        /// The last failure.
        source: Option<std::io::Error>,
    },
    /// The text is no host name.
    #[error("looking up {name:?}: this is no host name")]
    BadName {
        /// What was given.
        name: String,
    },
}

fn list(servers: &[SocketAddr]) -> String {
    if servers.is_empty() {
        return "/etc/resolv.conf names no server".to_owned();
    }
    let names: Vec<String> = servers
        .iter()
        .map(|server| server.ip().to_string())
        .collect();
    format!("no name server answered ({})", names.join(", "))
}

impl Resolver {
    /// Returns a resolver over the files of `environment`, which are read at each look-up.
    pub fn new(environment: &Environment) -> Self {
        Self {
            hosts: environment.machine("/etc/hosts"),
            resolv_conf: environment.machine("/etc/resolv.conf"),
            port: dns::PORT,
        }
    }

    /// Returns the same resolver asking its servers at another port, for tests.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Returns the addresses of a host name, the preferred first. Blocks until `deadline` at most.
    ///
    /// # Errors
    /// Fails where the name has no address, or no server answered in time.
    pub fn look_up(&self, name: &str, deadline: Instant) -> Result<Vec<IpAddr>, ResolveError> {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let bare = name.trim_end_matches('.').to_ascii_lowercase();
        if bare == "localhost" || bare.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if bare.split('.').any(str::is_empty) {
            return Err(ResolveError::BadName {
                name: name.to_owned(),
            });
        }
        let listed = files::addresses_in_hosts(&self.hosts, &bare);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let settings = ResolverFile::read(&self.resolv_conf);
        let mut refused = None;
        for candidate in settings.candidates(name) {
            match dns::ask(&candidate, &settings, self.port, deadline) {
                Ok(mut addresses) if !addresses.is_empty() => {
                    addresses.truncate(ADDRESSES_MAX);
                    return Ok(addresses);
                }
                Ok(_) | Err(ResolveError::NoSuchName { .. }) => {}
                // A server that fails for one candidate may know the next, but its failure is the better story.
                Err(error @ ResolveError::NoAnswer { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(refused.unwrap_or(ResolveError::NoSuchName {
            name: name.to_owned(),
        }))
    }
}

impl UreqResolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let default_port = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default_port);
        let limit = timeout
            .not_zero()
            .map_or(Duration::from_secs(LOOKUP_SECONDS_MAX), |limit| *limit);
        let addresses = self
            .look_up(host, Instant::now() + limit)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            resolved.push(SocketAddr::new(address, port));
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests;
