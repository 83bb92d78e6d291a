// SPDX-License-Identifier: Apache-2.0
//! A HOME with an image to pull, the program under a path of its own, and eyes for what it leaves running.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use wolffia_testkit::layout::{Layout, Meta, Tar};

/// How long the kernel may take to end what hangs on a killed process, on a busy machine.
const END_MAX: Duration = Duration::from_secs(10);

/// Files in the image, so that a pull takes long enough to be killed in its middle.
const FILES: usize = 1_500;

/// One of so many kills is for another process of ours than the command that was started.
const OTHERS_ONE_IN: u64 = 3;

/// A moment in the life of a command, drawn by seed.
pub(crate) struct Moment {
    state: u64,
    usual: Duration,
}

impl Moment {
    /// A command that usually takes so long.
    pub(crate) fn new(seed: u64, usual: Duration) -> Moment {
        Moment {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            usual,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) % bound.max(1)
    }

    fn draw(&mut self) -> Duration {
        let micros = u64::try_from(self.usual.as_micros()).unwrap_or(u64::MAX / 2);
        Duration::from_micros(self.below(micros + micros / 5))
    }
}

/// The house.
pub(crate) struct House {
    home: tempfile::TempDir,
    program: PathBuf,
    image: String,
    mark: String,
}

impl House {
    pub(crate) fn new() -> House {
        let home = tempfile::tempdir().unwrap();
        // A program of its own is found by its path, whatever it has done to its environment.
        let program = home.path().join("wolffia");
        wolffia_testkit::executable::copy(env!("CARGO_BIN_EXE_wolffia"), &program);
        let folder = home.path().join("layout");
        let many = (0..FILES).fold(
            Tar::new().directory("many/", Meta::mode(0o755)),
            |tar, number| {
                let content = format!("file {number}\n").repeat(40);
                tar.file(
                    &format!("many/{number}"),
                    Meta::mode(0o644),
                    content.as_bytes(),
                )
            },
        );
        let config = serde_json::json!({ "Env": ["PATH=/bin"] });
        Layout::new(&folder).image(
            "latest",
            &[Tar::new().payload().bytes(), many.bytes()],
            &config,
        );
        let image = format!("oci:{}:latest", folder.display());
        let mark = format!("WOLFFIA_HOUSE={}", home.path().display());
        House {
            home,
            program,
            image,
            mark,
        }
    }

    /// The image's reference.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// The folder of everything.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join(".local/share/wolffia")
    }

    /// A variable, with its value, by which payloads are known.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("HOME", self.home.path())
            .env_remove("WOLFFIA_ROOT")
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; returns what it printed, without the last line's end.
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Starts a command and kills it, or another process of ours, at the moment.
    pub(crate) fn kill_at(&self, words: &[&str], moment: &mut Moment) {
        let mut child = self
            .command(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        if ends_within(&handle, moment.draw()) {
            child.wait().unwrap();
            return;
        }
        if moment.below(OTHERS_ONE_IN) == 0 {
            self.kill_another(&child, moment);
        }
        pidfd_send_signal(&handle, Signal::KILL).ok();
        child.wait().unwrap();
    }

    fn kill_another(&self, child: &Child, moment: &mut Moment) {
        let own: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|process| process.is_program && process.pid != child.id())
            .collect();
        if own.is_empty() {
            return;
        }
        let bound = u64::try_from(own.len()).unwrap();
        let chosen = usize::try_from(moment.below(bound)).unwrap();
        pidfd_send_signal(&own[chosen].handle, Signal::KILL).ok();
        // What is left of the command must come to an end by itself, or be killed after a little while.
        let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
        ends_within(&handle, moment.usual);
    }

    /// Tells whether a process of this house runs: eyes that see nothing would find every end clean.
    pub(crate) fn is_busy(&self) -> bool {
        !self.processes().is_empty()
    }

    /// Returns how many processes run our program.
    pub(crate) fn programs(&self) -> usize {
        let ours = |process: &Process| process.is_program;
        self.processes()
            .iter()
            .filter(|process| ours(process))
            .count()
    }

    /// Fails where a process of this house still runs after [`END_MAX`].
    pub(crate) fn expect_nothing_runs(&self, seed: u64) {
        let deadline = Instant::now() + END_MAX;
        let left: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|process| {
                !ends_within(
                    &process.handle,
                    deadline.saturating_duration_since(Instant::now()),
                )
            })
            .map(|process| process.described)
            .collect();
        assert!(left.is_empty(), "left running, seed {seed}: {left:#?}");
    }

    /// Fails where the store complains.
    pub(crate) fn expect_sound(&self, seed: u64) {
        let output = self.command(&["system", "check"]).output().unwrap();
        assert!(
            output.status.success(),
            "system check, seed {seed}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Finds the processes of this house: by program, by mark, by the user's sub-ids.
    fn processes(&self) -> Vec<Process> {
        let own = rustix::process::getpid();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw)
            .filter(|pid| *pid != own)
            .filter_map(|pid| self.process(pid))
            .collect()
    }

    fn process(&self, pid: Pid) -> Option<Process> {
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let is_program =
            std::fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == self.program);
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        let is_marked = environment
            .split(|byte| *byte == 0)
            .any(|line| line == self.mark.as_bytes());
        if !is_program && !is_marked && !is_of_sub_id(&folder) {
            return None;
        }
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let described = format!(
            "{pid:?} {}",
            String::from_utf8_lossy(&line).replace('\0', " ")
        );
        Some(Process {
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            handle,
            is_program,
            described,
        })
    }
}

struct Process {
    pid: u32,
    handle: OwnedFd,
    is_program: bool,
    described: String,
}

/// Tells whether a process runs under a sub-id of this user.
fn is_of_sub_id(folder: &Path) -> bool {
    // Not the folder's owner: that is root where a process has changed its ids.
    let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    let Some(uid) = uid.and_then(|uid| uid.parse::<u32>().ok()) else {
        return false;
    };
    let own = rustix::process::getuid().as_raw();
    let name = std::env::var("USER").unwrap_or_default();
    let text = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    text.lines().any(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [owner, first, count] = fields[..] else {
            return false;
        };
        let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else {
            return false;
        };
        (owner == name || owner == own.to_string())
            && (first..first.saturating_add(count)).contains(&uid)
    })
}

fn ends_within(handle: &OwnedFd, longest: Duration) -> bool {
    let Ok(longest) = Timespec::try_from(longest) else {
        return false;
    };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&longest)).is_ok_and(|ready| ready > 0)
}
