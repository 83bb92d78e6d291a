// SPDX-License-Identifier: Apache-2.0
//! The address that outgoing connections come from: as it is, or that of a device by its name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wolffia_sys::netlink::Netlink;

use super::Failure;

/// Returns the IPv4 address that a word means.
pub(super) fn v4(word: Option<&str>) -> Result<Option<Ipv4Addr>, Failure> {
    let Some(word) = word else { return Ok(None) };
    let found = word.parse().ok().or_else(|| {
        of_device(word)
            .into_iter()
            .find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
    });
    found.map(Some).ok_or_else(|| {
        Failure::plain("outbound-addr has to be valid ipv4 address or interface name.")
    })
}

/// Returns the IPv6 address that a word means.
pub(super) fn v6(word: Option<&str>) -> Result<Option<Ipv6Addr>, Failure> {
    let Some(word) = word else { return Ok(None) };
    let found = word.parse().ok().or_else(|| {
        of_device(word)
            .into_iter()
            .find_map(|address| match address {
                IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
                _ => None,
            })
    });
    found.map(Some).ok_or_else(|| {
        Failure::plain("outbound-addr6 has to be valid ipv6 address or interface name.")
    })
}

fn of_device(name: &str) -> Vec<IpAddr> {
    let asked = Netlink::open().and_then(|mut netlink| {
        let index = netlink.link(name)?.index;
        Ok((index, netlink.addresses()?))
    });
    let Ok((index, addresses)) = asked else {
        return Vec::new();
    };
    addresses
        .into_iter()
        .filter(|(device, _)| *device == index)
        .map(|(_, prefix)| prefix.address)
        .collect()
}
