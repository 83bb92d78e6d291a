// SPDX-License-Identifier: Apache-2.0
//! A reference becomes a tree that can be mounted.
//!
//! [`pull`](fn@pull) and [`import`](fn@import) do the work, in threads, inside the user namespace. The process that a person started stays
//! outside and without threads: it asks a re-executed helper with a [`Job`](job::Job) and reads [`Message`](job::Message)s.

pub mod convert;
mod error;
pub mod helper;
mod import;
pub mod job;
mod layer;
pub mod lazy;
mod pipe;
mod pull;
mod unpack;
pub mod unpacked;

pub use error::PullError;
pub use import::import;
pub use job::{ImageOutcome, ImportRequest, Lazy, Policy, Progress, PullRequest, Stage};
pub use pull::{Watch, Wishes, causes, pull, pull_from, pull_with, put_stubs};
pub use unpack::{FREE_BYTES, RATIO_MAX};
