// SPDX-License-Identifier: Apache-2.0
//! The ids of one run's test user, out of a few that runs on one machine share out among themselves.
//!
//! Theory of operation: a slot is a user id and a range of subordinate ids. Whoever holds the lock (flock(2)) on the slot's
//! file has them; the kernel gives the lock back with the end of the process, however it ends. The files stay.

use std::fs::{DirBuilder, File};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Where the locks lie: emptied by a boot, root's alone.
const FOLDER: &str = "/run/wolffia-test";

/// Runs at once on one machine. Each has two cores' worth of work.
const SLOTS: u32 = 16;

/// Above adduser's ids (to 59,999) and those of systemd-homed (60,001 to 60,513), before systemd's dynamic users (from
/// 61,184).
const USER_FIRST: u32 = 60_900;

/// In the gap between the ids of systemd-nspawn (to 1,879,048,191) and 2^31.
const SUBORDINATE_FIRST: u32 = 1_900_000_000;
const SUBORDINATE_COUNT: u32 = 65_536;

/// Ids that nobody else has as long as this lives.
#[derive(Debug)]
pub(super) struct Slot {
    number: u32,
    /// Holds the lock; closed on exec, so no test inherits it.
    _lock: File,
}

/// The number of a slot, taken or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate(u32);

impl Candidate {
    pub(super) fn user(self) -> u32 {
        USER_FIRST + self.0
    }
}

impl Slot {
    /// Takes a free slot, one of those that are `preferred` if there is any.
    pub(super) fn take(preferred: impl Fn(Candidate) -> bool) -> anyhow::Result<Slot> {
        Slot::take_in(Path::new(FOLDER), preferred)
    }

    fn take_in(folder: &Path, preferred: impl Fn(Candidate) -> bool) -> anyhow::Result<Slot> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let mut numbers: Vec<u32> = (0..SLOTS).collect();
        numbers.sort_by_key(|number| !preferred(Candidate(*number)));
        for number in numbers {
            let path = folder.join(number.to_string());
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Slot {
                        number,
                        _lock: lock,
                    });
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        bail!("{SLOTS} runs of the tests are under way on this machine: wait for one to end")
    }

    /// Returns the id of the user, and of their group.
    pub(super) fn user(&self) -> u32 {
        Candidate(self.number).user()
    }

    /// Returns the user's subordinate ids.
    pub(super) fn subordinate(&self) -> Range<u32> {
        let first = SUBORDINATE_FIRST + self.number * SUBORDINATE_COUNT;
        first..first + SUBORDINATE_COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_have_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let take = || {
            Slot::take_in(folder.path(), |candidate| {
                candidate.user() == USER_FIRST + 3
            })
        };
        let mut held: Vec<Slot> = (0..SLOTS).map(|_| take().unwrap()).collect();
        assert_eq!(held[0].number, 3, "the one that was preferred comes first");
        let mut ids: Vec<(u32, u32)> = held
            .iter()
            .map(|slot| (slot.user(), slot.subordinate().start))
            .collect();
        ids.sort_unstable();
        ids.dedup_by(|one, other| one.0 == other.0 || one.1 - other.1 < SUBORDINATE_COUNT);
        assert_eq!(ids.len(), SLOTS as usize);
        assert!(ids.iter().all(|(user, _)| *user < 61_184));
        let refused = take().unwrap_err().to_string();
        assert!(refused.contains("wait for one"), "{refused}");
        drop(held.remove(5));
        assert_eq!(take().unwrap().number, 5);
    }
}
