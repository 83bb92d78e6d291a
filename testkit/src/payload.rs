// SPDX-License-Identifier: Apache-2.0
//! A small static program for containers, made with the C compiler that Rust needs anyway.
//!
//! With it an image can be made and run on a machine on which nothing is installed: no busybox, no download. Its commands,
//! by the name it is called with or behind the name `payload`:
//! `true`, `false`, `exit N`, `echo`, `env`, `pwd`, `id`, `cat`, `ls DIR`, `stat FILE...` (mode, uid, gid, size), `write FILE
//! TEXT`, `rm FILE`, `sleep N`; `hold` says "ready" and waits for SIGTERM; `stubborn` does not heed it; `scatter UID` changes its
//! ids and leaves two orphans in sessions of their own; `syscall NUMBER[,ARGUMENT...]...` makes each call in a process of its own
//! and prints the word with the errno (0 for success) or `signal N`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::static_program;

/// The program's source.
const SOURCE: &str = include_str!("payload.c");

/// The commands it has, for images that want links by those names.
pub const COMMANDS: &[&str] = &[
    "true", "false", "exit", "echo", "env", "pwd", "id", "cat", "ls", "stat", "write", "rm",
    "sleep", "hold", "stubborn", "scatter", "syscall",
];

/// Returns the program's bytes; compiles it once for each process. Tests that call it say `need!(Cc)`.
///
/// # Panics
/// Where the compiler fails: it says why.
pub fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the payload");
        std::fs::read(compile(folder.path())).expect("what the compiler made")
    })
}

fn compile(folder: &Path) -> PathBuf {
    static_program::compile(folder, "payload", SOURCE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn every_command_is_known_and_the_program_is_static() {
        crate::need!(Cc);
        let folder = tempfile::tempdir().unwrap();
        let program = compile(folder.path());
        let run = |words: &[&str]| {
            let output = Command::new(&program)
                .args(words)
                .env_clear()
                .env("A", "1")
                .output()
                .unwrap();
            (
                output.status.code().unwrap(),
                String::from_utf8(output.stdout).unwrap(),
            )
        };
        assert_eq!(run(&["echo", "a", "b"]), (0, "a b\n".into()));
        assert_eq!(run(&["exit", "7"]), (7, String::new()));
        assert_eq!(run(&["env"]), (0, "A=1\n".into()));
        assert_eq!(run(&["nonsense"]).0, 127);
        // getpid, and close of no descriptor.
        let calls = ["39", "3,0xffffffff"].map(|call| {
            if cfg!(target_arch = "x86_64") {
                call
            } else {
                "172"
            }
        });
        let answer = if cfg!(target_arch = "x86_64") {
            "39 0\n3,0xffffffff 9\n"
        } else {
            "172 0\n172 0\n"
        };
        assert_eq!(run(&["syscall", calls[0], calls[1]]), (0, answer.into()));
        let link = folder.path().join("false");
        symlink(&program, &link).unwrap();
        assert_eq!(Command::new(link).status().unwrap().code(), Some(1));
        for command in COMMANDS {
            assert!(
                SOURCE.contains(&format!("!strcmp(name, \"{command}\")")),
                "{command}"
            );
        }
        assert!(
            !super::program()
                .windows(8)
                .any(|window| window == b"/ld-linu")
        );
    }
}
