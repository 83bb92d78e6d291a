// SPDX-License-Identifier: Apache-2.0
//! `wait`: wait for containers to end, and say their exit codes.

use wolffia_engine::control;

use crate::{
    command::{Command, Group},
    context::{Context, complain},
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "wait",
    aliases: &[],
    usage: "CONTAINER...",
    summary: "Wait for containers to end, and print their exit codes",
    group: Group::Containers,
    flags: &[],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let mut code = 0;
    for word in arguments.operand_texts()? {
        let ended = containers
            .find(word)
            .map_err(|error| super::failure(&error))
            .and_then(|found| {
                control::wait(&containers, &found).map_err(|error| super::control_failure(&error))
            });
        match ended {
            Ok(exit_code) => drop(context.say(&format!("{exit_code}\n"))),
            Err(failure) => code = complain(&failure, 1),
        }
    }
    Ok(code)
}
