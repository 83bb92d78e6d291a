// SPDX-License-Identifier: Apache-2.0
//! The configuration file: what a site or a user has set up once for all commands.
//!
//! # Theory of operation
//! `$WOLFFIA_CONFIG` names the one file that counts. Without it there are the machine's, `/etc/wolffia/config.toml`, and the user's,
//! `~/.config/wolffia/config.toml`; a key in the user's replaces the machine's. No file is needed. A key that nobody knows is an error, not
//! passed over: a mistyped one would do nothing, and nobody would know why.
//!
//! ```toml
//! unpacked = ["/cvmfs/unpacked.example.org"]   # layers that a site unpacked, used where they are
//! lazy     = "auto"                            # auto, always, never
//! [background]
//! rate  = "2M"                                 # bytes a second
//! total = "1G"                                 # of one image
//! ```
//!
//! The page for people is `docs/guide/configuration.md`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use wolffia_fetch::Environment;

use crate::{failure::Failure, suggest};

/// Such a file is a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most directories of one kind: each is looked at for each layer.
const DIRECTORIES_MAX: usize = 32;

const KEYS: [&str; 3] = ["unpacked", "lazy", "background"];
const BACKGROUND_KEYS: [&str; 2] = ["rate", "total"];

/// What is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
    /// Directories in which layers lie unpacked.
    pub(crate) unpacked: Vec<PathBuf>,
    /// Whether images are fetched lazily.
    pub(crate) lazy: Lazy,
    /// Bytes a second that are fetched while nobody waits for them, at most.
    pub(crate) background_rate: Option<u64>,
    /// Bytes of one image that are fetched so, at most.
    pub(crate) background_total: Option<u64>,
}

/// Whether images are fetched lazily.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Lazy {
    /// Where it can be done right and makes sense.
    #[default]
    Auto,
    /// Or not at all.
    Always,
    /// Never.
    Never,
}

impl Lazy {
    /// Returns the word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    /// Reads the word for it.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Auto, Self::Always, Self::Never]
            .into_iter()
            .find(|one| one.word() == word)
    }
}

/// Reads what is configured.
pub(crate) fn read(environment: &Environment) -> Result<Configuration, Failure> {
    let mut configuration = Configuration::default();
    if let Some(path) = environment.path("WOLFFIA_CONFIG") {
        let text = text_of(&path)?.ok_or_else(|| {
            Failure::new(format!("reading {}", path.display()))
                .cause("it does not exist")
                .help("WOLFFIA_CONFIG names it")
        })?;
        configuration.take(&path, &text)?;
        return Ok(configuration);
    }
    let machine = environment.machine("/etc/wolffia/config.toml");
    let own = environment.configuration("wolffia/config.toml");
    for path in std::iter::once(machine).chain(own) {
        if let Some(text) = text_of(&path)? {
            configuration.take(&path, &text)?;
        }
    }
    Ok(configuration)
}

fn text_of(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |cause: String| Failure::new(format!("reading {}", path.display())).cause(cause);
    match path.metadata() {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(failed(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|error| failed(error.to_string()))
}

impl Configuration {
    /// Takes over what a file says; what it does not say stays.
    fn take(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        let reading = || Failure::new(format!("reading {}", path.display()));
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| reading().cause(error.to_string().trim_end()))?;
        for (key, value) in table {
            let wrong = |should: &str| reading().cause(format!("{key} must be {should}"));
            match key.as_str() {
                "indexes" | "stores" => {
                    return Err(reading()
                        .cause(format!("{key} is not served yet"))
                        .help("take the line out: images come from their registries"));
                }
                "unpacked" => self.unpacked = directories(value).map_err(wrong)?,
                "lazy" => {
                    let word = value.as_str().and_then(Lazy::parse);
                    self.lazy = word.ok_or_else(|| wrong("\"auto\", \"always\" or \"never\""))?;
                }
                "background" => {
                    let Value::Table(table) = value else {
                        return Err(wrong("a table"));
                    };
                    for (key, value) in table {
                        let bytes = bytes(&value).ok_or_else(|| {
                            reading().cause(format!(
                                "background.{key} must be a number of bytes: 500000, \"2M\", \"1G\""
                            ))
                        });
                        match key.as_str() {
                            "rate" => self.background_rate = Some(bytes?),
                            "total" => self.background_total = Some(bytes?),
                            _ => {
                                return Err(unknown(
                                    reading(),
                                    "background.",
                                    &key,
                                    &BACKGROUND_KEYS,
                                ));
                            }
                        }
                    }
                }
                _ => return Err(unknown(reading(), "", &key, &KEYS)),
            }
        }
        self.files.push(path.to_owned());
        Ok(())
    }
}

fn unknown(failure: Failure, section: &str, key: &str, known: &[&str]) -> Failure {
    let failure = failure.cause(format!("{section}{key} is no key that is known"));
    match suggest::nearest(key, known.iter().copied()) {
        Some(near) => failure.help(format!("{section}{near} is one")),
        None => failure.help(format!(
            "there are {section}{}",
            known.join(&format!(", {section}"))
        )),
    }
}

/// Reads a list of absolute paths; one path is a list, too.
fn directories(value: Value) -> Result<Vec<PathBuf>, &'static str> {
    const SHOULD: &str = "a list of absolute paths";
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    if list.len() > DIRECTORIES_MAX {
        return Err("a list of at most 32 paths");
    }
    list.iter()
        .map(|item| {
            let path = PathBuf::from(item.as_str().ok_or(SHOULD)?);
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(SHOULD)
            }
        })
        .collect()
}

/// Reads a number of bytes: plain, or with one of `k M G T`, which count in thousands.
fn bytes(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_integer() {
        return u64::try_from(number).ok();
    }
    let text = value.as_str()?.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].trim_end_matches('B') {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000_u64,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[(&str, &str)]) -> (tempfile::TempDir, Environment) {
        let folder = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("one")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let environment = Environment::below(folder.path()).with("HOME", folder.path());
        (folder, environment)
    }

    #[test]
    fn the_users_keys_replace_the_machines_and_a_named_file_replaces_both() {
        let (folder, environment) = place(&[
            (
                "etc/wolffia/config.toml",
                "unpacked = ['/cvmfs/a']\nlazy = 'never'\n",
            ),
            (
                ".config/wolffia/config.toml",
                "unpacked = []\nlazy = 'always'\n[background]\nrate = '2M'\ntotal = 5\n",
            ),
            ("other.toml", "unpacked = ['/x', '/y']"),
        ]);
        let found = read(&environment).expect("read");
        assert_eq!(found.files.len(), 2);
        assert_eq!(found.unpacked, Vec::<PathBuf>::new());
        assert_eq!(found.lazy, Lazy::Always);
        assert_eq!(found.background_rate, Some(2_000_000));
        assert_eq!(found.background_total, Some(5));
        let named = environment.with("WOLFFIA_CONFIG", folder.path().join("other.toml"));
        let found = read(&named).expect("read");
        assert_eq!(found.unpacked.len(), 2);
        assert_eq!(found.lazy, Lazy::Auto);
        let missing = named.with("WOLFFIA_CONFIG", folder.path().join("nothing"));
        let said = read(&missing).expect_err("refused").to_text();
        assert!(
            said.contains("nothing") && said.contains("WOLFFIA_CONFIG"),
            "{said}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let (_folder, none) = place(&[]);
        assert_eq!(read(&none).expect("fine"), Configuration::default());
        for (text, words) in [
            ("unpaked = []", ["unpaked is no key", "unpacked is one"]),
            ("zzzzzzzzzz = 1", ["zzzzzzzzzz is no key", "unpacked, lazy"]),
            (
                "[background]\nrat = 1",
                ["background.rat is no key", "background.rate is one"],
            ),
            (
                "[background]\nrate = -1",
                ["background.rate must be", "config.toml"],
            ),
            (
                "[background]\nrate = '5 miles'",
                ["background.rate must be", "config.toml"],
            ),
            ("unpacked = ['here']", ["unpacked must be", "absolute"]),
            ("unpacked = [1]", ["unpacked must be", "absolute"]),
            (
                "stores = ['/s']",
                ["stores is not served yet", "config.toml"],
            ),
            ("lazy = 'sometimes'", ["lazy must be", "never"]),
            ("lazy = ", ["config.toml", "line 1"]),
        ] {
            let (_folder, environment) = place(&[(".config/wolffia/config.toml", text)]);
            let said = read(&environment).expect_err("refused").to_text();
            for word in words {
                assert!(said.contains(word), "{text}: {said}");
            }
        }
    }
}
