// SPDX-License-Identifier: Apache-2.0
//! Versions and lints stand in the workspace's table, once; and every row of the table is used.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::{Document, Finding};

/// The tables of a manifest that name other packages.
const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks all manifests.
pub(super) fn check(documents: &[Document]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    let mut rows = BTreeSet::new();
    for document in documents
        .iter()
        .filter(|one| one.path.ends_with("Cargo.toml"))
    {
        let manifest: Table = match document.text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::fault(&document.path, error.to_string()));
                continue;
            }
        };
        if document.path == "Cargo.toml" {
            rows.extend(workspace_rows(&manifest));
            continue;
        }
        // A workspace of its own (the fuzz targets, which need another compiler) cannot inherit from this one.
        if manifest.contains_key("workspace") {
            continue;
        }
        for (name, value) in dependencies(&manifest) {
            let allowed = ["workspace", "features", "optional"];
            let foreign = value.as_table().and_then(|table| {
                table
                    .keys()
                    .find(|key| !allowed.contains(&key.as_str()))
                    .cloned()
            });
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherits {
                let says = format!("{name} does not say \"workspace = true\"");
                findings.push(Finding::fault(&document.path, says));
            } else if let Some(key) = foreign {
                let says = format!("{name} says \"{key}\", which belongs to the workspace's table");
                findings.push(Finding::fault(&document.path, says));
            }
            used.insert(name.clone());
        }
        if !has_lints(&manifest) {
            findings.push(Finding::fault(&document.path, "no [lints] table"));
        }
    }
    for row in rows.difference(&used) {
        findings.push(Finding::fault(
            "Cargo.toml",
            format!("nobody uses the row {row}"),
        ));
    }
    findings
}

fn workspace_rows(manifest: &Table) -> Vec<String> {
    let table = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"));
    table
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::keys)
        .cloned()
        .collect()
}

/// Returns every dependency, also those for some targets only.
fn dependencies(manifest: &Table) -> Vec<(&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets
        .into_iter()
        .flat_map(Table::values)
        .filter_map(Value::as_table);
    let all = std::iter::once(manifest).chain(targets);
    let tables = all.flat_map(|table| KINDS.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    tables.flatten().collect()
}

fn has_lints(manifest: &Table) -> bool {
    let Some(lints) = manifest.get("lints") else {
        return false;
    };
    let shared = lints.get("workspace").and_then(Value::as_bool) == Some(true);
    // `sys` has a table of its own, because `forbid` cannot be softened.
    shared
        || lints
            .get("rust")
            .and_then(|rust| rust.get("unsafe_code"))
            .is_some()
}

#[cfg(test)]
mod tests {
    use super::super::{document, faults};
    use super::*;

    fn found(room: &str) -> String {
        let root = "[workspace.dependencies]\nserde = \"1\"\n";
        faults(&check(&[
            document("Cargo.toml", root),
            document("crates/a/Cargo.toml", room),
        ]))
        .join("\n")
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn rows_of_the_table_are_no_fault() {
        for dependency in [
            "serde.workspace = true",
            "serde = { workspace = true, features = [\"derive\"] }",
        ] {
            assert_eq!(found(&format!("[dependencies]\n{dependency}\n{LINTS}")), "");
            assert_eq!(
                found(&format!("[dev-dependencies]\n{dependency}\n{LINTS}")),
                ""
            );
            assert_eq!(
                found(&format!(
                    "[target.'cfg(unix)'.dependencies]\n{dependency}\n{LINTS}"
                )),
                ""
            );
        }
    }

    #[test]
    fn planted_versions_are_found() {
        for (room, expected) in [
            (
                "[dependencies]\nserde = \"1\"\n",
                "does not say \"workspace = true\"",
            ),
            (
                "[build-dependencies]\nserde = { path = \"x\" }\n",
                "does not say",
            ),
            (
                "[dependencies]\nserde = { workspace = true, version = \"2\" }\n",
                "says \"version\"",
            ),
            ("[dependencies]\n", "nobody uses the row serde"),
            (
                "[dependencies]\nserde.workspace = true\n[lints]\n",
                "no [lints] table",
            ),
        ] {
            let room = if room.contains("[lints]") {
                room.to_owned()
            } else {
                format!("{room}{LINTS}")
            };
            let found = found(&room);
            assert!(found.contains(expected), "{room}: {found}");
        }
    }
}
