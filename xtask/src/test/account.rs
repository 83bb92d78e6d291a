// SPDX-License-Identifier: Apache-2.0
//! The account of all tests: each one passed, failed, or was left out with a reason. None is lost.

use std::collections::BTreeMap;
use std::fmt;

use wolffia_testkit::gate::Need;
use wolffia_testkit::ledger::Row;

use super::binary::Outcome;
use super::build::Binary;

/// What is known of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped(Row),
    /// Left to the pass as root.
    PutOff(Row),
    /// Listed by its binary, but without a result.
    Lost,
}

/// The account of all binaries.
#[derive(Debug, Default)]
pub(super) struct Account {
    tests: BTreeMap<(String, String), Verdict>,
    /// What failed beside tests: binaries that crashed, rows of no test, processes left behind.
    complaints: Vec<String>,
    /// The logs of binaries in which something failed.
    logs: Vec<(String, String)>,
}

impl Account {
    /// Adds what a binary did. A later pass overrules an earlier one.
    pub(super) fn add(&mut self, outcome: Outcome) {
        let binary = &outcome.binary;
        let mut good = outcome.end.is_none();
        if let Some(end) = &outcome.end {
            self.complaints.push(format!("{binary} {end}"));
        }
        for row in &outcome.ledger {
            if !outcome.listed.contains(&row.test) {
                good = false;
                self.complaints.push(format!(
                    "{binary}: the ledger names no test of it: {}",
                    row.test
                ));
            }
        }
        for test in &outcome.listed {
            let row = outcome.ledger.iter().find(|row| row.test == *test);
            let verdict = match (outcome.results.get(test), row) {
                (Some(true), None) => Verdict::Passed,
                (Some(true), Some(row)) if row.need == Need::Root.name() && !outcome.as_root => {
                    Verdict::PutOff(row.clone())
                }
                (Some(true), Some(row)) => Verdict::Skipped(row.clone()),
                (Some(false), _) => Verdict::Failed,
                (None, _) => Verdict::Lost,
            };
            good &= !matches!(verdict, Verdict::Failed | Verdict::Lost);
            self.tests.insert((binary.clone(), test.clone()), verdict);
        }
        if !good {
            self.logs.push((outcome.binary, outcome.log));
        }
    }

    /// Returns the tests that wait for the pass as root, by binary.
    pub(super) fn put_off<'a>(&self, binaries: &'a [Binary]) -> Vec<(&'a Binary, Vec<String>)> {
        let waiting = |binary: &Binary| -> Vec<String> {
            let of_it = self.tests.iter().filter(|((name, _), verdict)| {
                *name == binary.name && matches!(verdict, Verdict::PutOff(_))
            });
            of_it.map(|((_, test), _)| test.clone()).collect()
        };
        let all = binaries.iter().map(|binary| (binary, waiting(binary)));
        all.filter(|(_, tests)| !tests.is_empty()).collect()
    }

    /// Adds the processes that a binary's tests left behind.
    pub(super) fn note_left_behind(&mut self, binary: &str, processes: Vec<String>) {
        let said = processes
            .into_iter()
            .map(|one| format!("{binary} left behind {one}"));
        self.complaints.extend(said);
    }

    /// Tells whether nothing failed and at least one test was found.
    pub(super) fn is_good(&self) -> bool {
        let bad = |verdict: &Verdict| matches!(verdict, Verdict::Failed | Verdict::Lost);
        self.complaints.is_empty() && !self.tests.is_empty() && !self.tests.values().any(bad)
    }

    fn all(&self, wanted: impl Fn(&Verdict) -> bool) -> Vec<String> {
        let found = self.tests.iter().filter(|(_, verdict)| wanted(verdict));
        found
            .map(|((binary, test), _)| format!("{binary}  {test}"))
            .collect()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (binary, log) in &self.logs {
            writeln!(f, "\n---- what {binary} printed ----\n{}", log.trim_end())?;
        }
        let mut skipped: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
        for ((binary, test), verdict) in &self.tests {
            if let Verdict::Skipped(row) | Verdict::PutOff(row) = verdict {
                let reason = (row.need.as_str(), row.reason.as_str(), row.hint.as_str());
                skipped
                    .entry(reason)
                    .or_default()
                    .push(format!("{binary}  {test}"));
            }
        }
        for ((need, reason, hint), tests) in &skipped {
            writeln!(
                f,
                "\nskipped, {} without {need}: {reason}\n  hint: {hint}",
                tests.len()
            )?;
            for test in tests {
                writeln!(f, "    {test}")?;
            }
        }
        let failed = self.all(|verdict| *verdict == Verdict::Failed);
        let lost = self.all(|verdict| *verdict == Verdict::Lost);
        for (title, lines) in [
            ("failed", &failed),
            ("neither ran nor stands in the ledger", &lost),
            ("beside the tests", &self.complaints),
        ] {
            if !lines.is_empty() {
                writeln!(f, "\n{title}:")?;
            }
            for line in lines {
                writeln!(f, "    {line}")?;
            }
        }
        if self.tests.is_empty() {
            writeln!(f, "\nno test was found")?;
        }
        let passed = self.all(|verdict| *verdict == Verdict::Passed).len();
        let failed = failed.len() + lost.len() + self.complaints.len();
        let skipped: usize = skipped.values().map(Vec::len).sum();
        writeln!(f, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(test: &str, need: &str) -> Row {
        Row {
            target: "b".into(),
            test: test.into(),
            need: need.into(),
            reason: "why".into(),
            hint: "how".into(),
        }
    }

    fn outcome(listed: &[&str], results: &[(&str, bool)], ledger: &[Row]) -> Outcome {
        Outcome {
            binary: "b".into(),
            as_root: false,
            listed: listed.iter().map(|name| (*name).to_owned()).collect(),
            results: results
                .iter()
                .map(|(name, good)| ((*name).to_owned(), *good))
                .collect(),
            ledger: ledger.to_vec(),
            end: None,
            log: "the log".into(),
        }
    }

    fn last_line(account: &Account) -> String {
        account.to_string().lines().last().unwrap().to_owned()
    }

    #[test]
    fn every_listed_test_ends_in_one_column() {
        let cases: [(Outcome, bool, &str); 6] = [
            (
                outcome(&["a"], &[("a", true)], &[]),
                true,
                "1 passed, 0 failed, 0 skipped",
            ),
            (
                outcome(&["a"], &[("a", false)], &[]),
                false,
                "0 passed, 1 failed, 0 skipped",
            ),
            (
                outcome(&["a"], &[("a", true)], &[row("a", "fuse")]),
                true,
                "0 passed, 0 failed, 1 skipped",
            ),
            // Neither ran nor in the ledger: an ignored test, or one that took the binary with it.
            (
                outcome(&["a", "b"], &[("a", true)], &[]),
                false,
                "1 passed, 1 failed, 0 skipped",
            ),
            // A row under a name that is no test would hide a skip.
            (
                outcome(&["a"], &[("a", true)], &[row("helper", "fuse")]),
                false,
                "1 passed, 1 failed, 0 skipped",
            ),
            (
                outcome(&[], &[], &[]),
                false,
                "0 passed, 0 failed, 0 skipped",
            ),
        ];
        for (outcome, good, line) in cases {
            let shown = format!("{outcome:?}");
            let mut account = Account::default();
            account.add(outcome);
            assert_eq!(account.is_good(), good, "{shown}");
            assert_eq!(last_line(&account), line, "{shown}");
        }
    }

    #[test]
    fn a_crash_and_a_left_behind_process_are_failures() {
        let mut account = Account::default();
        account.add(Outcome {
            end: Some("ended with signal".into()),
            ..outcome(&["a"], &[("a", true)], &[])
        });
        assert!(!account.is_good());
        let mut account = Account::default();
        account.add(outcome(&["a"], &[("a", true)], &[]));
        account.note_left_behind("b", vec!["process 7: sleep".into()]);
        assert_eq!(last_line(&account), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_needs_root_is_put_off_and_then_overruled() {
        let binary = Binary {
            name: "b".into(),
            executable: "/b".into(),
            directory: "/".into(),
            program: None,
        };
        let binaries = [binary];
        let mut account = Account::default();
        account.add(outcome(
            &["a", "c"],
            &[("a", true), ("c", true)],
            &[row("a", "root")],
        ));
        let put_off = account.put_off(&binaries);
        assert_eq!(put_off, [(&binaries[0], vec!["a".to_owned()])]);
        assert_eq!(last_line(&account), "1 passed, 0 failed, 1 skipped");
        account.add(Outcome {
            as_root: true,
            ..outcome(&["a"], &[("a", true)], &[])
        });
        assert_eq!(last_line(&account), "2 passed, 0 failed, 0 skipped");
        assert!(account.put_off(&binaries).is_empty());
    }
}
