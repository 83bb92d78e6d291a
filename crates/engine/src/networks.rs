// SPDX-License-Identifier: Apache-2.0
//! `--network`: how a container reaches others, and how others reach it.
//!
//! `user` is what a container gets that says nothing: a network namespace of its own, joined to this machine's network by a helper that needs no
//! rights (the user-mode network). Its words are those that people know from the other tools: `user:mtu=1500,cidr=10.1.0.0/24,host-loopback`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
pub use wolffia_net::settings::Allow;
use wolffia_net::{
    Settings,
    settings::{Cidr, Rules},
};

/// How a container reaches the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace with nothing but its own loopback.
    #[default]
    None,
    /// The network of this machine.
    Host,
    /// The user-mode network.
    User(UserNetwork),
}

/// The user-mode network of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNetwork {
    /// Nobody asked for it by name: where it cannot be had, a warning says so and the container has none.
    pub is_default: bool,
    /// The container's IPv4 network.
    pub v4: Net4,
    /// The container's IPv6 network, of which 64 bits are the prefix.
    pub v6: Net6,
    /// The largest packet on its device.
    pub mtu: u32,
    /// This machine's loopback can be reached at the gateway's address.
    pub host_loopback: bool,
    /// Only these can be reached; empty: everything that the policy does not close.
    pub allow: Vec<Allow>,
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net4 {
    /// Its first address.
    pub address: Ipv4Addr,
    /// The length of its prefix.
    pub length: u8,
}

/// An IPv6 network with a prefix of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net6 {
    /// Its first address.
    pub address: Ipv6Addr,
}

/// A `--network` that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadNetwork {
    /// An option that is none.
    #[error("--network user: there is no option {0:?}")]
    Option(String),
    /// Its value is none.
    #[error("--network user: {key}={value}: {expected}")]
    Value {
        /// The option.
        key: &'static str,
        /// As given.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// Whole TCP segments cross the device, so a larger one than the world's would gain nothing for others and break discovery of the path's.
pub const MTU_DEFAULT: u32 = 65_520;
/// IPv6 wants so much of every link.
const MTU_MIN: u32 = 1280;
/// The largest that the kernel gives a TAP device (65,535 bytes without the Ethernet header).
const MTU_MAX: u32 = 65_521;

/// The prefix that leaves room for the addresses that are given out, .1 to .127.
const PREFIX_MAX: u8 = 25;

impl Default for UserNetwork {
    fn default() -> UserNetwork {
        UserNetwork {
            is_default: false,
            v4: Net4 {
                address: Ipv4Addr::new(10, 0, 2, 0),
                length: 24,
            },
            v6: Net6 {
                address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
            },
            mtu: MTU_DEFAULT,
            host_loopback: false,
            allow: Vec::new(),
        }
    }
}

impl Net4 {
    /// Returns the address of this number in it.
    pub fn at(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | u32::from(number))
    }
}

impl Net6 {
    /// Returns the address of this number in it.
    pub fn at(self, number: u16) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.address) | u128::from(number))
    }
}

impl UserNetwork {
    /// Returns the container's own addresses.
    pub fn container(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.v4.at(100), self.v6.at(0x100))
    }

    /// Returns what the process that carries its packets is told.
    pub fn settings(&self) -> Settings {
        Settings {
            mtu: u16::try_from(self.mtu).unwrap_or(u16::MAX),
            cidr: Cidr {
                address: self.v4.address,
                prefix: self.v4.length,
            },
            cidr6: Some(Cidr {
                address: self.v6.address,
                prefix: 64,
            }),
            policy: Rules {
                host_loopback: self.host_loopback,
                allow: self.allow.clone(),
                ..Rules::default()
            },
            ..Settings::default()
        }
    }

    /// Returns the gateway's addresses.
    pub fn gateway(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.v4.at(2), self.v6.at(2))
    }

    /// Returns the addresses where names are asked.
    pub fn dns(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.v4.at(3), self.v6.at(3))
    }
}

impl FromStr for UserNetwork {
    type Err = BadNetwork;

    /// Reads what stands behind `user:`.
    fn from_str(text: &str) -> Result<UserNetwork, BadNetwork> {
        let mut network = UserNetwork::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let bad = |key, expected| BadNetwork::Value {
                key,
                value: value.to_owned(),
                expected,
            };
            match key {
                "mtu" => {
                    let mtu = value.parse().ok();
                    let mtu = mtu.filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                    network.mtu = mtu.ok_or_else(|| bad("mtu", "a number from 1280 to 65521"))?;
                }
                "cidr" => {
                    let expected = "an IPv4 network with a prefix of at most 25 bits: 10.1.0.0/24";
                    let (address, length) = cidr(value).ok_or_else(|| bad("cidr", expected))?;
                    match address {
                        IpAddr::V4(address) if (1..=PREFIX_MAX).contains(&length) => {
                            network.v4 = Net4 { address, length };
                        }
                        _ => return Err(bad("cidr", expected)),
                    }
                }
                "cidr6" => {
                    let expected = "an IPv6 network with a prefix of 64 bits: fd12::/64";
                    match cidr(value) {
                        Some((IpAddr::V6(address), 64)) => network.v6 = Net6 { address },
                        _ => return Err(bad("cidr6", expected)),
                    }
                }
                "host-loopback" => {
                    network.host_loopback = match value {
                        "" | "true" => true,
                        "false" => false,
                        _ => return Err(bad("host-loopback", "true or false")),
                    };
                }
                "allow" => {
                    let expected =
                        "an address or a network, and a port if you like: 192.0.2.0/24:443";
                    network
                        .allow
                        .push(value.parse().map_err(|_| bad("allow", expected))?);
                }
                _ => return Err(BadNetwork::Option(key.to_owned())),
            }
        }
        Ok(network)
    }
}

/// Reads a network whose address has no bits behind its prefix.
fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let rest = match address {
        IpAddr::V4(address) if length <= 32 => {
            u32::from(address).checked_shl(length.into()).unwrap_or(0) == 0
        }
        IpAddr::V6(address) if length <= 128 => {
            u128::from(address).checked_shl(length.into()).unwrap_or(0) == 0
        }
        _ => false,
    };
    rest.then_some((address, length))
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Network::None => "none",
            Network::Host => "host",
            Network::User(_) => "user",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_user_network_are_read_or_refused() {
        let network: UserNetwork = "mtu=1500,cidr=10.9.8.0/25,cidr6=fd12:3::/64,host-loopback,allow=192.0.2.0/24:443,allow=[2001:db8::/32]:53,allow=::1"
            .parse()
            .unwrap();
        assert_eq!((network.mtu, network.host_loopback), (1500, true));
        assert_eq!(network.container().0, Ipv4Addr::new(10, 9, 8, 100));
        assert_eq!(network.gateway().1.to_string(), "fd12:3::2");
        assert_eq!(network.dns().1.to_string(), "fd12:3::3");
        let allowed: Vec<_> = network
            .allow
            .iter()
            .map(|allow| (allow.prefix, allow.port))
            .collect();
        assert_eq!(allowed, [(24, Some(443)), (32, Some(53)), (128, None)]);
        for bad in [
            "mtu=0",
            "mtu=70000",
            "cidr=10.0.2.1/24",
            "cidr=10.0.2.0/26",
            "cidr=fd00::/64",
            "cidr6=fd00::/48",
            "cidr6=fd00::1/64",
            "host-loopback=x",
            "allow=",
            "allow=host:80",
            "allow=1.2.3.4:x",
            "what",
        ] {
            assert!(bad.parse::<UserNetwork>().is_err(), "{bad}");
        }
    }

    #[test]
    fn records_of_before_are_read() {
        assert_eq!(
            serde_json::from_str::<Network>("\"none\"").unwrap(),
            Network::None
        );
        assert_eq!(
            serde_json::from_str::<Network>("\"host\"").unwrap(),
            Network::Host
        );
        let user = Network::User(UserNetwork::default());
        let text = serde_json::to_string(&user).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), user);
    }
}
