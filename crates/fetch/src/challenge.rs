// SPDX-License-Identifier: Apache-2.0
//! What a registry demands: the `WWW-Authenticate` header, read.
//!
//! One header may hold several challenges, and their parameters are divided by the same comma as the challenges
//! themselves: a word followed by `=` is a parameter, any other word begins a challenge. Values are words or quoted strings,
//! which may hold commas (`scope="repository:a:pull,push"`). Unknown schemes and parameters are passed over.
//!
//! Sources: RFC 9110 11.6.1 and 5.6.4; distribution-spec and docker's token authentication specification.

/// Parameters are bounded by the header's length; challenges of one answer by this.
const CHALLENGES_MAX: usize = 16;

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user's name and password.
    Basic,
    /// A token that the realm hands out.
    Bearer(Bearer),
}

/// Where a token comes from and what it must be good for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// The token server's address.
    pub(crate) realm: String,
    /// Which service the token is for.
    pub(crate) service: Option<String>,
    /// What the token must allow.
    pub(crate) scope: Option<String>,
}

/// Reads all values of `WWW-Authenticate`.
pub(crate) fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in values {
        let mut scheme: Option<Scheme> = None;
        let mut rest = value;
        while challenges.len() < CHALLENGES_MAX {
            let Some(token) = next(&mut rest) else {
                break;
            };
            match token {
                Token::Scheme(name) => {
                    challenges.extend(scheme.replace(Scheme::new(name)).and_then(Scheme::finish));
                }
                Token::Parameter(name, value) => {
                    if let Some(scheme) = &mut scheme {
                        scheme.set(name, value);
                    }
                }
            }
        }
        challenges.extend(scheme.and_then(Scheme::finish));
    }
    challenges
}

/// A challenge that is being read.
struct Scheme<'a> {
    name: &'a str,
    bearer: Bearer,
}

impl<'a> Scheme<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            bearer: Bearer::default(),
        }
    }

    fn set(&mut self, name: &str, value: String) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => self.bearer.realm = value,
            "service" => self.bearer.service = Some(value),
            "scope" => self.bearer.scope = Some(value),
            _ => {}
        }
    }

    fn finish(self) -> Option<Challenge> {
        match self.name.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" if !self.bearer.realm.is_empty() => Some(Challenge::Bearer(self.bearer)),
            _ => None,
        }
    }
}

enum Token<'a> {
    Scheme(&'a str),
    Parameter(&'a str, String),
}

/// Takes the next scheme or parameter off the front; `None` at the end or where nothing can be read any more.
fn next<'a>(rest: &mut &'a str) -> Option<Token<'a>> {
    let text = rest.trim_start_matches([' ', '\t', ',']);
    let end = text
        .find(|character: char| !is_word(character))
        .unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    if word.is_empty() {
        return None;
    }
    let Some(value) = after.trim_start().strip_prefix('=') else {
        *rest = after;
        return Some(Token::Scheme(word));
    };
    let value = value.trim_start();
    if let Some(quoted) = value.strip_prefix('"') {
        let (value, after) = unquote(quoted);
        *rest = after;
        return Some(Token::Parameter(word, value));
    }
    let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
    *rest = &value[end..];
    Some(Token::Parameter(word, value[..end].to_owned()))
}

/// Reads a quoted string behind its first quote; one without end goes to the end.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, character)| character)),
            _ => value.push(character),
        }
    }
    (value, "")
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_rfc_9110_writes_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull,push""#;
        let cases = [
            (
                hub,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/debian:pull,push"),
                )],
            ),
            (r#"Basic realm="a, b=c""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="x", bEARER Realm = "https://r" , service=s"#,
                vec![Challenge::Basic, bearer("https://r", Some("s"), None)],
            ),
            (
                r#"Bearer realm="a\"b\\c"#,
                vec![bearer(r#"a"b\c"#, None, None)],
            ),
            ("Bearer service=x", vec![]),
            ("Negotiate YII=", vec![]),
            (",,= ==", vec![]),
            ("", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse([text].into_iter()), expected, "{text}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let read = parse(["Basic realm=x", "Bearer realm=https://r"].into_iter());
        assert_eq!(read, [Challenge::Basic, bearer("https://r", None, None)]);
    }
}
