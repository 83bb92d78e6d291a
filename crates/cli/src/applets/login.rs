// SPDX-License-Identifier: Apache-2.0
//! `login`: credentials for a registry, tried and then kept.

use std::io::{self, BufRead, Read};

use wolffia_fetch::{
    Environment, Limits, Secret,
    login::{DEFAULT_REGISTRY, Kept, Login},
};

use crate::{
    command::{Command, Group, switch, value},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "login",
    aliases: &[],
    usage: "[FLAGS] [REGISTRY]",
    summary: "Log in to a registry",
    group: Group::Images,
    flags: &[&[
        value("username", Some('u'), "NAME", "the user's name"),
        value(
            "password",
            Some('p'),
            "PASSWORD",
            "the password; others may see it in the list of processes",
        ),
        switch(
            "password-stdin",
            None,
            "read the password from standard input",
        ),
        value("authfile", None, "FILE", "keep it there"),
        switch(
            "insecure",
            None,
            "without TLS, or with a certificate nobody vouches for",
        ),
    ]],
    stops_at_operand: false,
    operands: (0, 1),
    failure_code: 1,
    serve,
};

/// A longer password is a file given by mistake.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let registry = arguments
        .operand_texts()?
        .first()
        .copied()
        .unwrap_or(DEFAULT_REGISTRY);
    let user = match arguments.text("username")? {
        Some(user) => user.to_owned(),
        None => asked(context, "Username: ")?,
    };
    let password = if let Some(password) = arguments.text("password")? {
        context.note("note: a password among the arguments is seen by every user of this machine; --password-stdin is not");
        password.to_owned()
    } else if arguments.is("password-stdin") {
        let mut text = String::new();
        let read = io::stdin()
            .lock()
            .take(PASSWORD_BYTES_MAX)
            .read_to_string(&mut text);
        read.map_err(|error| Failure::new("reading the password").cause(error.to_string()))?;
        text.trim_end_matches(['\n', '\r']).to_owned()
    } else {
        hidden(context, "Password: ")?
    };
    let login = Login {
        registry: registry.to_owned(),
        user,
        password: Secret::new(password),
        insecure: arguments.is("insecure"),
        file: arguments.last("authfile").map(Into::into),
    };
    let kept = login
        .perform(&Environment::of_process(), Limits::default())
        .map_err(|error| {
            error
                .hint()
                .into_iter()
                .fold(Failure::from_error(&error), Failure::help)
        })?;
    match kept {
        Kept::File(path) => context.note(&format!(
            "note: the password is kept readable in {}",
            path.display()
        )),
        Kept::Helper(program) => context.note(&format!("note: the password is kept by {program}")),
    }
    Ok(context.say("Login Succeeded\n"))
}

fn asked(context: &Context, question: &str) -> Result<String, Failure> {
    if !context.is_terminal() {
        return Err(
            Failure::usage("there is no terminal to ask for a name and password at")
                .help("wolffia login -u NAME --password-stdin REGISTRY <FILE"),
        );
    }
    context.note(question);
    let mut text = String::new();
    let read = io::stdin()
        .lock()
        .take(PASSWORD_BYTES_MAX)
        .read_line(&mut text);
    read.map_err(|error| Failure::new("reading the answer").cause(error.to_string()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks without showing the answer; the terminal is restored whatever happens.
fn hidden(context: &Context, question: &str) -> Result<String, Failure> {
    let quiet = wolffia_engine::terminal::Quiet::enter(io::stdin());
    let answer = asked(context, question);
    drop(quiet);
    answer
}
