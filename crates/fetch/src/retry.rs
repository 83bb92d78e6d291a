// SPDX-License-Identifier: Apache-2.0
//! Trying again: how often, and after which pause.
//!
//! Theory of operation: a transient failure ([`Error::is_transient`]) is followed by a pause that doubles from
//! [`Limits::pause`] to [`Limits::pause_max`], shortened at random by up to a half so that clients which failed together do
//! not come back together. A `Retry-After` is obeyed instead, up to [`Limits::retry_after_max`]; a longer one ends the
//! matter, for the person should know. After [`Limits::tries`] failures without progress the last of them is returned
//! inside [`Error::GivenUp`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use crate::error::{Error, LastFailure};
use crate::limits::Limits;

/// A refused connection is tried once more only: a typing error in a port should not take seconds to be told.
const TRIES_IF_REFUSED: u32 = 2;

/// Counts the failures of one request, in a number that its owner sets to nothing when bytes have come.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    limits: &'a Limits,
    failures: &'a mut u32,
    first_contact: bool,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(limits: &'a Limits, failures: &'a mut u32) -> Self {
        Self {
            limits,
            failures,
            first_contact: false,
        }
    }

    /// Returns the same for a host that may never have answered: where nobody listens, waiting is in vain.
    fn of_first_contact(self) -> Self {
        Self {
            first_contact: true,
            ..self
        }
    }

    /// Takes a failure: returns the pause after which to try again, or the error to give up with.
    pub(crate) fn failed(self, doing: &str, error: Error) -> Result<Duration, Error> {
        if !error.is_transient() {
            return Err(error);
        }
        *self.failures += 1;
        let asked = error.retry_after();
        if asked.is_some_and(|asked| asked > self.limits.retry_after_max) {
            return Err(error);
        }
        let tries = if self.first_contact && error.is_refused_connection() {
            TRIES_IF_REFUSED
        } else {
            self.limits.tries
        };
        if *self.failures >= tries {
            return Err(Error::GivenUp {
                doing: doing.to_owned(),
                tries: *self.failures,
                source: LastFailure::new(error),
            });
        }
        let pause = asked.unwrap_or_else(|| self.pause());
        tracing::debug!(%doing, failures = *self.failures, ?pause, %error, "trying again");
        Ok(pause)
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = self
            .limits
            .pause
            .saturating_mul(1 << doublings)
            .min(self.limits.pause_max);
        some_of(full)
    }
}

/// Returns between a half and the whole of a time, at random.
pub(crate) fn some_of(full: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 512;
    full.mul_f64(1.0 - f64::from(u16::try_from(chance).unwrap_or(0)) / 1024.0)
}

/// Runs `attempt` until it succeeds, fails for good or was tried often enough.
pub(crate) fn run<T>(
    limits: &Limits,
    doing: &str,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut failures = 0;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => {
                let tries = Tries::new(limits, &mut failures);
                let pause = tries.of_first_contact().failed(doing, error)?;
                std::thread::sleep(pause);
            }
        }
    }
}
