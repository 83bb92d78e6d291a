// SPDX-License-Identifier: Apache-2.0
//! Containers as people use them, end to end: the program, an image of busybox, an ordinary user.
//!
//! One file for each concern; [`machine`] is the HOME that they share the making of.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod codes;
mod crowd;
mod life;
mod machine;
mod mounts;
mod settings;
mod streams;
mod terminal;
