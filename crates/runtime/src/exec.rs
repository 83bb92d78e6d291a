// SPDX-License-Identifier: Apache-2.0
//! Another process joins a running container.
//!
//! # Theory of operation
//! A helper, forked from the caller, joins all namespaces of the container's first process in one `setns` by pidfd, and
//! clones the process as a child of the *caller*: only a clone enters a joined PID namespace. From there on it takes the
//! same steps as a first process after its change of root, with the same capabilities and the same filter. The helper is
//! not dumpable before it joins, so that nobody inside can look into it.

use std::path::Path;

use wolffia_sys::{
    Errno,
    namespace::{self, Namespaces},
    process::{self, CloneFlags, PidFd},
};

use crate::{
    becoming::{Becoming, Gate, Stdio, become_root},
    launch::{LaunchError, Running, through_helper},
    prepare::{self, Besides, PreparedProcess, Seccomp},
    report::{Doing, Failure, Line, Word},
    spec::{Linux, Process},
};

/// A process that is to join a container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The process.
    pub process: &'a Process,
    /// The container's configuration has its filter here.
    pub linux: Option<&'a Linux>,
    /// Whom it runs as, as a word for the image's own files; else the ids of `process`.
    pub user: Option<&'a str>,
    /// Its system call filter.
    pub seccomp: Seccomp,
    /// Its descriptors 0 to 2.
    pub stdio: Stdio,
    /// How many descriptors from 3 on it keeps.
    pub preserve_fds: u32,
}

/// Every namespace of a container that a process joins.
const JOINED: Namespaces = Namespaces::USER
    .union(Namespaces::MOUNT)
    .union(Namespaces::PID)
    .union(Namespaces::IPC)
    .union(Namespaces::UTS)
    .union(Namespaces::NETWORK)
    .union(Namespaces::CGROUP);

/// Starts a process in the container whose first process is `target`, and returns when its program runs.
///
/// The caller must have one thread; the process is its child. The caller must own the container's user namespace, or be in it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "its descriptors are the process's from now on"
)]
pub fn exec(target: &PidFd, exec: Exec<'_>) -> Result<Running, LaunchError> {
    let none = Linux::default();
    let besides = Besides {
        user: exec.user,
        seccomp: Some(&exec.seccomp),
        preserve_fds: exec.preserve_fds,
        reaper: false,
    };
    let prepared = prepare::process(exec.process, exec.linux.unwrap_or(&none), besides)?;
    let (ours, theirs) = Line::pair().map_err(LaunchError::Line)?;
    let stdio = &exec.stdio;
    let prepared = &prepared;
    let child = through_helper(move || join_and_clone(target, prepared, stdio, theirs))?;
    let mut running = Running {
        pid: child.pid,
        pidfd: child.pidfd,
        console: None,
        listener: None,
    };
    match listen(&ours, &mut running) {
        Ok(()) => Ok(running),
        Err(error) => {
            let _ = running.pidfd.wait();
            Err(error)
        }
    }
}

fn listen(line: &Line, running: &mut Running) -> Result<(), LaunchError> {
    while let Some(message) = line.receive().map_err(LaunchError::Line)? {
        match message.word {
            Word::Console => running.console = message.fd,
            Word::Listener => running.listener = message.fd,
            Word::Failure => return Err(Failure::from_bytes(&message.text).into()),
            Word::Executing => {
                return Ok(line.hear_execution().map_err(LaunchError::Line)??);
            }
            _ => return Err(LaunchError::Line(Errno::PROTO)),
        }
    }
    // It ended before it executed its program.
    Err(LaunchError::Line(Errno::CONNRESET))
}

fn join_and_clone(
    target: &PidFd,
    prepared: &PreparedProcess,
    stdio: &Stdio,
    line: Line,
) -> Result<process::Child, Failure> {
    crate::init::oom_score(prepared.oom_score_adj)?;
    process::set_dumpable(false).doing(|| "becoming not dumpable".to_owned())?;
    join(target).doing(|| "joining the container's namespaces".to_owned())?;
    let flags = CloneFlags {
        new: Namespaces::empty(),
        sibling: true,
    };
    process::clone_into(flags, move || {
        let stands = become_root().and_then(|()| {
            rustix::process::setsid().doing(|| "leading a session".to_owned())?;
            rustix::process::chdir(Path::new("/"))
                .doing(|| "entering the container's root".to_owned())
        });
        if let Err(failure) = stands {
            let _ = line.send(Word::Failure, &failure.to_bytes(), None);
            return failure.code();
        }
        Becoming {
            process: prepared,
            stdio,
            line,
            gate: Gate::Open,
            own_dev: false,
            hooks: &[],
            hook_state: &[],
        }
        .execute()
    })
    .doing(|| "cloning a process into the container".to_owned())
}

/// Joins all namespaces. The kernel refuses to join our own user namespace again, and any that is the machine's (a
/// container may share its network); then the two processes are compared, and what differs is joined.
fn join(target: &PidFd) -> Result<(), Errno> {
    match namespace::join_process(target, JOINED) {
        Err(Errno::INVAL | Errno::PERM) => {
            let different = namespace::different(target)?;
            namespace::join_process(target, JOINED & different)
        }
        answer => answer,
    }
}
