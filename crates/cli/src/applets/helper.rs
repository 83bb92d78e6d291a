// SPDX-License-Identifier: Apache-2.0
//! The helper's side: one job from the socket that is its standard output, its answer back there.
//!
//! Executed by the engine inside a user namespace, never by people. It may have threads, and never forks.

use std::{fs::File, io::Write};

use wolffia_pull::helper;

/// Serves one job and returns the exit code.
pub(crate) fn serve(_words: &[std::ffi::OsString]) -> u8 {
    let wire = || rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map(File::from);
    match (wire(), wire()) {
        (Ok(job), Ok(answers)) => u8::from(!helper::serve(job, answers)),
        (Err(error), _) | (_, Err(error)) => {
            // Nobody can be told that nobody can be told.
            drop(writeln!(
                std::io::stderr(),
                "error: taking the helper's job\ncause: {error}"
            ));
            1
        }
    }
}
