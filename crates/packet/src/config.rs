// SPDX-License-Identifier: Apache-2.0
//! What a [`Stack`](crate::Stack) is told at the start: addresses, offloads, bounds.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use thiserror::Error;

/// Everything a stack is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The largest IP packet on the segment, in bytes; 576 to 65,535 (1,280 at least with IPv6).
    pub mtu: u16,
    /// Our hardware address, that of the gateway and all its services.
    pub mac: [u8; 6],
    /// The IPv4 network; without one IPv4 is not spoken.
    pub v4: Option<Network4>,
    /// The IPv6 network; without one IPv6 is not spoken.
    pub v6: Option<Network6>,
    /// What the device does for frames that we give it.
    pub offload: Offload,
    /// Bounds on what guests can make us keep.
    pub limits: Limits,
    /// Random bytes, secret from guests: initial sequence numbers and hash tables are keyed by them.
    pub secret: [u8; 16],
}

/// The IPv4 network of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network4 {
    /// The network's own address.
    pub network: Ipv4Addr,
    /// Length of the prefix in bits; 1 to 30.
    pub prefix: u8,
    /// Our address: answers ARP and echo, is the router.
    pub gateway: Ipv4Addr,
    /// The address of the name server, also ours; `None` if there is none.
    pub dns: Option<Ipv4Addr>,
    /// First and last address that DHCP gives out; `None` switches the server off.
    pub dhcp: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The address that a guest is expected to have when it is configured by hand.
    pub guest: Ipv4Addr,
}

impl Network4 {
    /// Lays out a network as slirp does: .2 the gateway, .3 the name server, .15 to .30 for DHCP, .100 the guest.
    ///
    /// # Errors
    /// The prefix is not 1 to 25 bits long, or the address has bits set behind it.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Network4, ConfigError> {
        if !(1..=25).contains(&prefix) {
            return Err(ConfigError::Prefix {
                prefix,
                from: 1,
                to: 25,
            });
        }
        let base = u32::from(network);
        if base << prefix != 0 {
            return Err(ConfigError::NotANetwork {
                address: network.into(),
            });
        }
        let host = |number: u32| Ipv4Addr::from(base | number);
        Ok(Network4 {
            network,
            prefix,
            gateway: host(2),
            dns: Some(host(3)),
            dhcp: Some((host(15), host(30))),
            guest: host(100),
        })
    }

    /// Tells whether an address lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let differing = u32::from(address) ^ u32::from(self.network);
        self.prefix > 0 && differing >> (32 - u32::from(self.prefix.min(32))) == 0
    }

    /// Returns the netmask.
    pub fn netmask(&self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix.min(32));
        Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// Returns the address that means everybody in the network.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !u32::from(self.netmask()))
    }
}

/// The IPv6 network of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network6 {
    /// The network's own address.
    pub network: Ipv6Addr,
    /// Length of the prefix in bits; guests configure themselves only in one of 64.
    pub prefix: u8,
    /// Our address in the network.
    pub gateway: Ipv6Addr,
    /// Our address on the link, which router advertisements come from.
    pub link_local: Ipv6Addr,
    /// The address of the name server, also ours; `None` if there is none.
    pub dns: Option<Ipv6Addr>,
    /// The address that a guest is expected to have when it is configured by hand.
    pub guest: Ipv6Addr,
    /// Whether router advertisements are sent, so that guests configure themselves.
    pub advertise: bool,
}

impl Network6 {
    /// Lays out a network as slirp does: `::2` the gateway (`fe80::2` on the link), `::3` the name server; `::100` the guest.
    ///
    /// # Errors
    /// The prefix is not 1 to 112 bits long, or the address has bits set behind it.
    pub fn new(network: Ipv6Addr, prefix: u8) -> Result<Network6, ConfigError> {
        if !(1..=112).contains(&prefix) {
            return Err(ConfigError::Prefix {
                prefix,
                from: 1,
                to: 112,
            });
        }
        let base = u128::from(network);
        if base << prefix != 0 {
            return Err(ConfigError::NotANetwork {
                address: network.into(),
            });
        }
        let host = |number: u128| Ipv6Addr::from(base | number);
        Ok(Network6 {
            network,
            prefix,
            gateway: host(2),
            link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            dns: Some(host(3)),
            guest: host(0x100),
            advertise: true,
        })
    }

    /// Tells whether an address lies in the network.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let differing = u128::from(address) ^ u128::from(self.network);
        self.prefix > 0 && differing >> (128 - u32::from(self.prefix.min(128))) == 0
    }
}

/// What the device does for frames that we give it. Frames that come from it say themselves what was left undone.
///
/// With none of it every frame has its whole checksums and at most the MTU.
#[expect(
    clippy::struct_excessive_bools,
    reason = "abilities of a device, each by itself"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Finishes checksums.
    pub checksum: bool,
    /// Cuts TCP segments over IPv4; needs `checksum`.
    pub tso4: bool,
    /// Cuts TCP segments over IPv6; needs `checksum`.
    pub tso6: bool,
    /// Cuts UDP segments; needs `checksum`.
    pub uso: bool,
}

impl Offload {
    /// Everything: a TAP with virtio headers on a kernel of 6.2 or later.
    pub const ALL: Offload = Offload {
        checksum: true,
        tso4: true,
        tso6: true,
        uso: true,
    };
    /// Nothing: a TAP without virtio headers.
    pub const NONE: Offload = Offload {
        checksum: false,
        tso4: false,
        tso6: false,
        uso: false,
    };
}

/// Bounds on what guests can make us keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all states together; one more is refused with a reset.
    pub flows_max: usize,
    /// Connections whose answer is still out (host not connected yet); one more is not answered, so that the guest asks again.
    pub half_open_max: usize,
    /// Bytes of all rings and of all windows promised to guests; at the bound flows keep small windows and work on.
    pub memory_bytes_max: usize,
    /// The first window and ring of a flow.
    pub ring_bytes_first: usize,
    /// What the rings of a flow may grow to, each.
    pub ring_bytes_max: usize,
    /// Datagrams being put together from fragments, and their bytes together.
    pub reassembly_datagrams_max: usize,
    /// Bytes of all datagrams being put together.
    pub reassembly_bytes_max: usize,
    /// Quiet time after which a guest is asked whether it is still there.
    pub keepalive_after: Duration,
    /// How long a connection that is closed on both sides answers late repetitions.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // 10,000 idle and 500 busy ones fit with room to spare.
            flows_max: 16 * 1024,
            half_open_max: 1024,
            memory_bytes_max: 256 << 20,
            ring_bytes_first: 64 << 10,
            ring_bytes_max: 8 << 20,
            reassembly_datagrams_max: 64,
            reassembly_bytes_max: 1 << 20,
            // RFC 1122, 4.2.3.6: not less than two hours by default.
            keepalive_after: Duration::from_hours(2),
            // Nothing lingers on a virtual wire; what does is a repetition whose answer was lost.
            linger: Duration::from_secs(1),
        }
    }
}

/// A configuration that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An MTU outside of what IP allows.
    #[error("mtu {mtu} is not between {from} and 65535")]
    Mtu {
        /// What was asked for.
        mtu: u16,
        /// The least there may be.
        from: u16,
    },
    /// A prefix that leaves no room for the addresses needed, or none at all.
    #[error("prefix length {prefix} is not {from}-{to}")]
    Prefix {
        /// What was asked for.
        prefix: u8,
        /// The shortest.
        from: u8,
        /// The longest.
        to: u8,
    },
    /// An address with bits behind the prefix.
    #[error("{address} is not a network address")]
    NotANetwork {
        /// What was given.
        address: std::net::IpAddr,
    },
    /// An address that must lie in the network and does not.
    #[error("{address} is not in the network")]
    OutsideNetwork {
        /// What was given.
        address: std::net::IpAddr,
    },
    /// Segmentation was asked for without checksums, which the kernel does not take.
    #[error("segmentation offload without checksum offload")]
    OffloadWithoutChecksum,
}
