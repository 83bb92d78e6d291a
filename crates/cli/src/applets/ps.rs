// SPDX-License-Identifier: Apache-2.0
//! `ps`: which containers there are.

use serde_json::{Value, json};
use wolffia_engine::{
    containers::Container,
    ports::{Exposed, Published},
    record::Status,
    time::Timestamp,
};

use crate::{
    command::{Command, Group, list, refused, switch, value},
    context::Context,
    failure::Failure,
    human,
    parse::Arguments,
    table,
    template::Template,
};

pub(crate) static COMMAND: Command = Command {
    name: "ps",
    aliases: &["ls", "list"],
    usage: "[FLAGS]",
    summary: "List containers",
    group: Group::Containers,
    flags: &[&[
        switch("all", Some('a'), "also those that do not run"),
        switch("quiet", Some('q'), "only ids"),
        switch("no-trunc", None, "whole ids and commands"),
        list(
            "filter",
            Some('f'),
            "KEY=VALUE",
            "name, id, label, status, exited or ancestor",
        ),
        value(
            "format",
            None,
            "TEMPLATE",
            "a Go template, `table TEMPLATE`, or json",
        ),
        value(
            "last",
            Some('n'),
            "NUMBER",
            "only the newest, running or not",
        ),
        switch("latest", Some('l'), "only the newest"),
        refused("size", Some('s'), "sizes come with `system df`"),
    ]],
    stops_at_operand: false,
    operands: (0, 0),
    failure_code: 1,
    serve,
};

/// Letters of a command that are shown.
const COMMAND_LETTERS: usize = 20;

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let filters = Filter::read_all(&arguments.texts("filter")?)?;
    let newest = match (arguments.is("latest"), arguments.text("last")?) {
        (true, _) => Some(1),
        (false, Some(number)) => Some(
            number
                .parse::<usize>()
                .map_err(|_| Failure::usage(format!("--last {number}: not a number")))?,
        ),
        (false, None) => None,
    };
    let asks_status = filters
        .iter()
        .any(|filter| matches!(filter, Filter::Status(_) | Filter::Exited(_)));
    let all = arguments.is("all") || newest.is_some() || asks_status;
    let list = context
        .containers()?
        .list()
        .map_err(|error| Failure::from_error(&error))?;
    let chosen: Vec<Container> = list
        .into_iter()
        .filter(|container| all || container.state.status == Status::Running)
        .filter(|container| filters_let_pass(&filters, container))
        .take(newest.unwrap_or(usize::MAX))
        .collect();
    let whole = arguments.is("no-trunc");
    let rows: Vec<Value> = chosen
        .iter()
        .map(|container| row(container, whole))
        .collect();
    let text = if let Some(format) = arguments.text("format")? {
        Template::parse(format)
            .and_then(|template| template.render_all(&rows, heading))
            .map_err(|error| {
                Failure::usage(format!("--format {format}")).cause(error.to_string())
            })?
    } else if arguments.is("quiet") {
        rows.iter()
            .map(|row| table::cell(row, "ID") + "\n")
            .collect()
    } else {
        const COLUMNS: [&str; 7] = [
            "ID",
            "Image",
            "Command",
            "CreatedAgo",
            "Status",
            "Ports",
            "Names",
        ];
        table::of_objects(&rows, &COLUMNS, heading)
    };
    Ok(context.say(&text))
}

fn heading(field: &str) -> String {
    match field {
        "ID" => "CONTAINER ID".into(),
        "CreatedAgo" | "RunningFor" => "CREATED".into(),
        "CreatedAt" => "CREATED AT".into(),
        other => other.to_uppercase(),
    }
}

fn row(container: &Container, whole: bool) -> Value {
    let record = &container.record;
    let command = record.program.args.join(" ");
    let command = if whole || command.chars().count() <= COMMAND_LETTERS {
        format!("\"{command}\"")
    } else {
        format!(
            "\"{}…\"",
            command
                .chars()
                .take(COMMAND_LETTERS - 1)
                .collect::<String>()
        )
    };
    let ago = human::span(record.created.seconds_until(Timestamp::now())) + " ago";
    let labels: Vec<String> = record
        .options
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "ID": if whole { record.id.as_str() } else { record.id.short() },
        "Image": record.image.name(),
        "Command": command,
        "CreatedAt": record.created.to_string(),
        "CreatedAgo": ago,
        "RunningFor": ago,
        "Status": status(container),
        "State": container.state.status.word(),
        "Ports": ports(container),
        "Names": record.name.as_str(),
        "Labels": labels.join(","),
        "Networks": record.options.network.to_string(),
        "Mounts": record.options.mounts.iter().map(|mount| mount.target.display().to_string()).collect::<Vec<_>>().join(","),
    })
}

/// Returns docker's words for what is published and what is exposed.
fn ports(container: &Container) -> String {
    let (options, state) = (&container.record.options, &container.state);
    if state.status != Status::Running {
        return String::new();
    }
    let published = state.ports.iter().map(ToString::to_string);
    let is_published = |exposed: &&Exposed| {
        let is_it =
            |told: &Published| (told.port, told.protocol) == (exposed.port, exposed.protocol);
        state.ports.iter().any(is_it)
    };
    let alone = options
        .exposed
        .iter()
        .filter(|exposed| !is_published(exposed));
    let all: Vec<String> = published.chain(alone.map(ToString::to_string)).collect();
    all.join(", ")
}

/// Returns docker's words for how a container is.
fn status(container: &Container) -> String {
    let state = &container.state;
    let since = |from: Option<Timestamp>| {
        from.map_or_else(String::new, |from| {
            human::span(from.seconds_until(Timestamp::now()))
        })
    };
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => format!("Up {}", since(state.started)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
    }
}

enum Filter {
    Name(String),
    Id(String),
    Label(String, Option<String>),
    Status(String),
    Exited(u8),
    Ancestor(String),
}

impl Filter {
    fn read_all(given: &[&str]) -> Result<Vec<Filter>, Failure> {
        given.iter().map(|text| Filter::read(text)).collect()
    }

    fn read(text: &str) -> Result<Filter, Failure> {
        let bad = || Failure::usage(format!("--filter {text}: not KEY=VALUE"));
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let value_text = value.to_owned();
        Ok(match key {
            "name" => Filter::Name(value_text),
            "id" => Filter::Id(value_text),
            "label" => match value.split_once('=') {
                Some((label, value)) => Filter::Label(label.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value_text, None),
            },
            "status" if ["created", "running", "exited"].contains(&value) => {
                Filter::Status(value_text)
            }
            "status" => {
                return Err(Failure::usage(format!(
                    "--filter {text}: created, running or exited"
                )));
            }
            "exited" => Filter::Exited(value.parse().map_err(|_| bad())?),
            "ancestor" => Filter::Ancestor(value_text),
            _ => {
                return Err(
                    Failure::usage(format!("--filter {text}: there is no filter {key:?}"))
                        .help("name, id, label, status, exited, ancestor"),
                );
            }
        })
    }

    fn key(&self) -> u8 {
        match self {
            Filter::Name(_) => 0,
            Filter::Id(_) => 1,
            Filter::Label(..) => 2,
            Filter::Status(_) => 3,
            Filter::Exited(_) => 4,
            Filter::Ancestor(_) => 5,
        }
    }

    fn lets_pass(&self, container: &Container) -> bool {
        let record = &container.record;
        match self {
            Filter::Name(part) => record.name.as_str().contains(part.trim_start_matches('/')),
            Filter::Id(start) => record.id.as_str().starts_with(start.as_str()),
            Filter::Label(label, value) => record
                .options
                .labels
                .get(label)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
            Filter::Status(status) => container.state.status.word() == status,
            Filter::Exited(code) => {
                container.state.status == Status::Exited && container.state.exit_code == *code
            }
            Filter::Ancestor(image) => {
                let id = record.image.id();
                record.image.name() == image
                    || record.image.name().split([':', '@']).next() == Some(image)
                    || (image.len() >= 12
                        && id.trim_start_matches("sha256:").starts_with(image.as_str()))
            }
        }
    }
}

/// As docker has it: values of one key are alternatives (labels are not), different keys must all hold.
fn filters_let_pass(filters: &[Filter], container: &Container) -> bool {
    filters.iter().all(|filter| {
        let is_label = matches!(filter, Filter::Label(..));
        filter.lets_pass(container)
            || (!is_label
                && filters
                    .iter()
                    .filter(|other| other.key() == filter.key())
                    .any(|other| other.lets_pass(container)))
    })
}
