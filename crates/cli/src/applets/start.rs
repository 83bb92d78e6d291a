// SPDX-License-Identifier: Apache-2.0
//! `start`: containers that were made or have ended, run (again).

use wolffia_engine::{
    containers::{Container, ContainerError, Containers},
    record::Image,
    start::{self, Clock, Mode, RootFs},
};
use wolffia_image::Digest;

use super::run;
use crate::{
    command::{Command, Group, refused, switch},
    context::{Context, complain},
    failure::{Failure, OWN_FAILURE},
    obtain,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "start",
    aliases: &[],
    usage: "[FLAGS] CONTAINER...",
    summary: "Start containers that do not run",
    group: Group::Containers,
    flags: &[&[
        switch(
            "attach",
            Some('a'),
            "stay, and show what it says (one container)",
        ),
        switch(
            "interactive",
            Some('i'),
            "with -a: pass standard input on, if the container was made with -i",
        ),
        refused("checkpoint", None, "checkpoints are not served"),
        refused("checkpoint-dir", None, "checkpoints are not served"),
        refused(
            "detach-keys",
            None,
            "there is no `attach` to come back with yet",
        ),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let words = arguments.operand_texts()?;
    let attach = arguments.is("attach") || arguments.is("interactive");
    if attach && words.len() > 1 {
        return Err(Failure::usage("--attach takes one container"));
    }
    let containers = context.containers()?;
    let mut code = 0;
    for word in words {
        let started = containers
            .find(word)
            .map_err(|error| super::failure(&error))
            .and_then(|container| one(context, &containers, &container, attach));
        match started {
            Ok(ended) if attach => code = ended,
            Ok(_) => drop(context.say(&format!("{word}\n"))),
            Err(failure) => code = complain(&failure, if attach { OWN_FAILURE } else { 1 }),
        }
    }
    Ok(code)
}

fn one(
    context: &Context,
    containers: &Containers,
    container: &Container,
    attach: bool,
) -> Result<u8, Failure> {
    let held = match containers.hold(container) {
        // As docker has it, starting what runs is done already.
        Err(ContainerError::Running(_)) if !attach => return Ok(0),
        held => held.map_err(|error| super::failure(&error))?,
    };
    let mapping = obtain::mapping(context)?;
    let root = match &held.container.record.image {
        Image::Host => RootFs::Host,
        Image::Stored { id, name } => {
            let image = Digest::parse(id).ok().map(|id| {
                context
                    .store()?
                    .image(&id)
                    .map_err(|error| super::store_failure(&error))
            });
            let root = if let Some(image) = image.transpose()?.flatten() {
                Some(run::image_root(context, &image, &mapping)?)
            } else {
                // What the container stands on stays as long as it does, also where the image was removed by force.
                let pinned = context
                    .store()?
                    .pinned_rootfs(held.container.record.id.as_str(), &mapping.key());
                pinned.map_err(|error| super::store_failure(&error))?
            };
            let Some(root) = root else {
                held.lock.release();
                return Err(Failure::new(format!(
                    "the image {name} of this container was removed"
                ))
                .help(format!(
                    "bring the same image back (wolffia pull {name}), or make the container anew"
                )));
            };
            RootFs::Image(root)
        }
    };
    let mode = if attach {
        Mode::Foreground
    } else {
        Mode::Detached
    };
    let remove = held.container.record.options.remove;
    let started = start::start(
        containers,
        held,
        root,
        &mapping,
        mode,
        &mut Clock::new(false),
        &mut |note| context.note(&format!("note: {note}")),
    );
    run::finish(context, containers, started, remove)
}
