// SPDX-License-Identifier: Apache-2.0
//! Neighbour discovery of IPv6: solicitations, and the advertisements of neighbours and of the router (RFC 4861, RFC 8106).

use std::net::Ipv6Addr;

/// Hops of every honest message: it has crossed no router.
pub const HOPS: u8 = 255;
/// Type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ROUTER_ADVERTISEMENT: u8 = 134;

const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_NAME_SERVER: u8 = 25;

/// How long guests may believe the router and its prefix, in seconds. Advertisements are repeated long before.
const LIFETIME_SECONDS: u16 = 9000;
const PREFIX_SECONDS: u32 = 86_400;

/// The address that all nodes of the link listen to.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Whose hardware address is asked for or told.
    pub target: Ipv6Addr,
    /// The hardware address of the sender (solicitation) or target (advertisement), if said.
    pub mac: Option<[u8; 6]>,
}

impl Neighbour {
    /// Reads a solicitation or advertisement; `None` if it is short or an option is malformed.
    pub fn parse(bytes: &[u8]) -> Option<Neighbour> {
        let (header, mut options) = bytes.split_first_chunk::<24>()?;
        let target = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|n| header[8 + n]));
        if target.is_multicast() {
            return None;
        }
        let wanted = if header[0] == NEIGHBOUR_SOLICITATION {
            OPTION_SOURCE_MAC
        } else {
            OPTION_TARGET_MAC
        };
        let mut mac = None;
        while let [kind, words, rest @ ..] = options {
            let length = usize::from(*words) * 8;
            if length == 0 || length > options.len() {
                return None;
            }
            if *kind == wanted && length == 8 {
                mac = rest.first_chunk::<6>().copied();
            }
            options = &options[length..];
        }
        Some(Neighbour { target, mac })
    }
}

/// Writes an advertisement of a neighbour that is a router; the checksum stays empty.
pub fn neighbour_advertisement(target: Ipv6Addr, mac: [u8; 6], is_asked: bool) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = NEIGHBOUR_ADVERTISEMENT;
    // Router, override; solicited.
    bytes[4] = 0xa0 | if is_asked { 0x40 } else { 0 };
    bytes[8..24].copy_from_slice(&target.octets());
    bytes[24] = OPTION_TARGET_MAC;
    bytes[25] = 1;
    bytes[26..32].copy_from_slice(&mac);
    bytes
}

/// Writes a solicitation; the checksum stays empty.
pub fn neighbour_solicitation(target: Ipv6Addr, mac: [u8; 6]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = NEIGHBOUR_SOLICITATION;
    bytes[8..24].copy_from_slice(&target.octets());
    bytes[24] = OPTION_SOURCE_MAC;
    bytes[25] = 1;
    bytes[26..32].copy_from_slice(&mac);
    bytes
}

/// Returns the group in which the owner of an address listens for solicitations.
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let [high, low] = [u16::from(a) | 0xff00, u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// Returns the hardware address of a group.
pub fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// What the router tells.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The network's address.
    pub network: Ipv6Addr,
    /// Length of its prefix; guests make themselves addresses where it is 64.
    pub prefix: u8,
    /// The MTU of the link.
    pub mtu: u16,
    /// The name server.
    pub dns: Option<Ipv6Addr>,
}

impl Router {
    /// Writes an advertisement, its checksum left empty.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
        bytes.extend(LIFETIME_SECONDS.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend([OPTION_SOURCE_MAC, 1]);
        bytes.extend(self.mac);
        bytes.extend([OPTION_MTU, 1, 0, 0]);
        bytes.extend(u32::from(self.mtu).to_be_bytes());
        // On the link; addresses may be made from it.
        let flags = if self.prefix == 64 { 0xc0 } else { 0x80 };
        bytes.extend([OPTION_PREFIX, 4, self.prefix, flags]);
        bytes.extend(PREFIX_SECONDS.to_be_bytes());
        bytes.extend(PREFIX_SECONDS.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.network.octets());
        if let Some(dns) = self.dns {
            bytes.extend([OPTION_NAME_SERVER, 3, 0, 0]);
            bytes.extend(u32::from(LIFETIME_SECONDS).to_be_bytes());
            bytes.extend(dns.octets());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_come_back_and_malformed_ones_are_none() {
        let target: Ipv6Addr = "fd00::2".parse().unwrap();
        let expected = Some(Neighbour {
            target,
            mac: Some([2; 6]),
        });
        for bytes in [
            neighbour_advertisement(target, [2; 6], true),
            neighbour_solicitation(target, [2; 6]),
        ] {
            assert_eq!(Neighbour::parse(&bytes), expected);
            assert_eq!(
                Neighbour::parse(&bytes[..24]),
                Some(Neighbour { target, mac: None })
            );
            for length in (0..24).chain(26..32) {
                assert_eq!(Neighbour::parse(&bytes[..length]), None, "{length}");
            }
            let mut endless = bytes;
            endless[25] = 0;
            assert_eq!(Neighbour::parse(&endless), None);
        }
        assert_eq!(
            solicited_node(target),
            "ff02::1:ff00:2".parse::<Ipv6Addr>().unwrap()
        );
        assert_eq!(
            group_mac(solicited_node(target)),
            [0x33, 0x33, 0xff, 0, 0, 2]
        );
    }

    #[test]
    fn a_router_tells_whole_options() {
        let router = Router {
            mac: [2; 6],
            network: "fd00::".parse().unwrap(),
            prefix: 64,
            mtu: 1500,
            dns: Some("fd00::3".parse().unwrap()),
        };
        let bytes = router.to_bytes();
        let mut options = &bytes[16..];
        let mut kinds = Vec::new();
        while !options.is_empty() {
            kinds.push((options[0], options[1]));
            options = &options[usize::from(options[1]) * 8..];
        }
        assert_eq!(kinds, [(1, 1), (5, 1), (3, 4), (25, 3)]);
    }
}
