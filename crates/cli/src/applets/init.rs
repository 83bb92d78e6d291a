// SPDX-License-Identifier: Apache-2.0
//! The init of `--init`: process 1 inside, which reaps zombies and passes signals on.

use std::ffi::OsString;

/// Serves `wolffia-init -- PROGRAM ARGUMENT...` and returns the program's exit code.
pub(crate) fn serve(words: &[OsString]) -> u8 {
    let program = match words.split_first() {
        Some((dashes, program)) if dashes == "--" => program,
        _ => words,
    };
    wolffia_engine::init::run(program)
}
