// SPDX-License-Identifier: Apache-2.0
//! `info`: what there is on this machine, and which ways were chosen.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};
use wolffia_mount::choice;
use wolffia_sys::facts::{Cgroups, HostFacts};

use crate::{
    command::{Command, Group, value},
    context::Context,
    failure::Failure,
    human,
    parse::Arguments,
    template::Template,
};

pub(crate) static COMMAND: Command = Command {
    name: "info",
    aliases: &[],
    usage: "[--format TEMPLATE]",
    summary: "Say what there is here: store, driver, ids, kernel",
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

/// Width of the column of names.
const NAME_WIDTH: usize = 16;

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let value = collect(context)?;
    let Some(format) = arguments.text("format")? else {
        return Ok(context.say(&to_lines(&value)));
    };
    let text = Template::parse(format).and_then(|template| template.render(&value));
    let text = text.map_err(|error| Failure::usage("--format").cause(error.to_string()))?;
    Ok(context.say(&(text + "\n")))
}

/// Names that docker has mean what they mean there; the others are ours.
fn collect(context: &Context) -> Result<Value, Failure> {
    let place = context.place()?;
    let facts = HostFacts::probe(&place);
    let containers = context
        .containers()?
        .list()
        .map_err(|error| Failure::from_error(&error))?;
    let images = context
        .store()?
        .images()
        .map_err(|error| crate::applets::store_failure(&error))?;
    let (driver, why_not) = match choice::choose(&facts.overlays) {
        Ok(choice) => (choice.driver.name(), choice.refused),
        Err(none) => ("none", none.refused),
    };
    let why_not: Vec<String> = why_not.iter().map(ToString::to_string).collect();
    let kernel = rustix::system::uname();
    let configuration = context.configuration()?;
    Ok(json!({
        "Containers": containers.len(),
        "Images": images.len(),
        "Driver": driver,
        "DriverRefused": why_not,
        "DockerRootDir": place,
        "StorageKind": facts.storage.kind,
        "StorageFree": facts.storage.free_bytes,
        "MappedUsers": facts.sub_ids.users,
        "MappedGroups": facts.sub_ids.groups,
        "Fuse": facts.fuse.is_ok(),
        "CgroupVersion": match facts.cgroups {
            Cgroups::Version2 { .. } => "2",
            Cgroups::Version1 => "1",
            Cgroups::Absent => "none",
        },
        "CgroupDelegated": matches!(&facts.cgroups, Cgroups::Version2 { delegated: Some(_), .. }),
        "KernelVersion": facts.kernel,
        "OSType": "linux",
        "Architecture": kernel.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(0, usize::from),
        "Configuration": {
            "Files": configuration.files,
            "Unpacked": configuration.unpacked,
            "Lazy": configuration.lazy.word(),
            "BackgroundRate": configuration.background_rate,
            "BackgroundTotal": configuration.background_total,
        },
        "ServerVersion": env!("CARGO_PKG_VERSION"),
    }))
}

fn to_lines(value: &Value) -> String {
    let word = |name: &str| match &value[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let free = human::size(value["StorageFree"].as_u64().unwrap_or(0));
    let rows = [
        ("version", word("ServerVersion")),
        ("containers", word("Containers")),
        ("images", word("Images")),
        (
            "state root",
            format!(
                "{} ({}, {free} free)",
                word("DockerRootDir"),
                word("StorageKind")
            ),
        ),
        ("driver", word("Driver")),
        (
            "ids inside",
            format!(
                "{} users, {} groups",
                word("MappedUsers"),
                word("MappedGroups")
            ),
        ),
        (
            "/dev/fuse",
            if value["Fuse"] == true {
                "usable"
            } else {
                "not usable"
            }
            .to_owned(),
        ),
        (
            "control groups",
            format!("version {}", word("CgroupVersion")),
        ),
        (
            "kernel",
            format!("{} {}", word("KernelVersion"), word("Architecture")),
        ),
        ("processors", word("NCPU")),
    ];
    let mut text = String::new();
    for (name, what) in rows {
        // A string takes all that is written to it.
        let _ = writeln!(text, "{name:NAME_WIDTH$}{what}");
    }
    for refused in value["DriverRefused"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:NAME_WIDTH$}{}",
            "not",
            refused.as_str().unwrap_or_default()
        );
    }
    let configuration = &value["Configuration"];
    for (name, key) in [("configuration", "Files"), ("unpacked", "Unpacked")] {
        for path in configuration[key].as_array().into_iter().flatten() {
            let path = path.as_str().unwrap_or_default();
            let missing = if Path::new(path).exists() {
                ""
            } else {
                " (not there)"
            };
            let _ = writeln!(text, "{name:NAME_WIDTH$}{path}{missing}");
        }
    }
    text
}
