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

/// Checks what a server shows.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) belief: Belief,
    /// Those of signatures.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Who is believed. Whoever it is must hold the key of the certificate shown.
#[derive(Debug)]
pub(super) enum Belief {
    /// Authorities, and trusted certificates themselves.
    Trusted {
        by_authority: Arc<WebPkiServerVerifier>,
        trusted: Vec<CertificateDer<'static>>,
    },
    /// Anybody: for registries marked insecure.
    Anybody,
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
        let Belief::Trusted {
            by_authority,
            trusted,
        } = &self.belief
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let refused =
            match by_authority.verify_server_cert(server, intermediates, name, stapled, now) {
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
        if is_out_of_time || !trusted.iter().any(|one| one == server) {
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
        verify_tls12_signature(message, server, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, server, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
