// SPDX-License-Identifier: Apache-2.0
//! One connection of the test registry: requests read, answered, spoilt.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wolffia_image::Digest;

use super::faults::{Fault, On};
use super::uploads;
use super::wire::Wire;
use super::{Served, Shared};

/// More than this in one request is not answered.
const REQUEST_BYTES_MAX: u64 = 1 << 28;

/// A request, read.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    range: Option<String>,
    pub(super) content_range: Option<String>,
    pub(super) content_type: String,
    authorization: Option<String>,
    pub(super) body: Vec<u8>,
}

/// An answer before a fault is applied to it.
pub(super) struct Answer {
    kind: On,
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    body: Arc<[u8]>,
    /// What of the body is sent.
    span: std::ops::Range<usize>,
}

/// Serves requests until either side closes.
pub(super) fn connection(shared: &Arc<Shared>, stream: TcpStream, at_store: bool) {
    let _slow_is_fine = stream.set_nodelay(true);
    let tls = shared.options.tls.filter(|_| !at_store);
    let Ok(wire) = Wire::new(stream, tls) else {
        return;
    };
    let mut reader = BufReader::new(wire);
    while let Ok(Some(request)) = read(shared, &mut reader) {
        match serve(shared, reader.get_mut(), at_store, &request) {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    reader.get_mut().close();
}

fn read(shared: &Shared, reader: &mut BufReader<Wire>) -> io::Result<Option<Request>> {
    let mut reader = reader.take(REQUEST_BYTES_MAX);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (request.path, request.query) = (path.to_owned(), query.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        let _bytes = reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value),
            "content-range" => request.content_range = Some(value),
            "content-type" => request.content_type = value,
            "authorization" => request.authorization = Some(value),
            "content-length" => length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let cut = uploads::cut(shared, &request, length);
    let _bytes = reader
        .take(cut.unwrap_or(length))
        .read_to_end(&mut request.body)?;
    if cut.is_some() {
        uploads::keep(shared, &request);
        return Ok(None);
    }
    Ok(Some(request))
}

/// Answers one request; tells whether the connection may go on.
fn serve(
    shared: &Arc<Shared>,
    stream: &mut Wire,
    at_store: bool,
    request: &Request,
) -> io::Result<bool> {
    let mut answer = if at_store {
        from_store(shared, request)
    } else {
        from_registry(shared, request)
    };
    let fault = {
        let mut state = shared.state();
        // What is refused anyway is not spoilt: a fault would be used up without effect.
        let is_success = matches!(answer.status, 200..=206) && answer.kind != On::Upload;
        let fault = is_success
            .then(|| state.faults.next(answer.kind, at_store, answer.span.len()))
            .flatten();
        if let Some(fault) = fault {
            alter(&mut answer, request, fault);
        }
        let query = if request.query.is_empty() { "" } else { "?" };
        state.served.push(Served {
            at_store,
            method: request.method.clone(),
            path: format!("{}{query}{}", request.path, request.query),
            range: request.range.clone(),
            authorization: request.authorization.clone(),
            status: answer.status,
        });
        shared.bell.notify_all();
        fault
    };
    send(stream, request, &answer, fault)
}

/// Changes what an answer says.
fn alter(answer: &mut Answer, request: &Request, fault: Fault) {
    match fault {
        Fault::Status {
            status,
            retry_after_seconds,
        } => {
            let errors = json!({ "errors": [{ "code": "FAULT", "message": "as the test wants" }] });
            *answer = error(answer.kind, status, &errors.to_string());
            answer
                .headers
                .extend(retry_after_seconds.map(|seconds| ("Retry-After", seconds.to_string())));
        }
        Fault::Echo => {
            let header = request.authorization.as_deref().unwrap_or_default();
            let message = format!("not with {header}");
            let errors = json!({ "errors": [{ "code": "DENIED", "message": message }] });
            *answer = error(answer.kind, 403, &errors.to_string());
        }
        Fault::IgnoreRange if answer.status == 206 => {
            answer.status = 200;
            answer.span = 0..answer.body.len();
            answer.headers.retain(|(name, _)| *name != "Content-Range");
        }
        Fault::WrongRange if answer.status == 206 && answer.span.start > 0 => {
            answer.span = answer.span.start - 1..answer.span.end - 1;
            say_range(answer);
        }
        Fault::ShortRange if answer.status == 206 && answer.span.len() > 1 => {
            answer.span.end -= answer.span.len() / 2;
            say_range(answer);
        }
        Fault::Lie if !answer.span.is_empty() => {
            let mut body = answer.body.to_vec();
            let middle = usize::midpoint(answer.span.start, answer.span.end);
            body[middle] ^= 1;
            answer.body = Arc::from(body);
        }
        _ => {}
    }
}

fn send(
    stream: &mut Wire,
    request: &Request,
    answer: &Answer,
    fault: Option<Fault>,
) -> io::Result<bool> {
    if fault == Some(Fault::Hang) {
        return Ok(false);
    }
    let length = answer.span.len() + usize::from(fault == Some(Fault::WrongLength));
    let mut head = format!(
        "HTTP/1.1 {} Testkit\r\nContent-Length: {length}\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        let _infallible = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let body = &answer.body[answer.span.clone()];
    match fault {
        Some(Fault::Cut { after_bytes }) => {
            stream.write_all(&body[..after_bytes.min(body.len())])?;
            Ok(false)
        }
        Some(Fault::Stall { after_bytes }) => {
            stream.write_all(&body[..after_bytes.min(body.len())])?;
            stream.flush()?;
            // Ends when the other side goes away, or the server is stopped.
            let mut nothing = [0; 64];
            while stream.read(&mut nothing)? > 0 {}
            Ok(false)
        }
        Some(Fault::Trickle { pause_ms }) => {
            for byte in body {
                stream.write_all(&[*byte])?;
                stream.flush()?;
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
            Ok(true)
        }
        Some(Fault::WrongLength) => {
            stream.write_all(body)?;
            Ok(false)
        }
        _ => {
            stream.write_all(body)?;
            stream.flush()?;
            Ok(true)
        }
    }
}

fn from_registry(shared: &Arc<Shared>, request: &Request) -> Answer {
    let mut state = shared.state();
    let main = shared.main.to_string();
    let header = request.authorization.as_deref();
    if request.path == "/token" {
        let form = String::from_utf8_lossy(&request.body);
        let token = state
            .tokens
            .ask(&shared.options.auth, &request.query, header, &form);
        return match token {
            Some(token) => document(On::Token, "application/json", token.into_bytes().into()),
            None => error(
                On::Token,
                401,
                r#"{"details":"incorrect username or password"}"#,
            ),
        };
    }
    let Some(rest) = request.path.strip_prefix("/v2/") else {
        return error(On::Any, 404, "{}");
    };
    let (repository, kind, name) = split(rest);
    let writes = !matches!(request.method.as_str(), "GET" | "HEAD");
    let challenge = state
        .tokens
        .challenge(&shared.options.auth, &main, repository, writes, header);
    if let Some(challenge) = challenge {
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let mut answer = error(kind, 401, body);
        answer.headers.push(("WWW-Authenticate", challenge));
        return answer;
    }
    if let Some(answer) = uploads::serve(shared, &mut state, repository, name, request) {
        return answer;
    }
    match kind {
        On::Manifest => {
            let by_tag = state.tags.get(&format!("{repository}:{name}"));
            let by_digest = || state.documents.get(&Digest::parse(name).ok()?);
            match by_tag.or_else(by_digest) {
                Some(found) => {
                    let mut answer =
                        document(On::Manifest, &found.media_type, Arc::clone(&found.bytes));
                    let digest = found.digest().to_string();
                    answer.headers.push(("Docker-Content-Digest", digest));
                    answer
                }
                None => error(kind, 404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            }
        }
        On::Blob => {
            let digest = Digest::parse(name).ok();
            let is_here = |digest: &Digest| {
                !shared.options.apart || state.owned.contains(&(repository.to_owned(), *digest))
            };
            let found = digest
                .filter(is_here)
                .and_then(|digest| state.blobs.get(&digest))
                .cloned();
            match (found, shared.options.redirect) {
                (None, _) => error(kind, 404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
                (Some(body), None) => blob(body, request, shared.options.ranges),
                (Some(_), Some(uses)) => {
                    let signature = format!("signed-{}", state.signatures.len());
                    state.signatures.insert(signature.clone(), uses);
                    let location = format!("http://{}/{name}?signature={signature}", shared.store);
                    let mut answer = error(On::Any, 307, "");
                    answer.headers.push(("Location", location));
                    answer
                }
            }
        }
        _ if rest.is_empty() => document(On::Any, "application/json", Arc::from(*b"{}")),
        _ => error(On::Any, 404, "{}"),
    }
}

/// The store behind a redirect: it knows signed addresses and, like the real ones, refuses any other credentials.
fn from_store(shared: &Arc<Shared>, request: &Request) -> Answer {
    let mut state = shared.state();
    if request.authorization.is_some() {
        return error(On::Blob, 400, "one authentication only");
    }
    let signature = request.query.strip_prefix("signature=").unwrap_or_default();
    match state.signatures.get_mut(signature) {
        Some(uses) if *uses > 0 => *uses -= 1,
        _ => return error(On::Blob, 403, "expired"),
    }
    let digest = Digest::parse(request.path.trim_start_matches('/')).ok();
    let found = digest.and_then(|digest| state.blobs.get(&digest)).cloned();
    match found {
        Some(body) => blob(body, request, shared.options.ranges),
        None => error(On::Blob, 404, ""),
    }
}

/// Splits what follows `/v2/` into repository, kind and name.
fn split(rest: &str) -> (&str, On, &str) {
    let kinds = [
        ("/manifests/", On::Manifest),
        ("/blobs/uploads/", On::Upload),
        ("/referrers/", On::Any),
        ("/blobs/", On::Blob),
    ];
    for (divider, kind) in kinds {
        if let Some((repository, name)) = rest.rsplit_once(divider) {
            return (repository, kind, name);
        }
    }
    ("", On::Any, "")
}

fn blob(body: Arc<[u8]>, request: &Request, ranges: bool) -> Answer {
    let mut answer = document(On::Blob, "application/octet-stream", body);
    if !ranges {
        return answer;
    }
    answer.headers.push(("Accept-Ranges", "bytes".to_owned()));
    let total = answer.body.len();
    let range = request.range.as_deref().and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let end = last.parse::<usize>().map_or(total, |last| last + 1);
        Some(first..end.min(total))
    });
    match range {
        Some(span) if span.start >= span.end => {
            let mut answer = error(On::Blob, 416, "");
            answer
                .headers
                .push(("Content-Range", format!("bytes */{total}")));
            answer
        }
        Some(span) => {
            answer.status = 206;
            answer.span = span;
            say_range(&mut answer);
            answer
        }
        None => answer,
    }
}

fn say_range(answer: &mut Answer) {
    let span = &answer.span;
    let said = format!(
        "bytes {}-{}/{}",
        span.start,
        span.end - 1,
        answer.body.len()
    );
    answer.headers.retain(|(name, _)| *name != "Content-Range");
    answer.headers.push(("Content-Range", said));
}

pub(super) fn document(kind: On, media_type: &str, body: Arc<[u8]>) -> Answer {
    Answer {
        kind,
        status: 200,
        headers: vec![("Content-Type", media_type.to_owned())],
        span: 0..body.len(),
        body,
    }
}

pub(super) fn error(kind: On, status: u16, text: &str) -> Answer {
    let mut answer = document(kind, "application/json", Arc::from(text.as_bytes()));
    answer.status = status;
    answer
}
