// SPDX-License-Identifier: Apache-2.0
//! How we show a registry that we may read a repository.
//!
//! # Theory of operation
//! The first request goes out bare. A registry that wants more answers 401 with [challenges](crate::challenge). *Bearer* is
//! answered with a token from the realm: asked for anonymously, or with the stored name and password, or (an *identity
//! token*, as single sign-on leaves it) by the OAuth 2 refresh form. *Basic* is answered with the stored name and password.
//! What worked is kept and sent with every later request, until it is refused or its time is up; then it is renewed, in
//! the middle of a blob as well as between. Many requests that are refused at once cause one renewal: whoever finds that
//! the kept answer is not the one that was refused takes that.
//!
//! Credentials are looked for at the first challenge and not before: most pulls are anonymous, and a credential helper is a
//! program. They are sent to the registry itself and to its realm only, and to a realm in plain http only if the registry is
//! reached so too.
//!
//! Sources: distribution's token authentication specification (token.md, oauth.md); RFC 6750, RFC 7617.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::address::{Address, push_encoded};
use crate::challenge::{Bearer, Challenge};
use crate::credentials::{self, Credential};
use crate::error::Error;
use crate::http::{Client, Fault, Payload, Request, Response};
use crate::secret::Secret;

/// The least time a token is good for, if the server does not say (token.md).
const TOKEN_SECONDS_DEFAULT: u64 = 60;
/// A token is renewed this long before its end: a request may wait that long in queues.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// Tokens are a few KiB; a thousand permissions make some longer.
const TOKEN_ANSWER_BYTES_MAX: usize = 1 << 20;

/// The standing of one client at one repository of one registry.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The name credentials are stored under, `registry/repository`.
    name: String,
    /// What a token is asked for if the registry does not say.
    scope: String,
    /// Whether a token must be good for writing, whatever the first challenge asks for: one token for the whole push.
    writes: bool,
    given: Option<Credential>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Answer>,
    /// Whether credentials were looked up.
    looked_up: bool,
    credential: Option<Credential>,
}

/// What to send as `Authorization`.
#[derive(Debug, Clone)]
struct Answer {
    header: Secret,
    /// How to get the next one, and when.
    renewal: Option<(Bearer, Instant)>,
}

impl Authority {
    /// Returns the standing of a stranger at a repository, or (with an empty one) at the registry as a whole. `given`
    /// replaces what the files hold.
    pub(crate) fn new(registry: &str, repository: &str, given: Option<Credential>) -> Self {
        let scope = if repository.is_empty() {
            String::new()
        } else {
            format!("repository:{repository}:pull")
        };
        Self {
            name: format!("{registry}/{repository}"),
            writes: false,
            scope,
            given,
            state: Mutex::default(),
        }
    }

    /// Returns the standing of somebody who will write, too.
    pub(crate) fn for_writing(mut self) -> Self {
        self.writes = true;
        if !self.scope.is_empty() {
            self.scope.push_str(",push");
        }
        self
    }

    /// Returns what to ask a token for, answering a challenge.
    fn scope_for(&self, asked: Option<&str>) -> String {
        let Some(asked) = asked else {
            return self.scope.clone();
        };
        if !self.writes {
            return asked.to_owned();
        }
        // `repository:NAME:ACTIONS`; what is asked for of our own repository is in our scope already.
        let of = |scope: &str| scope.rsplit_once(':').map(|(name, _)| name.to_owned());
        let others = asked
            .split(' ')
            .filter(|scope| !scope.is_empty() && of(scope) != of(&self.scope));
        std::iter::once(self.scope.as_str())
            .chain(others)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Tells whether there are credentials, as far as anybody has looked.
    pub(crate) fn is_known(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.credential.is_some()
    }

    /// Returns everything that an answer must not be quoted with.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let credential = state.credential.as_ref().map(Credential::secrets);
        let header = state.answer.as_ref().map(|answer| {
            // Its second word is the token.
            let text = answer.header.expose();
            Secret::new(text.rsplit(' ').next().unwrap_or(text))
        });
        credential.into_iter().flatten().chain(header).collect()
    }

    /// Returns what to send, if anything was agreed on before; renews a token whose time is up.
    pub(crate) fn current(
        &self,
        client: &Client,
        address: &Address,
    ) -> Result<Option<Secret>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = state.answer.clone() else {
            return Ok(None);
        };
        match answer.renewal {
            Some((bearer, until)) if Instant::now() >= until => {
                let answer = self.token(client, address, &bearer, &mut state)?;
                Ok(Some(state.answer.insert(answer).header.clone()))
            }
            _ => Ok(Some(answer.header)),
        }
    }

    /// Answers challenges after `refused` was not good enough; `None` where there is nothing better to offer.
    pub(crate) fn answer(
        &self,
        client: &Client,
        address: &Address,
        challenges: &[Challenge],
        refused: Option<&Secret>,
    ) -> Result<Option<Secret>, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = state.answer.as_ref().map(|answer| &answer.header);
        if let Some(kept) = kept.filter(|kept| refused != Some(kept)) {
            return Ok(Some(kept.clone()));
        }
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer),
            Challenge::Basic => None,
        });
        let answer = match bearer {
            Some(bearer) => Some(self.token(client, address, bearer, &mut state)?),
            None if challenges.contains(&Challenge::Basic) => self.basic(client, &mut state)?,
            None => None,
        };
        let Some(answer) = answer.filter(|answer| refused != Some(&answer.header)) else {
            return Ok(None);
        };
        Ok(Some(state.answer.insert(answer).header.clone()))
    }

    fn credential(&self, client: &Client, state: &mut State) -> Result<Option<Credential>, Error> {
        if !state.looked_up {
            state.credential = match &self.given {
                Some(given) => Some(given.clone()),
                None => credentials::find(client.environment(), &self.name)?,
            };
            state.looked_up = true;
        }
        Ok(state.credential.clone())
    }

    fn basic(&self, client: &Client, state: &mut State) -> Result<Option<Answer>, Error> {
        let credential = self.credential(client, state)?;
        Ok(credential
            .as_ref()
            .and_then(basic_header)
            .map(|header| Answer {
                header,
                renewal: None,
            }))
    }

    /// Gets a token from the realm.
    fn token(
        &self,
        client: &Client,
        registry: &Address,
        bearer: &Bearer,
        state: &mut State,
    ) -> Result<Answer, Error> {
        let credential = self.credential(client, state)?;
        if let Some(Credential::RegistryToken(token)) = &credential {
            return Ok(Answer {
                header: Secret::new(format!("Bearer {}", token.expose())),
                renewal: None,
            });
        }
        let scope = self.scope_for(bearer.scope.as_deref());
        let asking = Asking::new(&scope, registry, bearer, credential.as_ref())?;
        let asked_at = Instant::now();
        let token = crate::retry::run(client.limits(), &asking.doing, || asking.ask(client))?;
        let seconds = token.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
        let lifetime = Duration::from_secs(seconds.max(TOKEN_SECONDS_DEFAULT));
        Ok(Answer {
            header: token.header,
            renewal: Some((
                bearer.clone(),
                asked_at + lifetime.saturating_sub(TOKEN_MARGIN),
            )),
        })
    }
}

/// One question to a token server.
struct Asking {
    doing: String,
    host: String,
    address: Address,
    authorization: Option<Secret>,
    form: Option<Secret>,
    verify: bool,
    /// What an answer must not be quoted with.
    secrets: Vec<Secret>,
}

struct Token {
    header: Secret,
    expires_in: Option<u64>,
}

impl Asking {
    fn new(
        scope: &str,
        registry: &Address,
        bearer: &Bearer,
        credential: Option<&Credential>,
    ) -> Result<Self, Error> {
        let doing = "getting a token".to_owned();
        let protocol = |problem| Error::Protocol {
            doing: doing.clone(),
            host: registry.authority().to_owned(),
            problem,
        };
        let realm = Address::parse(&bearer.realm)
            .ok_or_else(|| protocol("the registry names a token server that is no http address"))?;
        if credential.is_some() && registry.is_https() && !realm.is_https() {
            return Err(protocol(
                "the registry wants the credentials sent to a token server without TLS, which is refused",
            ));
        }
        let host = realm.authority().to_owned();
        let verify = registry.is_https();
        let secrets = credential.map(Credential::secrets).unwrap_or_default();
        if let Some(Credential::IdentityToken(token)) = credential {
            let service = bearer.service.as_deref().unwrap_or_default();
            let form = encode(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", "wolffia"),
                ("scope", scope),
                ("refresh_token", token.expose()),
            ]);
            return Ok(Self {
                doing,
                host,
                address: realm,
                authorization: None,
                form: Some(Secret::new(form)),
                verify,
                secrets,
            });
        }
        let mut parameters = Vec::new();
        parameters.extend(
            bearer
                .service
                .as_deref()
                .map(|service| ("service", service)),
        );
        // Several scopes are several parameters (token.md).
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
        parameters.extend(scopes.map(|scope| ("scope", scope)));
        if let Some(Credential::Password { user, .. }) = credential {
            parameters.push(("account", user.as_str()));
        }
        let divider = if bearer.realm.contains('?') { '&' } else { '?' };
        let address = format!("{}{divider}{}", bearer.realm, encode(&parameters));
        let address = Address::parse(&address)
            .ok_or_else(|| protocol("the registry names a token server that is no http address"))?;
        Ok(Self {
            doing,
            host,
            address,
            authorization: credential.and_then(basic_header),
            form: None,
            verify,
            secrets,
        })
    }

    fn ask(&self, client: &Client) -> Result<Token, Error> {
        let exchange = |source: Fault| Error::Exchange {
            doing: self.doing.clone(),
            host: self.host.clone(),
            source,
        };
        let response = client
            .send(&Request {
                address: &self.address,
                headers: &[("accept", "application/json")],
                authorization: self.authorization.as_ref(),
                body: self.form.as_ref().map_or(Payload::Get, Payload::Form),
                verify: self.verify,
            })
            .map_err(exchange)?;
        if response.status != 200 {
            let authenticated = self.authorization.is_some() || self.form.is_some();
            let refusal = Refusal {
                doing: &self.doing,
                host: &self.host,
                authenticated,
                secrets: self.secrets.clone(),
            };
            return Err(refusal.of(response));
        }
        let body = response
            .read_all(TOKEN_ANSWER_BYTES_MAX)
            .map_err(exchange)?
            .unwrap_or_default();
        let answer: TokenAnswer = serde_json::from_slice(&body).unwrap_or_default();
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty());
        // A token is put into a header: what cannot stand there is none.
        let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        match token {
            Some(token) => Ok(Token {
                header: Secret::new(format!("Bearer {token}")),
                expires_in: answer.expires_in,
            }),
            None => Err(Error::Protocol {
                doing: self.doing.clone(),
                host: self.host.clone(),
                problem: "the answer holds no token",
            }),
        }
    }
}

/// What a token server answers.
#[derive(Default, Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Returns the value of `Authorization` for a name and a password.
pub(crate) fn basic_header(credential: &Credential) -> Option<Secret> {
    match credential {
        Credential::Password { user, password } => {
            let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
            Some(Secret::new(format!("Basic {pair}")))
        }
        Credential::IdentityToken(_) | Credential::RegistryToken(_) => None,
    }
}

fn encode(parameters: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        push_encoded(value, &mut query);
    }
    query
}

/// What a registry says of its error, shortened and without control characters.
const REASON_CHARS_MAX: usize = 160;
/// An error's body is not read beyond this.
const REASON_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    errors: Vec<ErrorItem>,
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// An answer that is no success, on its way to become an error.
pub(crate) struct Refusal<'a> {
    pub(crate) doing: &'a str,
    pub(crate) host: &'a str,
    /// Whether credentials were given.
    pub(crate) authenticated: bool,
    /// What was sent, and must not be quoted where the other side repeats it.
    pub(crate) secrets: Vec<Secret>,
}

impl Refusal<'_> {
    /// Reads the reason in the answer.
    pub(crate) fn of(self, response: Response) -> Error {
        let status = response.status;
        let retry_after = crate::http::retry_after(&response);
        let (doing, host) = (self.doing.to_owned(), self.host.to_owned());
        if status == 404 {
            return Error::NotFound { doing, host };
        }
        let mut reason = reason(response);
        if self.secrets.iter().any(|secret| secret.is_in(&reason)) {
            reason.clear();
        }
        match status {
            401 | 403 => Error::Denied {
                doing,
                host,
                status,
                reason,
                authenticated: self.authenticated,
            },
            429 => Error::RateLimited {
                doing,
                host,
                reason,
                retry_after,
            },
            _ => Error::Status {
                doing,
                host,
                status,
                reason,
                retry_after,
            },
        }
    }
}

fn reason(response: Response) -> String {
    let Ok(Some(body)) = response.read_all(REASON_BYTES_MAX) else {
        return String::new();
    };
    let said: Option<ErrorAnswer> = serde_json::from_slice(&body).ok();
    let text = said.and_then(|said| {
        let first = said.errors.into_iter().next();
        first
            .map(|error| {
                if error.message.is_empty() {
                    error.code
                } else {
                    error.message
                }
            })
            .or(said.details)
    });
    text.unwrap_or_default()
        .chars()
        .filter(|character| !character.is_control())
        .take(REASON_CHARS_MAX)
        .collect()
}
