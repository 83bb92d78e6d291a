// SPDX-License-Identifier: Apache-2.0
//! The grammar of a command as data: its name, its flags, and the function that serves it.
//!
//! One table drives the parser, `--help` and the did-you-mean, so the three cannot disagree. A flag that docker has and we do not
//! serve yet is a row too: it is refused with the reason in the row, never ignored.

use crate::{context::Context, failure::Failure, parse::Arguments};

/// One command of the door.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// What follows the name on the usage line.
    pub(crate) usage: &'static str,
    /// One sentence, imperative, without a full stop.
    pub(crate) summary: &'static str,
    pub(crate) group: Group,
    /// Flag tables, so that `run` and `create` can share one.
    pub(crate) flags: &'static [&'static [Flag]],
    /// Everything behind the first operand belongs to somebody else (`run IMAGE ls -l`).
    pub(crate) stops_at_operand: bool,
    /// How many operands it takes, at least and at most.
    pub(crate) operands: (usize, usize),
    /// The exit code of our own failures: 125 where a container's code comes back, else 1, as docker has it.
    pub(crate) failure_code: u8,
    pub(crate) serve: fn(&Context, &Arguments) -> Result<u8, Failure>,
}

/// Where a command stands in the overview.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Making and watching containers.
    Containers,
    /// Images and registries.
    Images,
    /// The program and the machine.
    System,
}

/// One flag of a command.
pub(crate) struct Flag {
    /// Without the dashes; also the key in [`Arguments`].
    pub(crate) long: &'static str,
    /// Other long names that mean the same.
    pub(crate) also: &'static [&'static str],
    pub(crate) short: Option<char>,
    pub(crate) takes: Takes,
    pub(crate) help: &'static str,
}

/// What a flag is given.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// Nothing, or `=true` / `=false`.
    Switch,
    /// A value; the last one counts.
    Value(&'static str),
    /// A value; all count, in order.
    List(&'static str),
    /// Docker knows it, we do not serve it: refused with `help` as the reason.
    Refused,
}

/// A switch.
pub(crate) const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag {
        long,
        also: &[],
        short,
        takes: Takes::Switch,
        help,
    }
}

/// A flag with one value.
pub(crate) const fn value(
    long: &'static str,
    short: Option<char>,
    name: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        long,
        also: &[],
        short,
        takes: Takes::Value(name),
        help,
    }
}

/// A flag that may be given several times.
pub(crate) const fn list(
    long: &'static str,
    short: Option<char>,
    name: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        long,
        also: &[],
        short,
        takes: Takes::List(name),
        help,
    }
}

/// A flag that docker knows and that is refused with a reason.
pub(crate) const fn refused(long: &'static str, short: Option<char>, reason: &'static str) -> Flag {
    Flag {
        long,
        also: &[],
        short,
        takes: Takes::Refused,
        help: reason,
    }
}

impl Flag {
    /// Returns the same flag with other names for it.
    pub(crate) const fn or(self, also: &'static [&'static str]) -> Flag {
        Flag {
            long: self.long,
            also,
            short: self.short,
            takes: self.takes,
            help: self.help,
        }
    }

    /// Tells whether `name` (without dashes) means this flag.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.long == name || self.also.contains(&name)
    }
}

impl Command {
    /// Returns the flags of all its tables.
    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().flat_map(|table| table.iter())
    }
}
