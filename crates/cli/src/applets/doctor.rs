// SPDX-License-Identifier: Apache-2.0
//! `doctor`: try what containers need on this machine, and say what is missing.

use std::{
    env,
    fmt::Write as _,
    io::{self, IsTerminal},
};

use serde_json::json;
use wolffia_mount::doctor::{Finding, State, examine, overall};
use wolffia_sys::facts::HostFacts;

use crate::{
    command::{Command, Group, switch},
    context::Context,
    failure::Failure,
    parse::Arguments,
};

pub(crate) static COMMAND: Command = Command {
    name: "doctor",
    aliases: &[],
    usage: "[--json]",
    summary: "Try what containers need here, and say how to get what is missing",
    group: Group::System,
    flags: &[&[switch("json", None, "one JSON document instead of lines")]],
    stops_at_operand: false,
    operands: (0, 0),
    failure_code: 1,
    serve,
};

/// Width of the column of names.
const NAME_WIDTH: usize = 17;
/// Width of the column of states.
const STATE_WIDTH: usize = 9;

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let facts = HostFacts::probe(&context.place()?);
    let findings = examine(&facts);
    let text = if arguments.is("json") {
        to_json(&facts, &findings)
    } else {
        let colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        to_lines(&findings, colours)
    };
    let said = context.say(&text);
    Ok(said.max(u8::from(overall(&findings) == State::Broken)))
}

fn to_json(facts: &HostFacts, findings: &[Finding]) -> String {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "ability": finding.ability,
                "state": finding.state.word(),
                "summary": finding.summary,
                "cause": finding.cause,
                "fix": finding.fix,
                "meanwhile": finding.meanwhile,
            })
        })
        .collect();
    let document = json!({
        "kernel": facts.kernel,
        "state": overall(findings).word(),
        "findings": list,
    });
    format!("{document:#}\n")
}

/// One line for each ability; below it, where it is not well, what the matter is.
fn to_lines(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (on, off) = match (colours, finding.state) {
            (false, _) => ("", ""),
            (true, State::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, State::Limited) => ("\x1b[33m", "\x1b[0m"),
            (true, State::Broken) => ("\x1b[31m", "\x1b[0m"),
        };
        let state = finding.state;
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "{on}{} {:STATE_WIDTH$}{off}{:NAME_WIDTH$}{}",
            state.glyph(),
            state.word(),
            finding.ability,
            finding.summary
        );
        let mut detail = |word: &str, line: &str| {
            let _ = writeln!(text, "    {:<11}{line}", format!("{word}:"));
        };
        if let Some(cause) = &finding.cause {
            detail("cause", cause);
        }
        for command in &finding.fix {
            detail("fix", command);
        }
        if let Some(meanwhile) = &finding.meanwhile {
            detail("meanwhile", meanwhile);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_details_stand_below_it() {
        let ok = Finding {
            ability: "ids",
            state: State::Ok,
            summary: "65537 users and 65537 groups".into(),
            cause: None,
            fix: Vec::new(),
            meanwhile: None,
        };
        let limited = Finding {
            ability: "run host",
            state: State::Limited,
            summary: "existing files cannot be changed".into(),
            cause: Some("no /dev/fuse".into()),
            fix: vec!["sudo modprobe fuse".into()],
            meanwhile: Some("the rest".into()),
        };
        assert_eq!(
            to_lines(&[ok, limited], false),
            "✓ ok       ids              65537 users and 65537 groups\n\
             ~ limited  run host         existing files cannot be changed\n    \
             cause:     no /dev/fuse\n    \
             fix:       sudo modprobe fuse\n    \
             meanwhile: the rest\n"
        );
    }
}
