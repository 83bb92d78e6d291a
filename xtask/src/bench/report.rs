// SPDX-License-Identifier: Apache-2.0
//! What was measured, as raw data and as a table that people read.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::measure::Sample;
use super::statistics::{median, minimum, ratio};

/// What a measurement is held against.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Bar {
    /// The ratio of the medians is at most this.
    Ratio(f64),
    /// Our median is at most this, in the measurement's unit.
    Absolute(f64),
    /// Told, not judged.
    None,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    /// The row of the bench that it belongs to.
    pub(super) row: String,
    pub(super) what: String,
    /// Whom it is compared with; empty where only we are measured.
    pub(super) peer: String,
    /// The unit of `ours` and `theirs`.
    pub(super) unit: String,
    pub(super) bar: Bar,
    pub(super) ours: Vec<f64>,
    pub(super) theirs: Vec<f64>,
    pub(super) ours_cpu_ms: Vec<f64>,
    pub(super) theirs_cpu_ms: Vec<f64>,
}

impl Measured {
    /// Makes a line of timings taken in turns.
    pub(super) fn times(
        row: &str,
        what: &str,
        peer: &str,
        bar: Bar,
        (ours, theirs): &(Vec<Sample>, Vec<Sample>),
    ) -> Measured {
        let wall = |samples: &[Sample]| samples.iter().map(|sample| sample.wall_ms).collect();
        let cpu = |samples: &[Sample]| samples.iter().map(|sample| sample.cpu_ms).collect();
        Measured {
            row: row.to_owned(),
            what: what.to_owned(),
            peer: peer.to_owned(),
            unit: "ms".to_owned(),
            bar,
            ours: wall(ours),
            theirs: wall(theirs),
            ours_cpu_ms: cpu(ours),
            theirs_cpu_ms: cpu(theirs),
        }
    }

    /// Makes a line of numbers without processor time.
    pub(super) fn numbers(
        row: &str,
        what: &str,
        (peer, unit): (&str, &str),
        bar: Bar,
        (ours, theirs): (Vec<f64>, Vec<f64>),
    ) -> Measured {
        Measured {
            row: row.to_owned(),
            what: what.to_owned(),
            peer: peer.to_owned(),
            unit: unit.to_owned(),
            bar,
            ours,
            theirs,
            ours_cpu_ms: Vec::new(),
            theirs_cpu_ms: Vec::new(),
        }
    }

    /// Tells whether the bar is met; `None` where there is none.
    fn is_met(&self) -> Option<bool> {
        match self.bar {
            Bar::Ratio(bar) => Some(median(&self.ours) / median(&self.theirs) <= bar),
            Bar::Absolute(bar) => Some(median(&self.ours) <= bar),
            Bar::None => None,
        }
    }
}

/// Everything that belongs beside the numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) commit: String,
    pub(super) machine: String,
    pub(super) date: String,
    pub(super) measured: Vec<Measured>,
    /// Rows that could not be measured, with the reason.
    pub(super) failed: Vec<String>,
}

/// Writes the table in Markdown.
pub(super) fn table(report: &Report) -> String {
    let mut text = format!(
        "{}, commit {}, {}\n\n",
        report.date, report.commit, report.machine
    );
    text.push_str("| what | peer | ours: median (least) | peer: median (least) | ratio [95 %] | cpu ours / peer | bar | |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for one in &report.measured {
        let unit = &one.unit;
        let side = |values: &[f64]| match values.len() {
            0 => String::new(),
            1 => format!("{} {unit}", short(median(values))),
            n => format!(
                "{} ({}) {unit}, n={n}",
                short(median(values)),
                short(minimum(values))
            ),
        };
        let compared = if one.theirs.is_empty() || one.ours.is_empty() {
            String::new()
        } else if one.ours.len() + one.theirs.len() == 2 {
            format!("{:.3}", median(&one.ours) / median(&one.theirs))
        } else {
            let ratio = ratio(&one.ours, &one.theirs);
            format!(
                "**{:.3}** [{:.3}, {:.3}]",
                ratio.value, ratio.low, ratio.high
            )
        };
        let cpu = |values: &[f64]| {
            if values.is_empty() {
                String::new()
            } else {
                short(median(values))
            }
        };
        let cpu = match (cpu(&one.ours_cpu_ms), cpu(&one.theirs_cpu_ms)) {
            (ours, theirs) if ours.is_empty() && theirs.is_empty() => String::new(),
            (ours, theirs) => format!("{ours} / {theirs} ms"),
        };
        let bar = match one.bar {
            Bar::Ratio(bar) => format!("<= {bar} x"),
            Bar::Absolute(bar) => format!("<= {} {unit}", short(bar)),
            Bar::None => String::new(),
        };
        let verdict = match one.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {compared} | {cpu} | {bar} | {verdict} |",
            one.what,
            one.peer,
            side(&one.ours),
            side(&one.theirs)
        );
    }
    for failed in &report.failed {
        let _ = writeln!(text, "\nnot measured: {failed}");
    }
    text
}

/// A number with three figures or so.
fn short(value: f64) -> String {
    if value >= 1_000_000.0 {
        format!("{:.2}M", value / 1_000_000.0)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_judges_every_bar() {
        let line = |what: &str, bar, ours: &[f64], theirs: &[f64]| {
            Measured::numbers(
                "row",
                what,
                ("podman", "ms"),
                bar,
                (ours.to_vec(), theirs.to_vec()),
            )
        };
        let report = Report {
            commit: "abc".into(),
            machine: "m".into(),
            date: "d".into(),
            measured: vec![
                line(
                    "good",
                    Bar::Ratio(0.1),
                    &[5.0, 6.0, 7.0],
                    &[100.0, 110.0, 90.0],
                ),
                line(
                    "bad",
                    Bar::Ratio(0.01),
                    &[5.0, 6.0, 7.0],
                    &[100.0, 110.0, 90.0],
                ),
                line("absolute", Bar::Absolute(30.0), &[29.0], &[]),
                line("told", Bar::None, &[29.0], &[1.0]),
            ],
            failed: vec!["idle: no such thing".into()],
        };
        let table = table(&report);
        let rows: Vec<&str> = table.lines().collect();
        assert!(
            rows[4].contains("**0.060**") && rows[4].ends_with("| <= 0.1 x | met |"),
            "{}",
            rows[4]
        );
        assert!(
            rows[5].ends_with("| <= 0.01 x | **missed** |"),
            "{}",
            rows[5]
        );
        assert!(rows[6].ends_with("| <= 30.0 ms | met |"), "{}", rows[6]);
        assert!(rows[7].ends_with("|  |  |"), "{}", rows[7]);
        assert_eq!(rows[9], "not measured: idle: no such thing");
    }
}
