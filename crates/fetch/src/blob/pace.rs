// SPDX-License-Identifier: Apache-2.0
//! Who holds things up: the wire, or the one who reads?
//!
//! Of each sample it is measured how long the reader waited for bytes and how long the sample took in all. Two readings of
//! the clock per read cost nothing beside the read.

use std::time::{Duration, Instant};

use crate::error::Error;

/// A sample: long enough to be no accident.
const SAMPLE_BYTES: usize = 1 << 20;
/// A very slow wire is recognised after this time instead.
const SAMPLE_TIME: Duration = Duration::from_millis(500);

/// A wire that is faster is not made any faster: this is what one connection brings on a gigabit link that it has to share.
const FAST_BYTES_PER_SECOND: f64 = 64e6;

/// Measures one reader.
#[derive(Debug)]
pub(super) struct Pace {
    since: Option<Instant>,
    bytes: usize,
    waited: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            since: None,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// Runs a read and counts its time. The first read, which makes the connection, does not count.
    pub(super) fn measure(
        &mut self,
        read: impl FnOnce() -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let begun = Instant::now();
        let length = read()?;
        let ended = Instant::now();
        if self.since.is_none() {
            self.since = Some(ended);
        } else {
            self.bytes += length;
            self.waited += ended - begun;
        }
        Ok(length)
    }

    /// Tells whether the sample, if it is complete, says that the wire is slow and the reader is not; begins another.
    pub(super) fn is_wire_bound(&mut self) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        let took = since.elapsed();
        if self.bytes < SAMPLE_BYTES && took < SAMPLE_TIME {
            return false;
        }
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        let is_slow = f64::from(bytes) < FAST_BYTES_PER_SECOND * took.as_secs_f64();
        let is_waiting = self.waited > took / 2;
        *self = Self {
            since: Some(Instant::now()),
            ..Self::new()
        };
        is_slow && is_waiting
    }
}
