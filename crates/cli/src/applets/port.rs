// SPDX-License-Identifier: Apache-2.0
//! `port`: where the ports of a container are on this machine.

use wolffia_engine::ports::{Exposed, Published, word};

use crate::{
    command::{Command, Group},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "port",
    aliases: &[],
    usage: "CONTAINER [PORT[/udp]]",
    summary: "Show where a container's ports are on this machine",
    group: Group::Containers,
    flags: &[],
    stops_at_operand: false,
    operands: (1, 2),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let words = arguments.operand_texts()?;
    let (name, port) = (words[0], words.get(1));
    let container = context
        .containers()?
        .find(name)
        .map_err(|error| super::failure(&error))?;
    let mut published = container.state.ports;
    published.sort_unstable();
    let Some(port) = port else {
        let line =
            |told: &Published| format!("{}/{} -> {}\n", told.port, word(told.protocol), told.at);
        return Ok(context.say(&published.iter().map(line).collect::<String>()));
    };
    let wanted: Exposed = port
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    let is_it = |told: &&Published| (told.port, told.protocol) == (wanted.port, wanted.protocol);
    let found: Vec<String> = published
        .iter()
        .filter(is_it)
        .map(|told| told.at.to_string())
        .collect();
    if found.is_empty() {
        return Err(
            Failure::new(format!("no public port {wanted} published for {name}"))
                .help("it is published while the container runs, by -p when it was made"),
        );
    }
    Ok(context.say(&(found.join("\n") + "\n")))
}
