// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the way from a registry, on demand or by a seed.

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Manifests and indexes.
    Manifest,
    /// Blobs, at the registry or at its store.
    Blob,
    /// Blobs at the store, behind a redirect.
    Store,
    /// Bytes that are uploaded: [`Fault::Cut`] ends the connection after so many have come, and keeps them.
    Upload,
    /// Tokens.
    Token,
    /// Whatever comes.
    Any,
}

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut {
        /// How many.
        after_bytes: usize,
    },
    /// Nothing more comes after so many bytes of the body, until the other side goes away.
    Stall {
        /// How many.
        after_bytes: usize,
    },
    /// The connection ends before the answer begins.
    Hang,
    /// One byte in the middle of the body is another.
    Lie,
    /// An error is answered.
    Status {
        /// Which.
        status: u16,
        /// With this `Retry-After`, in seconds.
        retry_after_seconds: Option<u64>,
    },
    /// The range is not heeded: status 200 and the whole blob.
    IgnoreRange,
    /// Status 206 with the bytes, and the `Content-Range`, of another range.
    WrongRange,
    /// Status 206 with a `Content-Range` that says something else than what comes: fewer bytes.
    ShortRange,
    /// The announced length is one too many.
    WrongLength,
    /// A byte comes every so many milliseconds.
    Trickle {
        /// How many.
        pause_ms: u64,
    },
    /// The answer is 403, and its message repeats what the client sent as `Authorization`.
    Echo,
}

/// The rules, and the generator.
#[derive(Debug, Default)]
pub(super) struct Plan {
    rules: Vec<(On, u32, Fault)>,
    seed: Option<(u64, u64)>,
}

impl Plan {
    pub(super) fn push(&mut self, on: On, times: u32, fault: Fault) {
        self.rules.push((on, times, fault));
    }

    pub(super) fn draw(&mut self, seed: u64, one_in: u64) {
        self.seed = Some((seed.wrapping_mul(2) | 1, one_in.max(1)));
    }

    /// Returns the fault for a request, and uses it up.
    pub(super) fn next(&mut self, kind: On, at_store: bool, length: usize) -> Option<Fault> {
        let fits = |on: On| {
            on == On::Any || on == kind || (on == On::Store && kind == On::Blob && at_store)
        };
        let rule = self
            .rules
            .iter_mut()
            .find(|(on, left, _)| fits(*on) && *left > 0);
        if let Some((_, left, fault)) = rule {
            *left -= 1;
            return Some(*fault);
        }
        if kind != On::Blob {
            return None;
        }
        let (state, one_in) = self.seed.as_mut()?;
        let number = step(state);
        if !number.is_multiple_of(*one_in) {
            return None;
        }
        let after_bytes = usize::try_from(step(state)).unwrap_or(0) % length.max(1);
        let status = |status| Fault::Status {
            status,
            retry_after_seconds: Some(0),
        };
        Some(match step(state) % 9 {
            0..=2 => Fault::Cut { after_bytes },
            3 => Fault::Hang,
            4 => Fault::IgnoreRange,
            5 => Fault::ShortRange,
            6 => status(500),
            7 => status(503),
            _ => status(429),
        })
    }
}

/// The next number of an xorshift generator; its high bits.
fn step(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
}
