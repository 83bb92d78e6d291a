// SPDX-License-Identifier: Apache-2.0
//! The handlers: one file each.
//!
//! | handler | calls | what for |
//! |---|---|---|
//! | [`switch`] | connect, listen | outgoing TCP connections go over sockets of the host |

pub mod switch;
