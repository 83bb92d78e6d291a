// SPDX-License-Identifier: Apache-2.0
//! TLS over whatever connection is there: the link in the client's chain that secures https.
//!
//! The client has a connector for rustls too, but no way to say whom to believe beyond a list of authorities; see
//! [the verifier](mod@super::verifier) for what is more. Reading copies once, from the TLS library into the client's input buffer.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

/// The connection could not be secured; holds the TLS library's reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsProblem(String);

/// Secures connections to https addresses.
pub(crate) struct TlsConnector {
    pub(crate) config: Arc<ClientConfig>,
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TlsConnector")
            .finish_non_exhaustive()
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| problem(error.to_string()))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| problem(error.to_string()))?;
        let mut socket =
            TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            let _moved_bytes = stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(of_handshake)?;
        }
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

fn problem(text: String) -> ureq::Error {
    ureq::Error::Other(Box::new(TlsProblem(text)))
}

/// The TLS library's own complaints come inside an error of kind `InvalidData`; others are the socket's.
fn of_handshake(error: io::Error) -> ureq::Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) => problem(error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            problem("the other side hung up; perhaps it speaks no TLS".to_owned())
        }
        Err(error) => ureq::Error::from(error),
    }
}

/// A secured connection.
pub(crate) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TlsTransport")
            .finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
