// SPDX-License-Identifier: Apache-2.0
//! `--help`: the tables, as text.

use std::fmt::Write as _;

use crate::{
    applets,
    command::{Command, Flag, Group, Takes},
    table,
};

/// Returns the overview of all commands.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "Run OCI containers as an ordinary user: no root, no daemon, no set-up.\n\n\
         usage: wolffia [--root DIR] [-v] COMMAND ...\n",
    );
    for (group, title) in [
        (Group::Containers, "Containers"),
        (Group::Images, "Images"),
        (Group::System, "Program and machine"),
    ] {
        let _ = writeln!(text, "\n{title}");
        let commands = applets::COMMANDS
            .iter()
            .filter(|command| command.group == group);
        let rows: Vec<Vec<String>> = commands
            .map(|command| vec![format!("  {}", command.name), command.summary.to_owned()])
            .collect();
        text.push_str(&table::align(&rows));
    }
    text.push_str(
        "\n`wolffia COMMAND --help` lists a command's flags. First steps: `wolffia run`, `wolffia doctor`.\n",
    );
    text
}

/// Returns the help of one command.
pub(crate) fn of(command: &Command) -> String {
    let mut text = format!(
        "{}.\n\nusage: wolffia {} {}\n",
        command.summary, command.name, command.usage
    );
    if !command.aliases.is_empty() {
        let _ = writeln!(text, "also:  {}", command.aliases.join(", "));
    }
    let mut served: Vec<&Flag> = command
        .all_flags()
        .filter(|flag| !matches!(flag.takes, Takes::Refused))
        .collect();
    served.sort_by_key(|flag| flag.long);
    if !served.is_empty() {
        let rows: Vec<Vec<String>> = served.into_iter().map(row).collect();
        let _ = write!(text, "\nflags:\n{}", table::align(&rows));
    }
    let refused: Vec<String> = command
        .all_flags()
        .filter(|flag| matches!(flag.takes, Takes::Refused))
        .map(|flag| format!("--{}", flag.long))
        .collect();
    if !refused.is_empty() {
        let _ = write!(
            text,
            "\nrefused for now, each with its reason:\n{}",
            wrap(&refused.join(" "))
        );
    }
    text
}

fn row(flag: &Flag) -> Vec<String> {
    let short = flag
        .short
        .map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    let value = match flag.takes {
        Takes::Value(name) | Takes::List(name) => format!(" {name}"),
        Takes::Switch | Takes::Refused => String::new(),
    };
    vec![
        format!("  {short}--{}{value}", flag.long),
        flag.help.to_owned(),
    ]
}

/// Breaks words into indented lines of at most 100 columns.
fn wrap(text: &str) -> String {
    const COLUMNS: usize = 100;
    let mut lines = String::new();
    let mut line = String::from(" ");
    for word in text.split(' ') {
        if line.len() + word.len() >= COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}
