// SPDX-License-Identifier: Apache-2.0
//! The time of a [`Stack`](crate::Stack): nanoseconds of a clock that the caller keeps, never read in here.

use std::time::Duration;

/// An instant of the caller's monotonic clock, in nanoseconds since whatever it likes.
///
/// A simulation counts it by hand; a loop takes it from `CLOCK_MONOTONIC`. It must not go backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Time = Time(0);
    /// Never.
    pub const NEVER: Time = Time(u64::MAX);

    /// Returns the instant this many nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Returns the instant this many milliseconds after the beginning.
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis.saturating_mul(1_000_000))
    }

    /// Returns the nanoseconds since the beginning.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the instant that much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Time {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }

    /// Returns how long ago `earlier` was; nothing if it is still to come.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
