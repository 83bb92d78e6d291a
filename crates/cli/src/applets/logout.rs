// SPDX-License-Identifier: Apache-2.0
//! `logout`: credentials taken away.

use wolffia_fetch::{
    Environment,
    login::{DEFAULT_REGISTRY, log_out, log_out_everywhere},
};

use crate::{
    command::{Command, Group, switch, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "logout",
    aliases: &[],
    usage: "[FLAGS] [REGISTRY]",
    summary: "Forget the credentials for a registry",
    group: Group::Images,
    flags: &[&[
        switch("all", Some('a'), "those of all registries"),
        value("authfile", None, "FILE", "look there"),
    ]],
    stops_at_operand: false,
    operands: (0, 1),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let registry = arguments
        .operand_texts()?
        .first()
        .copied()
        .unwrap_or(DEFAULT_REGISTRY);
    let environment = Environment::of_process();
    let file = arguments.last("authfile").map(std::path::Path::new);
    let all = arguments.is("all");
    let gone = if all {
        log_out_everywhere(&environment, file)
    } else {
        log_out(&environment, registry, file)
    };
    let gone = gone.map_err(|error| Failure::from_error(&error))?;
    if gone.is_empty() {
        context.note(&format!("note: there were no credentials for {registry}"));
        return Ok(0);
    }
    Ok(context.say(&format!(
        "Removed login credentials for {}\n",
        if all { "all registries" } else { registry }
    )))
}
