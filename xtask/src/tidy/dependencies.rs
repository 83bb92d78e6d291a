// SPDX-License-Identifier: Apache-2.0
//! What comes from outside: licences, sources and the number of crates, by the rules of deny.toml.
//!
//! `cargo deny` reads the same file and also knows advisories, but has to be installed first; the part of it that needs
//! no database is checked here, so that everybody has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::Finding;
use crate::workspace;

/// The only place from which crates may come.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The program that people get, and how many crates it aims to be made of.
const DOOR: &str = "wolffia-cli";
const DOOR_CRATES_AIM: usize = 120;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

/// Asks cargo for the whole graph on this platform and checks it.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let deny = std::fs::read_to_string(root.join("deny.toml")).context("reading deny.toml")?;
    let deny: Deny = toml::from_str(&deny).context("reading deny.toml")?;
    let output = workspace::cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", output.status);
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(check_graph(&metadata, &deny.licenses.allow))
}

fn check_graph(metadata: &Metadata, allowed: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some())
    {
        let place = format!("{} {}", package.name, package.version);
        if package.source.as_deref() != Some(REGISTRY) {
            findings.push(Finding::fault(&place, "does not come from crates.io"));
        }
        match &package.license {
            None => findings.push(Finding::fault(&place, "names no licence")),
            Some(licence) if !is_allowed(licence, allowed) => {
                findings.push(Finding::fault(
                    &place,
                    format!("licence {licence} is not in deny.toml"),
                ));
            }
            Some(_) => {}
        }
    }
    let door = reachable(metadata, DOOR);
    if door.len() > DOOR_CRATES_AIM {
        let says = format!("{} crates; the aim is {DOOR_CRATES_AIM}", door.len());
        findings.push(Finding::advice(DOOR, says));
    }
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| door.contains(package.id.as_str()))
    {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let versions: Vec<_> = versions.iter().copied().collect();
        findings.push(Finding::advice(
            *name,
            format!("twice in the door: {}", versions.join(", ")),
        ));
    }
    findings
}

/// Returns the ids of all packages that end up in a program of this package.
fn reachable<'a>(metadata: &'a Metadata, name: &str) -> BTreeSet<&'a str> {
    let start = metadata
        .packages
        .iter()
        .find(|package| package.name == name);
    let mut todo: Vec<&str> = start
        .map(|package| package.id.as_str())
        .into_iter()
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !found.insert(id) {
            continue;
        }
        let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
        let edges = node.into_iter().flat_map(|node| &node.deps);
        let linked = edges.filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        todo.extend(linked.map(|edge| edge.pkg.as_str()));
    }
    found
}

/// Tells whether an SPDX expression can be satisfied with the allowed licences.
///
/// `AND` binds closer than `OR`; old manifests write `/` for `OR`. Exceptions (`WITH`) belong to the licence's name.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allowed) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        good |= both(words, at, allowed);
    }
    good
}

fn both(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        good &= one(words, at, allowed);
    }
    good
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let good = either(words, at, allowed);
        *at += 1;
        return good;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::faults;
    use super::*;

    #[test]
    fn licence_expressions_are_weighed() {
        let allowed =
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned);
        let cases = [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("MIT AND ISC OR GPL-3.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("GPL-3.0 WITH LLVM-exception", false),
            ("", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }

    fn metadata(licence: &str, source: &str) -> Metadata {
        let text = format!(
            r#"{{"packages":[
              {{"id":"1","name":"wolffia-cli","version":"0.1.0","license":"Apache-2.0","source":null}},
              {{"id":"2","name":"a","version":"1.0.0","license":{licence},"source":"{source}"}},
              {{"id":"3","name":"a","version":"2.0.0","license":"MIT","source":"{REGISTRY}"}}],
            "resolve":{{"nodes":[
              {{"id":"1","deps":[{{"pkg":"2","dep_kinds":[{{"kind":null}}]}},{{"pkg":"3","dep_kinds":[{{"kind":"dev"}}]}}]}},
              {{"id":"2","deps":[{{"pkg":"3","dep_kinds":[{{"kind":null}},{{"kind":"dev"}}]}}]}},
              {{"id":"3","deps":[]}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn planted_crates_are_found() {
        let allowed = ["MIT".to_owned()];
        for (licence, source, expected) in [
            ("\"GPL-3.0\"", REGISTRY, "a 1.0.0: licence GPL-3.0"),
            ("null", REGISTRY, "a 1.0.0: names no licence"),
            (
                "\"MIT\"",
                "git+https://example.org/a",
                "a 1.0.0: does not come from crates.io",
            ),
        ] {
            let found = faults(&check_graph(&metadata(licence, source), &allowed)).join("\n");
            assert!(found.contains(expected), "{found}");
        }
        let good = check_graph(&metadata("\"MIT\"", REGISTRY), &allowed);
        assert_eq!(faults(&good), [""; 0]);
        assert_eq!(good.len(), 1, "two versions are advice: {good:?}");
    }
}
