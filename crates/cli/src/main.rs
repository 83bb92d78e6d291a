// SPDX-License-Identifier: Apache-2.0
//! Door 1: one static binary with many names.
//!
//! `argv[0]` decides who is asked: a name in [`applets::NAMES`] is that applet; anything else is `wolffia`, whose first word is the command.
//! Each command is a row of [`applets::COMMANDS`]: its flags, its help, the function that serves it. What a command was asked for goes to
//! standard output; everything said about it goes to standard error.

mod applets;
mod command;
mod configuration;
mod context;
mod failure;
mod help;
mod human;
mod obtain;
mod parse;
mod progress;
mod suggest;
mod table;
mod template;

use std::{env, ffi::OsString, process::ExitCode};

use context::Context;

fn main() -> ExitCode {
    let mut words = env::args_os();
    let called = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let code = match applets::by_name(&called) {
        Some(serve) => serve(&words),
        None => door(&words),
    };
    ExitCode::from(code)
}

/// Serves `wolffia [FLAGS] COMMAND ...` and returns the exit code.
fn door(words: &[OsString]) -> u8 {
    let (context, rest) = match Context::read(words) {
        Ok(read) => read,
        Err(failure) => return context::complain(&failure, failure::OWN_FAILURE),
    };
    if let Some((word, rest)) = rest.split_first()
        && word == "oci"
    {
        // A door of its own, with words of others.
        return applets::oci_runtime::serve(rest);
    }
    let (command, rest) = match applets::find(rest) {
        Ok(applets::Found::Command(command, rest)) => (command, rest),
        Ok(applets::Found::Help) => return context.say(&help::overview()),
        Ok(applets::Found::Version) => return context.say(&applets::version::line()),
        Err(failure) => return context::complain(&failure, failure::OWN_FAILURE),
    };
    let served = parse::parse(command, rest).and_then(|arguments| {
        if arguments.help {
            return Ok(context.say(&help::of(command)));
        }
        (command.serve)(&context, &arguments)
    });
    match served {
        Ok(code) => code,
        Err(failure) => context::complain(&failure, command.failure_code),
    }
}
