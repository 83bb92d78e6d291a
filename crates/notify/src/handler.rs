// SPDX-License-Identifier: Apache-2.0
//! What answers a kind of system call.

use std::os::fd::OwnedFd;
use std::time::Instant;

use wolffia_sys::seccomp::notification::Answer;
use wolffia_sys::seccomp::policy::{Architecture, Rule};

use crate::Caller;

/// Answers some system calls of a container.
///
/// It runs in the one thread of the dispatcher: nothing in it may block. What takes time is an [`Outcome::Later`].
pub trait Handler {
    /// One word for the log.
    fn name(&self) -> &'static str;

    /// The numbers of the calls that it answers, as they stand in the register.
    fn calls(&self, architecture: Architecture) -> &'static [u32];

    /// What a container's filter must say so that they arrive here, and so that nothing goes round them. A rule stands before
    /// all others of its number.
    fn rules(&self, architecture: Architecture) -> Vec<(u32, Rule)>;

    /// Answers a call.
    fn answer(&mut self, caller: &Caller<'_>) -> Outcome;
}

/// What a handler makes of a call.
#[derive(Debug)]
pub enum Outcome {
    /// This is the answer.
    Now(Answer),
    /// It has to wait for something; the caller does too.
    Later(Wait),
}

/// What a handler waits for.
#[derive(Debug)]
pub struct Wait {
    /// Until this can be written to, or fails;
    pub descriptor: OwnedFd,
    /// and until then at most.
    pub until: Instant,
    /// What happens then.
    pub then: Then,
}

/// What makes the answer once the wait is over: it gets what was waited for. [`Caller`]'s descriptors may have been replaced meanwhile.
pub struct Then(pub Box<Finish>);

/// See [`Then`].
pub type Finish = dyn FnOnce(&Caller<'_>, OwnedFd) -> Answer;

impl std::fmt::Debug for Then {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Then")
    }
}
