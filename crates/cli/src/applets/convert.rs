// SPDX-License-Identifier: Apache-2.0
//! `image convert`: an image in a format that can be fetched in parts.

use wolffia_pull::convert::LayerForm;

use crate::{
    command::{Command, Group, refused, switch, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
    suggest,
};

pub(crate) static COMMAND: Command = Command {
    name: "convert",
    aliases: &[],
    usage: "--to FORMAT [FLAGS] FROM TO",
    summary: "Copy an image as eStargz or zstd:chunked layers: wolffia image convert",
    group: Group::Images,
    flags: &[&[
        value("to", None, "FORMAT", "estargz or zstd-chunked"),
        value(
            "platform",
            None,
            "OS/ARCH",
            "choose among the platforms of an image",
        ),
        switch("quiet", Some('q'), "only the digest of the manifest"),
        refused(
            "optimize",
            None,
            "profiles are used as they are, with no rebuilding of the image",
        ),
    ]],
    stops_at_operand: false,
    operands: (2, 2),
    failure_code: 1,
    serve,
};

const FORMATS: [(&str, LayerForm); 2] = [
    ("estargz", LayerForm::Estargz),
    ("zstd-chunked", LayerForm::ZstdChunked),
];

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let [from, to] = arguments.operand_texts()?[..] else {
        return Err(Failure::usage(
            "convert needs the image and where it shall be",
        ));
    };
    let wanted = arguments.text("to")?.ok_or_else(|| {
        Failure::usage("convert needs --to FORMAT").help("--to estargz, --to zstd-chunked")
    })?;
    let Some((_, form)) = FORMATS.iter().find(|(name, _)| *name == wanted) else {
        let failure = Failure::usage(format!("--to {wanted}: there is no such format"));
        let known = FORMATS.iter().map(|(name, _)| *name);
        return Err(match suggest::nearest(wanted, known) {
            Some(near) => failure.help(format!("--to {near}")),
            None => failure.help("--to estargz, --to zstd-chunked"),
        });
    };
    super::push::bring(context, arguments, from, to, Some(*form))
}
