// SPDX-License-Identifier: Apache-2.0
//! Whether a server's certificate is believed.
//!
//! The rule is the usual one: a chain to an authority that is known here, for this name, at this time. One thing is added,
//! because it is what documentation tells people who run a registry of their own: a *self-signed* certificate, made by one
//! call of openssl, which is server and authority in one. The strict rules know no such thing (an authority must not
//! be a server); openssl and Go accept it. So a certificate that is byte for byte one of those the user or the machine
//! put among the trusted ones is believed for the names it carries, unless it has expired.
//!
//! Sources: RFC 5280 6.1; docker's "Test an insecure registry", which makes such certificates.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Believes authorities, and trusted certificates themselves.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) by_authority: Arc<WebPkiServerVerifier>,
    pub(super) trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused =
            match self
                .by_authority
                .verify_server_cert(server, intermediates, name, stapled, now)
            {
                Ok(verified) => return Ok(verified),
                Err(refused) => refused,
            };
        // Time is looked at before anything else of a certificate, so another complaint means that it is in order.
        let is_out_of_time = matches!(
            &refused,
            Error::InvalidCertificate(
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
                    | CertificateError::BadEncoding
            )
        );
        if is_out_of_time || !self.trusted.iter().any(|trusted| trusted == server) {
            // A self-signed one is refused for being an authority; that nobody here knows it says more.
            return Err(match refused {
                Error::InvalidCertificate(CertificateError::Other(_)) => {
                    CertificateError::UnknownIssuer.into()
                }
                refused => refused,
            });
        }
        verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls12_signature(message, server, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls13_signature(message, server, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Believes anybody who holds the key of the certificate shown: for registries marked insecure.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _server: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, server, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, server, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
