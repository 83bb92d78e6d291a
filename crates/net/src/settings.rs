// SPDX-License-Identifier: Apache-2.0
//! What a user-mode network is told at its start: [`Settings`].
//!
//! Plain data that passes between processes as JSON. What it says twice it says once here: the addresses of the gateway, the name server and
//! the guest follow from the network by slirp's layout (.2, .3, .100), which programs and people know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use wolffia_packet::{ConfigError, Network4, Network6};

/// The name of the device in the container, where nothing else is asked for.
pub const DEVICE_NAME: &str = "tap0";

/// The MTU where nothing else is asked for: the largest a TAP takes. Segments cross the device whole at any MTU; what gains is what is not
/// cut there, datagrams above all.
pub const MTU: u16 = 65520;

/// Everything that a user-mode network is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The name of the device in the container's namespace.
    pub device: String,
    /// The largest packet, 576 (1280 with IPv6) to 65521.
    pub mtu: u16,
    /// The IPv4 network and the length of its prefix, 1 to 25.
    pub cidr: Cidr<Ipv4Addr>,
    /// The IPv6 network; without one there is no IPv6.
    pub cidr6: Option<Cidr<Ipv6Addr>>,
    /// Switch the device on and give it addresses and routes; else it is left to whoever lives there.
    pub configure: bool,
    /// The hardware address of the device; the kernel's choice without.
    pub mac: Option<[u8; 6]>,
    /// Where guests may go.
    pub policy: Rules,
    /// Who answers at the third address of the network.
    pub dns: Dns,
    /// The address that outgoing IPv4 comes from.
    pub outbound4: Option<Ipv4Addr>,
    /// The address that outgoing IPv6 comes from.
    pub outbound6: Option<Ipv6Addr>,
    /// Let anybody answer to a port that a guest has sent a datagram from, not only whom it sent to.
    pub full_cone: bool,
}

/// A network: its address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr<A> {
    /// The network's own address.
    pub address: A,
    /// The length of the prefix.
    pub prefix: u8,
}

/// Where guests may go. The world is open; what is the machine's own is closed until it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// The host's loopback, by the gateway's address (`host.containers.internal`).
    pub host_loopback: bool,
    /// Addresses that the host has on its other devices.
    pub host_addresses: bool,
    /// Link-local addresses, and the cloud's metadata among and beside them.
    pub link_local: bool,
    /// Where it may go at all; everywhere, where nothing is named.
    pub allow: Vec<Allow>,
}

/// A destination on the allow-list: `CIDR[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// The network's address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// One port; all without.
    pub port: Option<u16>,
}

/// Who answers names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Dns {
    /// Whom the host's resolv.conf names, as it changes.
    #[default]
    Host,
    /// These.
    Servers(Vec<SocketAddr>),
    /// Nobody: questions are dropped.
    Off,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            device: DEVICE_NAME.to_owned(),
            mtu: MTU,
            cidr: Cidr {
                address: Ipv4Addr::new(10, 0, 2, 0),
                prefix: 24,
            },
            cidr6: Some(Cidr {
                address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
                prefix: 64,
            }),
            configure: true,
            mac: None,
            policy: Rules::default(),
            dns: Dns::Host,
            outbound4: None,
            outbound6: None,
            full_cone: false,
        }
    }
}

impl Settings {
    /// Returns the layout of the IPv4 network.
    pub fn network4(&self) -> Result<Network4, ConfigError> {
        let mut network = Network4::new(self.cidr.address, self.cidr.prefix)?;
        if self.dns == Dns::Off {
            // The address stays ours, so that nobody else answers there; see `user::policy`.
            network.dns = Some(network.dns.unwrap_or(network.gateway));
        }
        Ok(network)
    }

    /// Returns the layout of the IPv6 network, where there is one.
    pub fn network6(&self) -> Result<Option<Network6>, ConfigError> {
        self.cidr6
            .map(|cidr| Network6::new(cidr.address, cidr.prefix))
            .transpose()
    }
}

/// Why a word is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// The address cannot be read.
    #[error(
        "{0:?} is not an address, a network (10.0.0.0/8), or one of the two with :port (IPv6 in brackets then)"
    )]
    Address(String),
    /// The prefix is longer than the address.
    #[error("the prefix of {0:?} is longer than its address")]
    Prefix(String),
}

impl std::str::FromStr for Allow {
    type Err = AllowError;

    fn from_str(word: &str) -> Result<Allow, AllowError> {
        let not_one = || AllowError::Address(word.to_owned());
        // [v6/prefix]:port, v6/prefix, v4/prefix:port
        let (network, port) = if let Some(rest) = word.strip_prefix('[') {
            let (network, after) = rest.split_once(']').ok_or_else(not_one)?;
            match after.strip_prefix(':') {
                Some(port) => (network, Some(port)),
                None if after.is_empty() => (network, None),
                None => return Err(not_one()),
            }
        } else if word.matches(':').count() == 1 {
            let (network, port) = word.split_once(':').ok_or_else(not_one)?;
            (network, Some(port))
        } else {
            (word, None)
        };
        let port = match port {
            Some(port) => Some(
                port.parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(not_one)?,
            ),
            None => None,
        };
        let (address, prefix) = match network.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (network, None),
        };
        let address: IpAddr = address.parse().map_err(|_| not_one())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| not_one())?,
            None => longest,
        };
        if prefix > longest {
            return Err(AllowError::Prefix(word.to_owned()));
        }
        Ok(Allow {
            address,
            prefix,
            port,
        })
    }
}

impl Allow {
    /// Tells whether a destination is meant; port 0 stands for what has no ports.
    pub fn covers(&self, to: SocketAddr) -> bool {
        let same = match (self.address, to.ip()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let differing = u32::from(one) ^ u32::from(other);
                self.prefix == 0 || differing.checked_shr(32 - u32::from(self.prefix)) == Some(0)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let differing = u128::from(one) ^ u128::from(other);
                self.prefix == 0 || differing.checked_shr(128 - u32::from(self.prefix)) == Some(0)
            }
            _ => false,
        };
        same && self.port.is_none_or(|port| port == to.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_cover_what_they_say() {
        let cases: &[(&str, &str, bool)] = &[
            ("10.0.0.0/8", "10.255.0.1:80", true),
            ("10.0.0.0/8", "11.0.0.1:80", false),
            ("10.1.2.3", "10.1.2.3:1", true),
            ("10.1.2.3", "10.1.2.4:1", false),
            ("10.1.2.0/24:443", "10.1.2.9:443", true),
            ("10.1.2.0/24:443", "10.1.2.9:80", false),
            ("0.0.0.0/0", "1.2.3.4:5", true),
            ("0.0.0.0/0", "[::1]:5", false),
            ("2001:db8::/32", "[2001:db8:1::1]:5", true),
            ("[2001:db8::/32]:53", "[2001:db8:1::1]:53", true),
            ("[2001:db8::1]:53", "[2001:db8::1]:54", false),
            ("2001:db8::1", "[2001:db8::1]:54", true),
        ];
        for (word, to, covered) in cases {
            let allow: Allow = word.parse().expect(word);
            assert_eq!(allow.covers(to.parse().expect(to)), *covered, "{word} {to}");
        }
        for word in [
            "",
            "host",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "[::1",
        ] {
            assert!(word.parse::<Allow>().is_err(), "{word}");
        }
    }

    #[test]
    fn settings_pass_as_json_and_what_is_left_out_is_the_default() {
        let settings = Settings::default();
        let text = serde_json::to_string(&settings).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Settings>(&text).expect("settings"),
            settings
        );
        let little: Settings = serde_json::from_str(r#"{"mtu":1500}"#).expect("settings");
        assert_eq!(
            little,
            Settings {
                mtu: 1500,
                ..Settings::default()
            }
        );
    }
}
