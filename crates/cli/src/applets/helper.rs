// SPDX-License-Identifier: Apache-2.0
//! The helper's side: one job from standard input, its answer on standard output.
//!
//! Executed by the engine inside a user namespace, never by people. It may have threads, and never forks.

use std::io;

use wolffia_pull::helper;

/// Serves one job and returns the exit code.
pub(crate) fn serve(_words: &[std::ffi::OsString]) -> u8 {
    u8::from(!helper::serve(io::stdin(), io::stdout()))
}
