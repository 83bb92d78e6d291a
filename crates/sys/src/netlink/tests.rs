// SPDX-License-Identifier: Apache-2.0
//! The kernel's own opinion of what is written, in namespaces made for it.
//!
//! A test binary has threads, and a process with threads cannot leave its user namespace; so each test runs once more as the only one of a process
//! that `unshare(1)` puts into new namespaces.

use std::process::Command;

use super::*;

/// Tells the second run from the first.
const INSIDE: &str = "WOLFFIA_TEST_INSIDE";

/// Runs the test of this name again in its own user and network namespace; returns whether we are that run.
pub(crate) fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    wolffia_testkit::need!(UserNamespace => false);
    let ourselves = std::env::current_exe().expect("our own path");
    let output = Command::new("unshare")
        .args(["-Urn", "--"])
        .arg(ourselves)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("running again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{wrong}"
    );
    false
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    let address: IpAddr = address.parse().expect("an address");
    Prefix::new(address, length.parse().expect("a length")).expect("a length that fits")
}

#[test]
fn a_bridge_with_a_wire_is_made_changed_and_removed() {
    if !inside("netlink::tests::a_bridge_with_a_wire_is_made_changed_and_removed") {
        return;
    }
    let mut netlink = Netlink::open().expect("a socket");
    let bridge = netlink.create("b0", Kind::Bridge).expect("a bridge");
    let veth = Kind::Veth {
        peer: "w1",
        peer_namespace: None,
        peer_address: Some([2, 0, 0, 0, 0, 7]),
    };
    let wire = netlink.create("w0", veth).expect("a wire");
    assert_eq!(netlink.create("w0", Kind::Bridge), Err(Errno::EXIST));
    let change = Change {
        up: Some(true),
        mtu: Some(9000),
        bridge: Some(bridge),
        ..Change::default()
    };
    netlink.change(wire, change).expect("changing it");
    let end = netlink.link("w1").expect("the other end");
    let change = Change {
        name: Some("eth0"),
        up: Some(true),
        link_local: Some(false),
        ..Change::default()
    };
    netlink.change(end.index, change).expect("renaming it");

    let links = netlink.links().expect("all devices");
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let wire = find("w0").expect("the wire");
    assert!(wire.is_up && wire.mtu == 9000 && wire.bridge == Some(bridge));
    assert_eq!(
        find("eth0").expect("its end").address,
        Some([2, 0, 0, 0, 0, 7])
    );
    assert!(find("w1").is_none() && find("lo").is_some());

    netlink.remove(wire.index).expect("removing it");
    assert_eq!(
        netlink.link("eth0"),
        Err(Errno::NODEV),
        "both ends are gone"
    );
}

#[test]
fn addresses_routes_and_rules_are_what_ip_shows() {
    if !inside("netlink::tests::addresses_routes_and_rules_are_what_ip_shows") {
        return;
    }
    let mut netlink = Netlink::open().expect("a socket");
    let veth = Kind::Veth {
        peer: "d1",
        peer_namespace: None,
        peer_address: None,
    };
    let device = netlink.create("d0", veth).expect("a device");
    let up = Change {
        up: Some(true),
        ..Change::default()
    };
    netlink.change(device, up).expect("switching it on");
    let other = netlink.link("d1").expect("its end").index;
    netlink.change(other, up).expect("switching it on");
    let lo = netlink.link("lo").expect("the loopback").index;
    netlink.change(lo, up).expect("switching it on");
    for address in ["10.0.2.100/24", "fd00::100/64"] {
        netlink
            .add_address(device, prefix(address))
            .expect("an address");
        let there = netlink.addresses().expect("addresses");
        assert!(there.contains(&(device, prefix(address))), "{there:?}");
    }
    let gateways: [IpAddr; 2] = [[10, 0, 2, 2].into(), "fd00::2".parse().expect("an address")];
    for gateway in gateways {
        let route = Route {
            gateway: Some(gateway),
            device: Some(device),
            ..Route::default()
        };
        netlink.add_route(route).expect("a default route");
        assert_eq!(netlink.add_route(route), Err(Errno::EXIST));
    }
    for client in ["192.0.2.7", "2001:db8::7"] {
        let client: IpAddr = client.parse().expect("an address");
        let local = Route {
            destination: Some(Prefix::host(client)),
            device: Some(lo),
            table: 1000,
            is_local: true,
            ..Route::default()
        };
        netlink.add_route(local).expect("a local route");
        let rule = Rule {
            is_v6: client.is_ipv6(),
            table: 1000,
            priority: 100,
            protocol: Some(17),
            from_ports: Some((53, 54)),
            ..Rule::default()
        };
        netlink.add_rule(rule).expect("a rule by port");
        let marked = Rule {
            is_v6: client.is_ipv6(),
            table: 1001,
            priority: 101,
            mark: Some(0x77),
            ..Rule::default()
        };
        netlink.add_rule(marked).expect("a rule by mark");
        netlink.remove_rule(marked).expect("removing it");
        assert!(netlink.remove_rule(marked).is_err());
    }
    // The opinion of a peer, where it is installed.
    let ip = |words: &[&str]| {
        let output = Command::new("ip").args(words).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(routes) = ip(&["route", "show", "table", "all"]) else {
        return;
    };
    assert!(routes.contains("default via 10.0.2.2 dev d0"), "{routes}");
    assert!(
        routes.contains("local 192.0.2.7 dev lo table 1000"),
        "{routes}"
    );
    let rules = ip(&["-6", "rule", "show"]).expect("ip");
    assert!(rules.contains("100:"), "{rules}");
    assert!(
        rules.contains("ipproto udp sport 53-54 lookup 1000"),
        "{rules}"
    );
    assert!(!rules.contains("fwmark"), "{rules}");
}

#[test]
fn cut_answers_end_the_reading() {
    for length in 0..16 {
        assert_eq!(message::answers(&vec![0xff; length]).count(), 0);
    }
    assert_eq!(attributes(&[9, 0, 1, 0, 5, 5]).count(), 0, "cut");
    assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0, "shorter than itself");
}

#[test]
fn the_way_to_an_address_is_the_kernels() {
    if !inside("netlink::tests::the_way_to_an_address_is_the_kernels") {
        return;
    }
    let mut netlink = Netlink::open().expect("a socket");
    let out: IpAddr = "192.0.2.7".parse().expect("an address");
    assert_eq!(netlink.way_to(out), Err(Errno::NETUNREACH));
    let bridge = netlink.create("b0", Kind::Bridge).expect("a bridge");
    for (address, out) in [("10.9.0.1/24", "10.9.0.7"), ("fd09::1/64", "fd09::7")] {
        let own = prefix(address);
        netlink.add_address(bridge, own).expect("an address");
        let up = Change {
            up: Some(true),
            ..Change::default()
        };
        netlink.change(bridge, up).expect("switching it on");
        let way = netlink.way_to(out.parse().expect("an address")).expect(out);
        assert_eq!((way.device, way.leads_out), (bridge, true), "{out}");
        // To ourselves it does not lead out. The kernel gets to an IPv6 address a moment later.
        let begun = std::time::Instant::now();
        while netlink.way_to(own.address).expect(address).leads_out {
            assert!(begun.elapsed().as_secs() < 10, "{address}");
            std::thread::yield_now();
        }
    }
}
