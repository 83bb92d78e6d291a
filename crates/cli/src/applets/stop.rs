// SPDX-License-Identifier: Apache-2.0
//! `stop`: end containers, politely first.

use std::time::Duration;

use wolffia_engine::{containers::Container, control, signal::Signal};

use crate::{
    command::{Command, Group, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "stop",
    aliases: &[],
    usage: "[FLAGS] CONTAINER...",
    summary: "Stop containers: their stop signal, then SIGKILL",
    group: Group::Containers,
    flags: &[&[
        value(
            "time",
            Some('t'),
            "SECONDS",
            "how long to wait before SIGKILL (10; -1 for ever)",
        )
        .or(&["timeout"]),
        value(
            "signal",
            Some('s'),
            "SIGNAL",
            "instead of the container's stop signal",
        ),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

/// As docker has it.
const DEFAULT_SECONDS: u32 = 10;

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let signal = super::signal(arguments, "signal")?;
    let time = arguments
        .text("time")?
        .map(|time| {
            time.parse::<i64>()
                .map_err(|_| Failure::usage(format!("--time {time}: not a number of seconds")))
        })
        .transpose()?;
    super::for_each(context, arguments, |containers, container| {
        let (signal, limit) = polite(container, signal, time);
        control::stop(containers, container, signal, limit)
            .map_err(|error| super::control_failure(&error))
    })
}

/// Returns what to send first and how long to wait after it.
pub(super) fn polite(
    container: &Container,
    signal: Option<Signal>,
    time: Option<i64>,
) -> (Signal, Option<Duration>) {
    let options = &container.record.options;
    let own = options
        .stop_signal
        .as_deref()
        .and_then(|signal| signal.parse().ok());
    let seconds = time.unwrap_or_else(|| {
        options
            .stop_timeout_seconds
            .unwrap_or(DEFAULT_SECONDS)
            .into()
    });
    let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
    (signal.or(own).unwrap_or(Signal::TERM), limit)
}
