// SPDX-License-Identifier: Apache-2.0
//! `images`: which images are here.

use serde_json::{Value, json};
use wolffia_engine::time::Timestamp;
use wolffia_image::Reference;
use wolffia_store::ImageRecord;

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
    name: "images",
    aliases: &[],
    usage: "[FLAGS] [NAME]",
    summary: "List images",
    group: Group::Images,
    flags: &[&[
        switch("all", Some('a'), "nothing is hidden anyway"),
        switch("quiet", Some('q'), "only ids"),
        switch("no-trunc", None, "whole ids"),
        switch("digests", None, "also the digests of manifests"),
        value(
            "format",
            None,
            "TEMPLATE",
            "a Go template, `table TEMPLATE`, or json",
        ),
        list(
            "filter",
            Some('f'),
            "KEY=VALUE",
            "reference, label or dangling",
        ),
        refused(
            "tree",
            None,
            "images of several platforms are pulled for one",
        ),
    ]],
    stops_at_operand: false,
    operands: (0, 1),
    failure_code: 1,
    serve,
};

const NONE: &str = "<none>";

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let wanted = arguments.operand_texts()?.first().copied();
    let filters = arguments.texts("filter")?;
    let images = context
        .store()?
        .images()
        .map_err(|error| super::store_failure(&error))?;
    let whole = arguments.is("no-trunc");
    let mut rows = Vec::new();
    for image in &images {
        for row in rows_of(image, whole) {
            if is_wanted(&row, wanted) && passes(image, &row, &filters)? {
                rows.push(row);
            }
        }
    }
    let text = if let Some(format) = arguments.text("format")? {
        Template::parse(format)
            .and_then(|template| template.render_all(&rows, heading))
            .map_err(|error| {
                Failure::usage(format!("--format {format}")).cause(error.to_string())
            })?
    } else if arguments.is("quiet") {
        let mut ids: Vec<String> = rows
            .iter()
            .map(|row| table::cell(row, "ID") + "\n")
            .collect();
        ids.dedup();
        ids.concat()
    } else {
        let columns: &[&str] = if arguments.is("digests") {
            &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
        } else {
            &["Repository", "Tag", "ID", "CreatedSince", "Size"]
        };
        table::of_objects(&rows, columns, heading)
    };
    Ok(context.say(&text))
}

fn heading(field: &str) -> String {
    match field {
        "ID" => "IMAGE ID".into(),
        "CreatedSince" => "CREATED".into(),
        "CreatedAt" => "CREATED AT".into(),
        other => other.to_uppercase(),
    }
}

/// Returns a row for each name, or one for an image without any.
fn rows_of(image: &ImageRecord, whole: bool) -> Vec<Value> {
    let id = if whole {
        image.id.to_string()
    } else {
        image.id.short()
    };
    let created = image.created.as_deref().unwrap_or_default();
    let now = Timestamp::now();
    let since = Timestamp::parse(created, now).map_or_else(
        |_| "N/A".to_owned(),
        |created| human::span(created.seconds_until(now)) + " ago",
    );
    let row = |name: Option<&Reference>| {
        json!({
            "ID": id,
            "Repository": name.map_or_else(|| NONE.to_owned(), Reference::familiar_name),
            "Tag": name.and_then(Reference::tag).unwrap_or(NONE),
            "Digest": image.manifest_digest.to_string(),
            "CreatedSince": since,
            "CreatedAt": created,
            "Size": human::size(image.size_bytes),
            "Containers": "N/A",
        })
    };
    if image.names.is_empty() {
        return vec![row(None)];
    }
    image.names.iter().map(|name| row(Some(name))).collect()
}

/// `images debian` and `images debian:12`.
fn is_wanted(row: &Value, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| {
        let (name, tag) = (table::cell(row, "Repository"), table::cell(row, "Tag"));
        wanted == name || wanted == format!("{name}:{tag}")
    })
}

fn passes(image: &ImageRecord, row: &Value, filters: &[&str]) -> Result<bool, Failure> {
    for filter in filters {
        let (key, value) = filter
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--filter {filter}: not KEY=VALUE")))?;
        let passes = match key {
            "reference" => matches(value, row),
            "dangling" => (table::cell(row, "Repository") == NONE) == (value == "true"),
            "label" => {
                let (label, wanted) = value
                    .split_once('=')
                    .map_or((value, None), |(k, v)| (k, Some(v)));
                let labels = &image.config.run().labels;
                labels
                    .get(label)
                    .is_some_and(|found| wanted.is_none_or(|wanted| wanted == found))
            }
            _ => {
                return Err(Failure::usage(format!(
                    "--filter {filter}: there is no filter {key:?}"
                ))
                .help("reference, label, dangling"));
            }
        };
        if !passes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `*` stands for letters other than `/`.
fn matches(pattern: &str, row: &Value) -> bool {
    fn fits(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                fits(rest, text)
                    || text
                        .split_first()
                        .is_some_and(|(letter, behind)| *letter != b'/' && fits(pattern, behind))
            }
            (Some((one, rest)), Some((other, behind))) => one == other && fits(rest, behind),
            _ => false,
        }
    }
    let (name, tag) = (table::cell(row, "Repository"), table::cell(row, "Tag"));
    fits(pattern.as_bytes(), name.as_bytes())
        || fits(pattern.as_bytes(), format!("{name}:{tag}").as_bytes())
}
