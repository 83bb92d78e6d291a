// SPDX-License-Identifier: Apache-2.0
//! Who may read from the test registry, and the tokens it hands out.

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

    /// Tells whether the header is good for reading a repository, and uses the token once.
    fn accept(&mut self, header: &str, repository: &str) -> bool {
        let Some(shown) = header.strip_prefix("Bearer ") else {
            return false;
        };
        let wanted = format!("repository:{repository}:pull");
        let known = self.tokens.iter_mut().find(|(token, scope, left)| {
            token == shown && *left > 0 && (*scope == wanted || repository.is_empty())
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
        header: Option<&str>,
    ) -> Option<String> {
        match auth {
            Auth::Open => None,
            Auth::Basic { user, password } => (header != Some(basic(user, password).as_str()))
                .then(|| r#"Basic realm="testkit, for tests""#.to_owned()),
            Auth::Token { .. } => {
                if header.is_some_and(|header| self.accept(header, repository)) {
                    return None;
                }
                let scope = if repository.is_empty() {
                    String::new()
                } else {
                    format!(r#",scope="repository:{repository}:pull""#)
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
        let scope = parameter(if by_form { form } else { query }, "scope").unwrap_or_default();
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
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
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
