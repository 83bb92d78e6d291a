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

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::environment::Environment;

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

/// The registry's own certificates: authorities that only it is believed for, and how we show ourselves to it.
#[derive(Default)]
struct OfRegistry {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

/// Returns whether `certs.d` says anything about a registry: then it gets connections of its own.
pub(crate) fn has_own(environment: &Environment, authority: &str) -> bool {
    directories_of(environment, authority)
        .iter()
        .any(|directory| directory.is_dir())
}

/// Returns the configuration for connections to `authority`, which is `host` or `host:port`.
pub(crate) fn configuration(
    environment: &Environment,
    authority: Option<&str>,
    verify: bool,
) -> TlsConfig {
    let own = authority.map_or_else(OfRegistry::default, |authority| {
        own_certificates(environment, authority)
    });
    let builder = TlsConfig::builder()
        .client_cert(own.client)
        .disable_verification(!verify);
    if !verify {
        return builder.build();
    }
    let mut authorities = machine_authorities(environment);
    if authorities.is_empty() && own.authorities.is_empty() {
        tracing::debug!("no certificate authorities on this machine: those built in are believed");
        return builder.root_certs(RootCerts::WebPki).build();
    }
    authorities.extend(own.authorities);
    builder
        .root_certs(RootCerts::new_with_certs(&authorities))
        .build()
}

fn machine_authorities(environment: &Environment) -> Vec<Certificate<'static>> {
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
fn client_certificate(path: &Path) -> Option<ClientCert> {
    let chain = certificates(path);
    let key = PrivateKey::from_pem(&read(&path.with_extension("key"))?).ok();
    match key {
        Some(key) if !chain.is_empty() => Some(ClientCert::new_with_certs(&chain, key)),
        _ => {
            tracing::warn!(path = %path.display(), "this client certificate has no usable key");
            None
        }
    }
}

fn certificates_in(directory: &Path) -> Vec<Certificate<'static>> {
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

fn certificates(path: &Path) -> Vec<Certificate<'static>> {
    let Some(text) = read(path) else {
        return Vec::new();
    };
    parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
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
