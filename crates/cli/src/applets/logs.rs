// SPDX-License-Identifier: Apache-2.0
//! `logs`: what a container said.

use std::io::{self, Write};

use wolffia_engine::{
    log::{self, Entry, Select, Stream},
    record::Status,
    time::Timestamp,
};

use crate::{
    command::{Command, Group, refused, switch, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "logs",
    aliases: &[],
    usage: "[FLAGS] CONTAINER",
    summary: "Show what a container wrote",
    group: Group::Containers,
    flags: &[&[
        switch("follow", Some('f'), "go on until the container ends"),
        value("tail", Some('n'), "LINES", "only the last lines, or all"),
        value(
            "since",
            None,
            "TIME",
            "none before a time (RFC 3339, seconds) or a span (10m)",
        ),
        switch("timestamps", Some('t'), "when each line was written"),
        refused("until", None, "--since and --tail are served"),
        refused("details", None, "there are no extra attributes in the log"),
    ]],
    stops_at_operand: false,
    operands: (1, 1),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let word = arguments.operand_texts()?[0];
    let tail =
        match arguments.text("tail")? {
            None | Some("all") => None,
            Some(number) => Some(number.parse::<usize>().map_err(|_| {
                Failure::usage(format!("--tail {number}: neither a number nor all"))
            })?),
        };
    let since = arguments
        .text("since")?
        .map(|text| Timestamp::parse(text, Timestamp::now()));
    let since = since
        .transpose()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let containers = context.containers()?;
    let container = containers
        .find(word)
        .map_err(|error| crate::applets::failure(&error))?;
    if container.state.unlogged {
        context.note("note: the output of this container went straight to its caller (run --rm), there is no log");
    }
    let mut printer = Printer {
        timestamps: arguments.is("timestamps"),
        gone: false,
    };
    let fail = |error: io::Error| Failure::new("reading the log").cause(error.to_string());
    let select = Select { since, tail };
    let running = container.state.status == Status::Running && arguments.is("follow");
    let ended = running
        .then(|| pidfd(container.state.conductor_pid))
        .flatten();
    let follow = log::read(&container.folder, &select, &mut |entry| {
        printer.print(entry);
    })
    .map_err(fail)?;
    if arguments.is("follow") && running && !printer.gone {
        let mut each = |entry: &Entry| {
            printer.print(entry);
            !printer.gone
        };
        log::follow(
            follow,
            ended.as_ref().map(std::os::fd::AsFd::as_fd),
            &mut each,
        )
        .map_err(fail)?;
    }
    Ok(0)
}

/// Returns a descriptor that becomes readable when the conductor ends; `None` when it has ended already.
fn pidfd(pid: i32) -> Option<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

struct Printer {
    timestamps: bool,
    /// The reader of one of our streams went away.
    gone: bool,
}

impl Printer {
    fn print(&mut self, entry: &Entry) {
        let stamp = if self.timestamps {
            format!("{} ", entry.time)
        } else {
            String::new()
        };
        let line = format!("{stamp}{}", entry.log);
        let written = match entry.stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
            Stream::Stderr => io::stderr().lock().write_all(line.as_bytes()),
        };
        self.gone |= written.is_err();
    }
}
