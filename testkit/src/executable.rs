// SPDX-License-Identifier: Apache-2.0
//! Programs that a test writes and then runs, without "Text file busy".
//!
//! execve(2) refuses a file that anybody holds open for writing. A test that writes its program itself holds it for a
//! moment; another thread that forks in that moment passes the descriptor on to its child, which keeps it until its own
//! execve: the test then fails, once in a thousand runs. So another process writes the file: descriptors of that one no thread
//! of ours can pass on.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes an executable file, mode 0755, replacing what stands there.
///
/// # Panics
/// Where it cannot be written.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    let mut writer = Command::new("/bin/sh")
        .args(["-c", r#"rm -f -- "$0" && cat >"$0" && chmod 755 -- "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell that writes the file");
    let mut input = writer.stdin.take().expect("the pipe asked for");
    input.write_all(content.as_ref()).expect("writing the file");
    drop(input);
    let done = writer.wait().expect("the end of the shell");
    assert!(done.success(), "writing {}: {done}", path.display());
}

/// Copies an executable file, mode 0755, replacing what stands there.
///
/// # Panics
/// Where one cannot be read or the other cannot be written.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    write(to, std::fs::read(from).expect("the file to copy"));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Some threads fork all the time while a program is written and run again and again.
    #[test]
    fn a_program_runs_while_other_threads_fork() {
        let folder = tempfile::tempdir().expect("a folder");
        let over = AtomicBool::new(false);
        // Long, so that a writer would hold it for long.
        let text = format!("#!/bin/sh\nexit 7\n{}", "#\n".repeat(1 << 20));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        drop(Command::new("/bin/true").env("A", "b").status());
                    }
                });
            }
            for turn in 0..40 {
                let program = folder.path().join(format!("program{}", turn % 2));
                write(&program, &text);
                let status = Command::new(&program).status();
                if !matches!(&status, Ok(status) if status.code() == Some(7)) {
                    over.store(true, Ordering::Relaxed);
                    panic!("turn {turn}: {status:?}");
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
