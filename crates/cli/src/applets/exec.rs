// SPDX-License-Identifier: Apache-2.0
//! `exec`: another program in a running container.

use wolffia_engine::exec::{self, Request};

use super::container_flags;
use crate::{
    command::{Command, Group, list, refused, switch, value},
    context::Context,
    failure::{Failure, OWN_FAILURE},
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "exec",
    aliases: &[],
    usage: "[FLAGS] CONTAINER PROGRAM [ARGUMENT...]",
    summary: "Run another program in a running container",
    group: Group::Containers,
    flags: &[&[
        switch("detach", Some('d'), "return when it runs"),
        list(
            "env",
            Some('e'),
            "KEY[=VALUE]",
            "set a variable, or pass yours on",
        ),
        list(
            "env-file",
            None,
            "FILE",
            "variables from a file of KEY=VALUE lines",
        ),
        switch("interactive", Some('i'), "pass standard input on"),
        switch("tty", Some('t'), "a terminal inside"),
        value("user", Some('u'), "USER[:GROUP]", "who it runs as, inside"),
        value("workdir", Some('w'), "DIR", "where it starts"),
        refused(
            "privileged",
            None,
            "a container's rights are settled when it is made",
        ),
        refused(
            "detach-keys",
            None,
            "there is no `attach` to come back with yet",
        ),
    ]],
    stops_at_operand: true,
    operands: (2, usize::MAX),
    failure_code: OWN_FAILURE,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let words = arguments.operand_texts()?;
    let request = Request {
        args: words[1..].iter().map(|word| (*word).to_owned()).collect(),
        env: container_flags::variables(arguments)?,
        user: arguments.text("user")?.map(String::from),
        directory: container_flags::workdir(arguments)?,
        interactive: arguments.is("interactive"),
        tty: arguments.is("tty"),
        detached: arguments.is("detach"),
    };
    if request.tty
        && request.interactive
        && !request.detached
        && !wolffia_engine::start::has_terminal()
    {
        return Err(
            Failure::usage("-t needs a terminal, and standard input is not one")
                .help("leave -t away: output and exit code come through as they are"),
        );
    }
    let containers = wolffia_engine::containers::Containers::of(context.home()?);
    let container = containers
        .find(words[0])
        .map_err(|error| super::failure(&error))?;
    exec::exec(&containers, &container, &request).map_err(|error| {
        let failure = error
            .hint()
            .into_iter()
            .fold(Failure::from_error(&error), Failure::help);
        match error.code() {
            Some(code) => failure.code(code),
            None => failure,
        }
    })
}
