// SPDX-License-Identifier: Apache-2.0
//! Links in the Markdown files lead somewhere, and the tests that the specification names exist.

use std::path::{Component, Path, PathBuf};

use super::{Document, Finding};

/// The pages whose tables name, in their last column, the tests that hold what a row says.
const PROMISING: [&str; 2] = ["SPECIFICATION.md", "SECURITY.md"];

/// Checks all Markdown files; `exists` tells whether a path below the root is there.
pub(super) fn check(documents: &[Document], exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for document in documents
        .iter()
        .filter(|document| document.has_extension("md"))
    {
        for (number, line) in document.text.lines().enumerate() {
            let place = format!("{}:{}", document.path, number + 1);
            for link in links(line) {
                if let Some(says) = broken(document, link, documents, exists) {
                    findings.push(Finding::fault(&place, says));
                }
            }
            if PROMISING.contains(&document.path.as_str()) {
                for test in tests_named(line) {
                    if !test_exists(test, documents) {
                        findings.push(Finding::fault(&place, format!("no test is called {test}")));
                    }
                }
            }
        }
    }
    findings
}

/// Returns the targets of `[text](target)`, outside of code.
fn links(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (number, part) in line.split('`').enumerate() {
        if number % 2 == 1 {
            continue;
        }
        for (at, _) in part.match_indices("](") {
            let rest = &part[at + 2..];
            if let Some(end) = rest.find(')') {
                targets.push(rest[..end].split_whitespace().next().unwrap_or_default());
            }
        }
    }
    targets
}

/// Says what is wrong with a link, if it is one into the repository.
fn broken(
    from: &Document,
    link: &str,
    documents: &[Document],
    exists: &dyn Fn(&Path) -> bool,
) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link
        .split_once('#')
        .map_or((link, None), |(file, a)| (file, Some(a)));
    let path = if file.is_empty() {
        PathBuf::from(&from.path)
    } else {
        let folder = Path::new(&from.path).parent().unwrap_or(Path::new(""));
        match normal(&folder.join(file)) {
            Some(path) => path,
            None => return Some(format!("the link {link} leads out of the repository")),
        }
    };
    if !exists(&path) {
        return Some(format!("the link {link} leads nowhere"));
    }
    let target = documents
        .iter()
        .find(|document| Path::new(&document.path) == path)?;
    let anchor = anchor.filter(|_| target.has_extension("md"))?;
    let found = headings(&target.text).any(|heading| slug(heading) == anchor);
    (!found).then(|| format!("{} has no heading #{anchor}", target.path))
}

fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    titles.map(|line| line.trim_start_matches('#').trim())
}

/// The anchor that a heading gets: lower case, spaces to hyphens, other signs dropped.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|character| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ if character.is_alphanumeric() => Some(character),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// Returns the tests that a table's row names in code marks in its last cell: `room::module::test`, or a name of at least
/// three words.
fn tests_named(line: &str) -> impl Iterator<Item = &str> {
    let row = line
        .trim_end()
        .strip_suffix('|')
        .filter(|row| row.starts_with('|'));
    let cell = row
        .and_then(|row| row.rsplit('|').next())
        .unwrap_or_default();
    let code = cell.split('`').skip(1).step_by(2);
    code.filter(|code| {
        (code.contains("::") || code.matches('_').count() >= 2)
            && code
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':')
    })
}

/// Tells whether the room (the path's first part, if it has several) has a function with the path's last part as its name.
fn test_exists(test: &str, documents: &[Document]) -> bool {
    let name = test.rsplit("::").next().unwrap_or_default();
    let folders = match test.split_once("::") {
        Some((room, _)) => vec![format!("crates/{room}/"), format!("{room}/")],
        None => vec![String::new()],
    };
    let function = format!("fn {name}(");
    documents.iter().any(|document| {
        document.has_extension("rs")
            && folders
                .iter()
                .any(|folder| document.path.starts_with(folder))
            && document.text.contains(&function)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{document, faults};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let documents = [
            document(path, text),
            document("docs/guide/first.md", "# First steps, and more\n"),
            document(
                "crates/image/src/tar.rs",
                "    fn long_names_come_back() {}\n",
            ),
        ];
        faults(&check(&documents, &|path| {
            documents
                .iter()
                .any(|document| Path::new(&document.path).starts_with(path))
        }))
    }

    #[test]
    fn links_that_lead_somewhere_are_no_fault() {
        for text in [
            "see [first](docs/guide/first.md) and [web](https://example.org/x)",
            "[more](docs/guide/first.md#first-steps-and-more) [folder](docs/guide)",
            "# Here\n[up](#here)",
            "`[a](b)` is code",
        ] {
            assert_eq!(found("README.md", text), [""; 0], "{text}");
        }
        assert_eq!(
            found("docs/x.md", "[up](../crates/image/src/tar.rs)"),
            [""; 0]
        );
    }

    #[test]
    fn planted_links_are_found() {
        for (text, expected) in [
            (
                "\n[gone](docs/gone.md)",
                "README.md:2: the link docs/gone.md leads nowhere",
            ),
            (
                "[gone](docs/guide/first.md#second)",
                "has no heading #second",
            ),
            ("[out](../elsewhere)", "leads out of the repository"),
            ("[root](/etc/passwd)", "leads out of the repository"),
        ] {
            let found = found("README.md", text).join("\n");
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn tests_of_the_specification_must_exist() {
        let row = |test: &str| format!("| 1 | `no_test_at_all` | long names | `{test}` |");
        for page in PROMISING {
            for test in ["image::tar::long_names_come_back", "long_names_come_back"] {
                assert_eq!(found(page, &row(test)), [""; 0]);
            }
            for test in [
                "image::tar::gone",
                "store::tar::long_names_come_back",
                "long_names_are_gone",
            ] {
                let found = found(page, &row(test)).join("\n");
                assert!(
                    found.contains(&format!("no test is called {test}")),
                    "{found}"
                );
            }
        }
        assert_eq!(found("README.md", &row("image::tar::gone")), [""; 0]);
    }
}
