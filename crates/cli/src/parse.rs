// SPDX-License-Identifier: Apache-2.0
//! A command line read against a command's table.
//!
//! `lexopt` splits words into flags and values (clusters as `-it`, `--name=x`, `-e X=1`, `--`); the table says which exist and what
//! they take. Anything else is refused here, so an applet sees only what it can serve.

use std::ffi::{OsStr, OsString};

use lexopt::Arg;

use crate::{
    command::{Command, Flag, Takes},
    failure::Failure,
    suggest,
};

/// What was on a command line.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    given: Vec<(&'static str, OsString)>,
    /// Operands, in order.
    pub(crate) operands: Vec<OsString>,
    /// `--help` was among the flags.
    pub(crate) help: bool,
}

impl Arguments {
    /// Tells whether a switch is on.
    pub(crate) fn is(&self, long: &str) -> bool {
        self.last(long).is_some_and(|value| value == "true")
    }

    /// Returns the last value of a flag as it was given.
    pub(crate) fn last(&self, long: &str) -> Option<&OsStr> {
        self.given
            .iter()
            .rev()
            .find(|(name, _)| *name == long)
            .map(|(_, value)| value.as_os_str())
    }

    /// Returns the last value of a flag as text.
    pub(crate) fn text(&self, long: &str) -> Result<Option<&str>, Failure> {
        self.last(long).map(|value| utf8(value, long)).transpose()
    }

    /// Returns every value of a flag, in order, as text.
    pub(crate) fn texts(&self, long: &str) -> Result<Vec<&str>, Failure> {
        self.given
            .iter()
            .filter(|(name, _)| *name == long)
            .map(|(_, value)| utf8(value, long))
            .collect()
    }

    /// Returns every given flag of `names` with its value, in the order of the command line.
    pub(crate) fn in_order<'a>(
        &'a self,
        names: &'a [&str],
    ) -> impl Iterator<Item = (&'static str, &'a OsStr)> {
        self.given
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, value)| (*name, value.as_os_str()))
    }

    /// Returns the operands as text.
    pub(crate) fn operand_texts(&self) -> Result<Vec<&str>, Failure> {
        self.operands
            .iter()
            .map(|word| utf8(word, "operand"))
            .collect()
    }
}

/// Returns `value` as text, or says which flag does not take other bytes.
pub(crate) fn utf8<'a>(value: &'a OsStr, flag: &str) -> Result<&'a str, Failure> {
    value.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "the value of {flag} is not UTF-8: {}",
            value.display()
        ))
        .cause("a container's configuration is JSON, which holds text only")
    })
}

/// Reads `words` against the table of `command`.
pub(crate) fn parse(command: &Command, words: &[OsString]) -> Result<Arguments, Failure> {
    let mut parser = lexopt::Parser::from_args(words.iter().cloned());
    let mut arguments = Arguments::default();
    while let Some(argument) = parser
        .next()
        .map_err(|error| bad(command, &error.to_string()))?
    {
        let mut long = false;
        let flag = match argument {
            Arg::Value(word) => {
                arguments.operands.push(word);
                if command.stops_at_operand {
                    let rest = parser
                        .raw_args()
                        .map_err(|error| bad(command, &error.to_string()))?;
                    arguments.operands.extend(rest);
                    break;
                }
                continue;
            }
            Arg::Long(name) => {
                let name = name.to_owned();
                if name == "help" {
                    arguments.help = true;
                    return Ok(arguments);
                }
                long = true;
                find_long(command, &name)?
            }
            Arg::Short('h') if !command.all_flags().any(|flag| flag.short == Some('h')) => {
                arguments.help = true;
                return Ok(arguments);
            }
            Arg::Short(letter) => find_short(command, letter)?,
        };
        let value = take(command, flag, long, &mut parser)?;
        arguments.given.push((flag.long, value));
    }
    count(command, &arguments)?;
    Ok(arguments)
}

fn take(
    command: &Command,
    flag: &'static Flag,
    long: bool,
    parser: &mut lexopt::Parser,
) -> Result<OsString, Failure> {
    match flag.takes {
        // Behind a letter stands the next letter of its cluster, not a value.
        Takes::Switch if !long => Ok("true".into()),
        Takes::Switch => match parser.optional_value() {
            None => Ok("true".into()),
            Some(value) => match value.to_str() {
                Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok("true".into()),
                Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok("false".into()),
                _ => Err(bad(
                    command,
                    &format!(
                        "--{} is a switch: {} is neither true nor false",
                        flag.long,
                        value.display()
                    ),
                )),
            },
        },
        Takes::Value(name) | Takes::List(name) => parser
            .value()
            .map_err(|_| bad(command, &format!("--{} needs a value: {name}", flag.long))),
        Takes::Refused => Err(Failure::usage(format!(
            "`wolffia {}` does not serve --{} yet",
            command.name, flag.long
        ))
        .cause(flag.help)),
    }
}

fn find_long(command: &Command, name: &str) -> Result<&'static Flag, Failure> {
    if let Some(flag) = command.all_flags().find(|flag| flag.is_called(name)) {
        return Ok(flag);
    }
    let served = command
        .all_flags()
        .filter(|flag| !matches!(flag.takes, Takes::Refused));
    let near = suggest::nearest(name, served.map(|flag| flag.long));
    let failure = bad(
        command,
        &format!("`wolffia {}` has no flag --{name}", command.name),
    );
    Err(match near {
        Some(near) => failure.help(format!("did you mean --{near}?")),
        None => failure,
    })
}

fn find_short(command: &Command, letter: char) -> Result<&'static Flag, Failure> {
    command
        .all_flags()
        .find(|flag| flag.short == Some(letter))
        .ok_or_else(|| {
            bad(
                command,
                &format!("`wolffia {}` has no flag -{letter}", command.name),
            )
        })
}

fn count(command: &Command, arguments: &Arguments) -> Result<(), Failure> {
    let (least, most) = command.operands;
    let given = arguments.operands.len();
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    if given < least {
        return Err(bad(
            command,
            &format!(
                "`wolffia {}` needs at least {least} {}",
                command.name,
                plural(least)
            ),
        ));
    }
    if given > most {
        return Err(bad(
            command,
            &format!(
                "`wolffia {}` takes at most {most} {}, got {given}",
                command.name,
                plural(most)
            ),
        ));
    }
    Ok(())
}

fn bad(command: &Command, text: &str) -> Failure {
    Failure::usage(text.to_owned())
        .help(format!("usage: wolffia {} {}", command.name, command.usage))
        .help(format!("wolffia {} --help lists the flags", command.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Group, list, refused, switch, value};

    static FLAGS: &[Flag] = &[
        switch("interactive", Some('i'), ""),
        switch("tty", Some('t'), ""),
        value("name", None, "NAME", ""),
        list("env", Some('e'), "KEY=VALUE", ""),
        refused("privileged", None, "because"),
    ];

    static COMMAND: Command = Command {
        name: "run",
        aliases: &[],
        usage: "IMAGE",
        summary: "",
        group: Group::Containers,
        flags: &[FLAGS],
        stops_at_operand: true,
        operands: (0, usize::MAX),
        failure_code: 125,
        serve: |_, _| Ok(0),
    };

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn words_behind_the_image_are_left_alone() {
        let read = parse(
            &COMMAND,
            &words("-it --name=a -eX=1 -e Y=2 alpine ls -l --name b"),
        )
        .unwrap();
        assert!(read.is("interactive") && read.is("tty"));
        assert_eq!(read.text("name").unwrap(), Some("a"));
        assert_eq!(read.texts("env").unwrap(), ["X=1", "Y=2"]);
        assert_eq!(
            read.operand_texts().unwrap(),
            ["alpine", "ls", "-l", "--name", "b"]
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (line, expected) in [
            ("--privileged x", "does not serve --privileged"),
            ("--nmae x", "has no flag --nmae"),
            ("-z", "has no flag -z"),
            ("--name", "needs a value: NAME"),
            ("--tty=maybe", "neither true nor false"),
        ] {
            let failure = parse(&COMMAND, &words(line)).unwrap_err();
            assert!(
                failure.to_text().contains(expected),
                "{line}: {}",
                failure.to_text()
            );
        }
        let near = parse(&COMMAND, &words("--nmae x")).unwrap_err();
        assert!(
            near.to_text().contains("did you mean --name?"),
            "{}",
            near.to_text()
        );
    }

    #[test]
    fn switches_can_be_turned_off() {
        assert!(
            !parse(&COMMAND, &words("-i --interactive=false x"))
                .unwrap()
                .is("interactive")
        );
    }
}
