// SPDX-License-Identifier: Apache-2.0
//! `wolffia oci`: the OCI runtime command line that podman, containerd and people know from runc and crun.
//!
//! The words are theirs, so they are read here and not by the table of commands: flags stand before and behind the verb,
//! and what is asked of systems we do not use (systemd's control groups, criu) is accepted where it cannot matter.
//! Failures go to standard error as one line, and to the file of `--log` as their programs expect them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::json;
use wolffia_runtime::oci::{Home, OciError};

use words::{Flags, Words};

mod exec;
mod show;
mod verbs;
mod words;

/// A failure of one of these commands.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            code: 1,
        }
    }

    fn with(error: &dyn std::error::Error, code: u8) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Failure { text, code }
    }
}

impl From<OciError> for Failure {
    fn from(error: OciError) -> Failure {
        Failure::with(&error, error.code())
    }
}

/// What stands before the verb.
struct Globals {
    root: Option<PathBuf>,
    log: Option<PathBuf>,
    log_is_json: bool,
}

impl Globals {
    fn home(&self) -> Result<Home, Failure> {
        let path = self.root.clone().unwrap_or_else(default_root);
        Ok(Home::open(&path)?)
    }
}

/// State that ends with the machine lies where such things lie.
fn default_root() -> PathBuf {
    let named = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(runtime) = named("XDG_RUNTIME_DIR") {
        return runtime.join("wolffia-oci");
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/wolffia-oci");
    }
    let data =
        named("XDG_DATA_HOME").or_else(|| named("HOME").map(|home| home.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from("/tmp"))
        .join("wolffia/oci")
}

/// Serves the words behind `oci`, or behind the program's name, and returns the exit code.
pub(crate) fn serve(words: &[OsString]) -> u8 {
    let mut globals = Globals {
        root: None,
        log: None,
        log_is_json: false,
    };
    match served(words, &mut globals) {
        Ok(code) => code,
        Err(failure) => {
            complain(&globals, &failure);
            failure.code
        }
    }
}

/// Flags before the verb that take a value, and those that take none.
const GLOBAL: Flags = Flags {
    values: &[
        "root",
        "log",
        "log-format",
        "log-level",
        "criu",
        "cgroup-manager",
    ],
    switches: &["debug", "systemd-cgroup", "rootless", "help", "version"],
    shorts: &[('h', "help"), ('v', "version")],
};

fn served(words: &[OsString], globals: &mut Globals) -> Result<u8, Failure> {
    let (words, rest) = Words::before_verb(words, &GLOBAL)?;
    globals.root = words.path("root");
    globals.log = words.path("log");
    globals.log_is_json = words.text("log-format")? == Some("json");
    if words.has("version") {
        return Ok(show::version());
    }
    let Some((verb, rest)) = rest.split_first() else {
        return Ok(show::help());
    };
    if words.has("help") {
        return Ok(show::help());
    }
    match verb.to_str().unwrap_or_default() {
        "create" => verbs::create(globals, rest),
        "start" => verbs::start(globals, rest),
        "run" => verbs::run(globals, rest),
        "state" => show::state(globals, rest),
        "list" => show::list(globals, rest),
        "ps" => show::ps(globals, rest),
        "kill" => verbs::kill(globals, rest),
        "delete" => verbs::delete(globals, rest),
        "exec" => exec::serve(globals, rest),
        "spec" => show::spec(rest),
        "features" => Ok(show::features()),
        "help" => Ok(show::help()),
        verb @ ("pause" | "resume" | "events" | "update" | "checkpoint" | "restore") => Err(
            Failure::usage(format!("`{verb}` is not served: it needs a control group")),
        ),
        verb => Err(Failure::usage(format!("there is no command {verb:?}"))),
    }
}

/// Writes to standard output; a reader that went away is no failure.
fn say(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => 1,
        _ => 0,
    }
}

fn complain(globals: &Globals, failure: &Failure) {
    let text = &failure.text;
    drop(writeln!(io::stderr().lock(), "wolffia: {text}"));
    let Some(path) = &globals.log else { return };
    let line = if globals.log_is_json {
        json!({ "level": "error", "msg": text, "time": show::time_now() }).to_string()
    } else {
        format!("time={:?} level=error msg={text:?}", show::time_now())
    };
    // Standard error has it already.
    let log = fs::OpenOptions::new().append(true).create(true).open(path);
    drop(log.and_then(|mut log| writeln!(log, "{line}")));
}

/// Returns the bundle's directory, absolute.
fn bundle(words: &Words) -> Result<PathBuf, Failure> {
    let given = words.path("bundle").unwrap_or_else(|| PathBuf::from("."));
    fs::canonicalize(&given)
        .map_err(|error| Failure::usage(format!("bundle {}: {error}", given.display())))
}

fn utf8<'a>(word: &'a OsStr, what: &str) -> Result<&'a str, Failure> {
    word.to_str()
        .ok_or_else(|| Failure::usage(format!("{what} {} is not UTF-8", Path::new(word).display())))
}
