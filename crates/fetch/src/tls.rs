// SPDX-License-Identifier: Apache-2.0
//! Whom we believe: certificate authorities of the machine, of the site, and of single registries.
//!
//! Theory of operation: `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the machine's authorities; else the first of the
//! distributions' well-known bundles that exists is read; a machine that has none gets Mozilla's list as built in. For a
//! single registry the files of `certs.d/HOST[:PORT]` are added, as docker and podman do: `*.crt` is an authority,
//! `*.cert` with `*.key` a client certificate. Nothing is read before the first https request.
//!
//! Sources: containers-certs.d(5), Docker's "Verify repository client with certificates", OpenSSL's
//! `SSL_CERT_FILE`; the list of bundles is that of Go's `crypto/x509/root_linux.go`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::environment::Environment;

pub(crate) use connector::{TlsConnector, TlsProblem};

use verifier::{Belief, Verifier};

mod connector;
mod verifier;

/// Where distributions keep the bundle of all authorities.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where single certificates lie if there is no bundle.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Mozilla's list is about 220 KiB; sites add a few.
const FILE_BYTES_MAX: u64 = 8 << 20;
const FILES_MAX: usize = 1024;

/// What `certs.d` holds for a registry: whom it is believed by, and how we show ourselves to it.
#[derive(Default)]
struct OfRegistry {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// Returns whether `certs.d` says anything about a registry: then it gets connections of its own.
pub(crate) fn has_own(environment: &Environment, authority: &str) -> bool {
    directories_of(environment, authority)
        .iter()
        .any(|directory| directory.is_dir())
}

/// Returns the configuration for connections to `authority`, which is `host` or `host:port`.
///
/// # Errors
/// Fails where a client certificate and its key do not belong together, or nothing can be believed.
pub(crate) fn configuration(
    environment: &Environment,
    authority: Option<&str>,
    verify: bool,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let own = authority.map_or_else(OfRegistry::default, |authority| {
        own_certificates(environment, authority)
    });
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous();
    let belief = if verify {
        let mut trusted = machine_authorities(environment);
        trusted.extend(own.authorities);
        belief_in(&provider, trusted)?
    } else {
        Belief::Anybody
    };
    let builder = builder.with_custom_certificate_verifier(Arc::new(Verifier {
        belief,
        algorithms: provider.signature_verification_algorithms,
    }));
    let config = match own.client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn belief_in(
    provider: &Arc<CryptoProvider>,
    trusted: Vec<CertificateDer<'static>>,
) -> Result<Belief, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let (_added, unusable) = roots.add_parsable_certificates(trusted.iter().cloned());
    if unusable > 0 {
        tracing::debug!(
            unusable,
            "certificates that cannot be read were passed over"
        );
    }
    if roots.is_empty() {
        tracing::debug!("no certificate authorities on this machine: those built in are believed");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let by_authority =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Belief::Trusted {
        by_authority,
        trusted,
    })
}

fn machine_authorities(environment: &Environment) -> Vec<CertificateDer<'static>> {
    let file = environment.path("SSL_CERT_FILE");
    let directory = environment.text("SSL_CERT_DIR");
    if file.is_some() || directory.is_some() {
        let mut found = file.map(|file| certificates(&file)).unwrap_or_default();
        for directory in directory.unwrap_or_default().split(':') {
            found.extend(certificates_in(Path::new(directory)));
        }
        return found;
    }
    let bundle = BUNDLES
        .iter()
        .map(|bundle| certificates(&environment.machine(bundle)))
        .find(|found| !found.is_empty());
    bundle.unwrap_or_else(|| {
        DIRECTORIES
            .iter()
            .map(|directory| certificates_in(&environment.machine(directory)))
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    })
}

/// Returns the directories in which certificates of one registry may lie, the user's own first.
fn directories_of(environment: &Environment, authority: &str) -> Vec<PathBuf> {
    // The name comes from a reference and must stay one component.
    if authority.contains('/') || authority.starts_with('.') {
        return Vec::new();
    }
    let mut directories = Vec::new();
    directories.extend(environment.configuration("containers/certs.d"));
    directories.extend(environment.configuration("docker/certs.d"));
    directories.push(environment.machine("/etc/containers/certs.d"));
    directories.push(environment.machine("/etc/docker/certs.d"));
    for directory in &mut directories {
        directory.push(authority);
    }
    directories
}

fn own_certificates(environment: &Environment, authority: &str) -> OfRegistry {
    let mut own = OfRegistry::default();
    for directory in directories_of(environment, authority) {
        for path in files(&directory) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => own.authorities.extend(certificates(&path)),
                Some("cert") if own.client.is_none() => own.client = client_certificate(&path),
                _ => {}
            }
        }
    }
    own
}

/// Reads `NAME.cert` and the `NAME.key` beside it.
fn client_certificate(
    path: &Path,
) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(path);
    let key = PrivateKeyDer::from_pem_slice(&read(&path.with_extension("key"))?).ok();
    match key {
        Some(key) if !chain.is_empty() => Some((chain, key)),
        _ => {
            tracing::warn!(path = %path.display(), "this client certificate has no usable key");
            None
        }
    }
}

fn certificates_in(directory: &Path) -> Vec<CertificateDer<'static>> {
    files(directory)
        .iter()
        .flat_map(|path| certificates(path))
        .collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .take(FILES_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    files
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let Some(text) = read(path) else {
        return Vec::new();
    };
    CertificateDer::pem_slice_iter(&text)
        .filter_map(Result::ok)
        .collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let _length = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
