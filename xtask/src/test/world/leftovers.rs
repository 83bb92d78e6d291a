// SPDX-License-Identifier: Apache-2.0
//! Processes that outlive the tests which started them.
//!
//! "Nothing is left running" is a promise, so each test binary is followed by a look through /proc: as root for
//! processes with an id of the test user, as an ordinary user for processes with this world's HOME in their environment.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The ids that belong to the test user.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) user: u32,
    pub(super) subordinate: Range<u32>,
}

/// Waits until `deadline` for such processes to end by themselves, kills the rest and returns what they were.
pub(super) fn end(
    ids: Option<&Ids>,
    world: &Path,
    deadline: Instant,
) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        if pid == rustix::process::getpid() {
            continue;
        }
        // The handle first: a pid that is looked at by name may be another's by the time it is killed.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let folder = Path::new("/proc").join(&name);
        let ours = match ids {
            Some(ids) => has_id_of(&folder, ids),
            None => has_home_in(&folder, world),
        };
        if ours && !ends_until(&handle, deadline) {
            left.push(describe(&folder, &name));
            pidfd_send_signal(&handle, Signal::KILL).ok();
        }
    }
    Ok(left)
}

fn ends_until(handle: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(left) = Timespec::try_from(left) else {
        return false;
    };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)).is_ok_and(|ready| ready > 0)
}

fn has_id_of(folder: &Path, ids: &Ids) -> bool {
    let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    uid.and_then(|uid| uid.parse().ok())
        .is_some_and(|uid: u32| uid == ids.user || ids.subordinate.contains(&uid))
}

fn has_home_in(folder: &Path, world: &Path) -> bool {
    let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
    let wanted = format!("HOME={}/", world.display());
    environment
        .split(|byte| *byte == 0)
        .any(|line| line.starts_with(wanted.as_bytes()))
}

fn describe(folder: &Path, pid: &str) -> String {
    let words = std::fs::read(folder.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = words
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    format!("process {pid}: {}", words.join(" ").trim())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_with_the_worlds_home_is_found_and_ended() {
        let world = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .env("HOME", world.path().join("home"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let left = end(None, world.path(), Instant::now()).unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].ends_with("sleep 1000"), "{left:?}");
        assert!(!child.wait().unwrap().success());
        assert_eq!(
            end(None, world.path(), Instant::now()).unwrap(),
            Vec::<String>::new()
        );
    }
}
