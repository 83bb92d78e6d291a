// SPDX-License-Identifier: Apache-2.0
//! A HOME with an image of busybox in its store.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use wolffia_testkit::layout::{Layout, Meta, Tar};

/// Programs of busybox that the tests use.
const PROGRAMS: [&str; 28] = [
    "sh", "cat", "chown", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "kill",
    "ls", "mkdir", "mount", "ps", "pwd", "rm", "setsid", "sleep", "stat", "stty", "touch", "true",
    "tty", "whoami", "seq", "readlink",
];

/// The image's name in the store.
pub(crate) const IMAGE: &str = "busy:1";

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The machine of one test.
pub(crate) struct Machine {
    home: tempfile::TempDir,
}

impl Machine {
    /// Makes it. Say `need!(UserNamespace, Busybox)`.
    pub(crate) fn new() -> Machine {
        let machine = Machine {
            home: tempfile::tempdir().unwrap(),
        };
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find_map(|path| std::fs::read(path).ok());
        let mut tar = Tar::new()
            .directory("bin/", Meta::mode(0o755))
            .directory("etc/", Meta::mode(0o755))
            .directory("tmp/", Meta::mode(0o1777))
            .file(
                "bin/busybox",
                Meta::mode(0o755),
                &busybox.expect("a busybox"),
            )
            .file(
                "etc/passwd",
                Meta::mode(0o644),
                b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
            )
            .file(
                "etc/group",
                Meta::mode(0o644),
                b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
            );
        for program in PROGRAMS {
            tar = tar.symlink(&format!("bin/{program}"), "busybox");
        }
        let folder = machine.path("layout");
        let config = json!({ "Env": ["PATH=/bin", "FROM=image"], "Cmd": ["/bin/sh"], "Labels": {"made": "by test"} });
        Layout::new(&folder).image("1", &[tar.bytes()], &config);
        let layout = format!("oci:{}:1", folder.display());
        let id = machine.good(&["pull", "-q", &layout]);
        machine.good(&["tag", &id, IMAGE]);
        machine
    }

    /// Returns a path below the HOME.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Returns the state root.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Returns a command of the program.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wolffia"));
        command
            .args(words)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("WOLFFIA_ROOT", self.state())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        said(&self.command(words).output().unwrap())
    }

    /// Runs a command with something to read.
    pub(crate) fn told(&self, words: &[&str], input: &[u8]) -> Said {
        let mut child = self.piped(words);
        child.stdin.take().unwrap().write_all(input).unwrap();
        said(&child.wait_with_output().unwrap())
    }

    /// Starts a command with pipes at its streams.
    pub(crate) fn piped(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs a command that must succeed; returns what it printed.
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.err);
        said.out
    }

    /// Runs a shell line in a new container, with more flags.
    pub(crate) fn shell(&self, flags: &[&str], line: &str) -> Said {
        self.run(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", line]].concat())
    }

    /// Says that nothing of any container is left on disk.
    pub(crate) fn assert_clean(&self) {
        for folder in ["containers", "running", "names"] {
            let left: Vec<_> = std::fs::read_dir(self.state().join(folder))
                .unwrap()
                .collect();
            assert!(left.is_empty(), "left in {folder}: {left:?}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What containers wrote may belong to sub-ids, which only the program can remove.
        drop(self.command(&["system", "reset", "--force"]).output());
    }
}

/// Returns what an output says, without the last line's end.
pub(crate) fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// Returns a path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
