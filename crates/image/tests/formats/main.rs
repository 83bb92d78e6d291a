// SPDX-License-Identifier: Apache-2.0
//! Every layer format against the full unpacking of the same layer: the same tree, and every file's bytes by ranges.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod damage;
mod debian;
mod fixtures;
mod readers;
mod suite;
