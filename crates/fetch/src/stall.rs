// SPDX-License-Identifier: Apache-2.0
//! A connection that does not wait for ever in the middle of a body.
//!
//! The client's own bounds are for whole phases: one for a body would have to be as long as the longest download, and one for
//! every read would cut the time in which a registry may think before it answers. So the transport is wrapped: a wait that
//! belongs to no bounded phase, which is one inside a body, gets the bound on silence.

use std::time::Duration;

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, Transport, time,
};
use ureq::{Error, Timeout};

/// Wraps the connections of whatever stands before it in the chain.
#[derive(Debug)]
pub(crate) struct StallConnector {
    pub(crate) stall: Duration,
}

impl<In: Transport> Connector<In> for StallConnector {
    type Out = StallTransport<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| StallTransport {
            inner,
            stall: self.stall.into(),
        }))
    }
}

/// A connection whose waits inside a body are bounded.
#[derive(Debug)]
pub(crate) struct StallTransport<T> {
    inner: T,
    stall: time::Duration,
}

impl<T> StallTransport<T> {
    fn bounded(&self, mut timeout: NextTimeout) -> NextTimeout {
        if timeout.after.is_not_happening() {
            timeout.after = self.stall;
            timeout.reason = Timeout::RecvBody;
        }
        timeout
    }
}

impl<T: Transport> Transport for StallTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = self.bounded(timeout);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = self.bounded(timeout);
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
