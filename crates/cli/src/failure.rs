// SPDX-License-Identifier: Apache-2.0
//! What a person is told when something did not work: error, causes, help, and the exit code.
//!
//! Rooms return typed errors; here each becomes one `error:` line (what was being done), `cause:` lines (the chain of sources, each
//! fact once) and `help:` lines (what to do about it). 125 is ours, 126 and 127 are the program that could not be started.

use std::{error::Error, fmt::Write as _};

/// A failure at the door.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    causes: Vec<String>,
    helps: Vec<String>,
    code: Option<u8>,
}

/// Our own failure where a container's exit code would come back, and every misuse of flags.
pub(crate) const OWN_FAILURE: u8 = 125;

/// A chain of causes longer than this is cut; no room nests deeper.
const CAUSES_MAX: usize = 12;

impl Failure {
    /// Makes a failure from one sentence; its exit code is the command's.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            causes: Vec::new(),
            helps: Vec::new(),
            code: None,
        }
    }

    /// Makes a failure of the command line itself: 125 everywhere.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(message).code(OWN_FAILURE)
    }

    /// Makes a failure from an error and its sources.
    pub(crate) fn from_error(error: &dyn Error) -> Failure {
        let mut failure = Failure::new(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure = failure.cause(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Adds a cause, unless the text above it already says so.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Failure {
        let cause = cause.into();
        let said =
            self.message.contains(&cause) || self.causes.iter().any(|said| said.contains(&cause));
        if !said && self.causes.len() < CAUSES_MAX {
            self.causes.push(cause);
        }
        self
    }

    /// Adds one thing to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Failure {
        let help = help.into();
        if !self.helps.contains(&help) {
            self.helps.push(help);
        }
        self
    }

    /// Sets the exit code.
    pub(crate) fn code(mut self, code: u8) -> Failure {
        self.code = Some(code);
        self
    }

    /// Returns the exit code, `otherwise` where none was set.
    pub(crate) fn exit_code(&self, otherwise: u8) -> u8 {
        self.code.unwrap_or(otherwise)
    }

    /// Returns the lines for standard error.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "cause: {cause}");
        }
        for help in &self.helps {
            let _ = writeln!(text, "help: {help}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_said_once() {
        let failure = Failure::new("opening /x: no such file")
            .cause("no such file")
            .cause("the disk is gone")
            .help("mount it");
        assert_eq!(
            failure.to_text(),
            "error: opening /x: no such file\ncause: the disk is gone\nhelp: mount it\n"
        );
    }
}
