// SPDX-License-Identifier: Apache-2.0
//! `exec`: another process in a running container.

use std::{ffi::OsString, fs, io, path::Path};

use wolffia_runtime::{
    Stdio,
    oci::{self, Foreground, wait_in_foreground},
    spec::{Capabilities, Process, Spec},
};

use wolffia_sys::process::Ended;

use super::{
    Failure, Globals, utf8,
    words::{Flags, Words},
};

const FLAGS: Flags = Flags {
    values: &[
        "process",
        "env",
        "cwd",
        "user",
        "additional-gids",
        "cap",
        "pid-file",
        "console-socket",
        "preserve-fds",
        "apparmor",
        "process-label",
        "cgroup",
    ],
    switches: &[
        "tty",
        "detach",
        "no-new-privs",
        "ignore-paused",
        "no-subreaper",
    ],
    shorts: &[
        ('p', "process"),
        ('e', "env"),
        ('u', "user"),
        ('g', "additional-gids"),
        ('c', "cap"),
        ('t', "tty"),
        ('d', "detach"),
    ],
};

pub(super) fn serve(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let (words, command) = Words::with_command(words, &FLAGS)?;
    if let Some(name) = ["apparmor", "process-label", "cgroup"]
        .iter()
        .find(|name| words.has(name))
    {
        return Err(Failure::usage(format!("--{name} is not served")));
    }
    let container = globals.home()?.find(words.id()?)?;
    let spec = container.spec()?;
    let process = match words.path("process") {
        Some(path) => read(&path)?,
        None => from_flags(&words, command, &spec)?,
    };
    let socket = words.path("console-socket");
    if process.terminal && words.has("detach") && socket.is_none() {
        return Err(Failure::usage(
            "a terminal is asked for, and there is no --console-socket to hand it over at",
        ));
    }
    let stdio = if process.terminal {
        Stdio::Terminal(None)
    } else {
        Stdio::Inherit
    };
    let preserve = words.number("preserve-fds")?.unwrap_or(0);
    let foreground = if words.has("detach") {
        None
    } else {
        Some(Foreground::prepare().map_err(|error| Failure::with(&error, 1))?)
    };
    let mut running = container.exec(&process, &spec, stdio, preserve)?;
    if let (Some(path), Some(console)) = (&socket, running.console.take_if(|_| socket.is_some())) {
        oci::hand_console_over(path, &console)?;
    }
    if let Some(path) = words.path("pid-file") {
        oci::write_pid(&path, running.pid)?;
    }
    match foreground {
        None => Ok(0),
        Some(foreground) => {
            let ended = wait_in_foreground(&foreground, &running);
            ended
                .map(Ended::code)
                .map_err(|error| Failure::with(&error, 1))
        }
    }
}

fn read(path: &Path) -> Result<Process, Failure> {
    let said = |error: io::Error| Failure::usage(format!("reading {}: {error}", path.display()));
    let text = fs::read(path).map_err(said)?;
    serde_json::from_slice(&text).map_err(|error| said(error.into()))
}

/// The container's own process, changed by what was given.
fn from_flags(words: &Words, command: &[OsString], spec: &Spec) -> Result<Process, Failure> {
    let mut process = spec.process.clone().unwrap_or_default();
    process.args = command
        .iter()
        .map(|word| utf8(word, "argument").map(str::to_owned))
        .collect::<Result<_, _>>()?;
    process.terminal = words.has("tty");
    process.console_size = None;
    for row in words.all("env") {
        process.env.push(utf8(row, "variable")?.to_owned());
    }
    if let Some(cwd) = words.path("cwd") {
        process.cwd = cwd;
    }
    if words.has("no-new-privs") {
        process.no_new_privileges = true;
    }
    if let Some(user) = words.text("user")? {
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| Failure::usage(format!("--user needs UID[:GID], not {user:?}")))
        };
        process.user.uid = number(uid)?;
        if !gid.is_empty() {
            process.user.gid = number(gid)?;
        }
    }
    for gid in words.all("additional-gids") {
        let gid = utf8(gid, "group")?;
        let number = gid.parse().map_err(|_| {
            Failure::usage(format!("--additional-gids needs a number, not {gid:?}"))
        })?;
        process.user.additional_gids.push(number);
    }
    for name in words.all("cap") {
        let name = utf8(name, "capability")?.to_owned();
        let sets = process
            .capabilities
            .get_or_insert_with(Capabilities::default);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.clone());
        }
    }
    Ok(process)
}
