// SPDX-License-Identifier: Apache-2.0
//! What a connection of the test registry runs over: plain TCP, or TLS.
//!
//! The certificates beside this file were made by `certificates/make`; their keys are public.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The authority that signed [`Tls::Signed`] and [`Tls::OtherName`], as PEM.
pub const AUTHORITY: &str = include_str!("certificates/authority.crt");
/// The certificate of [`Tls::SelfSigned`], as PEM.
pub const SELF_SIGNED: &str = include_str!("certificates/selfsigned.crt");
/// What a client shows to [`Tls::WantsClient`]: certificate and key, as PEM.
pub const CLIENT: (&str, &str) = (
    include_str!("certificates/client.crt"),
    include_str!("certificates/client.key"),
);

/// What the server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A certificate for this machine, signed by [`AUTHORITY`].
    Signed,
    /// One for another name, signed by [`AUTHORITY`].
    OtherName,
    /// One for this machine, signed by itself.
    SelfSigned,
    /// As [`Tls::Signed`], and clients must show one of [`AUTHORITY`]'s too.
    WantsClient,
}

/// A connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Secured(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Tls {
    /// Returns the server's configuration.
    pub(super) fn configuration(self) -> Arc<ServerConfig> {
        let (certificate, key) = match self {
            Self::Signed | Self::WantsClient => (
                include_str!("certificates/server.crt"),
                include_str!("certificates/server.key"),
            ),
            Self::OtherName => (
                include_str!("certificates/other.crt"),
                include_str!("certificates/other.key"),
            ),
            Self::SelfSigned => (SELF_SIGNED, include_str!("certificates/selfsigned.key")),
        };
        let read =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocol versions");
        let builder = if self == Self::WantsClient {
            let mut roots = RootCertStore::empty();
            roots.add(read(AUTHORITY)).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(vec![read(certificate)], key);
        Arc::new(config.expect("a certificate and its key"))
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream, tls: Option<Tls>) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(stream));
        };
        let connection = ServerConnection::new(tls.configuration()).map_err(io::Error::other)?;
        Ok(Self::Secured(Box::new(StreamOwned::new(
            connection, stream,
        ))))
    }

    /// Says goodbye, as TLS wants it, and closes.
    pub(super) fn close(&mut self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Secured(stream) => {
                stream.conn.send_close_notify();
                let _sent = stream.conn.complete_io(&mut stream.sock);
                &mut stream.sock
            }
        };
        let _closed = stream.shutdown(Shutdown::Both);
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secured(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Secured(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secured(stream) => stream.flush(),
        }
    }
}
