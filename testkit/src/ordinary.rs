// SPDX-License-Identifier: Apache-2.0
//! An ordinary user for tests that need root too: to unpack an image with true owners on one side, and to run it without
//! root on the other.
//!
//! Each [command](Ordinary::command) starts in a private mount namespace in which copies of passwd, group, subuid and subgid
//! with one user more lie over the machine's, which stay untouched.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "wolffia-guest";
/// Above the users of test runs, in the gap before systemd's dynamic users.
const ID: u32 = 60_950;
/// In the gap between the ids of systemd-nspawn (to 1,879,048,191) and 2^31.
const SUBORDINATE_FIRST: u32 = 1_910_000_000;
const SUBORDINATE_COUNT: u32 = 65_536;

/// Enters the private namespace's user: the folder, the user's number, then the command.
const SCRIPT: &str = r#"
folder=$1 id=$2; shift 2
for file in passwd group subuid subgid; do
    [ -e /etc/$file ] || : > /etc/$file
    mount --bind "$folder/etc/$file" /etc/$file || exit 125
done
cd "$folder/home" || exit 125
exec setpriv --reuid="$id" --regid="$id" --clear-groups --inh-caps=-all --bounding-set=+all -- "$@"
"#;

/// A user that exists for the commands of one test.
#[derive(Debug)]
pub struct Ordinary {
    folder: tempfile::TempDir,
}

impl Default for Ordinary {
    fn default() -> Ordinary {
        Ordinary::new()
    }
}

impl Ordinary {
    /// Makes the user, with sub-ids. Say `need!(Root)`.
    ///
    /// # Panics
    /// Where a file cannot be written.
    pub fn new() -> Ordinary {
        Ordinary::with(&format!("{NAME}:{SUBORDINATE_FIRST}:{SUBORDINATE_COUNT}\n"))
    }

    /// Makes the user without sub-ids. Say `need!(Root)`.
    ///
    /// # Panics
    /// Where a file cannot be written.
    pub fn with_one_id() -> Ordinary {
        Ordinary::with("")
    }

    fn with(ids: &str) -> Ordinary {
        // The folder for temporary files may be root's alone.
        let is_open = |path: &Path| {
            path.ancestors().all(|path| {
                path.metadata()
                    .is_ok_and(|seen| seen.permissions().mode() & 1 == 1)
            })
        };
        let place = Some(std::env::temp_dir()).filter(|path| is_open(path));
        let place = place.unwrap_or_else(|| PathBuf::from("/tmp"));
        let temporary = tempfile::tempdir_in(place).expect("a folder for the user");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(temporary.path(), open).expect("opening the user's folder");
        let make = |path: &Path, mode, owner| {
            std::fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .expect("a folder for the user");
            chown(path, owner, owner).expect("giving a folder to the user");
        };
        let folder = temporary.path();
        make(&folder.join("etc"), 0o755, None);
        make(&folder.join("home"), 0o700, Some(ID));
        make(&folder.join("run"), 0o700, Some(ID));
        let home = folder.join("home");
        for (file, line) in [
            (
                "passwd",
                format!("{NAME}:x:{ID}:{ID}::{}:/bin/sh\n", home.display()),
            ),
            ("group", format!("{NAME}:x:{ID}:\n")),
            ("subuid", ids.to_owned()),
            ("subgid", ids.to_owned()),
        ] {
            let machine = std::fs::read_to_string(format!("/etc/{file}")).unwrap_or_default();
            std::fs::write(folder.join("etc").join(file), machine + &line)
                .expect("writing an account file");
        }
        Ordinary { folder: temporary }
    }

    /// Returns a folder that is root's and that the user may enter; it goes with this value.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the user's home.
    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// Returns a command that runs as the user, in the user's home.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                SCRIPT,
                "sh",
            ])
            .arg(self.folder())
            .arg(ID.to_string())
            .arg(program)
            .env("HOME", self.home())
            .env("USER", NAME)
            .env("LOGNAME", NAME)
            .env("TMPDIR", self.home())
            .env("XDG_RUNTIME_DIR", self.folder().join("run"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_ordinary_and_the_machine_does_not_know_them() {
        crate::need!(Root);
        let before = std::fs::read("/etc/passwd").unwrap();
        let user = Ordinary::new();
        let said = |words: &[&str]| {
            let output = user.command(words[0]).args(&words[1..]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(said(&["id", "-un"]), NAME);
        assert_eq!(
            said(&["sh", "-c", "grep CapEff /proc/self/status"]),
            "CapEff:\t0000000000000000"
        );
        assert_eq!(said(&["pwd"]), user.home().display().to_string());
        assert_eq!(std::fs::read("/etc/passwd").unwrap(), before);
    }
}
