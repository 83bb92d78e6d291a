// SPDX-License-Identifier: Apache-2.0
//! Words of the command line, by the flags that a verb knows.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use super::{Failure, utf8};

/// The flags of a verb.
pub(super) struct Flags {
    pub(super) values: &'static [&'static str],
    pub(super) switches: &'static [&'static str],
    pub(super) shorts: &'static [(char, &'static str)],
}

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Words {
    given: Vec<(&'static str, Option<OsString>)>,
    pub(super) operands: Vec<OsString>,
}

/// Where reading stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Never: operands and flags mix.
    Never,
    /// Before this operand, counted from 0; it and all behind it belong to somebody else.
    At(usize),
}

impl Words {
    /// Reads all words.
    pub(super) fn read(words: &[OsString], flags: &Flags) -> Result<Words, Failure> {
        let (mut given, rest) = Words::split(words, flags, Stop::Never)?;
        given.operands.extend_from_slice(rest);
        Ok(given)
    }

    /// Reads flags and one operand; the words behind it are returned as they are.
    pub(super) fn with_command<'a>(
        words: &'a [OsString],
        flags: &Flags,
    ) -> Result<(Words, &'a [OsString]), Failure> {
        Words::split(words, flags, Stop::At(1))
    }

    /// Reads flags up to the first operand.
    pub(super) fn before_verb<'a>(
        words: &'a [OsString],
        flags: &Flags,
    ) -> Result<(Words, &'a [OsString]), Failure> {
        Words::split(words, flags, Stop::At(0))
    }

    fn split<'a>(
        words: &'a [OsString],
        flags: &Flags,
        stop: Stop,
    ) -> Result<(Words, &'a [OsString]), Failure> {
        let mut given = Words::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            let text = word.to_str().unwrap_or_default();
            if text == "--" {
                at += 1;
                break;
            }
            if !text.starts_with('-') || text == "-" {
                if stop == Stop::At(given.operands.len()) {
                    break;
                }
                given.operands.push(word.clone());
                at += 1;
                continue;
            }
            at += 1;
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let (name, takes) = flags
                .find(name)
                .ok_or_else(|| Failure::usage(format!("there is no flag {name}")))?;
            let value = match (takes, value) {
                (true, Some(value)) => Some(OsString::from(value)),
                (true, None) => {
                    let next = words.get(at).cloned();
                    at += 1;
                    Some(next.ok_or_else(|| Failure::usage(format!("--{name} needs a value")))?)
                }
                (false, Some("false")) => continue,
                (false, _) => None,
            };
            given.given.push((name, value));
        }
        Ok((given, words.get(at..).unwrap_or_default()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(known, _)| *known == name)
    }

    /// Returns every value of a flag.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.given
            .iter()
            .filter(move |(known, _)| *known == name)
            .filter_map(|(_, value)| value.as_deref())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.all(name).last().map(PathBuf::from)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        self.all(name)
            .last()
            .map(|value| utf8(value, name))
            .transpose()
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        let text = self.text(name)?;
        let number = text.map(|text| {
            text.parse()
                .map_err(|_| Failure::usage(format!("--{name} needs a number, not {text:?}")))
        });
        number.transpose()
    }

    /// Returns the container's name, the first operand.
    pub(super) fn id(&self) -> Result<&str, Failure> {
        let id = self
            .operands
            .first()
            .ok_or_else(|| Failure::usage("a container id is needed"))?;
        utf8(id, "container id")
    }
}

impl Flags {
    /// Returns the flag's own name, and whether it takes a value.
    fn find(&self, word: &str) -> Option<(&'static str, bool)> {
        let long = if let Some(long) = word.strip_prefix("--") {
            long
        } else {
            let mut letters = word.strip_prefix('-')?.chars();
            let letter = letters.next()?;
            let is_row = |(known, _): &&(char, &'static str)| {
                *known == letter && letters.as_str().is_empty()
            };
            // The Go programs take one dash for a long name too.
            self.shorts
                .iter()
                .find(is_row)
                .map_or(&word[1..], |(_, long)| long)
        };
        let named = |names: &'static [&'static str]| names.iter().find(|known| **known == long);
        named(self.values)
            .map(|name| (*name, true))
            .or_else(|| named(self.switches).map(|name| (*name, false)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: Flags = Flags {
        values: &["bundle", "env"],
        switches: &["force", "tty"],
        shorts: &[('b', "bundle"), ('f', "force"), ('e', "env"), ('t', "tty")],
    };

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        for line in [
            "--bundle /b -f id",
            "-b /b id --force",
            "--bundle=/b --force=true id",
            "-bundle /b -f id",
        ] {
            let given = Words::read(&words(line), &FLAGS).expect(line);
            assert_eq!(given.path("bundle"), Some("/b".into()), "{line}");
            assert!(given.has("force"), "{line}");
            assert_eq!(given.id().expect(line), "id");
        }
        assert!(
            !Words::read(&words("--force=false id"), &FLAGS)
                .expect("words")
                .has("force")
        );
        for line in ["--nothing", "-x", "--bundle"] {
            assert!(Words::read(&words(line), &FLAGS).is_err(), "{line}");
        }
    }

    #[test]
    fn the_command_behind_the_id_is_left_alone() {
        let all = words("-e A=1 --env B=2 -t id ls -l --tty");
        let (given, rest) = Words::with_command(&all, &FLAGS).expect("words");
        assert_eq!(given.operands, words("id"));
        assert_eq!(rest, words("ls -l --tty"));
        assert_eq!(given.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
    }
}
