// SPDX-License-Identifier: Apache-2.0
//! How a blob or a manifest gets into one place.
//!
//! # Theory of operation
//! A blob that is there (HEAD) is not sent; one that another repository of the same registry has is *mounted*, where the registry
//! knows how. Otherwise an upload is begun (POST), and its address is where the bytes go: a small blob by one PUT, a larger one
//! by a PATCH of all that is left, and a closing PUT. When a PATCH breaks, the registry is asked how far it came, and
//! the next PATCH goes on there; an upload that the registry has forgotten is begun anew. So a cut costs what was in flight,
//! and registries that know one PATCH only (most) are served as well as those that know many.
//!
//! An upload's address may lie on another host: our credentials do not follow it there, and it never leads from https to http.
//!
//! Sources: distribution-spec 1.1 ("Pushing blobs", "Resuming an upload", "Mounting a blob from another repository", "Pushing manifests").

use std::io::Read;

use wolffia_image::Descriptor;

use super::endpoint::Endpoint;
use crate::address::{Address, push_encoded};
use crate::error::Error;
use crate::http::{Client, Payload, Response};
use crate::retry::Tries;
use crate::targets::{Arrival, Content};

/// Blobs up to this size are sent by one PUT: a resumption would spare less than the further exchange costs.
const MONOLITHIC_BYTES_MAX: u64 = 1 << 20;

/// How often one upload may be begun anew because the registry forgot it.
const UPLOADS_MAX: u32 = 5;

/// How far an attempt came.
enum Step {
    /// The blob is there.
    Done(Arrival),
    /// Bytes of it are there; go on.
    At(u64, Address),
    /// The registry does not know the upload any more.
    Forgotten,
}

impl Endpoint {
    /// Brings a blob here. `elsewhere` is another repository of this registry that has it.
    pub(crate) fn put_blob(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
        elsewhere: Option<&str>,
        content: &dyn Content,
    ) -> Result<Arrival, Error> {
        let mut failures = 0;
        let mut uploads = 0;
        // Where the upload is, and how many bytes of it are known to be there.
        let mut upload: Option<(u64, Address)> = None;
        let mut lost = false;
        loop {
            let came_to = upload.as_ref().map_or(0, |(offset, _)| *offset);
            let step = match &upload {
                None => {
                    let from = elsewhere.filter(|_| uploads == 0);
                    self.begin(client, doing, blob, from)
                }
                Some((_, address)) if lost => self.how_far(client, doing, address, blob),
                Some((offset, address)) => {
                    self.go_on(client, doing, blob, *offset, address, content)
                }
            };
            match step {
                Ok(Step::Done(arrival)) => return Ok(arrival),
                Ok(Step::At(offset, address)) => {
                    if offset > came_to {
                        failures = 0;
                    }
                    uploads += u32::from(upload.is_none());
                    upload = Some((offset, address));
                    lost = false;
                }
                Ok(Step::Forgotten) if uploads < UPLOADS_MAX => {
                    upload = None;
                    lost = false;
                }
                Ok(Step::Forgotten) => {
                    return Err(self.protocol(doing, "it forgets uploads again and again"));
                }
                Err(error) => {
                    let tries = Tries::new(client.limits(), &mut failures);
                    std::thread::sleep(tries.failed(doing, error)?);
                    lost = upload.is_some();
                    // A small blob is sent again from its beginning: nobody resumes a PUT.
                    if blob.size <= MONOLITHIC_BYTES_MAX {
                        upload = None;
                    }
                }
            }
        }
    }

    /// Tells whether a blob is here.
    pub(crate) fn has_blob(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
    ) -> Result<bool, Error> {
        let address = self.address(client, doing, &format!("blobs/{}", blob.digest))?;
        let response = self.exchange(client, doing, &address, &[], Payload::Head)?;
        match response.status {
            200 => Ok(response.length().is_none_or(|length| length == blob.size)),
            // Some registries do not answer HEAD, and some hide what there is from those who may write it.
            404 | 405 => Ok(false),
            _ => Err(self.refused(response, doing)),
        }
    }

    /// Asks whether the blob is there, mounts it, or begins an upload.
    fn begin(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
        elsewhere: Option<&str>,
    ) -> Result<Step, Error> {
        if self.has_blob(client, doing, blob)? {
            return Ok(Step::Done(Arrival::Present));
        }
        let mut path = "blobs/uploads/".to_owned();
        if let Some(repository) = elsewhere.filter(|other| *other != self.repository) {
            path.push_str("?mount=");
            push_encoded(&blob.digest.to_string(), &mut path);
            path.push_str("&from=");
            push_encoded(repository, &mut path);
        }
        let address = self.address(client, doing, &path)?;
        let mut response = self.exchange(client, doing, &address, &[], Payload::Post)?;
        // Who may not read the other repository, or knows no mounting, can still send the bytes.
        if path.contains('?') && !matches!(response.status, 201 | 202 | 429 | 500..) {
            let address = self.address(client, doing, "blobs/uploads/")?;
            response = self.exchange(client, doing, &address, &[], Payload::Post)?;
        }
        match response.status {
            201 => Ok(Step::Done(Arrival::Mounted)),
            202 => Ok(Step::At(0, self.location(&response, doing)?)),
            _ => Err(self.refused(response, doing)),
        }
    }

    /// Sends all that is left.
    fn go_on(
        &self,
        client: &Client,
        doing: &str,
        blob: &Descriptor,
        offset: u64,
        address: &Address,
        content: &dyn Content,
    ) -> Result<Step, Error> {
        let whole = blob.size <= MONOLITHIC_BYTES_MAX;
        let length = blob.size.saturating_sub(offset);
        let open = || -> std::io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(content.open(offset)?.take(length)))
        };
        if !whole && length > 0 {
            let range = format!("{offset}-{}", blob.size - 1);
            let payload = Payload::Stream {
                patch: true,
                length,
                open: &open,
            };
            let headers = [("content-range", range.as_str())];
            let response = self.at_upload(client, doing, address, &headers, payload)?;
            return match response.status {
                202 => Ok(Step::At(blob.size, self.location(&response, doing)?)),
                404 => Ok(Step::Forgotten),
                416 => self.how_far(client, doing, address, blob),
                _ => Err(self.refused(response, doing)),
            };
        }
        let closing = with_digest(address, blob)
            .ok_or_else(|| self.protocol(doing, "the address of its upload cannot be read"))?;
        let payload = if length == 0 {
            Payload::Put("application/octet-stream", &[])
        } else {
            Payload::Stream {
                patch: false,
                length,
                open: &open,
            }
        };
        let response = self.at_upload(client, doing, &closing, &[], payload)?;
        match response.status {
            201 | 204 => Ok(Step::Done(Arrival::Sent)),
            404 => Ok(Step::Forgotten),
            _ => Err(self.refused(response, doing)),
        }
    }

    /// Asks how many bytes of an upload have come.
    fn how_far(
        &self,
        client: &Client,
        doing: &str,
        address: &Address,
        blob: &Descriptor,
    ) -> Result<Step, Error> {
        let response = self.at_upload(client, doing, address, &[], Payload::Get)?;
        match response.status {
            202 | 204 => {
                let said = response.header("range").unwrap_or("");
                let last = said.rsplit('-').next().and_then(|last| last.parse().ok());
                let next = match response.header("location") {
                    Some(_) => self.location(&response, doing)?,
                    None => address.clone(),
                };
                match last {
                    // `0-0` is written for none and for one byte.
                    None | Some(0) => Ok(Step::Forgotten),
                    Some(last) if last < blob.size => Ok(Step::At(last + 1, next)),
                    Some(_) => Err(self.protocol(doing, "it has more bytes than were sent")),
                }
            }
            404 => Ok(Step::Forgotten),
            _ => Err(self.refused(response, doing)),
        }
    }

    /// Sends to the address of an upload; credentials only where they belong.
    fn at_upload(
        &self,
        client: &Client,
        doing: &str,
        address: &Address,
        headers: &[(&'static str, &str)],
        body: Payload<'_>,
    ) -> Result<Response, Error> {
        let base = self.base(client, doing)?;
        if address.same_origin(&base) {
            return self.exchange(client, doing, address, headers, body);
        }
        if base.is_https() && !address.is_https() {
            return Err(self.protocol(
                doing,
                "it wants the upload sent without TLS, which is refused",
            ));
        }
        self.send(client, doing, address, headers, None, body)
    }

    fn location(&self, response: &Response, doing: &str) -> Result<Address, Error> {
        response
            .header("location")
            .and_then(|location| response.address.join(location))
            .ok_or_else(|| self.protocol(doing, "it does not say where to send the bytes"))
    }

    /// Puts a manifest under a tag or its digest; tells whether the registry took note of its subject.
    pub(crate) fn put_manifest(
        &self,
        client: &Client,
        doing: &str,
        version: &str,
        media_type: &str,
        bytes: &[u8],
        unchanged_since: Option<&str>,
    ) -> Result<Put, Error> {
        let address = self.address(client, doing, &format!("manifests/{version}"))?;
        let headers: Vec<_> = unchanged_since
            .iter()
            .map(|etag| ("if-match", *etag))
            .collect();
        let payload = Payload::Put(media_type, bytes);
        let response = self.exchange(client, doing, &address, &headers, payload)?;
        match response.status {
            200..=202 if response.header("oci-subject").is_some() => Ok(Put::WithSubject),
            200..=202 => Ok(Put::Plain),
            412 => Ok(Put::Changed),
            _ => Err(self.refused(response, doing)),
        }
    }
}

/// What became of a manifest that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there, and listed at its subject.
    WithSubject,
    /// It is there.
    Plain,
    /// It is not there: what it was to replace is not what we saw.
    Changed,
}

/// Adds `digest=` to the address of an upload, which may have a query.
fn with_digest(address: &Address, blob: &Descriptor) -> Option<Address> {
    let mut text = address.uri().to_string();
    text.push(if text.contains('?') { '&' } else { '?' });
    text.push_str("digest=");
    push_encoded(&blob.digest.to_string(), &mut text);
    Address::parse(&text)
}
