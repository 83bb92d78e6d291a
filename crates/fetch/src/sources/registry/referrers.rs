// SPDX-License-Identifier: Apache-2.0
//! What is attached to a manifest in one place: the referrers API, and the tag that stands for it where there is none.
//!
//! # Theory of operation
//! A registry of distribution-spec 1.1 lists the manifests whose `subject` is a given one. Another one answers 404, and clients
//! keep an index under the tag `sha256-HEX` themselves. Two clients that add to that index at once may each write what
//! they read before the other wrote: so a writer sends `If-Match` where the registry gave an `ETag`, and, since most registries do not heed it,
//! looks again after it wrote, and once more a little later; where its entry is missing it adds it again. The entry of another
//! writer is lost only if both his looks fall before the write that lost it, which needs a write slower than the pause.
//!
//! Sources: distribution-spec 1.1 ("Listing Referrers", "Referrers Tag Schema", "Pushing Manifests with Subject").

use wolffia_image::manifest::{self, MANIFEST_BYTES_MAX, media_type};
use wolffia_image::{Descriptor, Digest, Document, Index};

use super::endpoint::Endpoint;
use super::upload::Put;
use crate::address::push_encoded;
use crate::error::Error;
use crate::http::{Client, Payload, Response};
use crate::retry;

/// Pages of one list that are read: registries send a hundred or a thousand entries on each.
const PAGES_MAX: usize = 16;

/// How often a writer of the fallback tag looks whether its entry stands: with twenty at once each loses to each once, at worst.
const ROUNDS_MAX: usize = 40;

/// The fallback index, and what it must still be when it is replaced.
#[derive(Debug, Default)]
struct Kept {
    index: Index,
    etag: Option<String>,
}

impl Endpoint {
    /// Returns what is attached to `subject` and of this type.
    pub(crate) fn referrers(
        &self,
        client: &Client,
        doing: &str,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>, Error> {
        let listed = match self.by_interface(client, doing, subject, artifact_type)? {
            Some(listed) => listed,
            None => self.kept(client, doing, subject)?.index.manifests,
        };
        // Filtering is the registry's choice, and the fallback tag holds everything.
        Ok(listed
            .into_iter()
            .filter(|found| found.artifact_type.as_deref() == Some(artifact_type))
            .collect())
    }

    /// Asks the referrers API; `None` where there is none.
    fn by_interface(
        &self,
        client: &Client,
        doing: &str,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let mut path = format!("referrers/{subject}?artifactType=");
        push_encoded(artifact_type, &mut path);
        let mut address = self.address(client, doing, &path)?;
        let mut listed = Vec::new();
        for _page in 0..PAGES_MAX {
            let accept = [("accept", media_type::OCI_INDEX)];
            let response = self.exchange(client, doing, &address, &accept, Payload::Get)?;
            let is_index = response
                .header("content-type")
                .is_some_and(|said| said.starts_with(media_type::OCI_INDEX));
            match response.status {
                200 if is_index => {}
                // A web page for everything unknown is no list.
                200 | 400 | 404 | 405 | 501 => return Ok(None),
                _ => return Err(self.refused(response, doing)),
            }
            let next = next_page(&response).and_then(|next| response.address.join(&next));
            listed.extend(self.index(response, doing)?.manifests);
            match next {
                Some(next) if next.same_origin(&address) => address = next,
                _ => break,
            }
        }
        Ok(Some(listed))
    }

    /// Reads the fallback tag; an absent one is an empty list.
    fn kept(&self, client: &Client, doing: &str, subject: &Digest) -> Result<Kept, Error> {
        let address = self.address(client, doing, &format!("manifests/{}", tag(subject)))?;
        let accept = [("accept", media_type::OCI_INDEX)];
        let response = self.exchange(client, doing, &address, &accept, Payload::Get)?;
        match response.status {
            200 => {
                let etag = response.header("etag").map(str::to_owned);
                let index = self.index(response, doing)?;
                Ok(Kept { index, etag })
            }
            404 => Ok(Kept::default()),
            _ => Err(self.refused(response, doing)),
        }
    }

    fn index(&self, response: Response, doing: &str) -> Result<Index, Error> {
        let bytes = response
            .read_all(MANIFEST_BYTES_MAX)
            .map_err(|source| self.fault(doing, source))?
            .ok_or_else(|| Error::TooLarge {
                doing: doing.to_owned(),
                limit: MANIFEST_BYTES_MAX,
            })?;
        match manifest::parse(&bytes, Some(media_type::OCI_INDEX)) {
            Ok(Document::Index(index)) => Ok(index),
            _ => Err(self.protocol(doing, "its list of attached documents cannot be read")),
        }
    }

    /// Puts a manifest that has a subject, and sees to it that it is found there.
    pub(crate) fn put_referrer(
        &self,
        client: &Client,
        doing: &str,
        subject: &Digest,
        entry: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let version = entry.digest.to_string();
        let put = retry::run(client.limits(), doing, || {
            self.put_manifest(client, doing, &version, &entry.media_type, bytes, None)
        })?;
        if put == Put::WithSubject {
            return Ok(());
        }
        let artifact_type = entry.artifact_type.as_deref().unwrap_or_default();
        let listed = retry::run(client.limits(), doing, || {
            self.by_interface(client, doing, subject, artifact_type)
        })?;
        if listed.is_some() {
            // It has the interface, and lists by the manifests it holds.
            return Ok(());
        }
        self.keep(client, doing, subject, entry)
    }

    /// Adds an entry to the fallback tag.
    fn keep(
        &self,
        client: &Client,
        doing: &str,
        subject: &Digest,
        entry: &Descriptor,
    ) -> Result<(), Error> {
        let mut seen = false;
        for _round in 0..ROUNDS_MAX {
            let mut kept =
                retry::run(client.limits(), doing, || self.kept(client, doing, subject))?;
            let is_there = |other: &Descriptor| other.digest == entry.digest;
            if kept.index.manifests.iter().any(is_there) {
                if seen {
                    return Ok(());
                }
                seen = true;
                std::thread::sleep(retry::some_of(client.limits().pause * 2));
                continue;
            }
            seen = false;
            kept.index.schema_version = 2;
            kept.index.media_type = Some(media_type::OCI_INDEX.to_owned());
            kept.index.manifests.push(entry.clone());
            let bytes = serde_json::to_vec(&kept.index).unwrap_or_default();
            let etag = kept.etag.as_deref();
            let put = retry::run(client.limits(), doing, || {
                let tag = tag(subject);
                self.put_manifest(client, doing, &tag, media_type::OCI_INDEX, &bytes, etag)
            })?;
            if put == Put::Changed {
                std::thread::sleep(retry::some_of(client.limits().pause));
            }
        }
        Err(self.protocol(
            doing,
            "others replace the list of attached documents again and again",
        ))
    }
}

/// Returns the tag that stands for the list of what is attached to a manifest.
fn tag(subject: &Digest) -> String {
    format!("{}-{}", Digest::ALGORITHM, subject.hex())
}

/// Reads `Link: <ADDRESS>; rel="next"` (RFC 8288).
fn next_page(response: &Response) -> Option<String> {
    let value = response.header("link")?;
    let (address, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    parameters
        .contains("rel=\"next\"")
        .then(|| address.to_owned())
}
