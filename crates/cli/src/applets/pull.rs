// SPDX-License-Identifier: Apache-2.0
//! `pull`: fetch images.

use wolffia_pull::{Lazy, Policy};

use crate::{
    command::{Command, Group, refused, switch, value},
    context::{Context, complain},
    failure::Failure,
    obtain,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "pull",
    aliases: &[],
    usage: "[FLAGS] IMAGE...",
    summary: "Fetch images from a registry, or from oci:DIR[:tag]",
    group: Group::Images,
    flags: &[&[
        value(
            "platform",
            None,
            "OS/ARCH",
            "choose among the platforms of an image",
        ),
        switch(
            "lazy",
            None,
            "leave layers that have an index where they are",
        ),
        switch("full", None, "fetch all of it (the default)"),
        switch("quiet", Some('q'), "only the image's id"),
        refused("all-tags", Some('a'), "name the tags"),
        refused("disable-content-trust", None, "signatures come later"),
    ]],
    stops_at_operand: false,
    operands: (1, usize::MAX),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let mapping = obtain::mapping(context)?;
    let quiet = arguments.is("quiet");
    let platform = arguments.text("platform")?;
    let lazy = match (arguments.is("lazy"), arguments.is("full")) {
        (true, true) => return Err(Failure::usage("--lazy and --full exclude each other")),
        (true, false) => Lazy::Always,
        (false, _) => Lazy::Never,
    };
    let wishes = obtain::Wishes {
        lazy,
        strict: false,
    };
    let mut code = 0;
    for name in arguments.operand_texts()? {
        match obtain::pull(
            context,
            &mapping,
            name,
            platform,
            Policy::Always,
            wishes,
            quiet,
        ) {
            Ok(image) => {
                let shown = if quiet {
                    image.image.to_string()
                } else {
                    image.name.unwrap_or_else(|| image.image.to_string())
                };
                context.say(&format!("{shown}\n"));
            }
            Err(failure) => code = complain(&failure, 1),
        }
    }
    Ok(code)
}
