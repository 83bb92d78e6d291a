// SPDX-License-Identifier: Apache-2.0
//! `kill`: send a signal to containers.

use wolffia_engine::{
    control::{Conductor, Request},
    signal::Signal,
};

use crate::{
    command::{Command, Group, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "kill",
    aliases: &[],
    usage: "[--signal SIGNAL] CONTAINER...",
    summary: "Send a signal to process 1 of containers",
    group: Group::Containers,
    flags: &[&[value("signal", Some('s'), "SIGNAL", "which (KILL)")]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let signal = super::signal(arguments, "signal")?.unwrap_or(Signal::KILL);
    super::for_each(context, arguments, |containers, container| {
        let conductor =
            Conductor::of(containers, container).map_err(|error| super::control_failure(&error))?;
        conductor
            .request(Request::Pass(signal))
            .map_err(|error| super::control_failure(&error))?;
        if signal == Signal::KILL {
            // Nothing survives it, so what is said afterwards is true at once.
            conductor
                .wait(None)
                .map_err(|error| super::control_failure(&error))?;
        }
        Ok(())
    })
}
