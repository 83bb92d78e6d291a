// SPDX-License-Identifier: Apache-2.0
//! `version`: which program this is.

use serde_json::json;

use crate::{
    command::{Command, Group, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
    template::Template,
};

pub(crate) static COMMAND: Command = Command {
    name: "version",
    aliases: &[],
    usage: "[--format TEMPLATE]",
    summary: "Say which version this is",
    group: Group::System,
    flags: &[&[value(
        "format",
        Some('f'),
        "TEMPLATE",
        "a Go template, or json",
    )]],
    stops_at_operand: false,
    operands: (0, 0),
    failure_code: 1,
    serve,
};

/// The Docker Engine API that scripts ask for; the words and flags served here are of this level.
const API_VERSION: &str = "1.44";

/// Returns the one line of `--version`.
pub(crate) fn line() -> String {
    format!("wolffia version {}\n", env!("CARGO_PKG_VERSION"))
}

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let Some(format) = arguments.text("format")? else {
        let kernel = rustix::system::uname();
        return Ok(context.say(&format!(
            "Wolffia {version}\nsystem: {} {} {}\n",
            kernel.sysname().to_string_lossy(),
            kernel.release().to_string_lossy(),
            kernel.machine().to_string_lossy()
        )));
    };
    let half = json!({
        "Version": version,
        "ApiVersion": API_VERSION,
        "APIVersion": API_VERSION,
        "Os": "linux",
        "Arch": std::env::consts::ARCH,
        "KernelVersion": rustix::system::uname().release().to_string_lossy(),
    });
    let value = json!({ "Client": half, "Server": half });
    let text = Template::parse(format).and_then(|template| template.render(&value));
    let text = text.map_err(|error| Failure::usage("--format").cause(error.to_string()))?;
    Ok(context.say(&(text + "\n")))
}
