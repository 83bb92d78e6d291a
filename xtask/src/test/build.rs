// SPDX-License-Identifier: Apache-2.0
//! Building the test binaries, and learning from cargo where they are.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::Options;
use crate::workspace::{self, Workspace};

/// A test binary that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    /// How reports call it: the room, and the target where it is not the room's library.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// The folder of its package, in which it runs, as with `cargo test`.
    pub(super) directory: PathBuf,
    /// The program `wolffia` of the same build.
    pub(super) program: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the test binaries that the options ask for, in the order of the packages.
pub(super) fn build(workspace: &Workspace, options: &Options) -> anyhow::Result<Vec<Binary>> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    if options.rooms.is_empty() {
        cargo.arg("--workspace");
    }
    for room in &options.rooms {
        let package = workspace
            .packages
            .iter()
            .find(|package| package.room() == room);
        let Some(package) = package else {
            let rooms: Vec<_> = workspace
                .packages
                .iter()
                .map(workspace::Package::room)
                .collect();
            bail!("there is no room {room} (there are {})", rooms.join(", "));
        };
        cargo.args(["--package", &package.name]);
    }
    if options.quick {
        cargo.args(["--lib", "--bins"]);
    }
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo test --no-run")?;
    ensure!(
        output.status.success(),
        "building the tests: {}",
        output.status
    );
    read(workspace, &String::from_utf8_lossy(&output.stdout))
}

/// Reads cargo's messages, one JSON object a line.
fn read(workspace: &Workspace, messages: &str) -> anyhow::Result<Vec<Binary>> {
    let mut binaries = Vec::new();
    let mut program = None;
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("reading a message of cargo: {line}"))?;
        if message.reason != "compiler-artifact" {
            continue;
        }
        let (Some(id), Some(target), Some(profile), Some(executable)) = (
            message.package_id,
            message.target,
            message.profile,
            message.executable,
        ) else {
            continue;
        };
        if !profile.test {
            if target.name == "wolffia" {
                program = Some(executable);
            }
            continue;
        }
        let package = workspace
            .packages
            .iter()
            .find(|package| package.id == id)
            .with_context(|| format!("cargo built a test of a package it does not list: {id}"))?;
        let is_library = target
            .kind
            .iter()
            .any(|kind| kind == "lib" || kind == "proc-macro");
        let name = match package.room() {
            room if is_library => room.to_owned(),
            room => format!("{room}::{}", target.name),
        };
        let directory = package.directory().to_owned();
        binaries.push(Binary {
            name,
            executable,
            directory,
            program: None,
        });
    }
    for binary in &mut binaries {
        binary.program.clone_from(&program);
    }
    binaries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_become_binaries_with_the_program_of_the_build() {
        let workspace: Workspace = serde_json::from_str(
            r#"{"workspace_root":"/w","target_directory":"/w/target","packages":[
                {"id":"p1","name":"wolffia-image","manifest_path":"/w/crates/image/Cargo.toml","dependencies":[]},
                {"id":"p2","name":"wolffia-cli","manifest_path":"/w/crates/cli/Cargo.toml","dependencies":[]}]}"#,
        )
        .unwrap();
        let messages = r#"{"reason":"compiler-artifact","package_id":"serde","target":{"name":"serde","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","package_id":"p2","target":{"name":"main","kind":["test"]},"profile":{"test":true},"executable":"/w/t/main-1"}
{"reason":"compiler-artifact","package_id":"p1","target":{"name":"wolffia_image","kind":["lib"]},"profile":{"test":true},"executable":"/w/t/image-1"}
{"reason":"compiler-artifact","package_id":"p2","target":{"name":"wolffia","kind":["bin"]},"profile":{"test":false},"executable":"/w/t/wolffia"}
{"reason":"build-finished","success":true}"#;
        let binaries = read(&workspace, messages).unwrap();
        let program = Some(PathBuf::from("/w/t/wolffia"));
        let expected = [
            Binary {
                name: "cli::main".into(),
                executable: "/w/t/main-1".into(),
                directory: "/w/crates/cli".into(),
                program: program.clone(),
            },
            Binary {
                name: "image".into(),
                executable: "/w/t/image-1".into(),
                directory: "/w/crates/image".into(),
                program,
            },
        ];
        assert_eq!(binaries, expected);
    }
}
