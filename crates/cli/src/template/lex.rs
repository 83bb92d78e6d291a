// SPDX-License-Identifier: Apache-2.0
//! A template cut into text and the words of its actions.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text between actions.
    Text(String),
    /// The words between `{{` and `}}`.
    Action(Vec<Word>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// `.A.B`, or `.` as an empty path; `$x.A` is a `Variable` followed by a `Field`.
    Field(Vec<String>),
    /// `$` or `$x`.
    Variable(String),
    /// A function or keyword.
    Name(String),
    /// A quoted string.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=` or `=`
    Assign,
    /// `,`
    Comma,
}

/// Cuts `text`; `{{-` and `-}}` trim the white space beside them.
pub(super) fn lex(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let Some(start) = rest.find("{{") else {
            push_text(&mut pieces, rest, trim_next, false);
            return Ok(pieces);
        };
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        let trims_before = after.starts_with("- ") || after.starts_with("-\t");
        push_text(&mut pieces, before, trim_next, trims_before);
        let after = if trims_before { &after[1..] } else { after };
        let (inside, behind) = close(after)?;
        trim_next = inside.ends_with(" -");
        let inside = if trim_next {
            &inside[..inside.len() - 1]
        } else {
            inside
        };
        let comment = inside.trim().starts_with("/*") && inside.trim().ends_with("*/");
        if !comment {
            pieces.push(Piece::Action(words(inside)?));
        }
        rest = behind;
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Splits at the `}}` that is not inside a quoted string.
fn close(text: &str) -> Result<(&str, &str), TemplateError> {
    let mut quote = None;
    let mut escaped = false;
    for (index, letter) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if letter == '\\' => escaped = true,
            Some(open) if letter == open => quote = None,
            None if letter == '"' || letter == '`' => quote = Some(letter),
            None if text[index..].starts_with("}}") => {
                return Ok((&text[..index], &text[index + 2..]));
            }
            Some(_) | None => {}
        }
    }
    Err(TemplateError::Unclosed)
}

fn words(inside: &str) -> Result<Vec<Word>, TemplateError> {
    let mut words = Vec::new();
    let mut letters = inside.char_indices().peekable();
    while let Some((start, letter)) = letters.next() {
        let word = match letter {
            _ if letter.is_whitespace() => continue,
            '|' => Word::Pipe,
            '(' => Word::Open,
            ')' => Word::Close,
            ',' => Word::Comma,
            '=' => Word::Assign,
            ':' if letters.next_if(|(_, next)| *next == '=').is_some() => Word::Assign,
            '.' => {
                let path = run(inside, start, &mut letters, |next| {
                    next == '.' || is_name(next)
                });
                Word::Field(
                    path.split('.')
                        .filter(|part| !part.is_empty())
                        .map(String::from)
                        .collect(),
                )
            }
            '$' => Word::Variable(run(inside, start, &mut letters, is_name).to_owned()),
            '"' => Word::Text(quoted(&mut letters)?),
            '`' => {
                let mut raw = String::new();
                loop {
                    match letters.next() {
                        Some((_, '`')) => break,
                        Some((_, letter)) => raw.push(letter),
                        None => return Err(TemplateError::Unclosed),
                    }
                }
                Word::Text(raw)
            }
            '-' | '0'..='9' => {
                let digits = run(inside, start, &mut letters, |next| next.is_ascii_digit());
                let number = digits.parse();
                Word::Number(number.map_err(|_| TemplateError::Unexpected(digits.to_owned()))?)
            }
            _ if is_name(letter) => {
                Word::Name(run(inside, start, &mut letters, is_name).to_owned())
            }
            _ => return Err(TemplateError::Unexpected(letter.to_string())),
        };
        words.push(word);
    }
    Ok(words)
}

type Letters<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

/// Returns the text from `start` over the letters that are allowed.
fn run<'a>(
    inside: &'a str,
    start: usize,
    letters: &mut Letters<'a>,
    allowed: fn(char) -> bool,
) -> &'a str {
    while letters.next_if(|(_, next)| allowed(*next)).is_some() {}
    let end = letters.peek().map_or(inside.len(), |(index, _)| *index);
    &inside[start..end]
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn quoted(letters: &mut Letters<'_>) -> Result<String, TemplateError> {
    let mut text = String::new();
    loop {
        match letters.next().map(|(_, letter)| letter) {
            Some('"') => return Ok(text),
            Some('\\') => match letters.next().map(|(_, letter)| letter) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(letter) => text.push(letter),
                None => return Err(TemplateError::Unclosed),
            },
            Some(letter) => text.push(letter),
            None => return Err(TemplateError::Unclosed),
        }
    }
}
