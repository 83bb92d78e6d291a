// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: the one static binary that people get, checked.
//!
//! The C library is linked in (`+crt-static`), and the program stays position independent: "static-pie", which the
//! installed GNU toolchain can make. `--target` is named so that the flag holds for the program and not for build scripts
//! and procedural macros, which could not be loaded then.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

use crate::workspace::{self, Workspace};

mod elf;

/// Runs `cargo xtask dist` with these words behind it.
pub(crate) fn command(
    mut words: impl Iterator<Item = std::ffi::OsString>,
) -> anyhow::Result<ExitCode> {
    ensure!(words.next().is_none(), "dist takes no arguments");
    let workspace = Workspace::load()?;
    let program = build(&workspace)?;
    println!("{}", program.display());
    println!("{}", check(&program)?);
    Ok(ExitCode::SUCCESS)
}

/// Builds the static program and returns the path of a copy of it in `target/dist`.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let target = host()?;
    let status = workspace::cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "wolffia-cli",
            "--target",
            &target,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("starting cargo build")?;
    ensure!(status.success(), "building the static program: {status}");
    let built = workspace
        .target_directory
        .join(target)
        .join("release/wolffia");
    let folder = workspace.target_directory.join("dist");
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("wolffia");
    // Not over the old one: it may be running.
    let fresh = folder.join("wolffia.new");
    std::fs::copy(&built, &fresh).with_context(|| format!("copying {}", built.display()))?;
    std::fs::rename(&fresh, &program)?;
    Ok(program)
}

fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("starting rustc")?;
    let said = String::from_utf8(output.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Checks that the program needs nothing of the machine, and runs; returns a line about it.
fn check(program: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(program)?;
    let facts = elf::read(&bytes).with_context(|| format!("reading {}", program.display()))?;
    if let Some(interpreter) = facts.interpreter {
        bail!("the program asks for the loader {interpreter}");
    }
    ensure!(
        facts.libraries == 0,
        "the program asks for {} libraries",
        facts.libraries
    );
    ensure!(
        facts.position_independent,
        "the program lies at a fixed address"
    );
    let output = Command::new(program)
        .arg("version")
        .env_clear()
        .current_dir("/")
        .output()
        .context("running the program")?;
    ensure!(
        output.status.success(),
        "wolffia version: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let size = bytes.len();
    let (whole, part) = (size / 1_000_000, size % 1_000_000 / 10_000);
    Ok(format!("static-pie, {size} bytes ({whole}.{part:02} MB)"))
}
