// SPDX-License-Identifier: Apache-2.0
//! Work inside: file system work in an image, and compiling in `run host`.
//!
//! The container's own shell takes the times, so that starting the container is not in them.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::super::place::{Place, disk_bytes, quietly};
use super::super::report::{Bar, Measured};
use super::{image, ours_pull, podman_pull};

/// A shell function that prints the microseconds of a command.
const CLOCK: &str = r#"
t() { local a=$EPOCHREALTIME; "$@" >/dev/null 2>&1 || { echo "failed: $*" >&2; exit 1; }; local b=$EPOCHREALTIME
      echo $(( ${b/[.,]/} - ${a/[.,]/} )); }
"#;

/// Runs a script and returns the milliseconds that it printed, one a line.
fn clocked(mut command: Command, script: &str) -> anyhow::Result<Vec<f64>> {
    let said = quietly(command.args(["bash", "-c", &format!("{CLOCK}{script}")]))?;
    let times = said
        .lines()
        .map(|line| line.parse::<f64>().map(|micros| micros / 1000.0));
    times
        .collect::<Result<_, _>>()
        .with_context(|| format!("times: {said}"))
}

/// Runs both sides in turns and returns a column of times for each thing that the script clocks.
fn columns(
    count: usize,
    names: usize,
    mut ours: impl FnMut() -> anyhow::Result<Vec<f64>>,
    mut theirs: impl FnMut() -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<Vec<(Vec<f64>, Vec<f64>)>> {
    let mut columns = vec![(Vec::new(), Vec::new()); names];
    for number in 0..count {
        let (mine, its) = if number % 2 == 0 {
            let mine = ours()?;
            (mine, theirs()?)
        } else {
            let its = theirs()?;
            (ours()?, its)
        };
        ensure!(
            mine.len() == names && its.len() == names,
            "the script clocked {} things",
            mine.len()
        );
        for (column, (mine, its)) in columns.iter_mut().zip(mine.into_iter().zip(its)) {
            column.0.push(mine);
            column.1.push(its);
        }
    }
    Ok(columns)
}

/// File system work in a fresh container of a Debian image.
pub(super) fn inside(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (mine, its) = (
        ours_pull(place, image::DEBIAN)?,
        podman_pull(place, image::DEBIAN)?,
    );
    let script = "tar -C /usr -cf /root/tree.tar lib/python3 share/perl5 share/zoneinfo bin\n\
                  mkdir /root/tree\n\
                  t find / -xdev -printf %s\n\
                  t bash -c 'tar -C / -cf - usr | cat'\n\
                  t tar -C /root/tree -xf /root/tree.tar\n\
                  t rm -rf /root/tree\n\
                  t python3 -c 'import json'\n";
    let names = ["find", "tar", "untar", "rm -rf", "python start"];
    let run = ["run", "--rm", "--network", "none"];
    let columns = columns(
        count.min(15),
        names.len(),
        || clocked(place.ours(&[&run[..], &[&mine]].concat()), script),
        || clocked(place.podman(&[&run[..], &[&its]].concat()), script),
    )?;
    let peer = format!("{}, native overlay", place.version_of("podman"));
    let lines = names.iter().zip(columns).map(|(name, column)| {
        Measured::numbers(
            "inside",
            &format!("inside: {name}"),
            (&peer, "ms"),
            Bar::Ratio(1.05),
            column,
        )
    });
    Ok(lines.collect())
}

/// `run host`: the first start ever and later ones, and work in it against the same work outside.
pub(super) fn host(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let start = ["run", "--rm", "--network", "none", "host"];
    let mut first = Vec::new();
    let mut disk = Vec::new();
    for number in 0..5 {
        let home = place.memory.join(format!("first-{number}"));
        place.make_own(&home)?;
        let mut command = place.with_home(super::super::place::OURS, &home);
        let began = Instant::now();
        quietly(command.args(start).arg("true"))?;
        first.push(began.elapsed().as_secs_f64() * 1000.0);
        disk.push(disk_bytes(&home)? / 1024.0 / 1024.0);
    }
    let mut later = Vec::new();
    quietly(&mut place.ours(&[&start[..], &["true"]].concat()))?;
    for _ in 0..count {
        later.push(
            place
                .meter
                .time(&mut place.ours(&[&start[..], &["true"]].concat()))?
                .wall_ms,
        );
    }
    let script = "cd /tmp; printf '#include <stdio.h>\\nint main(void){return puts(\"hello\")<0;}\\n' > h.c\n\
                  t gcc -o h h.c\nt gcc -o h h.c\nt python3 -c 'import json'\nt python3 -c 'import json'\n";
    let names = [
        ("gcc hello, first", 3.0),
        ("gcc hello, later", 1.1),
        ("python json, first", 3.0),
        ("python json, later", 1.1),
    ];
    let native = || place.with_home("env", &place.home);
    let columns = columns(
        count.min(15),
        names.len(),
        || clocked(place.ours(&start), script),
        || clocked(native(), script),
    )?;
    let alone = |what: &str, unit: &str, bar: f64, values: Vec<f64>| {
        Measured::numbers(
            "host",
            what,
            ("", unit),
            Bar::Absolute(bar),
            (values, vec![]),
        )
    };
    let mut measured = vec![
        alone("run host: first ever", "ms", 300.0, first),
        alone("run host: disk after the first", "MiB", 5.0, disk),
        alone("run host: later", "ms", 30.0, later),
    ];
    for ((name, bar), column) in names.iter().zip(columns) {
        let what = format!("run host: {name}");
        measured.push(Measured::numbers(
            "host",
            &what,
            ("native", "ms"),
            Bar::Ratio(*bar),
            column,
        ));
    }
    Ok(measured)
}
