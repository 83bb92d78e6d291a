// SPDX-License-Identifier: Apache-2.0
//! `tag`: another name for an image.

use wolffia_image::Reference;

use crate::{
    command::{Command, Group},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "tag",
    aliases: &[],
    usage: "IMAGE NAME[:TAG]",
    summary: "Give an image another name",
    group: Group::Images,
    flags: &[],
    stops_at_operand: false,
    operands: (2, 2),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let words = arguments.operand_texts()?;
    let reference = Reference::parse(words[1]).map_err(|error| Failure::from_error(&error))?;
    let store = context.store()?;
    let image = store
        .resolve(words[0])
        .map_err(|error| super::store_failure(&error))?;
    store
        .tag(&image.id, &reference)
        .map_err(|error| super::store_failure(&error))?;
    Ok(0)
}
