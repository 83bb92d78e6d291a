// SPDX-License-Identifier: Apache-2.0
//! `inspect`: everything about containers and images, as JSON.

use serde_json::Value;
use wolffia_engine::{containers::ContainerError, inspect};

use crate::{
    command::{Command, Group, refused, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
    template::Template,
};

pub(crate) static COMMAND: Command = Command {
    name: "inspect",
    aliases: &[],
    usage: "[--format TEMPLATE] [--type container|image] NAME...",
    summary: "Show everything about containers and images",
    group: Group::Containers,
    flags: &[&[
        value("format", Some('f'), "TEMPLATE", "a Go template, or json"),
        value("type", None, "container|image", "look only there"),
        refused("size", Some('s'), "sizes come with `system df`"),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let kind = arguments.text("type")?;
    if !matches!(kind, None | Some("container" | "image")) {
        return Err(Failure::usage(format!(
            "--type {}: container or image",
            kind.unwrap_or_default()
        )));
    }
    let template = arguments
        .text("format")?
        .map(|format| {
            Template::parse(format).map_err(|error| {
                Failure::usage(format!("--format {format}")).cause(error.to_string())
            })
        })
        .transpose()?;
    let mut found = Vec::new();
    let mut code = 0;
    for word in arguments.operand_texts()? {
        match look_up(context, word, kind) {
            Ok(value) => found.push(value),
            Err(failure) => code = crate::context::complain(&failure, 1),
        }
    }
    let text = match template {
        Some(template) => template
            .render_all(&found, str::to_owned)
            .map_err(|error| Failure::usage("--format").cause(error.to_string()))?,
        None => format!("{:#}\n", Value::Array(found)),
    };
    context.say(&text);
    Ok(code)
}

fn look_up(context: &Context, word: &str, kind: Option<&str>) -> Result<Value, Failure> {
    if kind != Some("image") {
        match context.containers()?.find(word) {
            Ok(container) => return Ok(inspect::container(&container)),
            Err(ContainerError::NotFound(_)) if kind.is_none() => {}
            Err(error) => return Err(super::failure(&error)),
        }
    }
    match context.store()?.resolve(word) {
        Ok(image) => Ok(inspect::image(&image)),
        Err(wolffia_store::StoreError::NoImage(_)) if kind.is_none() => Err(Failure::new(format!(
            "there is no container and no image {word:?}"
        ))
        .help("wolffia ps -a and wolffia images list them")),
        Err(error) => Err(super::store_failure(&error)),
    }
}
