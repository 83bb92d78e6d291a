// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! Each rule is a pure function from what stands in the repository to a list of [`Finding`]s, in a module of its own with
//! tests that plant the fault. A *fault* fails the command; *advice* is printed and does not.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::workspace::{self, Workspace};

mod arrows;
mod dependencies;
mod links;
mod sources;
mod versions;

/// Something that a rule found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    is_fault: bool,
    place: String,
    says: String,
}

impl Finding {
    fn fault(place: impl Into<String>, says: impl Into<String>) -> Finding {
        Finding {
            is_fault: true,
            place: place.into(),
            says: says.into(),
        }
    }

    fn advice(place: impl Into<String>, says: impl Into<String>) -> Finding {
        Finding {
            is_fault: false,
            place: place.into(),
            says: says.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_fault { "fault" } else { "advice" };
        write!(f, "{kind}: {}: {}", self.place, self.says)
    }
}

/// A text file of the repository, by its path below the root.
#[derive(Debug)]
struct Document {
    path: String,
    text: String,
}

impl Document {
    fn has_extension(&self, wanted: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|extension| extension == wanted)
    }
}

/// Runs `cargo xtask tidy` with these words behind it.
pub(crate) fn command(
    mut words: impl Iterator<Item = std::ffi::OsString>,
) -> anyhow::Result<ExitCode> {
    ensure!(words.next().is_none(), "tidy takes no arguments");
    let workspace = Workspace::load()?;
    let root = workspace::root();
    let documents = read_documents(root)?;

    let mut findings = arrows::check(&workspace.packages);
    findings.extend(sources::check(&documents));
    findings.extend(links::check(&documents, &|path| root.join(path).exists()));
    findings.extend(versions::check(&documents));
    findings.extend(dependencies::check(root)?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let faults = findings.iter().filter(|finding| finding.is_fault).count();
    println!("tidy: {} files, {faults} faults", documents.len());
    Ok(if faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads every Rust, Markdown and TOML file of the repository.
fn read_documents(root: &Path) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path: PathBuf = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type()?;
            if kind.is_dir() && name != ".git" && name != "target" {
                folders.push(path);
                continue;
            }
            let is_text = path.extension().is_some_and(|extension| {
                ["rs", "md", "toml"].iter().any(|text| extension == *text)
            });
            if kind.is_file() && is_text {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                let path = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                documents.push(Document { path, text });
            }
        }
    }
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(documents)
}

#[cfg(test)]
fn document(path: &str, text: &str) -> Document {
    Document {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[cfg(test)]
fn faults(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .filter(|finding| finding.is_fault)
        .map(Finding::to_string)
        .collect()
}
