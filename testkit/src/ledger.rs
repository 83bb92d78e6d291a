// SPDX-License-Identifier: Apache-2.0
//! The ledger of tests that were left out, and why.
//!
//! A test that lacks an ability returns early, which the test harness counts as a success. So that nothing is lost in
//! silence it first writes one line here; `cargo xtask test` reads the lines back, takes those tests out of the number
//! that passed and prints them with their reasons.
//!
//! Theory of operation: one JSON object per line, appended with a single `write` to a file opened with `O_APPEND`, so
//! that test binaries and their threads may share the file without a lock (a line is far below the size at which Linux
//! would split such a write).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Names the variable that holds the path of the ledger.
pub const PATH_VARIABLE: &str = "WOLFFIA_TEST_LEDGER";

/// Names the variable that holds the name of the test binary that is running, as its report calls it.
pub const TARGET_VARIABLE: &str = "WOLFFIA_TEST_TARGET";

/// One test that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The test binary, as [`TARGET_VARIABLE`] names it; empty outside `cargo xtask test`.
    pub target: String,
    /// The test's path inside its binary, as `--list` prints it.
    pub test: String,
    /// The ability that is missing, by its [name](crate::gate::Need::name).
    pub need: String,
    /// What was tried and how it failed.
    pub reason: String,
    /// How the ability can be had.
    pub hint: String,
}

/// Appends a row to the ledger at `path`, which is made if it is not there.
///
/// # Errors
/// Fails where the file cannot be opened or written.
pub fn append(path: &Path, row: &Row) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(&line)
}

/// Reads all rows of the ledger at `path`; a ledger that was never written is empty.
///
/// # Errors
/// Fails where the file cannot be read or a line is not a row.
pub fn read(path: &Path) -> std::io::Result<Vec<Row>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    BufReader::new(file)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        assert_eq!(read(&path).unwrap(), []);
        let row = |test: &str| Row {
            target: "image".into(),
            test: test.into(),
            need: "overlay".into(),
            reason: "mount(8) said \"no\"\nand more".into(),
            hint: String::new(),
        };
        append(&path, &row("a")).unwrap();
        append(&path, &row("b")).unwrap();
        assert_eq!(read(&path).unwrap(), [row("a"), row("b")]);
    }
}
