// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: ours and the peer in turns, on one machine, in one run.
//!
//! # Theory of operation
//! The outer program, as root, builds the static program and sees to it that there are roots of foreign Debian releases
//! with the newest peers in them (`bench/peers/make`), and images. It then starts itself again in
//! each root that a row asks for (`.ci/enter-root`: no chroot, because engines must make user namespaces there). The inner
//! program measures as an ordinary user on a fresh tmpfs ([`place`]), one row after the other ([`rows`]), and writes raw
//! data; the outer one collects, prints the table and keeps both under `bench/results/`.
//!
//! A claim is a ratio of medians with its interval ([`statistics`]); processor time stands beside it ([`measure`]),
//! because wall clock on a busy machine says little about work.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use lexopt::prelude::{Long, Value, ValueExt as _};

use wolffia_testkit::debian_image;

use crate::dist;
use crate::workspace::{self, Workspace};
use place::Place;
use report::Report;

mod images;
mod measure;
mod place;
mod report;
mod rows;
mod statistics;

/// How many pairs are measured of a short command, where nothing else is asked for.
const PAIRS: usize = 21;

#[derive(Debug)]
struct Options {
    rows: Vec<String>,
    pairs: usize,
    /// Holds a root for each suite, images, and programs built from Go modules.
    peers: PathBuf,
    /// Measure with this program instead of one built here.
    program: Option<PathBuf>,
    /// Set where we are in a root already: its suite.
    inside: Option<String>,
}

/// Runs `cargo xtask bench` with these words behind it.
pub(crate) fn command(words: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<ExitCode> {
    let options = parse(words)?;
    for row in &options.rows {
        ensure!(
            rows::find(row).is_some(),
            "no row {row}; there are {}",
            rows::names().join(", ")
        );
    }
    if let Some(suite) = &options.inside {
        return inside(suite, &options);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "roots are made and entered by root"
    );
    let workspace = Workspace::load()?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => dist::build(&workspace)?,
    };
    make_images(&options.peers)?;
    let mut report = Report {
        commit: commit(),
        machine: machine(),
        date: said_by("date", &["-u", "+%Y-%m-%d %H:%M"]),
        measured: Vec::new(),
        failed: Vec::new(),
    };
    for suite in ["trixie", "sid"] {
        let wanted: Vec<&str> = options
            .rows
            .iter()
            .map(String::as_str)
            .filter(|name| rows::find(name).is_some_and(|row| row.suites.contains(&suite)))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let root = make_root(&options.peers, suite)?;
        let part = enter(&root, suite, &wanted, &program, &options)?;
        report.measured.extend(part.measured);
        report.failed.extend(part.failed);
    }
    keep(&report)
}

fn parse(words: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<Options> {
    let mut options = Options {
        rows: Vec::new(),
        pairs: PAIRS,
        peers: workspace::root().join("target/peers"),
        program: None,
        inside: None,
    };
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Value(row) => options.rows.push(row.string()?),
            Long("pairs") => options.pairs = parser.value()?.parse()?,
            Long("peers") => options.peers = PathBuf::from(parser.value()?),
            Long("program") => options.program = Some(PathBuf::from(parser.value()?)),
            Long("inside") => options.inside = Some(parser.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.rows.is_empty() {
        options.rows = rows::names().into_iter().map(str::to_owned).collect();
    }
    Ok(options)
}

/// The inner program: measures the rows in this root and writes what it found.
fn inside(suite: &str, options: &Options) -> anyhow::Result<ExitCode> {
    let place = Place::make()?;
    let mut report = Report {
        commit: String::new(),
        machine: String::new(),
        date: String::new(),
        measured: Vec::new(),
        failed: Vec::new(),
    };
    for name in &options.rows {
        let Some(row) = rows::find(name) else {
            continue;
        };
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "{suite}: {name} (load {})",
            load.split(' ').next().unwrap_or_default()
        );
        match (row.measure)(&place, options.pairs) {
            Ok(measured) => report.measured.extend(measured),
            Err(error) => report.failed.push(format!("{name} in {suite}: {error:#}")),
        }
        rows::clean(&place);
    }
    std::fs::write("/opt/wolffia/out/report.json", serde_json::to_vec(&report)?)?;
    Ok(ExitCode::SUCCESS)
}

fn enter(
    root: &Path,
    suite: &str,
    rows: &[&str],
    program: &Path,
    options: &Options,
) -> anyhow::Result<Report> {
    let stage = tempfile::tempdir()?;
    std::fs::set_permissions(
        stage.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    for folder in ["dist", "out"] {
        std::fs::create_dir(stage.path().join(folder))?;
    }
    std::fs::copy(program, stage.path().join("dist/wolffia"))
        .with_context(|| format!("copying {}", program.display()))?;
    std::fs::copy(std::env::current_exe()?, stage.path().join("xtask"))?;
    let bind = |from: &Path, to: &str| format!("{}:{to}", from.display());
    let status = Command::new(workspace::root().join(".ci/enter-root"))
        .args(["-g", "-b", &bind(stage.path(), "/opt/wolffia")])
        .args(["-b", &bind(&options.peers.join("images"), "/opt/images")])
        .args(["-b", &bind(&debian_image::layout(), "/opt/debian")])
        .args(["-b", &bind(&options.peers.join("bin"), "/opt/bin")])
        .arg(root)
        .args(["root", "/opt/wolffia/xtask", "bench", "--inside", suite])
        .args(["--pairs", &options.pairs.to_string()])
        .args(rows)
        .status()
        .context("entering the root")?;
    ensure!(status.success(), "measuring in {suite}: {status}");
    let bytes = std::fs::read(stage.path().join("out/report.json"))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Makes what is missing with a script of ours.
fn make(script: &str, words: &[&str], result: &Path) -> anyhow::Result<()> {
    if result.exists() {
        return Ok(());
    }
    println!("making {}", result.display());
    let mut unfinished = result.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    if let Some(parent) = result.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let status = Command::new(workspace::root().join(script))
        .args(words)
        .arg(&unfinished)
        .status()?;
    if !status.success() {
        bail!("{script}: {status}");
    }
    std::fs::rename(&unfinished, result)?;
    Ok(())
}

fn make_root(peers: &Path, suite: &str) -> anyhow::Result<PathBuf> {
    let root = peers.join(suite);
    make("bench/peers/make", &[suite], &root)?;
    Ok(root)
}

fn make_images(peers: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(peers.join("bin"))?;
    images::make_layout(&peers.join("images"))
}

fn keep(report: &Report) -> anyhow::Result<ExitCode> {
    let table = report::table(report);
    let folder = workspace::root().join("bench/results");
    std::fs::create_dir_all(&folder)?;
    let stamp: String = report
        .date
        .chars()
        .map(|c| if c.is_ascii_digit() { c } else { '-' })
        .collect();
    let name = format!("{stamp}-{}", report.commit);
    std::fs::write(
        folder.join(format!("{name}.json")),
        serde_json::to_vec_pretty(report)?,
    )?;
    std::fs::write(folder.join(format!("{name}.md")), &table)?;
    println!("\n{table}\nraw data: bench/results/{name}.json");
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn commit() -> String {
    let root = workspace::root().display().to_string();
    said_by("git", &["-C", &root, "describe", "--always", "--dirty"])
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("?", |(_, model)| model);
    format!("{cpus} x {model}, Linux {}", said_by("uname", &["-r"]))
}

fn said_by(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
