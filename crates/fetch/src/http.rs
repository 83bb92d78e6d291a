// SPDX-License-Identifier: Apache-2.0
//! The HTTP client of this room: one exchange, with our resolver, trust, proxies and bounds.
//!
//! # Theory of operation
//! `ureq` speaks HTTP/1.1 and keeps connections; it blocks, and needs no runtime. Connections are pooled per *agent*, and
//! there is one agent per way of connecting: which certificates are believed, and through which proxy. Nothing here retries
//! (that is [`crate::retry`]) or knows what a registry is.
//!
//! Redirects of questions are followed here (what changes something at the other side is never sent on) and not by `ureq`, because of what they may carry: `Authorization` goes only to the
//! origin (scheme, host, port) it was made for, and an https answer never leads to plain http. A redirected
//! answer says where it came from, so that the ranges of one blob need not ask the registry for the address each time.
//!
//! Bounds are per phase ([`Limits`]), and per silence while a body arrives; a body that trickles is the business of its
//! reader, who knows how many bytes would be too few.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::header::{HeaderMap, HeaderName};
use ureq::http::{Method, Request as HttpRequest};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector as _, SocksConnector, TcpConnector,
};
use ureq::{Agent, Body, SendBody, Timeout};

use crate::address::Address;
use crate::environment::Environment;
use crate::limits::Limits;
use crate::proxy::Proxies;
use crate::resolver::{ResolveError, Resolver};
use crate::secret::Secret;
use crate::stall::StallConnector;
use crate::tls::{self, TlsConnector, TlsProblem};

/// A registry redirects once, to its store; a front end may add one or two.
const REDIRECTS_MAX: usize = 5;
/// Signed addresses and challenges are long, but not longer.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// One read from a socket takes this much at most; larger gave nothing on loopback, smaller cost system calls.
const INPUT_BUFFER_BYTES: usize = 128 << 10;
/// Requests are small.
const OUTPUT_BUFFER_BYTES: usize = 16 << 10;
/// As many idle connections as there are parallel ranges, and a few.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// What failed below HTTP.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The host's name has no address.
    #[error(transparent)]
    Name(#[from] ResolveError),
    /// No connection could be made.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// A proxy refused, or its address cannot be used.
    #[error("connecting through the proxy: {0}")]
    Proxy(String),
    /// The other side could not show that it is who it should be, or does not speak TLS.
    #[error("securing the connection: {0}")]
    Tls(String),
    /// Nothing came for too long.
    #[error("{phase} took too long")]
    Timeout {
        /// What took too long.
        phase: &'static str,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Cut(#[source] io::Error),
    /// The answer is not HTTP as we know it.
    #[error("the answer cannot be read: {0}")]
    Http(String),
    /// What was to be sent could not be read.
    #[error("reading what is to be sent")]
    Source(#[source] io::Error),
    /// Redirects without end, to nowhere, or from https to plain http.
    #[error("{0}")]
    Redirect(&'static str),
}

impl Fault {
    /// Tells whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Name(ResolveError::NoAnswer { .. }) | Self::Timeout { .. } | Self::Cut(_) => true,
            Self::Connect(error) => !matches!(error.kind(), io::ErrorKind::PermissionDenied),
            _ => false,
        }
    }

    pub(crate) fn hint(&self, host: &str) -> Option<String> {
        Some(match self {
            Self::Name(ResolveError::NoSuchName { .. } | ResolveError::BadName { .. }) => {
                "check the spelling of the registry's name".to_owned()
            }
            Self::Name(ResolveError::NoAnswer { .. }) => {
                "check the network, and the name servers in /etc/resolv.conf".to_owned()
            }
            Self::Connect(_) | Self::Timeout { .. } => {
                "check the network; behind a proxy set HTTPS_PROXY".to_owned()
            }
            Self::Proxy(_) => "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY".to_owned(),
            Self::Tls(_) => format!(
                "for a private authority put its certificate into ~/.config/containers/certs.d/{host}/ca.crt; \
                 for a registry without TLS set `insecure = true` in registries.conf"
            ),
            Self::Cut(_) | Self::Http(_) | Self::Source(_) | Self::Redirect(_) => return None,
        })
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) address: &'a Address,
    /// `Accept`, `Range` and the like.
    pub(crate) headers: &'a [(&'static str, &'a str)],
    /// The whole value of `Authorization`.
    pub(crate) authorization: Option<&'a Secret>,
    /// What is asked for, and what is sent with it.
    pub(crate) body: Payload<'a>,
    /// Whether the other side must show a certificate that we believe.
    pub(crate) verify: bool,
}

/// A method, and what is sent with it.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST of a form.
    Form(&'a Secret),
    /// POST of nothing.
    Post,
    /// PUT of some bytes in memory, of a media type.
    Put(&'a str, &'a [u8]),
    /// PUT or PATCH of a stream of known length, which is opened anew for each time it is sent.
    Stream {
        /// Whether this is one part of several.
        patch: bool,
        /// How many bytes come.
        length: u64,
        /// Where they come from.
        open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync),
    },
}

impl Payload<'_> {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Head => Method::HEAD,
            Self::Form(_) | Self::Post => Method::POST,
            Self::Stream { patch: true, .. } => Method::PATCH,
            Self::Put(..) | Self::Stream { patch: false, .. } => Method::PUT,
        }
    }

    /// Tells whether the request changes nothing there, and may follow redirects.
    fn is_reading(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.method().as_str())
    }
}

/// The beginning of an answer, and its body, not yet read.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Body,
    /// Where the answer came from in the end.
    pub(crate) address: Address,
}

impl Response {
    /// Returns a header's text, if it is there once and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns all values of a header.
    pub(crate) fn header_all(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = name.parse::<HeaderName>().ok();
        name.into_iter()
            .flat_map(|name| self.headers.get_all(name))
            .filter_map(|value| value.to_str().ok())
    }

    /// Returns the announced length of the body.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Reads the body, if it is of at most `limit` bytes; `Ok(None)` where there is more.
    pub(crate) fn read_all(self, limit: usize) -> Result<Option<Vec<u8>>, Fault> {
        let announced = self.length().unwrap_or(0);
        let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(limit));
        let limit_and_one = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let _length = self
            .reader()
            .take(limit_and_one)
            .read_to_end(&mut bytes)
            .map_err(Fault::of_io)?;
        Ok((bytes.len() <= limit).then_some(bytes))
    }

    /// Returns the body as a reader whose errors [`Fault::of_io`] reads.
    pub(crate) fn reader(self) -> impl Read + Send + 'static {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

/// Makes requests.
pub(crate) struct Client {
    environment: Environment,
    limits: Limits,
    resolver: Resolver,
    proxies: Proxies,
    agents: Mutex<HashMap<Way, Agent>>,
}

/// A way of connecting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    secured: bool,
    /// The registry whose own certificates count.
    registry: Option<String>,
    verify: bool,
    /// Through which variable's proxy: that for https or the other.
    proxied: Option<bool>,
}

impl Client {
    pub(crate) fn new(environment: &Environment, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            environment: environment.clone(),
            limits,
            resolver: Resolver::new(environment),
            proxies: Proxies::of(environment),
            agents: Mutex::default(),
        })
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sends a request and follows redirects; returns when the headers of the last answer are there.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Response, Fault> {
        let mut address = request.address.clone();
        for _hop in 0..=REDIRECTS_MAX {
            let response = self.send_once(&address, request)?;
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) || !request.body.is_reading()
            {
                return Ok(response);
            }
            let next = response
                .header("location")
                .and_then(|location| address.join(location))
                .ok_or(Fault::Redirect("the registry redirects to nowhere"))?;
            if address.is_https() && !next.is_https() {
                return Err(Fault::Redirect(
                    "the registry redirects from https to plain http, which is refused",
                ));
            }
            tracing::debug!(from = ?address, to = ?next, "redirect");
            address = next;
        }
        Err(Fault::Redirect("the registry redirects without end"))
    }

    fn send_once(&self, address: &Address, request: &Request<'_>) -> Result<Response, Fault> {
        let agent = self.agent(address, request.verify)?;
        let mut builder = HttpRequest::builder()
            .method(request.body.method())
            .uri(address.uri().clone());
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        let authorization = request
            .authorization
            .filter(|_| address.same_origin(request.address));
        if let Some(authorization) = authorization {
            builder = builder.header("authorization", authorization.expose());
        }
        let malformed = |_| Fault::Http("a header is malformed".to_owned());
        let sent = match request.body {
            Payload::Get | Payload::Head => agent.run(builder.body(()).map_err(malformed)?),
            Payload::Form(form) => {
                let builder = builder.header("content-type", "application/x-www-form-urlencoded");
                agent.run(builder.body(form.expose().to_owned()).map_err(malformed)?)
            }
            Payload::Post => agent.run(builder.body(&[][..]).map_err(malformed)?),
            Payload::Put(media_type, bytes) => {
                let builder = builder.header("content-type", media_type);
                agent.run(builder.body(bytes).map_err(malformed)?)
            }
            Payload::Stream { length, open, .. } => {
                let mut reader = open().map_err(Fault::Source)?;
                let builder = builder
                    .header("content-type", "application/octet-stream")
                    .header("content-length", length);
                let body = SendBody::from_reader(&mut reader);
                agent.run(builder.body(body).map_err(malformed)?)
            }
        };
        let (parts, body) = sent.map_err(Fault::of)?.into_parts();
        tracing::debug!(address = ?address, status = parts.status.as_u16(), "answer");
        Ok(Response {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            address: address.clone(),
        })
    }

    /// Returns the agent for an address, made when it is first asked for.
    fn agent(&self, address: &Address, verify: bool) -> Result<Agent, Fault> {
        let is_https = address.is_https();
        let proxy = self
            .proxies
            .choose(is_https, address.host(), address.port());
        let registry = (is_https && tls::has_own(&self.environment, address.authority()))
            .then(|| address.authority().to_owned());
        let way = Way {
            secured: is_https,
            registry,
            verify: verify || !is_https,
            proxied: proxy.map(|_| is_https),
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&way) {
            return Ok(agent.clone());
        }
        let agent = self.build_agent(&way, proxy)?;
        agents.insert(way, agent.clone());
        Ok(agent)
    }

    fn build_agent(&self, way: &Way, proxy: Option<&Secret>) -> Result<Agent, Fault> {
        let proxy = proxy
            .map(|proxy| ureq::Proxy::new(proxy.expose()))
            .transpose()
            .map_err(|_| Fault::Proxy("its address cannot be read".to_owned()))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("wolffia/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(HEADER_BYTES_MAX)
            .input_buffer_size(INPUT_BUFFER_BYTES)
            .output_buffer_size(OUTPUT_BUFFER_BYTES)
            .max_idle_connections(IDLE_CONNECTIONS_MAX)
            .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
            .timeout_resolve(Some(self.limits.resolve))
            .timeout_connect(Some(self.limits.connect))
            .timeout_recv_response(Some(self.limits.answer))
            .timeout_send_request(Some(self.limits.connect))
            .build();
        let plain =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default());
        let stall = StallConnector {
            stall: self.limits.stall,
        };
        // A proxy may itself be reached by https.
        if !way.secured && way.proxied.is_none() {
            return Ok(Agent::with_parts(
                config,
                plain.chain(stall),
                self.resolver.clone(),
            ));
        }
        let tls = tls::configuration(&self.environment, way.registry.as_deref(), way.verify)
            .map_err(|error| Fault::Tls(error.to_string()))?;
        let secured = plain.chain(TlsConnector { config: tls }).chain(stall);
        Ok(Agent::with_parts(config, secured, self.resolver.clone()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Fault {
    /// Reads what a body's reader returned.
    pub(crate) fn of_io(error: io::Error) -> Self {
        Self::of(ureq::Error::from(error))
    }

    fn of(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => Self::of_socket(error),
            ureq::Error::HostNotFound => Self::Http("the address has no host".to_owned()),
            ureq::Error::ConnectionFailed => Self::Connect(io::ErrorKind::NotConnected.into()),
            ureq::Error::Timeout(timeout) => Self::Timeout {
                phase: phase(timeout),
            },
            ureq::Error::Tls(text) => Self::Tls(text.to_owned()),
            ureq::Error::ConnectProxyFailed(text) => Self::Proxy(text),
            ureq::Error::InvalidProxyUrl => Self::Proxy("its address cannot be read".to_owned()),
            ureq::Error::Other(error) => match error.downcast::<ResolveError>() {
                Ok(error) => Self::Name(*error),
                Err(error) => match error.downcast::<TlsProblem>() {
                    Ok(problem) => Self::Tls(problem.to_string()),
                    Err(_) => Self::Http("unexpected failure".to_owned()),
                },
            },
            ureq::Error::Protocol(error) => Self::Http(error.to_string()),
            ureq::Error::LargeResponseHeader(..) => Self::Http("its header is too long".to_owned()),
            // What is left holds addresses, or cannot occur; its text is not passed on.
            _ => Self::Http("unexpected failure".to_owned()),
        }
    }

    fn of_socket(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable
            | Kind::PermissionDenied => Self::Connect(error),
            Kind::TimedOut | Kind::WouldBlock => Self::Timeout { phase: "reading" },
            // The TLS library's complaints come as invalid data.
            Kind::InvalidData => Self::Tls(error.to_string()),
            _ => Self::Cut(error),
        }
    }
}

fn phase(timeout: Timeout) -> &'static str {
    match timeout {
        Timeout::Resolve => "looking up the name",
        Timeout::Connect => "connecting",
        Timeout::RecvResponse => "waiting for the answer",
        Timeout::RecvBody => "waiting for more bytes",
        Timeout::SendRequest | Timeout::SendBody => "sending the request",
        _ => "the exchange",
    }
}

/// Reads `Retry-After` in its form of seconds, or as a date measured against the answer's own `Date`.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.header("retry-after")?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = crate::date::parse(value)?;
    let now = crate::date::parse(response.header("date")?.trim())?;
    Some(Duration::from_secs(until.saturating_sub(now)))
}
