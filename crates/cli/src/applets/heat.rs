// SPDX-License-Identifier: Apache-2.0
//! `image heat`: what programs of an image have read, the first first.

use std::collections::HashMap;
use std::fmt::Write as _;

use wolffia_image::{Digest, tree::Kind};

use crate::{
    command::{Command, Group},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "heat",
    aliases: &[],
    usage: "IMAGE",
    summary: "Show which files of a lazy image its programs needed, in the order of first use",
    group: Group::Images,
    flags: &[],
    stops_at_operand: false,
    operands: (1, 1),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let failed = |error| super::store_failure(&error);
    let words = arguments.operand_texts()?;
    let store = context.store()?;
    let image = store.resolve(words[0]).map_err(failed)?;
    let profile = store.profile(&image.manifest_digest).map_err(failed)?;
    if profile.is_empty() {
        context.note("note: nothing was learnt of this image: that happens while it is run lazily");
        return Ok(0);
    }
    let tree = store.tree(image.tree).map_err(failed)?;
    let mut paths: HashMap<Digest, (u64, String)> = HashMap::new();
    for entry in &tree.entries {
        if let Kind::File { size, digest } = &entry.kind {
            let path = entry.path.as_bytes().escape_ascii().to_string();
            paths.entry(*digest).or_insert((*size, path));
        }
    }
    let mut text = String::new();
    for digest in &profile {
        if let Some((size, path)) = paths.get(digest) {
            // A string takes all that is written.
            let _ = writeln!(text, "{size:>12}  /{path}");
        }
    }
    Ok(context.say(&text))
}
