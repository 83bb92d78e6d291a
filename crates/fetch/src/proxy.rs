// SPDX-License-Identifier: Apache-2.0
//! Which proxy a request goes through, by the environment's `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
//!
//! Theory of operation: the variable is chosen by the scheme of the address; the lower-case spelling wins over the
//! upper-case one, as with curl; `ALL_PROXY` serves where neither is set. This machine itself is never reached through
//! a proxy. `NO_PROXY` is a list divided by commas or blanks: `*`; a host name, which stands for the names below it too
//! (a dot or `*.` before it changes nothing); an address; a network as `10.0.0.0/8`; each perhaps with `:port`.
//! Requests go through an http proxy by CONNECT for both schemes, and the proxy looks the name up; so does one of `socks5h://`
//! and `socks4a://`. Names are looked up here for `socks5://` and `socks4://`, as with curl.
//!
//! There is no standard for this: sources are curl's manual and Go's `x/net/http/httpproxy`, which docker and podman use.

use std::net::IpAddr;

use crate::environment::Environment;
use crate::secret::Secret;

/// The environment's proxies, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Secret>,
    https: Option<Secret>,
    exceptions: Vec<Exception>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Named(String),
    Network(IpAddr, u8),
}

impl Proxies {
    pub(crate) fn of(environment: &Environment) -> Self {
        let first = |names: [&str; 4]| {
            names
                .iter()
                .find_map(|name| environment.text(name))
                .map(Secret::new)
        };
        let exceptions = environment
            .text("no_proxy")
            .or_else(|| environment.text("NO_PROXY"))
            .unwrap_or_default();
        Self {
            http: first(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https: first(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            exceptions: exceptions
                .split([',', ' ', '\t'])
                .filter_map(Exception::parse)
                .collect(),
        }
    }

    /// Returns the proxy for a request to `host`, without brackets, if it goes through one.
    pub(crate) fn choose(&self, is_https: bool, host: &str, port: u16) -> Option<&Secret> {
        let proxy = if is_https { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| {
            !is_loopback(host)
                && !self
                    .exceptions
                    .iter()
                    .any(|exception| exception.covers(host, port))
        })
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self {
                hosts: Hosts::All,
                port: None,
            });
        }
        if let Some(network) = parse_network(text) {
            return Some(network);
        }
        let (host, port) = split_port(text);
        let host = host.trim_start_matches("*.").trim_matches('.');
        (!host.is_empty()).then(|| Self {
            hosts: Hosts::Named(host.to_ascii_lowercase()),
            port,
        })
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        match &self.hosts {
            Hosts::All => true,
            Hosts::Named(name) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Hosts::Network(network, bits) => host
                .parse()
                .is_ok_and(|address| same_network(address, *network, *bits)),
        }
    }
}

fn parse_network(text: &str) -> Option<Exception> {
    let whole = |address, port| Exception {
        hosts: Hosts::Network(address, width(address)),
        port,
    };
    if let Some((address, bits)) = text.split_once('/') {
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let hosts = Hosts::Network(address, bits.min(width(address)));
        return Some(Exception { hosts, port: None });
    }
    if let Ok(address) = text.parse() {
        return Some(whole(address, None));
    }
    let (host, port) = split_port(text);
    let address = host.trim_matches(['[', ']']).parse().ok()?;
    Some(whole(address, port))
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (text, None),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn same_network(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let differing = number(one) ^ number(other);
    one.is_ipv4() == other.is_ipv4()
        && differing.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
}

/// Tells whether a host name or address means this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
    let lower = bare.to_ascii_lowercase();
    lower == "localhost"
        || lower.ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_cover_what_curl_and_go_cover() {
        let cases = [
            ("*", "any.test", 443, true),
            ("a.test", "a.test", 443, true),
            ("a.test", "b.a.test", 443, true),
            ("a.test", "ba.test", 443, false),
            (".a.test", "b.a.test", 443, true),
            ("*.a.test", "b.a.test", 443, true),
            ("A.test", "a.TEST", 443, true),
            ("a.test:5000", "a.test", 5000, true),
            ("a.test:5000", "a.test", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("0.0.0.0/0", "11.1.2.3", 443, true),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3:80", "10.1.2.3", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("fd00::/8", "10.0.0.1", 443, false),
            ("[fd00::1]:80", "fd00::1", 80, true),
            ("x.test, a.test b.test", "b.test", 443, true),
            ("", "b.test", 443, false),
        ];
        for (exceptions, host, port, excepted) in cases {
            let environment = Environment::below("/nowhere")
                .with("https_proxy", "http://proxy.test:3128")
                .with("NO_PROXY", exceptions);
            let proxies = Proxies::of(&environment);
            let chosen = proxies.choose(true, host, port);
            assert_eq!(chosen.is_none(), excepted, "{exceptions:?} {host}:{port}");
        }
    }

    #[test]
    fn scheme_case_and_loopback_decide() {
        let environment = Environment::below("/nowhere")
            .with("HTTP_PROXY", "http://upper")
            .with("http_proxy", "http://lower")
            .with("ALL_PROXY", "http://all");
        let proxies = Proxies::of(&environment);
        let chosen = |is_https, host| proxies.choose(is_https, host, 80).map(Secret::expose);
        assert_eq!(chosen(false, "a.test"), Some("http://lower"));
        assert_eq!(chosen(true, "a.test"), Some("http://all"));
        for host in ["localhost", "x.localhost", "127.3.4.5", "::1", "[::1]"] {
            assert_eq!(chosen(true, host), None, "{host}");
        }
    }
}
