// SPDX-License-Identifier: Apache-2.0
//! Trapped system calls to answers: the dispatcher, and one file per handler.
//!
//! A process chain can have a single seccomp listener. Whatever of ours answers system calls of a container (the switching of
//! its connections to sockets of the host, later the emulation of ids) therefore shares it: a [`Handler`] names the calls it answers and the
//! rules that bring them here ([`Handler::rules`]), a [`Dispatcher`] holds the listener and asks the right one.
//!
//! ```text
//! handlers ──rules──▶ the container's Policy ──runtime──▶ kernel
//!    ▲                                                      │ call
//!    └────────────── Dispatcher ◀───────listener────────────┘
//! ```
//! Add a handler: one file in `handlers/`, one row in its table.

pub mod caller;
pub mod dispatcher;
pub mod handler;
pub mod handlers;

pub use caller::Caller;
pub use dispatcher::Dispatcher;
pub use handler::{Handler, Outcome, Then, Wait};
