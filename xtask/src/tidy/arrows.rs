// SPDX-License-Identifier: Apache-2.0
//! Who may import whom: the arrows between the rooms, and no circle.
//!
//! The table is the one of ARCHITECTURE.md. Tests may use the same rooms as the code they test, and `testkit`.

use std::collections::BTreeMap;

use super::Finding;
use crate::workspace::{Package, room};

/// Each room, and what it may import of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("image", &[]),
    ("packet", &[]),
    ("store", &["sys", "image"]),
    ("fetch", &["image"]),
    ("mount", &["store", "sys", "image"]),
    ("pull", &["fetch", "store", "mount", "image", "sys"]),
    ("net", &["sys", "packet"]),
    ("notify", &["sys", "image", "store"]),
    ("runtime", &["sys", "image"]),
    (
        "engine",
        &[
            "sys", "image", "store", "fetch", "mount", "pull", "runtime", "net", "notify",
        ],
    ),
    (
        "cli",
        &[
            "sys", "image", "store", "fetch", "mount", "pull", "runtime", "net", "notify", "engine",
        ],
    ),
    // Not part of the product: the kit must not know what the rooms above the lowest two do.
    ("testkit", &["sys", "image"]),
    ("xtask", &["sys", "image", "testkit"]),
];

/// Checks the dependencies of all packages against the table.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.room()) else {
            findings.push(Finding::fault(
                package.room(),
                "no row in the table of arrows",
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let is_ours = packages.iter().any(|other| other.name == dependency.name);
            let target = room(&dependency.name);
            let is_test = dependency.kind.as_deref() == Some("dev");
            if is_ours && !allowed.contains(&target) && !(is_test && target == "testkit") {
                let says = format!("imports {target}; it may import {}", list(allowed));
                findings.push(Finding::fault(package.room(), says));
            }
        }
    }
    findings.extend(circle(packages));
    findings
}

fn list(rooms: &[&str]) -> String {
    if rooms.is_empty() {
        "nothing of ours".to_owned()
    } else {
        rooms.join(", ")
    }
}

/// Finds a circle among ordinary dependencies. Cargo refuses those too, but not through a build script's.
fn circle(packages: &[Package]) -> Option<Finding> {
    let mut arrows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let ordinary = package
            .dependencies
            .iter()
            .filter(|one| one.kind.as_deref() != Some("dev"));
        arrows.insert(
            package.room(),
            ordinary.map(|one| room(&one.name)).collect(),
        );
    }
    // A room whose imports are all gone can go too; what is left in the end lies on a circle or above one.
    loop {
        let leaf = arrows
            .iter()
            .find(|(_, to)| !to.iter().any(|room| arrows.contains_key(room)));
        let Some((&leaf, _)) = leaf else { break };
        arrows.remove(leaf);
    }
    let left: Vec<_> = arrows.keys().copied().collect();
    (!left.is_empty()).then(|| Finding::fault(left.join(", "), "import each other in a circle"))
}

#[cfg(test)]
mod tests {
    use super::super::faults;
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(str::to_owned),
        };
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            manifest_path: "/Cargo.toml".into(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn arrows_of_the_table_are_no_fault() {
        let packages = [
            package(
                "wolffia-sys",
                &[("libc", None), ("wolffia-testkit", Some("dev"))],
            ),
            package("wolffia-image", &[]),
            package(
                "wolffia-store",
                &[("wolffia-sys", None), ("wolffia-image", None)],
            ),
            package("wolffia-testkit", &[("wolffia-image", None)]),
        ];
        assert_eq!(faults(&check(&packages)), [""; 0]);
    }

    #[test]
    fn planted_arrows_are_found() {
        let cases = [
            (
                ("wolffia-image", ("wolffia-sys", None)),
                "image: imports sys; it may import nothing of ours",
            ),
            (
                ("wolffia-sys", ("wolffia-testkit", None)),
                "sys: imports testkit",
            ),
            (
                ("wolffia-fetch", ("wolffia-sys", Some("dev"))),
                "fetch: imports sys; it may import image",
            ),
            (("wolffia-store", ("wolffia-image", Some("build"))), ""),
            (("wolffia-mystery", ("libc", None)), "mystery: no row"),
        ];
        for ((from, (to, kind)), expected) in cases {
            let mut packages = vec![package(from, &[(to, kind)])];
            packages.push(package(to, &[]));
            let found = faults(&check(&packages)).join("\n");
            let found = found.replace("fault: libc: no row in the table of arrows", "");
            if expected.is_empty() {
                assert_eq!(found, "", "{from} -> {to}");
            } else {
                assert!(found.contains(expected), "{from} -> {to}: {found}");
            }
        }
    }

    #[test]
    fn a_planted_circle_is_found() {
        let packages = [
            package("wolffia-sys", &[("wolffia-image", None)]),
            package("wolffia-image", &[("wolffia-sys", Some("build"))]),
            package("wolffia-store", &[("wolffia-image", None)]),
            package("wolffia-fetch", &[]),
        ];
        let expected = "image, store, sys: import each other in a circle";
        assert!(circle(&packages).unwrap().to_string().contains(expected));
    }
}
