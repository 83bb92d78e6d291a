// SPDX-License-Identifier: Apache-2.0
//! One place that serves a repository: its scheme, its redirects, our standing there.
//!
//! How these are found and kept stands at the head of [`super`].

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use wolffia_image::manifest::{MANIFEST_BYTES_MAX, media_type};
use wolffia_image::{Descriptor, Digest};

use crate::address::Address;
use crate::auth::{Authority, Refusal};
use crate::challenge;
use crate::credentials::Credential;
use crate::error::Error;
use crate::http::{Client, Fault, Payload, Request, Response};
use crate::proxy::is_loopback;
use crate::registries::Place;
use crate::secret::Secret;
use crate::sources::{Fetched, Stream, verify};

/// Docker Hub's registry is not at the host of its name.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// One place, and what was learnt about it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The host as it stands in addresses.
    pub(super) host: String,
    pub(super) repository: String,
    trust: Trust,
    /// `https` or `http`, once known.
    scheme: OnceLock<&'static str>,
    authority: Authority,
    /// Where the blobs really are.
    redirects: Mutex<HashMap<Digest, Address>>,
}

/// How sure we must be of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// TLS with a certificate we believe.
    Verified,
    /// This machine: plain http, else TLS with a certificate we believe.
    Loopback,
    /// Any TLS, else plain http.
    Insecure,
}

impl Endpoint {
    pub(crate) fn new(place: Place, credential: Option<Credential>) -> Self {
        let Place {
            registry,
            repository,
            insecure,
        } = place;
        let (bare, _port) = split_port(&registry);
        let trust = match (insecure, is_loopback(bare)) {
            (true, _) => Trust::Insecure,
            (false, true) => Trust::Loopback,
            (false, false) => Trust::Verified,
        };
        let authority = Authority::new(&registry, &repository, credential);
        let host = if registry == HUB {
            HUB_HOST.to_owned()
        } else {
            registry
        };
        Self {
            host,
            repository,
            trust,
            scheme: OnceLock::new(),
            authority,
            redirects: Mutex::default(),
        }
    }

    pub(super) fn manifest(
        &self,
        client: &Client,
        doing: &str,
        version: &str,
        expected: Option<&Descriptor>,
    ) -> Result<Fetched, Error> {
        let accept = media_type::ACCEPTED_MANIFESTS.join(", ");
        let address = self.address(client, doing, &format!("manifests/{version}"))?;
        let response = self.get(client, doing, &address, &[("accept", accept.as_str())])?;
        if response.status != 200 {
            return Err(self.refused(response, doing));
        }
        let announced_type = response.header("content-type").unwrap_or("");
        let announced_type = announced_type
            .split(';')
            .next()
            .unwrap_or("")
            .trim()
            .to_owned();
        let announced_digest = response
            .header("docker-content-digest")
            .and_then(|digest| Digest::parse(digest).ok());
        let bytes = response
            .read_all(MANIFEST_BYTES_MAX)
            .map_err(|source| self.fault(doing, source))?
            .ok_or_else(|| Error::TooLarge {
                doing: doing.to_owned(),
                limit: MANIFEST_BYTES_MAX,
            })?;
        let actual = Digest::of(&bytes);
        let wanted = expected
            .map(|expected| expected.digest)
            .or(announced_digest);
        if let Some(expected) = wanted.filter(|wanted| *wanted != actual) {
            return Err(Error::Digest {
                doing: doing.to_owned(),
                expected,
                actual,
            });
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let descriptor = match expected {
            // What an index says of a manifest (its platform, annotations) stays with it.
            Some(listed) if !listed.media_type.is_empty() => {
                verify(doing, listed, &bytes)?;
                listed.clone()
            }
            _ => Descriptor::new(announced_type, actual, size),
        };
        Ok(Fetched { descriptor, bytes })
    }

    /// Opens a blob at its real place.
    pub(super) fn blob(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
        span: Range<u64>,
    ) -> Result<Stream, Error> {
        let range = (span != (0..blob.size) && !span.is_empty())
            .then(|| format!("bytes={}-{}", span.start, span.end - 1));
        let headers: Vec<(&'static str, &str)> =
            range.iter().map(|it| ("range", it.as_str())).collect();
        let kept = self.redirects().get(&blob.digest).cloned();
        let response = match kept {
            Some(address) => {
                let request = Request {
                    address: &address,
                    headers: &headers,
                    authorization: None,
                    body: Payload::Get,
                    verify: self.trust != Trust::Insecure,
                };
                let response = client
                    .send(&request)
                    .map_err(|source| self.fault(doing, source))?;
                if (400..500).contains(&response.status) && response.status != 429 {
                    let _stale = self.redirects().remove(&blob.digest);
                    self.ask_for_blob(client, doing, blob, &headers)?
                } else {
                    response
                }
            }
            None => self.ask_for_blob(client, doing, blob, &headers)?,
        };
        self.accept(response, doing, blob, span)
    }

    fn ask_for_blob(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
        headers: &[(&'static str, &str)],
    ) -> Result<Response, Error> {
        let address = self.address(client, doing, &format!("blobs/{}", blob.digest))?;
        let response = self.get(client, doing, &address, headers)?;
        if !response.address.same_origin(&address) && matches!(response.status, 200 | 206) {
            let _old = self
                .redirects()
                .insert(blob.digest, response.address.clone());
        }
        Ok(response)
    }

    /// Checks that an answer is the span that was asked for.
    fn accept(
        &self,
        response: Response,
        doing: &str,
        blob: &Descriptor,
        span: Range<u64>,
    ) -> Result<Stream, Error> {
        let (start, end, total) = match response.status {
            200 => (0, blob.size, response.length()),
            206 => {
                let Some((first, last, total)) = content_range(&response) else {
                    return Err(self.protocol(doing, "the range of its answer cannot be read"));
                };
                // A shorter answer is allowed; it is asked on from where it ends.
                if first != span.start || last >= span.end {
                    return Err(self.protocol(doing, "it sent another range than was asked for"));
                }
                (first, last + 1, total)
            }
            _ => return Err(self.refused(response, doing)),
        };
        if let Some(total) = total.filter(|total| *total != blob.size) {
            return Err(Error::Size {
                doing: doing.to_owned(),
                expected: blob.size,
                actual: total,
            });
        }
        Ok(Stream {
            start,
            end,
            reader: Box::new(BodyReader {
                body: response.reader(),
                doing: doing.to_owned(),
                host: self.host.clone(),
            }),
        })
    }

    /// Asks this place, authenticated as far as it wants.
    pub(super) fn get(
        &self,
        client: &Client,
        doing: &str,
        address: &Address,
        headers: &[(&'static str, &str)],
    ) -> Result<Response, Error> {
        self.exchange(client, doing, address, headers, Payload::Get)
    }

    /// Sends a request to this place, authenticated as far as it wants.
    pub(super) fn exchange(
        &self,
        client: &Client,
        doing: &str,
        address: &Address,
        headers: &[(&'static str, &str)],
        body: Payload<'_>,
    ) -> Result<Response, Error> {
        let mut authorization = self.authority.current(client, address)?;
        // Bare, with what was kept, renewed: a third refusal is one.
        for _attempt in 0..2 {
            let known = authorization.as_ref();
            let response = self.send(client, doing, address, headers, known, body)?;
            if response.status != 401 || !response.address.same_origin(address) {
                return Ok(response);
            }
            let challenges = challenge::parse(response.header_all("www-authenticate"));
            let better =
                self.authority
                    .answer(client, address, &challenges, authorization.as_ref())?;
            match better {
                Some(better) => authorization = Some(better),
                None => return Ok(response),
            }
        }
        let known = authorization.as_ref();
        self.send(client, doing, address, headers, known, body)
    }

    pub(super) fn send(
        &self,
        client: &Client,
        doing: &str,
        address: &Address,
        headers: &[(&'static str, &str)],
        authorization: Option<&Secret>,
        body: Payload<'_>,
    ) -> Result<Response, Error> {
        let request = Request {
            address,
            headers,
            authorization,
            body,
            verify: self.trust != Trust::Insecure,
        };
        client
            .send(&request)
            .map_err(|source| self.fault(doing, source))
    }

    /// Returns the same place for somebody who will write there.
    pub(crate) fn for_writing(mut self) -> Self {
        self.authority = self.authority.for_writing();
        self
    }

    /// Returns the address of something in the repository.
    pub(super) fn address(
        &self,
        client: &Client,
        doing: &str,
        path: &str,
    ) -> Result<Address, Error> {
        let base = self.base(client, doing)?;
        base.join(&format!("{}/{path}", self.repository))
            .ok_or_else(|| self.protocol(doing, "this is no host name"))
    }

    /// Returns the address of the protocol's root, `/v2/`.
    pub(super) fn base(&self, client: &Client, doing: &str) -> Result<Address, Error> {
        let scheme = if let Some(scheme) = self.scheme.get() {
            scheme
        } else {
            let found = self.find_scheme(client, doing)?;
            self.scheme.get_or_init(|| found)
        };
        let text = format!("{scheme}://{}/v2/", self.host);
        Address::parse(&text).ok_or_else(|| self.protocol(doing, "this is no host name"))
    }

    fn find_scheme(&self, client: &Client, doing: &str) -> Result<&'static str, Error> {
        let schemes = match self.trust {
            Trust::Verified => return Ok("https"),
            Trust::Loopback => ["http", "https"],
            Trust::Insecure => ["https", "http"],
        };
        let mut failure = None;
        for scheme in schemes {
            let text = format!("{scheme}://{}/v2/", self.host);
            let Some(address) = Address::parse(&text) else {
                return Err(self.protocol(doing, "this is no host name"));
            };
            match self.send(client, doing, &address, &[], None, Payload::Get) {
                // Servers that speak TLS answer 400 to plain requests, and an index of something else is no registry.
                Ok(response) if scheme == "http" && response.status == 400 => {}
                Ok(_registry) => return Ok(scheme),
                Err(error) => {
                    let is_final = match &error {
                        Error::Exchange { source, .. } => matches!(
                            source,
                            Fault::Name(_) | Fault::Timeout { .. } | Fault::Proxy(_)
                        ),
                        _ => true,
                    };
                    if is_final {
                        return Err(error);
                    }
                    // What went wrong with TLS is the story: plain http is the exception.
                    if failure.is_none() || scheme == "https" {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.protocol(doing, "it answers neither http nor https")))
    }

    fn redirects(&self) -> MutexGuard<'_, HashMap<Digest, Address>> {
        self.redirects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fault(&self, doing: &str, source: Fault) -> Error {
        Error::Exchange {
            doing: doing.to_owned(),
            host: self.host.clone(),
            source,
        }
    }

    pub(super) fn broken(&self, doing: &str, error: io::Error) -> Error {
        Error::of_io(error).unwrap_or_else(|error| self.fault(doing, Fault::of_io(error)))
    }

    pub(super) fn protocol(&self, doing: &str, problem: &'static str) -> Error {
        Error::Protocol {
            doing: doing.to_owned(),
            host: self.host.clone(),
            problem,
        }
    }

    pub(super) fn refused(&self, response: Response, doing: &str) -> Error {
        Refusal {
            doing,
            host: &self.host,
            authenticated: self.authority.is_known(),
            secrets: self.authority.secrets(),
        }
        .of(response)
    }
}

/// A body whose failures are this room's errors.
struct BodyReader<R> {
    body: R,
    doing: String,
    host: String,
}

impl<R: Read> Read for BodyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).map_err(|error| {
            Error::Exchange {
                doing: self.doing.clone(),
                host: self.host.clone(),
                source: Fault::of_io(error),
            }
            .into()
        })
    }
}

/// Reads `Content-Range: bytes FIRST-LAST/TOTAL`, where the total may be unknown.
fn content_range(response: &Response) -> Option<(u64, u64, Option<u64>)> {
    let value = response.header("content-range")?.trim();
    let (span, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

/// Splits `host:port`, where the host may be an address in brackets.
fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
        _ => (registry, None),
    }
}
