// SPDX-License-Identifier: Apache-2.0
//! `create`: a container that is not started yet.

use wolffia_engine::start::Clock;

use super::{container_flags, run};
use crate::{
    command::{Command, Group},
    context::Context,
    failure::{Failure, OWN_FAILURE},
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "create",
    aliases: &[],
    usage: "[FLAGS] IMAGE [PROGRAM [ARGUMENT...]]",
    summary: "Make a container without starting it, and print its id",
    group: Group::Containers,
    flags: &[container_flags::SHARED],
    stops_at_operand: true,
    operands: (1, usize::MAX),
    failure_code: OWN_FAILURE,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let operands = arguments.operand_texts()?;
    let options = container_flags::options(arguments, &operands[1..])?;
    let made = run::make(
        context,
        arguments,
        operands[0],
        options,
        &mut Clock::new(false),
    )?;
    let id = made.held.container.record.id.clone();
    made.held.lock.release();
    Ok(context.say(&format!("{id}\n")))
}
