// SPDX-License-Identifier: Apache-2.0
//! One attempt in a child process: it may do what it likes to itself, and must come to an end.

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::PipeFlags,
};

use crate::{
    namespace::Namespaces,
    process::{Child, clone_into, exit_now},
};

/// An attempt that takes longer than this has failed: the slowest (an overlay on a busy disk) takes some milliseconds.
pub const TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes of a report at most.
const REPORT_BYTES_MAX: usize = 512;

/// Whether something can be done here.
pub type Ability = Result<(), Lack>;

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What was tried.
    pub doing: String,
    /// The kernel's answer.
    pub errno: Errno,
}

impl Lack {
    /// Returns one.
    pub fn new(doing: impl Into<String>, errno: Errno) -> Lack {
        Lack {
            doing: doing.into(),
            errno,
        }
    }

    /// For `map_err`: adds what was tried to the kernel's answer.
    pub fn at(doing: &'static str) -> impl FnOnce(Errno) -> Lack {
        move |errno| Lack::new(doing, errno)
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.doing, self.errno)
    }
}

impl std::error::Error for Lack {}

/// Runs `attempt` in a child with these new namespaces; where the user namespace is new, the child is its root and has
/// no other id.
pub fn attempt(new: Namespaces, attempt: impl FnOnce() -> Ability) -> Ability {
    attempt_with(new, false, |_| Ok(()), attempt)
}

/// The same, with something for the parent to do before the attempt begins; with `mapped_by_parent` that includes the
/// maps of a new user namespace.
pub(super) fn attempt_with(
    new: Namespaces,
    mapped_by_parent: bool,
    prepare: impl FnOnce(&Child) -> Ability,
    attempt: impl FnOnce() -> Ability,
) -> Ability {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (report, to_report) = pipe().map_err(Lack::at("making a pipe"))?;
    let (gate, to_open) = pipe().map_err(Lack::at("making a pipe"))?;
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let mut ends = Some((report, to_open));
    let child = clone_into(new, || {
        drop(ends.take());
        let mapped = if new.contains(Namespaces::USER) && !mapped_by_parent {
            map_self(user, group)
        } else {
            Ok(())
        };
        let result = mapped.and_then(|()| {
            rustix::io::retry_on_intr(|| rustix::io::read(&gate, &mut [0_u8; 1]))
                .map_err(Lack::at("waiting"))?;
            attempt()
        });
        tell(&to_report, &result);
        exit_now(u8::from(result.is_err()))
    });
    drop((to_report, gate));
    let (report, to_open) = ends.take().ok_or_else(|| Lack::new("cloning", Errno::IO))?;
    let child = child.map_err(Lack::at("making namespaces"))?;
    let prepared = prepare(&child);
    drop(to_open);
    let result = hear(&report, &child);
    prepared.and(result)
}

fn map_self(user: u32, group: u32) -> Ability {
    let write = |path: &'static str, text: String| {
        std::fs::write(path, text).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Lack::new(format!("writing {path}"), errno)
        })
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn tell(to: &OwnedFd, result: &Ability) {
    let report = match result {
        Ok(()) => vec![0; 4],
        Err(lack) => {
            let mut report = lack.errno.raw_os_error().to_ne_bytes().to_vec();
            report.extend_from_slice(lack.doing.as_bytes());
            report.truncate(REPORT_BYTES_MAX);
            report
        }
    };
    // A report that cannot be written is one that does not come, which the parent takes for a failure.
    let _ = rustix::io::write(to, &report);
}

/// Waits for the report and the end of the child, which is killed where it takes too long.
fn hear(report: &OwnedFd, child: &Child) -> Ability {
    let limit = Timespec {
        tv_sec: TIME_MAX.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut polled = [PollFd::from_borrowed_fd(report.as_fd(), PollFlags::IN)];
    let heard = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&limit)));
    let mut bytes = [0; REPORT_BYTES_MAX];
    let length = match heard {
        Ok(1..) => rustix::io::retry_on_intr(|| rustix::io::read(report, &mut bytes[..])),
        Ok(0) => Err(Errno::TIMEDOUT),
        Err(errno) => Err(errno),
    };
    // It has nothing left to do; one that hangs must not stay.
    let _ = child.pidfd.send_signal(libc::SIGKILL);
    let _ = child.pidfd.wait();
    let length = length.map_err(Lack::at("waiting for the attempt"))?;
    let Some((errno, doing)) = bytes[..length].split_first_chunk::<4>() else {
        return Err(Lack::new("the attempt ended without a word", Errno::CHILD));
    };
    match i32::from_ne_bytes(*errno) {
        0 => Ok(()),
        errno => Err(Lack::new(
            String::from_utf8_lossy(doing),
            Errno::from_raw_os_error(errno),
        )),
    }
}
