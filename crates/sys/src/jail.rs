// SPDX-License-Identifier: Apache-2.0
//! The jail that a helper of ours shuts itself into once it has all that it will work with: what it
//! may still call, reach and hold, taken from it for good.
//!
//! Helpers read what strangers wrote: layers, packets, requests of a container's kernel. Where one of
//! them is led astray it should find itself with its descriptors, its memory, and nothing else.
//!
//! # Theory of operation
//! A [`Jail`] starts with nothing allowed. The helper names groups of calls ([`calls`]) and the
//! directories that it works in, and calls [`Jail::enter`] as its last act before its first thread
//! and its first foreign byte. In this order, each step needing what the next one takes away:
//! 1. no longer dumpable: nobody of the same user looks into it or traces it (unless [`Jail::visible`] said so);
//! 2. `no_new_privs`: no program, whatever its file says, gives rights back;
//! 3. landlock, where the kernel has it ([`landlock`]): of all files those below the named
//!    descriptors, no TCP unless [`Jail::internet`] said so, no signals and no abstract sockets to
//!    anybody outside;
//! 4. capabilities: only those of [`Jail::keep`], and the bounding set with them;
//! 5. the system call filter, laid out as a tree ([`crate::seccomp::tree`]). A call that is not
//!    allowed ends the whole process by SIGSYS: there is nothing sensible to go on with, and
//!    whoever watches the helper sees why it ended.
//!
//! Landlock is the one wall that may be missing (before Linux 5.13, or switched off at boot); what is
//! left out is told by [`Walls`], so that `doctor` can say so. Everything else is an error.
//!
//! Landlock and capabilities belong to a thread: a process enters with one thread, and gives the walls
//! to all that it starts later. Filters add up: a child may enter a narrower jail, never a wider one.
//!
//! What it costs on a 2-core VM with Linux 6.18: 64 us at the least, 71 us in the middle of 200, for five groups and four
//! directories.
//!
//! ```no_run
//! # use wolffia_sys::jail::{Jail, calls, Reach};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = std::fs::File::open("/home/alice/.local/share/wolffia")?;
//! let mut jail = Jail::new();
//! jail.allow(calls::BASIC).allow(calls::THREADS).allow(calls::READ_FILES);
//! jail.reach(&store, Reach::Read)?;
//! let walls = jail.enter()?;
//! # Ok(()) }
//! ```
//!
//! # Sources
//! seccomp(2), landlock(7), capabilities(7), prctl(2).

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use thiserror::Error;

use crate::{
    capabilities::{self, Set, Sets},
    process,
    seccomp::{
        self, Flags, InstallError, Program, ProgramError,
        policy::{Action, Architecture, Policy, Rule, Rules},
        tree,
    },
};

pub mod calls;
pub mod landlock;
#[cfg(test)]
mod tests;

pub use calls::Call;
pub use landlock::Reach;

/// What a helper will still be able to do; nothing at first.
#[derive(Debug, Default)]
pub struct Jail {
    allowed: Vec<Call>,
    ground: Vec<(OwnedFd, Reach)>,
    internet: bool,
    keep: Set,
    is_visible: bool,
}

/// Which walls stand that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walls {
    /// The version of landlock's interface, `None` where this kernel has none of use.
    pub landlock: Option<u32>,
}

/// Why a jail was not entered. What was taken until then stays taken; the helper should end.
#[derive(Debug, Error)]
pub enum JailError {
    /// A step failed.
    #[error("entering the jail: {doing}")]
    Step {
        /// What was done.
        doing: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The groups together are more than a filter can hold.
    #[error("entering the jail")]
    Filter(#[from] ProgramError),
    /// The kernel did not take the filter.
    #[error("entering the jail")]
    Install(#[from] InstallError),
}

fn step(doing: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |source| JailError::Step { doing, source }
}

/// The architecture that this program was made for.
#[cfg(target_arch = "x86_64")]
const NATIVE: Architecture = Architecture::X86_64;
/// The architecture that this program was made for.
#[cfg(target_arch = "aarch64")]
const NATIVE: Architecture = Architecture::Aarch64;

impl Jail {
    /// Returns a jail in which nothing is allowed.
    pub fn new() -> Jail {
        Jail::default()
    }

    /// Allows the calls of a group of [`calls`], or single ones.
    pub fn allow(&mut self, calls: &[Call]) -> &mut Jail {
        self.allowed.extend_from_slice(calls);
        self
    }

    /// Leaves what is below this descriptor (or the one file that it is) within reach of the calls that open files. The
    /// descriptor may be closed afterwards. Without any, nothing can be opened where the kernel has landlock.
    pub fn reach(&mut self, beneath: impl AsFd, reach: Reach) -> Result<&mut Jail, JailError> {
        let own = rustix::io::fcntl_dupfd_cloexec(beneath, 3)
            .map_err(step("keeping a directory within reach"))?;
        self.ground.push((own, reach));
        Ok(self)
    }

    /// Leaves TCP connections and ports to the helper, as far as the allowed calls go; else landlock (Linux 6.7) forbids both.
    pub fn internet(&mut self) -> &mut Jail {
        self.internet = true;
        self
    }

    /// Leaves these capabilities, as far as they are held; else none stays.
    pub fn keep(&mut self, capabilities: Set) -> &mut Jail {
        self.keep = self.keep.with(capabilities);
        self
    }

    /// Leaves the process as visible to its own user as it is, who may look at its /proc files and trace it.
    pub fn visible(&mut self) -> &mut Jail {
        self.is_visible = true;
        self
    }

    /// Puts the walls up around the calling process, for good.
    ///
    /// # Panics
    /// With debug assertions, where the process has more than one thread.
    pub fn enter(self) -> Result<Walls, JailError> {
        debug_assert!(
            process::has_one_thread(),
            "a jail is entered before the first thread"
        );
        let filter = self.filter()?;
        if !self.is_visible {
            process::set_dumpable(false).map_err(step("becoming not dumpable"))?;
        }
        process::set_no_new_privileges().map_err(step("setting no_new_privs"))?;
        let landlock = landlock::restrict(&self.ground, self.internet)
            .map_err(step("restricting the files within reach"))?;
        drop(self.ground);
        drop_capabilities(self.keep).map_err(step("giving up capabilities"))?;
        seccomp::install(&filter, Flags::ALLOW_SPECULATION)?;
        Ok(Walls { landlock })
    }

    /// Returns the filter: what is not allowed, and every call of another architecture, ends the process.
    fn filter(&self) -> Result<Program, ProgramError> {
        // Of two groups, one that allows and one that refuses softly, the one that allows counts.
        let (allowing, refusing): (Vec<&Call>, Vec<&Call>) =
            self.allowed.iter().partition(|call| call.allows());
        let rules: Rules = allowing
            .into_iter()
            .chain(refusing)
            .map(|call| {
                let rule = Rule {
                    conditions: call.conditions().to_vec(),
                    action: call.action(),
                };
                (call.number(), rule)
            })
            .collect();
        Program::new(tree::emit(&Policy {
            default: Action::KillProcess,
            newer: None,
            foreign: Action::KillProcess,
            architectures: vec![(NATIVE, rules)],
        }))
    }
}

fn drop_capabilities(keep: Set) -> Result<(), Errno> {
    let held = capabilities::effective()?;
    let keep = held.and(keep);
    // Who may not narrow the bounding set cannot gain from it either: no_new_privs stands.
    match capabilities::limit_bounding(keep) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    capabilities::apply(&Sets {
        effective: keep,
        permitted: keep,
        ..Sets::default()
    })
}
