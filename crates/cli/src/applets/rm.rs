// SPDX-License-Identifier: Apache-2.0
//! `rm`: remove containers.

use wolffia_engine::control;

use crate::{
    command::{Command, Group, refused, switch},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "rm",
    aliases: &[],
    usage: "[--force] CONTAINER...",
    summary: "Remove containers",
    group: Group::Containers,
    flags: &[&[
        switch(
            "force",
            Some('f'),
            "end running ones first; ones that are not there are no failure",
        ),
        switch(
            "volumes",
            Some('v'),
            "there are no volumes of ours yet, so nothing more is removed",
        ),
        refused("link", Some('l'), "there are no links"),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let force = arguments.is("force");
    super::for_each_or(context, arguments, force, |containers, container| {
        if force {
            control::kill_and_wait(containers, container)
                .map_err(|error| super::control_failure(&error))?;
        }
        match containers.hold(container) {
            // One that was run with --rm went by itself meanwhile.
            Err(wolffia_engine::containers::ContainerError::NotFound(_)) if force => Ok(()),
            Err(error) => Err(super::failure(&error)),
            Ok(held) => containers
                .remove(held)
                .map_err(|error| super::failure(&error)),
        }
    })
}
