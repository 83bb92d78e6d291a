// SPDX-License-Identifier: Apache-2.0
//! `import`: an image made of the tar of a root file system.

use std::path::{Path, PathBuf};

use wolffia_image::Platform;
use wolffia_pull::{
    ImportRequest,
    job::{Outcome, Task},
};

use crate::{
    command::{Command, Group, refused, switch, value},
    context::Context,
    failure::Failure,
    obtain,
    parse::Arguments,
    progress::Line,
};

pub(crate) static COMMAND: Command = Command {
    name: "import",
    aliases: &[],
    usage: "[FLAGS] FILE|- [NAME]",
    summary: "Make an image of a root file system's tar",
    group: Group::Images,
    flags: &[&[
        value(
            "message",
            Some('m'),
            "TEXT",
            "a remark in the image's history",
        ),
        value("platform", None, "OS/ARCH", "for which machine it is"),
        switch("quiet", Some('q'), "no progress"),
        refused(
            "change",
            Some('c'),
            "give --entrypoint, -e, -u, -w to `run`",
        ),
    ]],
    stops_at_operand: false,
    operands: (1, 2),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let words = arguments.operand_texts()?;
    let platform = match arguments.text("platform")? {
        None => Platform::host(),
        Some(text) => Platform::parse(text).map_err(|error| Failure::usage(error.to_string()))?,
    };
    let file = match words[0] {
        "-" => PathBuf::from("-"),
        path => std::path::absolute(Path::new(path))
            .map_err(|error| Failure::new(format!("reading {path}")).cause(error.to_string()))?,
    };
    let request = ImportRequest {
        file,
        name: words.get(1).map(|name| (*name).to_owned()),
        message: arguments.text("message")?.map(String::from),
        platform,
    };
    let mapping = obtain::mapping(context)?;
    let mut line = Line::new(words[0], arguments.is("quiet"));
    let outcome = obtain::ask(context, &mapping, Task::Import(request), &mut line)?;
    drop(line);
    let Outcome::Image(image) = outcome else {
        return Err(Failure::new(
            "importing: the helper answered something else",
        ));
    };
    image
        .notes()
        .iter()
        .for_each(|note| context.note(&format!("note: {note}")));
    Ok(context.say(&format!("{}\n", image.image)))
}
