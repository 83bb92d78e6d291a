// SPDX-License-Identifier: Apache-2.0
//! Where a guest may go: a destination as it stood in the packet becomes one on the host, or a refusal.
//!
//! # Theory of operation
//! The order counts; the first that fits decides.
//! 1. The name server's address: questions (port 53) go to the resolver, anything else is refused. Where names are off all is dropped.
//! 2. The gateway's address is the host's loopback where the rules open it, else unreachable.
//! 3. What can never be meant: unspecified and broadcast addresses, multicast, loopback. An IPv6 address that carries an IPv4 one (mapped,
//!    compatible, NAT64) is judged as both: else `::ffff:127.0.0.1` would be a way around.
//! 4. Link-local and the clouds' metadata addresses, closed by default.
//! 5. The allow-list, where there is one.
//! 6. Addresses of the host itself. Asked of the kernel's routing table each time: addresses come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wolffia_packet::{Network4, Network6, Refusal, Unreachable};

use crate::settings::{Dns, Rules};

/// Metadata services that are not at a link-local address: Azure's wire server, Alibaba's, and Amazon's IPv6 one.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// The port of the name server.
pub(crate) const DNS_PORT: u16 = 53;

/// The rules together with the addresses that they are about.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Rules,
    has_names: bool,
    v4: Option<Network4>,
    v6: Option<Network6>,
}

/// What becomes of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go there.
    Go(SocketAddr),
    /// Ask the resolver.
    Resolve,
    /// Do not.
    Refuse(Refusal),
}

const UNREACHABLE: Verdict = Verdict::Refuse(Refusal::Unreachable(Unreachable::Network));
const FORBIDDEN: Verdict = Verdict::Refuse(Refusal::Unreachable(Unreachable::Prohibited));

impl Policy {
    pub(crate) fn new(
        rules: &Rules,
        dns: &Dns,
        v4: Option<Network4>,
        v6: Option<Network6>,
    ) -> Policy {
        Policy {
            rules: rules.clone(),
            has_names: *dns != Dns::Off,
            v4,
            v6,
        }
    }

    /// Judges a destination; `is_hosts` tells whether an address is the host's own.
    pub(crate) fn judge(
        &self,
        to: SocketAddr,
        is_hosts: &mut dyn FnMut(IpAddr) -> bool,
    ) -> Verdict {
        if self.is_name_server(to.ip()) {
            return match (self.has_names, to.port()) {
                (false, _) => Verdict::Refuse(Refusal::Silent),
                (true, DNS_PORT) => Verdict::Resolve,
                (true, _) => Verdict::Refuse(Refusal::Reset),
            };
        }
        if self.is_gateway(to.ip()) {
            if !self.rules.host_loopback {
                return UNREACHABLE;
            }
            let loopback = match to.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            return Verdict::Go(SocketAddr::new(loopback, to.port()));
        }
        let carried = carried(to.ip()).map(IpAddr::V4);
        for address in [Some(to.ip()), carried].into_iter().flatten() {
            if is_never_meant(address) {
                return UNREACHABLE;
            }
            if !self.rules.link_local && is_link_local(address) {
                return FORBIDDEN;
            }
        }
        let is_allowed = |address| {
            let to = SocketAddr::new(address, to.port());
            self.rules.allow.iter().any(|allow| allow.covers(to))
        };
        if !self.rules.allow.is_empty() && !is_allowed(to.ip()) {
            return FORBIDDEN;
        }
        if matches!(to.ip(), IpAddr::V6(address) if address.is_unicast_link_local()) {
            // Which device's link is meant nobody can say.
            return UNREACHABLE;
        }
        if !self.rules.host_addresses
            && [Some(to.ip()), carried]
                .into_iter()
                .flatten()
                .any(&mut *is_hosts)
        {
            return FORBIDDEN;
        }
        Verdict::Go(to)
    }

    /// Returns the address that a guest knows a host's peer by: loopback is the gateway.
    pub(crate) fn seen_by_guest(&self, peer: SocketAddr) -> SocketAddr {
        let address = match peer.ip() {
            IpAddr::V4(address) if address.is_loopback() => {
                self.v4.map(|network| IpAddr::V4(network.gateway))
            }
            IpAddr::V6(address) if address.is_loopback() => {
                self.v6.map(|network| IpAddr::V6(network.gateway))
            }
            _ => None,
        };
        SocketAddr::new(address.unwrap_or(peer.ip()), peer.port())
    }

    fn is_name_server(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_some_and(|network| network.dns == Some(address)),
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.dns == Some(address)),
        }
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_some_and(|network| network.gateway == address),
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.gateway == address),
        }
    }
}

/// Returns the IPv4 address that an IPv6 one carries: mapped, compatible, or translated by a NAT64 at its well-known prefix.
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let segments = address.segments();
    let carries = segments[..5] == [0; 5] && (segments[5] == 0xffff || segments[5] == 0)
        || segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [.., a, b, c, d] = address.octets();
    (carries && address != Ipv6Addr::LOCALHOST && !address.is_unspecified())
        .then(|| Ipv4Addr::new(a, b, c, d))
}

fn is_never_meant(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 is "this host"; the kernel takes 0.0.0.0 for loopback.
        IpAddr::V4(address) => {
            address.octets()[0] == 0
                || address.is_loopback()
                || address.is_multicast()
                || address.octets()[0] >= 240
        }
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                // Mapped addresses do not belong on a wire (RFC 4291, 2.5.5.2), and sockets take them for IPv4.
                || address.to_ipv4_mapped().is_some()
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &Rules, dns: &Dns) -> Policy {
        let v4 = Network4::new(Ipv4Addr::new(10, 0, 2, 0), 24).expect("a network");
        let v6 = Network6::new("fd00::".parse().expect("an address"), 64).expect("a network");
        Policy::new(rules, dns, Some(v4), Some(v6))
    }

    fn judged(rules: &Rules, to: &str) -> Verdict {
        let to = to.parse().expect(to);
        let host: [IpAddr; 2] = [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            "2001:db8::7".parse().expect("an address"),
        ];
        policy(rules, &Dns::Host).judge(to, &mut |address| host.contains(&address))
    }

    #[test]
    fn what_is_the_machines_own_is_closed_in_every_spelling() {
        let closed = [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "169.254.169.254:80",
            "169.254.1.1:80",
            "10.0.2.2:80",
            "192.0.2.7:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "168.63.129.16:80",
            "100.100.100.200:80",
            "[::]:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:1.2.3.4]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::c000:207]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fd00::2]:80",
            "[2001:db8::7]:80",
            "[fd00:ec2::254]:80",
        ];
        for to in closed {
            let verdict = judged(&Rules::default(), to);
            assert!(
                matches!(verdict, Verdict::Refuse(Refusal::Unreachable(_))),
                "{to}: {verdict:?}"
            );
        }
        for to in [
            "1.2.3.4:80",
            "192.0.2.8:80",
            "10.0.3.2:80",
            "[2001:db8::8]:80",
            "[64:ff9b::102:304]:80",
        ] {
            let verdict = judged(&Rules::default(), to);
            assert_eq!(verdict, Verdict::Go(to.parse().expect(to)));
        }
    }

    #[test]
    fn rules_open_one_thing_each() {
        let loopback = Rules {
            host_loopback: true,
            ..Rules::default()
        };
        let gateway = judged(&loopback, "10.0.2.2:80");
        assert_eq!(gateway, Verdict::Go("127.0.0.1:80".parse().expect("one")));
        let gateway = judged(&loopback, "[fd00::2]:80");
        assert_eq!(gateway, Verdict::Go("[::1]:80".parse().expect("one")));
        for to in [
            "127.0.0.1:80",
            "[::ffff:127.0.0.1]:80",
            "192.0.2.7:80",
            "169.254.169.254:80",
        ] {
            assert!(matches!(judged(&loopback, to), Verdict::Refuse(_)), "{to}");
        }
        let addresses = Rules {
            host_addresses: true,
            ..Rules::default()
        };
        assert!(matches!(judged(&addresses, "192.0.2.7:80"), Verdict::Go(_)));
        let link_local = Rules {
            link_local: true,
            ..Rules::default()
        };
        assert!(matches!(
            judged(&link_local, "169.254.169.254:80"),
            Verdict::Go(_)
        ));
        let few = Rules {
            allow: vec!["1.2.3.0/24:443".parse().expect("one")],
            ..Rules::default()
        };
        assert!(matches!(judged(&few, "1.2.3.4:443"), Verdict::Go(_)));
        for to in ["1.2.3.4:80", "1.2.4.4:443", "[2001:db8::8]:443"] {
            assert_eq!(judged(&few, to), FORBIDDEN, "{to}");
        }
        assert_eq!(judged(&few, "10.0.2.3:53"), Verdict::Resolve);
    }

    #[test]
    fn the_name_server_answers_names_only_and_nothing_where_names_are_off() {
        assert_eq!(judged(&Rules::default(), "10.0.2.3:53"), Verdict::Resolve);
        assert_eq!(judged(&Rules::default(), "[fd00::3]:53"), Verdict::Resolve);
        assert_eq!(
            judged(&Rules::default(), "10.0.2.3:80"),
            Verdict::Refuse(Refusal::Reset)
        );
        let off = policy(&Rules::default(), &Dns::Off);
        let verdict = off.judge("10.0.2.3:53".parse().expect("one"), &mut |_| false);
        assert_eq!(verdict, Verdict::Refuse(Refusal::Silent));
    }

    #[test]
    fn loopback_is_the_gateway_to_a_guest() {
        let policy = policy(&Rules::default(), &Dns::Host);
        for (host, guest) in [
            ("127.0.0.1:8", "10.0.2.2:8"),
            ("[::1]:8", "[fd00::2]:8"),
            ("1.2.3.4:8", "1.2.3.4:8"),
        ] {
            let seen = policy.seen_by_guest(host.parse().expect(host));
            assert_eq!(seen, guest.parse().expect(guest));
        }
    }
}
