// SPDX-License-Identifier: Apache-2.0
//! Running one test binary: its list, its results, its ledger.
//!
//! Theory of operation: what the binary prints goes to a file, not to a pipe, because a process that a test left behind
//! would hold a pipe open and us waiting for its end. The harness's plain output is read back (`test NAME ... ok`); its
//! JSON form is not stable. A binary that has not ended after [`RUN_SECONDS_MAX`] is killed; the tests without a result
//! are then known by name, because the list was asked for first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wolffia_testkit::gate::{self, Answers};
use wolffia_testkit::ledger;

use super::build::Binary;
use super::world::World;

/// The longest that one binary may run. The slowest makes Debian images with mmdebstrap: some minutes on two cores.
const RUN_SECONDS_MAX: u64 = 20 * 60;

/// Which tests of a binary are run.
pub(super) enum Pass<'a> {
    /// All, or those whose names contain the filter.
    Ordinary { filter: Option<&'a str> },
    /// These, which were put off because they need root.
    AsRoot { tests: Vec<String> },
}

/// What one binary did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) binary: String,
    pub(super) as_root: bool,
    /// The tests that it said it has.
    pub(super) listed: BTreeSet<String>,
    /// Whether each test succeeded, as far as it was reported.
    pub(super) results: BTreeMap<String, bool>,
    /// The rows that its tests wrote.
    pub(super) ledger: Vec<ledger::Row>,
    /// How the binary ended, where neither "all good" nor "some tests failed" is all there is to say.
    pub(super) end: Option<String>,
    /// What it printed; shown where something failed.
    pub(super) log: String,
}

/// Lists and runs the tests of a binary, and prints one line about it.
pub(super) fn run(
    binary: &Binary,
    pass: &Pass,
    world: &World,
    answers: &Answers,
) -> anyhow::Result<Outcome> {
    let arguments: Vec<&str> = match pass {
        Pass::Ordinary { filter } => filter.iter().copied().collect(),
        Pass::AsRoot { tests } => std::iter::once("--exact")
            .chain(tests.iter().map(String::as_str))
            .collect(),
    };
    let scratch = tempfile::tempdir().context("making a folder for a log")?;
    let ledger_path = world.ledger(&binary.name)?;
    let prepare = |extra: &[&str], output: &Path| -> anyhow::Result<Command> {
        let output = File::create(output).context("making a log")?;
        let mut command = Command::new(&binary.executable);
        command
            .args(extra)
            .args(&arguments)
            .current_dir(&binary.directory);
        world.dress(&mut command);
        command
            .env("CARGO_MANIFEST_DIR", &binary.directory)
            .env("RUST_BACKTRACE", "1")
            .env(gate::ANSWERS_VARIABLE, serde_json::to_string(answers)?)
            .env(ledger::PATH_VARIABLE, &ledger_path)
            .env(ledger::TARGET_VARIABLE, &binary.name)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(program) = &binary.program {
            command.env("CARGO_BIN_EXE_wolffia", program);
        }
        if matches!(pass, Pass::Ordinary { .. }) && world.is_private() {
            command.env(gate::ROOT_FOLLOWS_VARIABLE, "1");
        }
        Ok(command)
    };

    let list_path = scratch.path().join("list");
    let status = prepare(&["--list"], &list_path)?
        .status()
        .with_context(|| format!("starting {}", binary.executable.display()))?;
    let list = std::fs::read_to_string(&list_path)?;
    ensure!(status.success(), "{} --list: {status}\n{list}", binary.name);

    let log_path = scratch.path().join("log");
    let started = Instant::now();
    let child = prepare(&[], &log_path)?.spawn()?;
    let status = wait(child, Duration::from_secs(RUN_SECONDS_MAX))?;
    let log = String::from_utf8_lossy(&std::fs::read(&log_path)?).into_owned();

    let outcome = Outcome {
        binary: binary.name.clone(),
        as_root: matches!(pass, Pass::AsRoot { .. }),
        listed: read_list(&list),
        results: read_results(&log),
        ledger: ledger::read(&ledger_path).context("reading the ledger")?,
        end: describe_end(status),
        log,
    };
    if !outcome.listed.is_empty() {
        println!(
            "  {:<20} {:>4} tests {:>7.2} s{}",
            outcome.binary,
            outcome.listed.len(),
            started.elapsed().as_secs_f64(),
            if outcome.as_root { "  (as root)" } else { "" },
        );
    }
    Ok(outcome)
}

/// Waits for the child's end, at most so long; `None` where it had to be killed.
fn wait(mut child: Child, longest: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(&child);
    let handle = pidfd_open(pid, PidfdFlags::empty()).context("opening a pidfd")?;
    let deadline = Instant::now() + longest;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a deadline")?;
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for a test binary"),
        }
    }
}

/// The harness ends with 0, or with 101 where a test failed.
fn describe_end(status: Option<ExitStatus>) -> Option<String> {
    match status {
        None => Some(format!("was killed after {RUN_SECONDS_MAX} s")),
        Some(status) if matches!(status.code(), Some(0 | 101)) => None,
        Some(status) => Some(format!("ended with {status}")),
    }
}

/// Reads what `--list` prints: `path::of::test: test`.
fn read_list(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// Reads the lines `test path ... ok` and `test path ... FAILED`; anything may stand before them on a line, since
/// programs that tests start write to the same file.
fn read_results(log: &str) -> BTreeMap<String, bool> {
    let mut results = BTreeMap::new();
    for line in log.lines() {
        let Some((before, verdict)) = line.rsplit_once(" ... ") else {
            continue;
        };
        let before = before.strip_suffix(" - should panic").unwrap_or(before);
        let Some((noise, name)) = before.rsplit_once(' ') else {
            continue;
        };
        let verdict = verdict.trim_end();
        let good = verdict == "ok" || verdict.starts_with("ok <");
        if noise.ends_with("test") && (good || verdict.starts_with("FAILED")) {
            results.insert(name.to_owned(), good);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_through_noise() {
        let log = "\nrunning 4 tests\n\
            test a::one ... ok\n\
            test a::two - should panic ... ok\n\
            garbage of a childtest a::three ... FAILED\n\
            test a::four ... ignored, slow\n\
            something ... ok\n\
            test a::five has been running for over 60 seconds\n\
            test result: FAILED. 2 passed; 1 failed; 1 ignored\n";
        let expected = [("a::one", true), ("a::two", true), ("a::three", false)]
            .map(|(n, g)| (n.to_owned(), g));
        assert_eq!(read_results(log), BTreeMap::from(expected));
    }

    #[test]
    fn the_list_holds_tests_alone() {
        let text = "a::one: test\nb: benchmark\na::two: test\n\n2 tests, 1 benchmark\n";
        assert_eq!(
            read_list(text),
            BTreeSet::from(["a::one".to_owned(), "a::two".to_owned()])
        );
    }

    #[test]
    fn a_binary_that_hangs_is_killed() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(wait(child, Duration::from_millis(20)).unwrap().is_none());
        let child = Command::new("true").spawn().unwrap();
        assert!(
            wait(child, Duration::from_secs(100))
                .unwrap()
                .unwrap()
                .success()
        );
    }
}
