// SPDX-License-Identifier: Apache-2.0
//! One timing: wall clock, and the processor time of everything that the command caused.
//!
//! Processor time is read from a control group of version 2 around the command, because engines leave helpers behind that
//! are nobody's children; without such a group it is that of the children that were waited for. After each run the group
//! is waited for until it is as empty as before, so that what one side leaves running is not paid by the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// How long left-over processes may take to end before the next run starts all the same.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// How often a group is looked at while waiting for it.
const SETTLE_STEP: Duration = Duration::from_millis(2);

/// What one run took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) wall_ms: f64,
    pub(super) cpu_ms: f64,
}

/// The group in which all commands run.
#[derive(Debug)]
pub(super) struct Meter {
    group: Option<PathBuf>,
}

impl Meter {
    /// Makes a group that belongs to this uid, so that engines may make groups in it, and joins it.
    pub(super) fn start(uid: u32) -> Meter {
        let group = make_group(uid).ok();
        if group.is_none() {
            println!(
                "no control group of our own: processor time counts waited-for children alone"
            );
        }
        Meter { group }
    }

    /// Runs a command to its end, which must be a good one, and measures it.
    pub(super) fn time(&self, command: &mut Command) -> anyhow::Result<Sample> {
        self.time_and(command, || Ok(()))
    }

    /// Runs a command and then `more`, both inside the measurement.
    pub(super) fn time_and(
        &self,
        command: &mut Command,
        more: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let before = self.processes();
        let cpu = self.cpu_ms()?;
        let log = tempfile::tempfile()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone()?);
        let started = Instant::now();
        let status = command
            .status()
            .with_context(|| format!("starting {command:?}"))?;
        if !status.success() {
            bail!("{command:?}: {status}: {}", read_back(log));
        }
        more()?;
        let wall_ms = started.elapsed().as_secs_f64() * 1000.0;
        self.settle(&before);
        Ok(Sample {
            wall_ms,
            cpu_ms: self.cpu_ms()? - cpu,
        })
    }

    /// Returns the ids of all processes in the group.
    pub(super) fn processes(&self) -> BTreeSet<u32> {
        let Some(group) = &self.group else {
            return BTreeSet::new();
        };
        let mut found = BTreeSet::new();
        let mut folders = vec![group.clone()];
        while let Some(folder) = folders.pop() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                entries
                    .filter(|one| one.path().is_dir())
                    .map(|one| one.path()),
            );
        }
        found
    }

    fn settle(&self, before: &BTreeSet<u32>) {
        let deadline = Instant::now() + SETTLE_MAX;
        while !self.processes().is_subset(before) && Instant::now() < deadline {
            std::thread::sleep(SETTLE_STEP);
        }
    }

    fn cpu_ms(&self) -> anyhow::Result<f64> {
        if let Some(group) = &self.group {
            let text = std::fs::read_to_string(group.join("cpu.stat"))?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "));
            let microseconds: f64 = line.context("cpu.stat says no usage")?.parse()?;
            return Ok(microseconds / 1000.0);
        }
        // utime and stime of waited-for children, in ticks of 10 ms: proc_pid_stat(5), fields 16 and 17.
        let text = std::fs::read_to_string("/proc/self/stat")?;
        let fields = text
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ticks: f64 = fields
            .skip(13)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        Ok(ticks * 10.0)
    }
}

fn make_group(uid: u32) -> anyhow::Result<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("no version 2")?;
    // We are in a leaf; the new group goes beside it, since processes may only be in leaves.
    let parent = PathBuf::from("/sys/fs/cgroup").join(own);
    let parent = parent.parent().context("we are in the root group")?;
    let group = parent.join(format!("bench-{uid}"));
    let leaf = group.join("shell");
    std::fs::create_dir_all(&leaf)?;
    for path in [&group, &leaf] {
        for name in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            std::os::unix::fs::chown(path.join(name), Some(uid), Some(uid))?;
        }
    }
    std::fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
    Ok(group)
}

fn read_back(mut log: std::fs::File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    if log.rewind().is_ok() {
        log.read_to_string(&mut text).ok();
    }
    text.trim().to_owned()
}

/// Takes `count` samples of each side, in turns; which side begins changes from pair to pair.
pub(super) fn pairs(
    count: usize,
    mut ours: impl FnMut() -> anyhow::Result<Sample>,
    mut theirs: impl FnMut() -> anyhow::Result<Sample>,
) -> anyhow::Result<(Vec<Sample>, Vec<Sample>)> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for number in 0..count {
        if number % 2 == 0 {
            left.push(ours()?);
            right.push(theirs()?);
        } else {
            right.push(theirs()?);
            left.push(ours()?);
        }
    }
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_timed_and_a_failure_says_what_it_said() {
        let meter = Meter { group: None };
        let sample = meter.time(Command::new("sleep").arg("0.05")).unwrap();
        assert!(sample.wall_ms >= 50.0, "{sample:?}");
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo a reason >&2; exit 3"]);
        let error = meter.time(&mut failing).unwrap_err().to_string();
        assert!(error.contains("a reason") && error.contains('3'), "{error}");
    }

    #[test]
    fn sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char| {
            order.borrow_mut().push(name);
            Ok(Sample::default())
        };
        let (ours, theirs) = pairs(3, || side('o'), || side('t')).unwrap();
        assert_eq!((ours.len(), theirs.len()), (3, 3));
        assert_eq!(*order.borrow(), "ottoot");
    }
}
