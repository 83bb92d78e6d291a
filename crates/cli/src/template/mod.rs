// SPDX-License-Identifier: Apache-2.0
//! `--format`: the part of Go's text/template that people use with docker, over JSON values.
//!
//! Served: field paths (`.A.B`, `$`, `$x`), pipes, `json`, `index`, `join`, `len`, `range`/`else`/`end` (also `range $i, $x :=`),
//! `if`/`else if`/`else`/`end`, `with`, `eq ne lt le gt ge and or not`, `printf print println upper lower title split`, trimming dashes and
//! comments. The word `table` in front makes columns with a heading; `json` alone is the whole value on a line.
//! Source: <https://pkg.go.dev/text/template>, docker's "Format command and log output".

mod eval;
mod lex;
mod parse;

use serde_json::Value;
use thiserror::Error;

use crate::table;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parse::Node>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Table,
    Json,
}

/// What is wrong with a template, or with the value it was given.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// `{{` without `}}`.
    #[error("an action is not closed by }}}}")]
    Unclosed,
    /// A character that starts no word.
    #[error("unexpected {0:?} in an action")]
    Unexpected(String),
    /// `if`, `range` or `with` without `end`.
    #[error("{0} has no {{{{end}}}}")]
    NoEnd(&'static str),
    /// `end` or `else` without something to end.
    #[error("{{{{{0}}}}} stands alone")]
    Alone(String),
    /// A function that is not served.
    #[error("there is no function {0:?}")]
    NoFunction(String),
    /// A field that the value does not have.
    #[error("there is no field .{field}; there are: {known}")]
    NoField {
        /// The field asked for.
        field: String,
        /// The fields there are.
        known: String,
    },
    /// A variable that was not set.
    #[error("variable {0} is not set")]
    NoVariable(String),
    /// A function was given what it cannot take.
    #[error("{function}: {problem}")]
    Argument {
        /// The function.
        function: &'static str,
        /// What it said.
        problem: String,
    },
    /// Nesting deeper than the bound.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
}

impl Template {
    /// Reads a `--format` value.
    pub(crate) fn parse(text: &str) -> Result<Template, TemplateError> {
        if text.trim() == "json" {
            return Ok(Template {
                nodes: Vec::new(),
                kind: Kind::Json,
            });
        }
        let (kind, text) = match text.strip_prefix("table") {
            Some(rest) if rest.starts_with([' ', '\t', '{']) => (Kind::Table, rest.trim_start()),
            _ => (Kind::Plain, text),
        };
        // A shell hands over `\t` as two characters; docker reads it as a tab, and so it is meant.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Template {
            nodes: parse::parse(lex::lex(&text)?)?,
            kind,
        })
    }

    /// Returns one line (without its end) for `value`.
    pub(crate) fn render(&self, value: &Value) -> Result<String, TemplateError> {
        match self.kind {
            Kind::Json => Ok(value.to_string()),
            Kind::Plain | Kind::Table => eval::render(&self.nodes, value),
        }
    }

    /// Returns the lines for `values`; `heading` names the column of a field for `table`.
    pub(crate) fn render_all(
        &self,
        values: &[Value],
        heading: impl Fn(&str) -> String,
    ) -> Result<String, TemplateError> {
        let lines: Vec<String> = values
            .iter()
            .map(|value| self.render(value))
            .collect::<Result<_, _>>()?;
        if self.kind != Kind::Table {
            return Ok(lines.into_iter().map(|line| line + "\n").collect());
        }
        let head = parse::headings(&self.nodes, &heading);
        let rows: Vec<Vec<String>> = std::iter::once(head)
            .chain(lines)
            .map(|line| line.split('\t').map(String::from).collect())
            .collect();
        Ok(table::align(&rows))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value() -> Value {
        json!({
            "ID": "abc", "Names": "quiet_fern", "N": 3, "Empty": "", "Nil": null,
            "State": {"Running": true, "Pid": 7},
            "Args": ["a", "b", "c"],
            "Labels": {"x.y": "1", "z": "2"},
            "Mounts": [{"Source": "/s", "Destination": "/d"}, {"Source": "/t", "Destination": "/e"}],
        })
    }

    #[test]
    fn the_forms_people_use() {
        for (template, expected) in [
            ("{{.ID}}", "abc"),
            ("{{ .State.Pid }}/{{.State.Running}}", "7/true"),
            ("{{json .State}}", r#"{"Running":true,"Pid":7}"#),
            ("{{json .}}", &value().to_string()),
            ("{{.Args}} {{len .Args}}", "[a b c] 3"),
            ("{{join .Args \",\"}}", "a,b,c"),
            ("{{index .Args 1}}{{index .Labels \"x.y\"}}", "b1"),
            (
                "{{range .Mounts}}{{.Source}}->{{.Destination}};{{end}}",
                "/s->/d;/t->/e;",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
                "x.y=1 z=2 ",
            ),
            ("{{range $i, $v := .Args}}{{$i}}{{$v}}{{end}}", "0a1b2c"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            (
                "{{if .Empty}}x{{else if eq .N 3}}three{{else}}y{{end}}",
                "three",
            ),
            ("{{if and .ID (not .Empty)}}y{{end}}", "y"),
            (
                "{{printf \"%-6s|%5d|%q|%v\" .ID .N .Names .State.Running}}",
                "abc   |    3|\"quiet_fern\"|true",
            ),
            ("{{.Names | upper | printf \"<%s>\"}}", "<QUIET_FERN>"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{/* nothing */}}x", "x"),
            ("{{with .State}}{{.Pid}}{{$.ID}}{{end}}", "7abc"),
            ("{{.Labels.nothing}}", "<no value>"),
            ("{{.Nil}}", "<no value>"),
            ("{{if ne .ID \"abc\"}}x{{end}}{{if gt .N 2}}>{{end}}", ">"),
            ("{{(index .Mounts 0).Source}}", "/s"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{println .ID}}", "abc\n"),
            ("{{$x := .ID}}{{$x}}", "abc"),
            ("\\t{{\"q\"}}", "\tq"),
        ] {
            let rendered = Template::parse(template).and_then(|parsed| parsed.render(&value()));
            assert_eq!(rendered.as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (template, expected) in [
            ("{{.ID", "not closed"),
            ("{{if .ID}}x", "if has no {{end}}"),
            ("{{end}}", "stands alone"),
            ("{{frob .ID}}", "no function \"frob\""),
            ("{{.Nmae}}", "no field .Nmae"),
            ("{{$y}}", "$y is not set"),
            ("{{index .Args 9}}", "index"),
            ("{{.ID ~}}", "unexpected"),
        ] {
            let failed = Template::parse(template).and_then(|parsed| parsed.render(&value()));
            let text = failed.expect_err(template).to_string();
            assert!(text.contains(expected), "{template}: {text}");
        }
    }

    #[test]
    fn a_table_has_a_heading() {
        let parsed = Template::parse("table {{.ID}}\\t{{.Names}}").unwrap();
        let text = parsed.render_all(&[value()], str::to_uppercase).unwrap();
        assert_eq!(text, "ID    NAMES\nabc   quiet_fern\n");
    }

    #[test]
    fn json_is_a_line_for_each() {
        let text = Template::parse("json")
            .unwrap()
            .render_all(&[json!({"a":1})], str::to_owned);
        assert_eq!(text.unwrap(), "{\"a\":1}\n");
    }
}
