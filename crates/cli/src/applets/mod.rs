// SPDX-License-Identifier: Apache-2.0
//! The commands, one file each, and the table of them.
//!
//! To add one: a file with a `pub(crate) static COMMAND`, and a row here.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use wolffia_engine::{
    containers::{Container, ContainerError, Containers},
    signal::Signal,
};

use crate::{
    command::Command,
    context::{Context, complain},
    failure::Failure,
    parse::Arguments,
    suggest,
};

mod container_flags;
mod convert;
mod create;
mod doctor;
mod exec;
mod heat;
mod helper;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod login;
mod logout;
mod logs;
pub(crate) mod oci_runtime;
mod port;
mod ps;
mod pull;
mod push;
mod rm;
mod rmi;
mod run;
mod slirp4netns;
mod start;
mod stop;
mod system;
mod tag;
pub(crate) mod version;
mod wait;

/// Every command, in the order of the overview.
pub(crate) static COMMANDS: &[&Command] = &[
    &run::COMMAND,
    &exec::COMMAND,
    &ps::COMMAND,
    &port::COMMAND,
    &logs::COMMAND,
    &create::COMMAND,
    &start::COMMAND,
    &stop::COMMAND,
    &kill::COMMAND,
    &wait::COMMAND,
    &rm::COMMAND,
    &inspect::COMMAND,
    &pull::COMMAND,
    &push::COMMAND,
    &convert::COMMAND,
    &images::COMMAND,
    &rmi::COMMAND,
    &tag::COMMAND,
    &heat::COMMAND,
    &import::COMMAND,
    &login::COMMAND,
    &logout::COMMAND,
    &system::COMMAND,
    &doctor::COMMAND,
    &info::COMMAND,
    &version::COMMAND,
];

/// Serves the words behind its name and returns the exit code.
type Applet = fn(&[OsString]) -> u8;

/// Names that the program answers to besides its own, for drop-ins and for helpers that it starts itself.
pub(crate) static NAMES: &[(&str, Applet)] = &[
    (wolffia_engine::helper::HELPER_NAME, helper::serve),
    (wolffia_mount::host::SERVER_NAME, wolffia_mount::host::serve),
    (
        wolffia_pull::lazy::lazyd::NAME,
        wolffia_pull::lazy::lazyd::serve,
    ),
    (wolffia_net::helper::SERVER_NAME, wolffia_net::helper::serve),
    ("slirp4netns", slirp4netns::serve),
    ("wolffia-oci", oci_runtime::serve),
    ("crun", oci_runtime::serve),
    ("runc", oci_runtime::serve),
];

/// Docker's grouped words: `container ls` is `ps`.
const GROUPED: &[(&str, &str, &str)] = &[
    ("container", "ls", "ps"),
    ("container", "list", "ps"),
    ("image", "ls", "images"),
    ("image", "list", "images"),
    ("image", "rm", "rmi"),
    ("image", "remove", "rmi"),
    ("container", "", ""),
    ("image", "", ""),
];

/// Docker's commands that are not served yet.
const UNSERVED: &[&str] = &[
    "attach",
    "build",
    "buildx",
    "builder",
    "bake",
    "checkpoint",
    "commit",
    "compose",
    "config",
    "context",
    "cp",
    "diff",
    "events",
    "export",
    "history",
    "load",
    "manifest",
    "network",
    "node",
    "pause",
    "plugin",
    "rename",
    "restart",
    "save",
    "search",
    "secret",
    "service",
    "stack",
    "stats",
    "swarm",
    "top",
    "trust",
    "unpause",
    "update",
    "volume",
];

/// What the first words asked for.
pub(crate) enum Found<'a> {
    Command(&'static Command, &'a [OsString]),
    Help,
    Version,
}

/// Returns the applet that the program was started as, if it was by another name than its own.
pub(crate) fn by_name(called: &OsStr) -> Option<Applet> {
    let name = Path::new(called).file_name()?.to_str()?;
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, serve)| *serve)
}

/// Finds the command that `words` begin with.
pub(crate) fn find(words: &[OsString]) -> Result<Found<'_>, Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Ok(Found::Help);
    };
    let first = first.to_str().unwrap_or_default();
    match (first, rest.first().and_then(|word| word.to_str())) {
        ("-h" | "--help", _) | ("help", None) => return Ok(Found::Help),
        ("--version", _) => return Ok(Found::Version),
        ("help", Some(name)) => {
            return named(name)
                .map(|command| Found::Command(command, HELP.get_or_init(help_words)));
        }
        _ => {}
    }
    if first.starts_with('-') {
        return Err(
            Failure::usage(format!("there is no flag {first} before a command"))
                .help("usage: wolffia [--root DIR] [-v] COMMAND ..."),
        );
    }
    if GROUPED.iter().any(|(group, ..)| *group == first) {
        return grouped(first, rest);
    }
    named(first).map(|command| Found::Command(command, rest))
}

static HELP: std::sync::OnceLock<Vec<OsString>> = std::sync::OnceLock::new();

fn help_words() -> Vec<OsString> {
    vec!["--help".into()]
}

fn grouped<'a>(group: &str, words: &'a [OsString]) -> Result<Found<'a>, Failure> {
    let Some((verb, rest)) = words.split_first() else {
        return Err(Failure::usage(format!("`wolffia {group}` needs a verb"))
            .help(format!("wolffia {group} ls")));
    };
    let verb = verb.to_str().unwrap_or_default();
    let plain = GROUPED
        .iter()
        .find(|(known, word, _)| *known == group && *word == verb)
        .map_or(verb, |(_, _, plain)| plain);
    named(plain).map(|command| Found::Command(command, rest))
}

fn named(name: &str) -> Result<&'static Command, Failure> {
    let is_called = |command: &&&Command| command.name == name || command.aliases.contains(&name);
    if let Some(command) = COMMANDS.iter().find(is_called) {
        return Ok(command);
    }
    if UNSERVED.contains(&name) {
        return Err(
            Failure::usage(format!("`wolffia {name}` is not served yet"))
                .help("wolffia --help lists what is"),
        );
    }
    let failure = Failure::usage(format!("there is no command {name:?}"));
    Err(
        match suggest::nearest(name, COMMANDS.iter().map(|command| command.name)) {
            Some(near) => failure.help(format!("did you mean `wolffia {near}`?")),
            None => failure.help("wolffia --help lists the commands"),
        },
    )
}

/// Returns a container error as it is said at the door.
pub(crate) fn failure(error: &ContainerError) -> Failure {
    let failure = Failure::from_error(error);
    match error.hint() {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

/// Returns a store error as it is said at the door.
pub(crate) fn store_failure(error: &wolffia_store::StoreError) -> Failure {
    let failure = Failure::from_error(error);
    match error.hint() {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

/// Returns a control error as it is said at the door.
fn control_failure(error: &wolffia_engine::control::ControlError) -> Failure {
    match error {
        wolffia_engine::control::ControlError::Container(error) => failure(error),
        _ => Failure::from_error(error),
    }
}

/// Reads a flag that names a signal.
fn signal(arguments: &Arguments, flag: &str) -> Result<Option<Signal>, Failure> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|error| Failure::usage(format!("--{flag}: {error}")))
    };
    arguments.text(flag)?.map(parse).transpose()
}

/// Does something to each container that was named, prints the word of each that worked, and goes on past failures.
fn for_each(
    context: &Context,
    arguments: &Arguments,
    each: impl FnMut(&Containers, &Container) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    for_each_or(context, arguments, false, each)
}

/// As [`for_each`]; with `missing_is_fine` a container that is not there is passed over.
fn for_each_or(
    context: &Context,
    arguments: &Arguments,
    missing_is_fine: bool,
    mut each: impl FnMut(&Containers, &Container) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let mut code = 0;
    for word in arguments.operand_texts()? {
        let done = match containers.find(word) {
            Err(ContainerError::NotFound(_)) if missing_is_fine => continue,
            Err(error) => Err(failure(&error)),
            Ok(container) => each(&containers, &container),
        };
        match done {
            Ok(()) => drop(context.say(&format!("{word}\n"))),
            Err(failure) => code = complain(&failure, 1),
        }
    }
    Ok(code)
}
