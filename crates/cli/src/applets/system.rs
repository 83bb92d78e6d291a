// SPDX-License-Identifier: Apache-2.0
//! `system`: look after the state root.

use std::fs;

use wolffia_engine::control;
use wolffia_pull::job::{Outcome, Task};
use wolffia_store::Repair;

use crate::{
    command::{Command, Group, switch},
    context::Context,
    failure::Failure,
    human, obtain,
    parse::Arguments,
    progress::Line,
};

pub(crate) static COMMAND: Command = Command {
    name: "system",
    aliases: &[],
    usage: "check [--repair] | reset [--force]",
    summary: "Check what is on disk, or remove all of it",
    group: Group::System,
    flags: &[&[
        switch("force", Some('f'), "reset: do not ask"),
        switch(
            "repair",
            None,
            "check: take away what is damaged and can be fetched or made again",
        ),
    ]],
    stops_at_operand: false,
    operands: (1, 1),
    failure_code: 1,
    serve,
};

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    match arguments.operand_texts()?[0] {
        "check" => check(
            context,
            if arguments.is("repair") {
                Repair::Yes
            } else {
                Repair::No
            },
        ),
        "reset" => reset(context, arguments.is("force")),
        word @ ("df" | "prune" | "info" | "events") => Err(Failure::usage(format!(
            "`wolffia system {word}` is not served yet"
        ))
        .help("wolffia system check, wolffia system reset, wolffia info")),
        word => Err(
            Failure::usage(format!("there is no `wolffia system {word}`"))
                .help("wolffia system check, wolffia system reset"),
        ),
    }
}

fn check(context: &Context, repair: Repair) -> Result<u8, Failure> {
    let containers = context
        .containers()?
        .list()
        .map_err(|error| super::failure(&error))?;
    let mapping = obtain::mapping(context)?;
    let mut line = Line::new("check", true);
    let Outcome::Checked(report) =
        obtain::ask(context, &mapping, Task::Check { repair }, &mut line)?
    else {
        return Err(Failure::new("checking: the helper answered something else"));
    };
    let mut text = format!(
        "{} containers, {} images, {} objects ({}), {} trees\n",
        containers.len(),
        report.images,
        report.objects,
        human::size(report.bytes),
        report.stub_trees
    );
    for problem in &report.problems {
        text.extend([
            &problem.path.display().to_string(),
            ": ",
            &problem.problem,
            "\n",
        ]);
    }
    if report.is_clean() {
        text += "no problems\n";
    }
    context.say(&text);
    if report.is_clean() {
        return Ok(0);
    }
    Err(Failure::new(format!(
        "{} things are not as they must be",
        report.problem_count
    ))
    .help("pull the images concerned again; what cannot be mended goes with: wolffia system reset"))
}

fn reset(context: &Context, force: bool) -> Result<u8, Failure> {
    let home = context.home()?;
    if !force {
        let question = format!(
            "This removes all containers and images below {}.",
            home.root().display()
        );
        if !context.is_terminal() || !asked(context, &question) {
            return Err(Failure::new("nothing was removed").help("wolffia system reset --force"));
        }
    }
    let containers = context.containers()?;
    for container in containers.list().map_err(|error| super::failure(&error))? {
        control::kill_and_wait(&containers, &container)
            .map_err(|error| super::control_failure(&error))?;
        match containers.hold(&container) {
            Ok(held) => containers
                .remove(held)
                .map_err(|error| super::failure(&error))?,
            Err(wolffia_engine::containers::ContainerError::NotFound(_)) => {}
            Err(error) => return Err(super::failure(&error)),
        }
    }
    let mapping = obtain::mapping(context)?;
    let mut line = Line::new("reset", true);
    obtain::ask(context, &mapping, Task::Reset, &mut line)?;
    // What is left are empty folders and the note that ids were spoken of.
    drop(fs::remove_file(home.root().join("said-single-id")));
    context.note(&format!(
        "removed everything below {}",
        home.root().display()
    ));
    Ok(0)
}

fn asked(context: &Context, question: &str) -> bool {
    context.note(&format!("{question}\nGo on? [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
