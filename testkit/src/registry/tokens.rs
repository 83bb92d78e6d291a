// SPDX-License-Identifier: Apache-2.0
//! Who may read from the test registry, and write to it, and the tokens it hands out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Who may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    Open,
    /// Whoever knows the name and password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// Whoever brings a token.
    Token {
        /// Who gets a token: a name and password, or without, everybody.
        user: Option<(String, String)>,
        /// A refresh token that gets one too.
        identity: Option<String>,
        /// How long a token is said to be good for.
        seconds: u64,
        /// How many requests it is really good for.
        requests: u32,
    },
}

impl Auth {
    /// Tokens for everybody, good for a minute.
    pub fn anonymous_token() -> Self {
        Self::Token {
            user: None,
            identity: None,
            seconds: 60,
            requests: u32::MAX,
        }
    }
}

/// The tokens that were handed out.
#[derive(Debug, Default)]
pub(super) struct Issued {
    count: u32,
    /// Token, what it is for, how many requests are left.
    tokens: Vec<(String, String, u32)>,
}

impl Issued {
    pub(super) fn issue(&mut self, scope: &str, requests: u32) -> String {
        self.count += 1;
        let token = format!("token-{}", self.count);
        self.tokens
            .push((token.clone(), scope.to_owned(), requests));
        token
    }

    pub(super) fn expire(&mut self) {
        self.tokens.clear();
    }

    /// Tells whether the header is good for an action on a repository, and uses the token once.
    fn accept(&mut self, header: &str, repository: &str, action: &str) -> bool {
        let Some(shown) = header.strip_prefix("Bearer ") else {
            return false;
        };
        let allows = |scope: &str| {
            scope.split(' ').any(|scope| {
                let parts = scope.strip_prefix("repository:");
                let parts = parts.and_then(|rest| rest.rsplit_once(':'));
                parts.is_some_and(|(name, actions)| {
                    name == repository && actions.split(',').any(|it| it == action)
                })
            })
        };
        let known = self.tokens.iter_mut().find(|(token, scope, left)| {
            token == shown && *left > 0 && (repository.is_empty() || allows(scope))
        });
        if let Some((_, _, left)) = known {
            *left -= 1;
            return true;
        }
        false
    }

    /// Returns `WWW-Authenticate` where the request may not pass.
    pub(super) fn challenge(
        &mut self,
        auth: &Auth,
        main: &str,
        repository: &str,
        writes: bool,
        header: Option<&str>,
    ) -> Option<String> {
        match auth {
            Auth::Open => None,
            Auth::Basic { user, password } => (header != Some(basic(user, password).as_str()))
                .then(|| r#"Basic realm="testkit, for tests""#.to_owned()),
            Auth::Token { .. } => {
                let action = if writes { "push" } else { "pull" };
                if header.is_some_and(|header| self.accept(header, repository, action)) {
                    return None;
                }
                let scope = if repository.is_empty() {
                    String::new()
                } else {
                    let actions = if writes { "pull,push" } else { "pull" };
                    format!(r#",scope="repository:{repository}:{actions}""#)
                };
                Some(format!(
                    r#"Bearer realm="http://{main}/token",service="testkit"{scope}"#
                ))
            }
        }
    }

    /// Answers a request for a token: its JSON, or `None` where it is denied.
    pub(super) fn ask(
        &mut self,
        auth: &Auth,
        query: &str,
        header: Option<&str>,
        form: &str,
    ) -> Option<String> {
        let Auth::Token {
            user,
            identity,
            seconds,
            requests,
        } = auth
        else {
            return None;
        };
        let by_form = !form.is_empty();
        let allowed = if by_form {
            let shown = parameter(form, "refresh_token");
            identity.is_some() && shown == *identity
        } else {
            match (user, header) {
                (Some((user, password)), header) => header == Some(basic(user, password).as_str()),
                (None, _) => identity.is_none(),
            }
        };
        let scope = parameters(if by_form { form } else { query }, "scope").join(" ");
        allowed.then(|| {
            let token = self.issue(&scope, *requests);
            // Both spellings are in use.
            let name = if by_form { "access_token" } else { "token" };
            serde_json::json!({ name: token, "expires_in": seconds }).to_string()
        })
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Returns a parameter of a query or form, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query, name).into_iter().next()
}

/// Returns all values of a parameter, decoded.
fn parameters(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| decoded(pair.strip_prefix(name)?.strip_prefix('=')?))
        .collect()
}

fn decoded(value: &str) -> Option<String> {
    let mut decoded = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}
