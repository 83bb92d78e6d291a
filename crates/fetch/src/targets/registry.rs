// SPDX-License-Identifier: Apache-2.0
//! A registry that takes images.
//!
//! Mirrors are for reading: what is pushed goes to the registry itself. How the bytes travel stands at the head of
//! `sources/registry/upload.rs`, how referrers are found in `sources/registry/referrers.rs`.

use std::sync::Arc;

use wolffia_image::{Descriptor, Digest, Manifest, Reference};

use super::{Arrival, Content, Target, referrer};
use crate::credentials::Credential;
use crate::environment::Environment;
use crate::error::Error;
use crate::http::Client;
use crate::limits::Limits;
use crate::registries::{Places, Registries};
use crate::retry;
use crate::sources::registry::Endpoint;

/// One image that shall be in a registry.
#[derive(Debug)]
pub struct RegistryTarget {
    reference: Reference,
    client: Arc<Client>,
    place: Endpoint,
}

impl RegistryTarget {
    /// Prepares to push an image; nothing is sent yet. `credential` replaces stored ones.
    ///
    /// # Errors
    /// Fails where the configuration of registries forbids this one or cannot be read.
    pub fn open(
        reference: &Reference,
        environment: &Environment,
        limits: Limits,
        credential: Option<&Credential>,
    ) -> Result<Self, Error> {
        let blocked = || Error::Blocked {
            reference: reference.familiar(),
        };
        let Places::Try(places) = Registries::read(environment)?.places(reference) else {
            return Err(blocked());
        };
        let place = places.into_iter().next_back().ok_or_else(blocked)?;
        Ok(Self {
            reference: reference.clone(),
            client: Client::new(environment, limits),
            place: Endpoint::new(place, credential.cloned()).for_writing(),
        })
    }
}

impl Target for RegistryTarget {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        content: &dyn Content,
        elsewhere: Option<&Reference>,
    ) -> Result<Arrival, Error> {
        let doing = format!("pushing {}", blob.digest.short());
        let elsewhere = elsewhere
            .filter(|other| other.registry() == self.reference.registry())
            .map(Reference::repository);
        self.place
            .put_blob(&self.client, &doing, blob, elsewhere, content)
    }

    fn put_manifest(
        &self,
        media_type: &str,
        bytes: &[u8],
        named: bool,
    ) -> Result<Descriptor, Error> {
        let digest = Digest::of(bytes);
        let doing = format!("pushing the manifest of {}", self.name());
        let version = if named {
            self.reference.version()
        } else {
            digest.to_string()
        };
        let _put = retry::run(self.client.limits(), &doing, || {
            self.place
                .put_manifest(&self.client, &doing, &version, media_type, bytes, None)
        })?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Descriptor::new(media_type, digest, size))
    }

    fn put_referrer(&self, manifest: &Manifest) -> Result<Descriptor, Error> {
        let (subject, entry, bytes) = referrer(manifest)?;
        let doing = format!("attaching to {}", self.name());
        self.place
            .put_referrer(&self.client, &doing, &subject, &entry, &bytes)?;
        Ok(entry)
    }
}
