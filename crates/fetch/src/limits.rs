// SPDX-License-Identifier: Apache-2.0
//! How long we wait, how often we try, how much we hold.
//!
//! One value for the room, so that a test can make everything short and a reader sees all bounds at once.

use std::time::Duration;

/// The bounds of all exchanges.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long names are looked up.
    pub resolve: Duration,
    /// How long a connection may take to be made, TLS and a proxy included.
    pub connect: Duration,
    /// How long the other side may think before its answer begins: a registry that first fetches from its own
    /// upstream needs tens of seconds.
    pub answer: Duration,
    /// How long no byte may come in the middle of an answer.
    pub stall: Duration,
    /// The time in which an answer must bring some KiB, however often a byte comes.
    pub trickle: Duration,
    /// How often one request is tried in a row without a byte of progress.
    pub tries: u32,
    /// How often one blob may be resumed in all, whatever progress was made: bounds a registry that cuts every answer.
    pub resumes: u32,
    /// The first pause between tries; each next one is twice as long.
    pub pause: Duration,
    /// The longest pause of our own choice.
    pub pause_max: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one is an error.
    pub retry_after_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(20),
            answer: Duration::from_mins(1),
            stall: Duration::from_secs(30),
            trickle: Duration::from_mins(1),
            tries: 5,
            resumes: 1000,
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(8),
            retry_after_max: Duration::from_secs(30),
        }
    }
}
