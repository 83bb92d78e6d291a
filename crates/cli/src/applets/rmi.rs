// SPDX-License-Identifier: Apache-2.0
//! `rmi`: take names and images away.

use wolffia_pull::job::{Doomed, Outcome, Task};

use crate::{
    command::{Command, Group, refused, switch},
    context::{Context, complain},
    failure::Failure,
    obtain,
    parse::Arguments,
    progress::Line,
};

pub(crate) static COMMAND: Command = Command {
    name: "rmi",
    aliases: &[],
    usage: "[--force] IMAGE...",
    summary: "Remove images",
    group: Group::Images,
    flags: &[&[
        switch(
            "force",
            Some('f'),
            "also one with several names or with stopped containers, which keep its files",
        ),
        refused(
            "no-prune",
            None,
            "layers are not kept apart from the image they make",
        ),
        refused("platform", None, "an image has one platform here"),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let store = context.store()?;
    let containers = context
        .containers()?
        .list()
        .map_err(|error| super::failure(&error))?;
    let users = |word: &str| -> Vec<String> {
        let Ok(image) = store.resolve(word) else {
            return Vec::new();
        };
        let id = image.id.to_string();
        let stands_on = containers
            .iter()
            .filter(|container| container.record.image.id() == id);
        stands_on
            .map(|container| container.record.name.to_string())
            .collect()
    };
    let images = arguments.operand_texts()?.into_iter();
    let images = images
        .map(|word| Doomed {
            name: word.to_owned(),
            users: users(word),
        })
        .collect();
    let mapping = obtain::mapping(context)?;
    let task = Task::Remove {
        images,
        force: arguments.is("force"),
    };
    let mut line = Line::new("rmi", true);
    let Outcome::Removed {
        removed, failed, ..
    } = obtain::ask(context, &mapping, task, &mut line)?
    else {
        return Err(Failure::new(
            "removing images: the helper answered something else",
        ));
    };
    let mut text = String::new();
    for gone in removed {
        text.extend(
            gone.names
                .iter()
                .map(|name| format!("Untagged: {}\n", name.familiar())),
        );
        text.extend(gone.image.iter().map(|id| format!("Deleted: {id}\n")));
    }
    context.say(&text);
    let mut code = 0;
    for (_, failure) in failed {
        code = complain(&obtain::from_job(failure), 1);
    }
    Ok(code)
}
