// SPDX-License-Identifier: Apache-2.0
//! Signals by name and number, as people write them: `SIGTERM`, `term`, `15`, `RTMIN+3`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::options::BadOption;

/// A signal of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(i32);

/// The first real-time signal a program may use; the C library keeps two below it for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

impl Signal {
    /// SIGKILL.
    pub const KILL: Signal = Signal(9);
    /// SIGHUP.
    pub const HUP: Signal = Signal(1);
    /// SIGTERM.
    pub const TERM: Signal = Signal(15);

    /// Returns the number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Returns the signal of a number, if it is one.
    pub fn from_number(number: i32) -> Option<Signal> {
        (1..=RTMAX).contains(&number).then_some(Signal(number))
    }
}

impl FromStr for Signal {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Signal, BadOption> {
        let bad = || BadOption::Signal(text.to_owned());
        if let Ok(number) = text.parse() {
            return Signal::from_number(number).ok_or_else(bad);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Signal(*number));
        }
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => RTMIN,
            (Some(rest), _) => {
                RTMIN
                    + rest
                        .strip_prefix('+')
                        .and_then(|rest| rest.parse::<i32>().ok())
                        .ok_or_else(bad)?
            }
            (_, Some("")) => RTMAX,
            (_, Some(rest)) => {
                RTMAX
                    - rest
                        .strip_prefix('-')
                        .and_then(|rest| rest.parse::<i32>().ok())
                        .ok_or_else(bad)?
            }
            _ => return Err(bad()),
        };
        if (RTMIN..=RTMAX).contains(&number) {
            Ok(Signal(number))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(out, "SIG{name}"),
            None => write!(out, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_as_people_write_them() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("sigwinch", 28),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGFOO", "RTMIN+99", "-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
