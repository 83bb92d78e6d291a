// SPDX-License-Identifier: Apache-2.0
//! What a person asked for when a container was made: plain data, kept in its record.
//!
//! The door fills it in from flags; everything that can be checked without the image is checked by the constructors here.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{mounts::MountRequest, networks::Network, ports};

/// What a container is made from and how it runs.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line, named where it is set"
)]
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Program and arguments behind the image's name; empty: the image's own.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty list removes the image's.
    pub entrypoint: Option<Vec<String>>,
    /// `-i`: standard input stays open.
    pub interactive: bool,
    /// `-t`: a terminal.
    pub tty: bool,
    /// `--rm`: removed when it ends.
    pub remove: bool,
    /// `--init`: our init is process 1 inside.
    pub init: bool,
    /// `--read-only`: the root file system cannot be written.
    pub read_only: bool,
    /// `-e` and `--env-file`, in order, as `KEY=VALUE`.
    pub env: Vec<String>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--add-host`, in order.
    pub add_hosts: Vec<AddHost>,
    /// `--cap-add`, as given.
    pub cap_add: Vec<String>,
    /// `--cap-drop`, as given.
    pub cap_drop: Vec<String>,
    /// `--security-opt`.
    pub security: Security,
    /// `--stop-signal`.
    pub stop_signal: Option<String>,
    /// `--stop-timeout`, seconds.
    pub stop_timeout_seconds: Option<u32>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `-l`.
    pub labels: BTreeMap<String, String>,
    /// `--network`.
    pub network: Network,
    /// `-p`, in order; with `-P`, those of the image too.
    pub publish: Vec<ports::Request>,
    /// `-P`: everything that is exposed is published.
    pub publish_all: bool,
    /// `--expose` and the image's EXPOSE.
    pub exposed: Vec<ports::Exposed>,
    /// `-v`, `--mount`, `--tmpfs`, in order.
    pub mounts: Vec<MountRequest>,
}

/// `--security-opt`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a word of the command line, named where it is set"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// `no-new-privileges`: set-uid files give nothing.
    pub no_new_privileges: bool,
    /// `seccomp=unconfined`.
    pub seccomp_unconfined: bool,
    /// `seccomp=FILE`: the profile's text.
    pub seccomp_profile: Option<String>,
    /// `nesting`: namespaces and mounts are allowed inside.
    pub nesting: bool,
    /// `unmask=ALL`: nothing of /proc and /sys is hidden.
    pub unmasked: bool,
}

/// `--add-host NAME:ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddHost {
    /// The name.
    pub name: String,
    /// The address, as text.
    pub address: String,
}

/// `--ulimit NAME=SOFT[:HARD]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `RLIMIT_NOFILE` and so on.
    pub resource: String,
    /// The limit now; `u64::MAX` is none.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// An option whose text is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadOption {
    /// `--add-host`.
    #[error("--add-host {0:?}: not NAME:ADDRESS with an IP address")]
    AddHost(String),
    /// `--ulimit`.
    #[error("--ulimit {0:?}: not NAME=SOFT[:HARD]")]
    Ulimit(String),
    /// `--ulimit` with a name that is none.
    #[error("--ulimit {given:?}: there is no such limit; there are: {known}")]
    UlimitName {
        /// As given.
        given: String,
        /// Those there are.
        known: String,
    },
    /// The soft limit is above the hard one.
    #[error("--ulimit {0:?}: the soft limit is above the hard one")]
    UlimitOrder(String),
    /// `--env-file`.
    #[error("reading line {line} of {file}: {text:?} is not KEY=VALUE")]
    EnvLine {
        /// The file.
        file: String,
        /// From one.
        line: usize,
        /// The line.
        text: String,
    },
    /// A name that is no signal.
    #[error("{0:?} is not a signal")]
    Signal(String),
}

/// The limits that `--ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for AddHost {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<AddHost, BadOption> {
        let bad = || BadOption::AddHost(text.to_owned());
        let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let is_address = address == HOST_GATEWAY || address.parse::<std::net::IpAddr>().is_ok();
        let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
        if is_name && is_address {
            Ok(AddHost {
                name: name.to_owned(),
                address: address.to_owned(),
            })
        } else {
            Err(bad())
        }
    }
}

/// The word that stands for this machine in `--add-host`.
pub const HOST_GATEWAY: &str = "host-gateway";

impl FromStr for Ulimit {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Ulimit, BadOption> {
        let bad = || BadOption::Ulimit(text.to_owned());
        let (name, limits) = text.split_once('=').ok_or_else(bad)?;
        if !ULIMITS.contains(&name) {
            return Err(BadOption::UlimitName {
                given: text.to_owned(),
                known: ULIMITS.join(" "),
            });
        }
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let read = |limit: &str| match limit {
            "-1" | "unlimited" => Ok(u64::MAX),
            _ => limit.parse().map_err(|_| bad()),
        };
        let (soft, hard) = (read(soft)?, read(hard)?);
        if soft > hard {
            return Err(BadOption::UlimitOrder(text.to_owned()));
        }
        Ok(Ulimit {
            resource: format!("RLIMIT_{}", name.to_uppercase()),
            soft,
            hard,
        })
    }
}

/// Reads an `--env-file`: `KEY=VALUE` lines, `KEY` alone for the caller's value, `#` comments.
pub fn parse_env_file(
    file: &str,
    text: &str,
    inherited: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, BadOption> {
    let mut env = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(BadOption::EnvLine {
                file: file.to_owned(),
                line: index + 1,
                text: line.to_owned(),
            });
        }
        if line.contains('=') {
            env.push(line.to_owned());
        } else if let Some(value) = inherited(key) {
            env.push(format!("{key}={value}"));
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_hosts_are_read_or_refused() {
        let limit: Ulimit = "nofile=10:20".parse().unwrap();
        assert_eq!(
            (limit.resource.as_str(), limit.soft, limit.hard),
            ("RLIMIT_NOFILE", 10, 20)
        );
        assert_eq!("core=-1".parse::<Ulimit>().unwrap().hard, u64::MAX);
        for bad in ["nofile", "nofile=x", "nofile=3:2", "files=1"] {
            assert!(bad.parse::<Ulimit>().is_err(), "{bad}");
        }
        for (good, address) in [
            ("a:1.2.3.4", "1.2.3.4"),
            ("b:::1", "::1"),
            ("c:[::1]", "::1"),
        ] {
            assert_eq!(good.parse::<AddHost>().unwrap().address, address);
        }
        for bad in ["a", "a:b", ":1.2.3.4", "a b:1.2.3.4"] {
            assert!(bad.parse::<AddHost>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_env_file_is_lines() {
        let text = "# note\nA=1 2\n\nHOME\nGONE\nB=";
        let inherited = |key: &str| (key == "HOME").then(|| "/h".to_owned());
        assert_eq!(
            parse_env_file("f", text, inherited).unwrap(),
            ["A=1 2", "HOME=/h", "B="]
        );
        let bad = parse_env_file("f", "A=1\nB C=2", |_| None).unwrap_err();
        assert!(matches!(bad, BadOption::EnvLine { line: 2, .. }));
    }
}
