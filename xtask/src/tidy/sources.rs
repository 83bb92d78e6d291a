// SPDX-License-Identifier: Apache-2.0
//! Rules for each Rust file: its head, its size, and words that must not stand in it.

use super::{Document, Finding};

/// The line with which every file begins.
const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0";

/// From this size on it is worth asking whether the file is still about one thing.
const LINES_AIM: usize = 500;
/// From this size on it is not.
const LINES_MAX: usize = 900;

/// Words that must not stand in code, with the reason.
const BANNED: &[(&str, &str)] = &[
    (
        "#[ignore",
        "carries no reason that is decided at run time: use need!",
    ),
    ("todo!(", "code that is not there is not merged"),
    ("unimplemented!(", "code that is not there is not merged"),
];

/// Words that must not stand in comments either.
const BANNED_ANYWHERE: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X:")];

/// Checks every Rust file.
pub(super) fn check(documents: &[Document]) -> Vec<Finding> {
    let sources = documents
        .iter()
        .filter(|document| document.has_extension("rs"));
    sources.flat_map(check_one).collect()
}

fn check_one(document: &Document) -> Vec<Finding> {
    let path = &document.path;
    let mut findings = Vec::new();
    let mut fault = |line: usize, says: String| {
        findings.push(Finding::fault(format!("{path}:{line}"), says));
    };
    let mut head = document.text.lines();
    if head.next() != Some(LICENCE) {
        fault(1, format!("the first line is not \"{LICENCE}\""));
    } else if !head.next().is_some_and(|line| line.starts_with("//! ")) {
        fault(2, "no \"//!\" head that says what the module is".to_owned());
    }
    let code = without_comments_and_strings(&document.text);
    for (number, (line, code)) in document.text.lines().zip(code.lines()).enumerate() {
        for (word, why) in BANNED {
            if code.contains(word) {
                fault(number + 1, format!("{word}: {why}"));
            }
        }
        for word in BANNED_ANYWHERE {
            if line.contains(word) {
                fault(
                    number + 1,
                    format!("{word}: mend it, or write down why not"),
                );
            }
        }
        if has_word(code, "unsafe") && !path.starts_with("crates/sys/") {
            fault(number + 1, "unsafe stands in crates/sys alone".to_owned());
        }
    }
    let lines = document.text.lines().count();
    if lines > LINES_MAX {
        fault(
            lines,
            format!("{lines} lines: split it where one sentence no longer covers it"),
        );
    } else if lines > LINES_AIM {
        let says = format!("{lines} lines: is it still about one thing?");
        findings.push(Finding::advice(path.clone(), says));
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

/// Returns the text with comments and the insides of literals blanked, line for line.
///
/// This is no Rust lexer, but it knows what can hide a quote: line and nested block comments, plain and raw strings,
/// character literals next to lifetimes.
fn without_comments_and_strings(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut output = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let length = hidden_length(&characters, at);
        if length == 0 {
            output.push(characters[at]);
            at += 1;
            continue;
        }
        for character in &characters[at..(at + length).min(characters.len())] {
            output.push(if *character == '\n' { '\n' } else { ' ' });
        }
        at += length;
    }
    output
}

/// Returns the length of the comment or literal that starts here, or 0.
fn hidden_length(text: &[char], at: usize) -> usize {
    let rest = &text[at..];
    let starts = |prefix: &str| {
        prefix
            .chars()
            .enumerate()
            .all(|(n, c)| rest.get(n) == Some(&c))
    };
    let in_word = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    if starts("//") {
        return rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
    }
    if starts("/*") {
        return block_comment_length(rest);
    }
    if starts("\"") {
        return quoted_length(rest, '"');
    }
    if !in_word && (starts("r") || starts("br") || starts("cr")) {
        return raw_string_length(rest);
    }
    // 'a' and '\n' are literals; 'a in <'a> is a lifetime.
    if starts("'") && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
        return quoted_length(rest, '\'');
    }
    0
}

fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn quoted_length(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_length(rest: &[char]) -> usize {
    let prefix = rest.iter().take_while(|c| c.is_ascii_alphabetic()).count();
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    if prefix > 2 || rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = prefix + hashes + 1;
    while at < rest.len() {
        let closed = rest[at] == '"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        if closed {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::{document, faults};
    use super::*;

    fn found(path: &str, body: &str) -> String {
        let text = format!("{LICENCE}\n//! A head.\n\n{body}\n");
        faults(&check(&[document(path, &text)])).join("\n")
    }

    #[test]
    fn a_good_file_is_no_fault() {
        assert_eq!(
            found(
                "crates/image/src/a.rs",
                "fn a<'a>(x: &'a str) -> char { 'x' }"
            ),
            ""
        );
    }

    #[test]
    fn planted_words_are_found() {
        let cases = [
            ("#[ignore]\nfn a() {}", ":4: #[ignore"),
            ("#[ignore = \"slow\"]\nfn a() {}", ":4: #[ignore"),
            ("fn a() {\n    todo!()\n}", ":5: todo!("),
            ("fn a() { unimplemented!() }", ":4: unimplemented!("),
            (concat!("// FIX", "ME: later"), ":4: FIX"),
            ("fn a() { unsafe { b() } }", ":4: unsafe stands"),
            (
                "const A: &str = \"//\"; unsafe fn b() {}",
                ":4: unsafe stands",
            ),
            (
                "const A: char = '\"'; unsafe fn b() {} // \"",
                ":4: unsafe stands",
            ),
        ];
        for (body, expected) in cases {
            let found = found("crates/image/src/a.rs", body);
            assert!(found.contains(expected), "{body:?}: {found:?}");
        }
    }

    #[test]
    fn words_in_comments_and_strings_do_no_harm() {
        for body in [
            "// unsafe is explained here, and todo!()",
            "/* unsafe /* nested */ #[ignore] */",
            "const A: &str = \"unsafe \\\" todo!()\";",
            "const A: &str = r#\"unsafe \" #[ignore]\"#;",
            "const A: &[u8] = br\"unsafe\";",
            "#![forbid(unsafe_code)]",
        ] {
            assert_eq!(found("crates/image/src/a.rs", body), "", "{body:?}");
        }
    }

    #[test]
    fn sys_may_be_unsafe() {
        assert_eq!(
            found("crates/sys/src/a.rs", "fn a() { unsafe { b() } }"),
            ""
        );
    }

    #[test]
    fn heads_and_sizes_are_checked() {
        let cases = [
            (String::new(), "first line"),
            ("//! A head.\n".to_owned(), "first line"),
            (format!("{LICENCE}\nfn a() {{}}\n"), "no \"//!\" head"),
            (
                format!("{LICENCE}\n//! A head.\n{}", "\n".repeat(LINES_MAX)),
                "split it",
            ),
        ];
        for (text, expected) in cases {
            let found = faults(&check(&[document("xtask/src/a.rs", &text)])).join("\n");
            assert!(found.contains(expected), "{text:.60}: {found}");
        }
        let long = format!("{LICENCE}\n//! A head.\n{}", "\n".repeat(LINES_AIM));
        let findings = check(&[document("a.rs", &long)]);
        assert_eq!((findings.len(), faults(&findings).len()), (1, 0));
    }
}
