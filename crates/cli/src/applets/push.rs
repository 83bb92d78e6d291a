// SPDX-License-Identifier: Apache-2.0
//! `push`: bring an image from one registry or layout to another, as it is.

use wolffia_pull::convert::LayerForm;

use crate::{
    command::{Command, Group, switch, value},
    context::Context,
    failure::Failure,
    obtain,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "push",
    aliases: &[],
    usage: "[FLAGS] FROM TO",
    summary: "Copy an image between registries and oci:DIR[:tag], as it is",
    group: Group::Images,
    flags: &[&[
        value(
            "platform",
            None,
            "OS/ARCH",
            "choose among the platforms of an image",
        ),
        switch("quiet", Some('q'), "only the digest of the manifest"),
    ]],
    stops_at_operand: false,
    operands: (1, 2),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let [from, to] = arguments.operand_texts()?[..] else {
        return Err(Failure::usage("push needs the image and where it shall be")
            .help("wolffia push oci:DIR:tag registry.example.org/team/app:1"));
    };
    bring(context, arguments, from, to, None)
}

/// Brings an image somewhere and says what came of it.
pub(super) fn bring(
    context: &Context,
    arguments: &Arguments,
    from: &str,
    to: &str,
    form: Option<LayerForm>,
) -> Result<u8, Failure> {
    let quiet = arguments.is("quiet");
    let brought = obtain::bring(context, from, to, form, arguments.text("platform")?, quiet)?;
    Ok(context.say(&format!("{}\n", brought.manifest)))
}
