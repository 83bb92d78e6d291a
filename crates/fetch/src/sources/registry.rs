// SPDX-License-Identifier: Apache-2.0
//! A registry that speaks the Distribution protocol, version 2.
//!
//! # Theory of operation
//! A reference has one or more *places* ([`Registries`]): mirrors, then the registry itself. Places are tried in order until one
//! has the manifest; that one is asked first for everything else, and a blob it does not have is looked for at the others.
//!
//! Plain http is spoken only where it may be: to this machine itself, and to registries marked insecure. There the scheme is
//! found by one bare request to `/v2/`: loopback is asked without TLS first, an insecure registry with TLS first (any
//! certificate will do). Nobody else is ever asked without TLS.
//!
//! A registry mostly redirects a blob to its store, by an address that is good for some minutes. The address is kept for the
//! next span of the same blob; when the store refuses it, the registry is asked again. What was agreed on about
//! authentication stands in [`crate::auth`]; one 401 leads to one renewal, a second one is an error.
//!
//! Sources: distribution-spec ("Pulling manifests", "Pulling blobs"), RFC 9110 14 (ranges).

use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wolffia_image::manifest::MANIFEST_BYTES_MAX;
use wolffia_image::{Descriptor, Digest, Platform, Reference};

use super::{Fetched, Resolved, Source, Stream, descend, verify};
use crate::credentials::Credential;
use crate::environment::Environment;
use crate::error::Error;
use crate::http::Client;
use crate::limits::Limits;
use crate::registries::{Place, Places, Registries};
use crate::retry;

pub(crate) use endpoint::Endpoint;

mod endpoint;
mod referrers;
mod upload;

/// Spans of one blob read at once, where the wire and not this machine is what holds things up.
const PARALLEL_SPANS: usize = 4;

/// A mirror that fails so often in a row is left for the next place.
const FAILURES_PER_PLACE: u32 = 2;

/// One image in a registry.
#[derive(Debug)]
pub struct Registry {
    reference: Reference,
    client: Arc<Client>,
    places: Vec<Endpoint>,
    /// The place that had the manifest.
    preferred: AtomicUsize,
}

impl Registry {
    /// Prepares to fetch an image; nothing is sent yet. `credential` replaces stored ones, for the registry itself.
    ///
    /// # Errors
    /// Fails where the configuration of registries forbids this one or cannot be read.
    pub fn open(
        reference: &Reference,
        environment: &Environment,
        limits: Limits,
        credential: Option<&Credential>,
    ) -> Result<Self, Error> {
        let Places::Try(places) = Registries::read(environment)?.places(reference) else {
            return Err(Error::Blocked {
                reference: reference.familiar(),
            });
        };
        let count = places.len();
        let places = places
            .into_iter()
            .enumerate()
            .map(|(number, place)| {
                let own = credential.filter(|_| number + 1 == count).cloned();
                Endpoint::new(place, own)
            })
            .collect();
        Ok(Self {
            reference: reference.clone(),
            client: Client::new(environment, limits),
            places,
            preferred: AtomicUsize::new(0),
        })
    }

    /// Runs `ask` at the preferred place, then at the others; the first success wins, and the last place's error counts.
    fn at_places<T>(&self, mut ask: impl FnMut(&Endpoint) -> Result<T, Error>) -> Result<T, Error> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let count = self.places.len();
        let mut last = None;
        let others = (0..count).filter(|number| *number != preferred);
        for number in std::iter::once(preferred).chain(others) {
            match ask(&self.places[number]) {
                Ok(value) => {
                    self.preferred.store(number, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => {
                    if count > 1 {
                        tracing::warn!(place = %self.places[number].host, %error, "trying the next place");
                    }
                    // The registry itself is the last place, and its story the one to tell.
                    if last.is_none() || number + 1 == count {
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::NotFound {
            doing: self.name(),
            host: self.reference.registry().to_owned(),
        }))
    }

    fn manifest(&self, version: &str, expected: Option<&Descriptor>) -> Result<Fetched, Error> {
        let doing = format!("fetching the manifest of {}", self.name());
        self.at_places(|place| {
            retry::run(self.client.limits(), &doing, || {
                place.manifest(&self.client, &doing, version, expected)
            })
        })
    }

    fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, Error> {
        let doing = format!("fetching the configuration of {}", self.name());
        if blob.size > u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX) {
            return Err(Error::TooLarge {
                doing,
                limit: MANIFEST_BYTES_MAX,
            });
        }
        self.at_places(|place| {
            retry::run(self.client.limits(), &doing, || {
                let stream = place.blob(&self.client, &doing, blob, 0..blob.size)?;
                let mut bytes = Vec::new();
                // One more than there should be: a body that is read to its end gives its connection back.
                let read = stream.reader.take(blob.size + 1).read_to_end(&mut bytes);
                let _length = read.map_err(|error| place.broken(&doing, error))?;
                verify(&doing, blob, &bytes)?;
                Ok(bytes)
            })
        })
    }
}

impl Source for Registry {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn reference(&self) -> Option<Reference> {
        Some(self.reference.clone())
    }

    fn resolve(&self, platform: &Platform) -> Result<Resolved, Error> {
        let expected = self
            .reference
            .digest()
            .map(|digest| Descriptor::new("", *digest, 0));
        let top = self.manifest(&self.reference.version(), expected.as_ref())?;
        descend(
            &self.name(),
            platform,
            top,
            |descriptor| self.manifest(&descriptor.digest.to_string(), Some(descriptor)),
            |config| self.small_blob(config),
        )
    }

    fn open(&self, blob: &Descriptor, span: Range<u64>, failures: u32) -> Result<Stream, Error> {
        let doing = format!("fetching {}", blob.digest.short());
        let count = self.places.len();
        // What is transient is tried again at the same place at first, then at the next.
        let moved = usize::try_from(failures / FAILURES_PER_PLACE).unwrap_or(0);
        let number = (self.preferred.load(Ordering::Relaxed) + moved) % count;
        let first = self.places[number].blob(&self.client, &doing, blob, span.clone());
        match first {
            Err(error) if count > 1 && !error.is_transient() => {
                self.at_places(|place| place.blob(&self.client, &doing, blob, span.clone()))
            }
            first => first,
        }
    }

    fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>, Error> {
        let doing = format!("asking what is attached to {}", self.name());
        self.at_places(|place| {
            retry::run(self.client.limits(), &doing, || {
                place.referrers(&self.client, &doing, subject, artifact_type)
            })
        })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.kind().is_none() {
            return self.small_blob(descriptor);
        }
        let version = descriptor.digest.to_string();
        Ok(self.manifest(&version, Some(descriptor))?.bytes)
    }

    fn parallel_hint(&self) -> usize {
        PARALLEL_SPANS
    }

    fn limits(&self) -> &Limits {
        self.client.limits()
    }
}

/// Returns where a reference is to be had in the end, mirrors aside.
pub(super) fn own_place(reference: &Reference, environment: &Environment) -> Option<Place> {
    match Registries::read(environment).ok()?.places(reference) {
        Places::Try(places) => places.into_iter().next_back(),
        Places::Blocked => None,
    }
}

/// Asks a registry whether it accepts credentials. Blocks.
///
/// # Errors
/// Fails with [`Error::Denied`] where it does not, and as any request otherwise.
pub(crate) fn check(
    registry: &str,
    insecure: bool,
    environment: &Environment,
    limits: Limits,
    credential: Credential,
) -> Result<(), Error> {
    let doing = "logging in".to_owned();
    let client = Client::new(environment, limits);
    let place = Place {
        registry: registry.to_owned(),
        repository: String::new(),
        insecure,
    };
    let endpoint = Endpoint::new(place, Some(credential));
    retry::run(client.limits(), &doing, || {
        let address = endpoint.base(&client, &doing)?;
        let response = endpoint.get(&client, &doing, &address, &[])?;
        match response.status {
            200 => Ok(()),
            404 => Err(endpoint.protocol(&doing, "this is no registry")),
            _ => Err(endpoint.refused(response, &doing)),
        }
    })
}
