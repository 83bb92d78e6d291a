// SPDX-License-Identifier: Apache-2.0
//! The verbs that change a container.

use std::{ffi::OsString, path::Path};

use wolffia_engine::signal::Signal;
use wolffia_runtime::{
    Pivot,
    oci::{Foreground, Making, wait_in_foreground},
};

use wolffia_sys::process::Ended;

use super::{
    Failure, Globals, bundle, utf8,
    words::{Flags, Words},
};

/// Flags of `create`; `run` has more.
const CREATE: Flags = Flags {
    values: &[
        "bundle",
        "console-socket",
        "pid-file",
        "preserve-fds",
        "config",
        "pidfd-socket",
    ],
    switches: &[
        "no-pivot",
        "no-new-keyring",
        "no-subreaper",
        "detach",
        "keep",
        "no-mount-fallback",
    ],
    shorts: &[('b', "bundle"), ('d', "detach"), ('f', "config")],
};

fn refuse(words: &Words, names: &[&str]) -> Result<(), Failure> {
    match names.iter().find(|name| words.has(name)) {
        Some(name) => Err(Failure::usage(format!("--{name} is not served"))),
        None => Ok(()),
    }
}

fn making<'a>(
    words: &Words,
    bundle: &'a Path,
    console_socket: Option<&'a Path>,
    pid_file: Option<&'a Path>,
) -> Result<Making<'a>, Failure> {
    refuse(words, &["config", "pidfd-socket"])?;
    Ok(Making {
        bundle,
        console_socket,
        pid_file,
        preserve_fds: words.number("preserve-fds")?.unwrap_or(0),
        pivot: if words.has("no-pivot") {
            Pivot::Move
        } else {
            Pivot::Pivot
        },
    })
}

pub(super) fn create(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let words = Words::read(words, &CREATE)?;
    let (bundle, console, pid) = (
        bundle(&words)?,
        words.path("console-socket"),
        words.path("pid-file"),
    );
    let making = making(&words, &bundle, console.as_deref(), pid.as_deref())?;
    globals.home()?.create(words.id()?, &making)?;
    Ok(0)
}

pub(super) fn run(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let words = Words::read(words, &CREATE)?;
    let (bundle, console, pid) = (
        bundle(&words)?,
        words.path("console-socket"),
        words.path("pid-file"),
    );
    let making = making(&words, &bundle, console.as_deref(), pid.as_deref())?;
    let (home, id) = (globals.home()?, words.id()?);
    if words.has("detach") {
        home.create(id, &making)?;
        return match home.find(id)?.start() {
            Ok(()) => Ok(0),
            Err(error) => {
                // It is not running and will not.
                drop(home.delete(id, true));
                Err(error.into())
            }
        };
    }
    let foreground = Foreground::prepare().map_err(|error| Failure::with(&error, 1))?;
    let (container, running) = home.run(id, &making)?;
    let ended = wait_in_foreground(&foreground, &running);
    if !words.has("keep") {
        container.delete(true)?;
    }
    ended
        .map(Ended::code)
        .map_err(|error| Failure::with(&error, 1))
}

pub(super) fn start(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &[],
        switches: &[],
        shorts: &[],
    };
    let words = Words::read(words, &flags)?;
    globals.home()?.find(words.id()?)?.start()?;
    Ok(0)
}

pub(super) fn kill(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &[],
        switches: &["all"],
        shorts: &[('a', "all")],
    };
    let words = Words::read(words, &flags)?;
    let signal = match words.operands.get(1) {
        Some(word) => utf8(word, "signal")?
            .parse::<Signal>()
            .map_err(|error| Failure::with(&error, 1))?,
        None => Signal::TERM,
    };
    globals.home()?.find(words.id()?)?.kill(signal.number())?;
    Ok(0)
}

pub(super) fn delete(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &[],
        switches: &["force"],
        shorts: &[('f', "force")],
    };
    let words = Words::read(words, &flags)?;
    let force = words.has("force");
    match globals.home()?.delete(words.id()?, force) {
        // Whoever insists wants it gone, and it is.
        Err(wolffia_runtime::oci::OciError::Unknown(_)) if force => Ok(0),
        answer => Ok(answer.map(|()| 0)?),
    }
}
