// SPDX-License-Identifier: Apache-2.0
//! The surroundings this room reads: environment variables and the machine's configuration files.
//!
//! They are gathered in one value that is passed on, for two reasons: the process that pulls is not always the process
//! the user started (variables must be handed over), and a test gives its own without touching the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variables, and the root below which `/etc` is looked for.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    root: PathBuf,
}

impl Environment {
    /// Returns the environment of this process.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Self {
            variables,
            root: PathBuf::from("/"),
        }
    }

    /// Returns an environment without variables whose machine files lie below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            variables: BTreeMap::new(),
            root: root.into(),
        }
    }

    /// Returns the same environment with one variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Returns a variable's text; an empty one, and one that is not UTF-8, count as not set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .and_then(|value| value.to_str())
            .filter(|value| !value.is_empty())
    }

    /// Returns a variable's value as a path; an empty one counts as not set.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables
            .get(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// Returns where a file of the machine lies: `path` is absolute, as in `/etc/hosts`.
    pub fn machine(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Returns the user's home directory.
    pub fn home(&self) -> Option<PathBuf> {
        self.path("HOME")
    }

    /// Returns a path below the user's configuration directory: `$XDG_CONFIG_HOME`, else `~/.config`.
    pub fn configuration(&self, below: impl AsRef<Path>) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME")
            .or_else(|| Some(self.home()?.join(".config")))
            .map(|directory| directory.join(below))
    }
}

/// Shows the names of the variables only: a proxy's address may hold a password.
impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
