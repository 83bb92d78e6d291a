// SPDX-License-Identifier: Apache-2.0
//! A bundle with a busybox in it, and `wolffia oci` over it.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// The words of busybox that tests use.
const WORDS: [&str; 23] = [
    "sh", "ls", "cat", "id", "ps", "true", "echo", "sleep", "hostname", "ip", "stat", "env", "pwd",
    "readlink", "tty", "stty", "kill", "grep", "head", "touch", "mkdir", "umount", "wc",
];

/// A bundle in a directory of its own, with a root of its own for the state of containers.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
    pub(crate) config: Value,
    /// The program; a test may copy it elsewhere.
    pub(crate) program: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Bundle {
    /// Makes a bundle whose process is a shell with this script.
    pub(crate) fn new(script: &str) -> Bundle {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for made in ["rootfs/bin", "rootfs/etc", "rootfs/tmp", "outside"] {
            fs::create_dir_all(path.join(made)).unwrap();
        }
        fs::write(path.join("outside/secret"), "secret").unwrap();
        wolffia_testkit::executable::copy("/bin/busybox", path.join("rootfs/bin/busybox"));
        for word in WORDS {
            symlink("busybox", path.join("rootfs/bin").join(word)).unwrap();
        }
        fs::write(
            path.join("rootfs/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n",
        )
        .unwrap();
        fs::write(path.join("rootfs/etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_wolffia"));
        let mut bundle = Bundle {
            directory,
            config: Value::Null,
            program,
        };
        let done = bundle.oci(&["spec", "-b", &bundle.path("").display().to_string()]);
        assert_eq!(done.code, 0, "{done:?}");
        bundle.config =
            serde_json::from_str(&fs::read_to_string(bundle.path("config.json")).unwrap()).unwrap();
        bundle.config["process"]["args"] = json!(["sh", "-c", script]);
        bundle
    }

    /// Returns a path in the bundle's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns `wolffia oci` with these words, at the bundle's own state root.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["oci", "--root"])
            .arg(self.path("state"))
            .args(words)
            .stdin(Stdio::null());
        command.current_dir(self.path(""));
        command
    }

    pub(crate) fn oci(&self, words: &[&str]) -> Done {
        self.command(words).output().unwrap().into()
    }

    /// Runs a container that goes on; its output goes nowhere, or a reader would wait for its end.
    pub(crate) fn detach(&self) {
        self.write();
        let mut command = self.command(&["run", "-d", "test"]);
        assert!(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
    }

    /// Writes the configuration.
    pub(crate) fn write(&self) {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
    }

    /// Writes the configuration and runs a container of it in the foreground.
    pub(crate) fn run(&self) -> Done {
        self.write();
        self.oci(&["run", "test"])
    }

    /// Runs it and returns its output; it must succeed.
    pub(crate) fn output(&self) -> String {
        let done = self.run();
        assert_eq!(done.code, 0, "{done:?}");
        done.out
    }

    /// Runs another script in it.
    pub(crate) fn output_of(&mut self, script: &str) -> String {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self.output()
    }

    /// Makes a link in the root file system, replacing what is there.
    pub(crate) fn link(&self, target: impl AsRef<Path>, at: &str) {
        let at = self.path("rootfs").join(at);
        drop(fs::remove_file(&at));
        drop(fs::remove_dir(&at));
        symlink(target, at).unwrap();
    }

    /// Writes an executable file into the root file system.
    pub(crate) fn script(&self, at: &str, text: &str) {
        let path = self.path("rootfs").join(at);
        wolffia_testkit::executable::write(path, text);
    }

    /// Removes a mount from the configuration.
    pub(crate) fn without_mount(&mut self, destination: &str) {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != destination);
    }

    /// Adds a bind mount.
    pub(crate) fn bind(&mut self, source: &str, destination: &str, options: &[&str]) {
        let mount = json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
        });
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Maps container root to root of a user namespace around the command, in which a test may mount.
    pub(crate) fn nest(&mut self) {
        for map in ["uidMappings", "gidMappings"] {
            self.config["linux"][map][0]["hostID"] = json!(0);
        }
    }

    /// Returns the names outside, sorted: an attack must add none.
    pub(crate) fn names_outside(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("outside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // A test that failed may have left a container.
        drop(self.command(&["delete", "-f", "test"]).output());
    }
}
