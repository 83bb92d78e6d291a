// SPDX-License-Identifier: Apache-2.0
//! Where measurements are taken: inside a foreign root, on a fresh file system, as an ordinary user.
//!
//! Both sides live in the same root, have the same HOME on the same tmpfs, and are started in the same way. What needs
//! root (mounting, a containerd) is done by this program, which stays root; commands are started as the user.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::mount::{MountFlags, mount};

use super::measure::Meter;

/// The user of every peer root.
const UID: u32 = 1000;

/// Where the outer program binds our static program.
pub(super) const OURS: &str = "/opt/wolffia/dist/wolffia";

/// A folder to measure in, and how commands are started.
#[derive(Debug)]
pub(super) struct Place {
    uid: u32,
    /// A tmpfs; HOME lies in it.
    pub(super) memory: PathBuf,
    pub(super) home: PathBuf,
    pub(super) meter: Meter,
}

impl Place {
    /// Mounts a fresh tmpfs and makes the user's folders.
    pub(super) fn make() -> anyhow::Result<Place> {
        let memory = PathBuf::from("/mem");
        std::fs::create_dir_all(&memory)?;
        mount(
            "tmpfs",
            &memory,
            "tmpfs",
            MountFlags::empty(),
            c"mode=755,size=75%",
        )
        .context("mounting a tmpfs")?;
        let place = Place {
            uid: UID,
            home: memory.join("alice"),
            memory,
            meter: Meter::start(UID),
        };
        place.make_own(&place.home)?;
        place.make_own(&runtime())?;
        Ok(place)
    }

    /// Returns the user's id.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes a folder that belongs to the user.
    pub(super) fn make_own(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        chown(folder, Some(self.uid), Some(self.uid))?;
        Ok(())
    }

    /// Returns a command that runs as the user with this HOME.
    pub(super) fn with_home(&self, program: &str, home: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", home)
            .env("USER", "alice")
            .env("LOGNAME", "alice")
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("XDG_RUNTIME_DIR", runtime())
            .current_dir(home)
            .uid(self.uid)
            .gid(self.uid);
        command
    }

    /// Returns our program, as the user.
    pub(super) fn ours(&self, words: &[&str]) -> Command {
        let mut command = self.with_home(OURS, &self.home);
        command.args(words);
        command
    }

    /// Returns podman, as the user.
    pub(super) fn podman(&self, words: &[&str]) -> Command {
        let mut command = self.with_home("podman", &self.home);
        command.args(words);
        command
    }

    /// Returns the peer's version line.
    pub(super) fn version_of(&self, program: &str) -> String {
        let said = self
            .with_home(program, &self.home)
            .arg("--version")
            .output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        said.ok()
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_default()
    }
}

fn runtime() -> PathBuf {
    PathBuf::from(format!("/run/user/{UID}"))
}

/// Runs a command that is not measured; returns what it printed, without the line's end.
pub(super) fn quietly(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// Returns the bytes of disk that a folder takes, by du(1).
pub(super) fn disk_bytes(folder: &Path) -> anyhow::Result<f64> {
    let said = quietly(
        Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(folder),
    )?;
    let number = said.split_whitespace().next().context("du said nothing")?;
    Ok(number.parse()?)
}
