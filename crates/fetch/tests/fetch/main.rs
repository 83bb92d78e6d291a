// SPDX-License-Identifier: Apache-2.0
//! The room as its callers see it, against registries that behave and that do not.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;
mod faults;
mod parallel;
mod proxied;
mod push;
mod real;
mod registry;
mod secured;
