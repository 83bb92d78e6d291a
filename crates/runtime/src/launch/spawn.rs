// SPDX-License-Identifier: Apache-2.0
//! The first process is cloned: by ourselves, or, where namespaces are joined, by a helper that has joined them.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use wolffia_sys::{
    Errno,
    namespace::{self, Namespaces},
    process::{self, Child, CloneFlags, PidFd},
};

use super::LaunchError;
use crate::{
    init::Init,
    prepare::Prepared,
    report::{Failure, Line, Word},
};

/// Clones the first process, through a helper where namespaces are joined.
pub(super) fn spawn(prepared: &Prepared, init: Init<'_>) -> Result<Child, LaunchError> {
    let new = prepared.new;
    let failed = |source| LaunchError::Clone { new, source };
    if prepared.join.is_empty() {
        return process::clone_into(new, move || init.run()).map_err(failed);
    }
    let mut joined = Vec::new();
    for (kind, path) in &prepared.join {
        let opened = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|source| LaunchError::Namespace {
            path: path.clone(),
            source,
        })?;
        joined.push((*kind, file));
    }
    through_helper(move || join_and_clone(&joined, new, init))
}

/// Forks a helper that makes the process we want, as a child of ours; returns that child.
///
/// The helper has a line of its own, so that its word cannot come behind one of the process it made.
pub(crate) fn through_helper(
    work: impl FnOnce() -> Result<Child, Failure>,
) -> Result<Child, LaunchError> {
    let (ours, theirs) = Line::pair().map_err(LaunchError::Line)?;
    let helper = process::clone_into(CloneFlags::FORK, move || match work() {
        Ok(child) => report_process(&theirs, &child),
        Err(failure) => {
            let _ = theirs.send(Word::Failure, &failure.to_bytes(), None);
            failure.code()
        }
    })
    .map_err(|source| LaunchError::Clone {
        new: Namespaces::empty(),
        source,
    })?;
    let heard = hear_process(&ours);
    let _ = helper.pidfd.wait();
    heard
}

fn join_and_clone(
    joined: &[(Namespaces, OwnedFd)],
    new: Namespaces,
    init: Init<'_>,
) -> Result<Child, Failure> {
    for (kind, file) in joined {
        match namespace::join(file, *kind) {
            // Our own user namespace cannot be joined again, and need not be.
            Err(Errno::INVAL) if *kind == Namespaces::USER => {}
            Err(errno) => {
                return Err(Failure::setup(
                    format!("joining the namespace {kind:?}"),
                    errno,
                ));
            }
            Ok(()) => {}
        }
    }
    let flags = CloneFlags { new, sibling: true };
    process::clone_into(flags, move || init.run())
        .map_err(|errno| Failure::setup(format!("cloning a process into {new:?}"), errno))
}

/// Tells the process on the other end which process it waits for.
fn report_process(line: &Line, child: &Child) -> u8 {
    use std::os::fd::AsFd;
    let sent = line.send(
        Word::Process,
        &child.pid.to_le_bytes(),
        Some(child.pidfd.as_fd()),
    );
    u8::from(sent.is_err())
}

/// Hears from a helper which process is waited for.
fn hear_process(line: &Line) -> Result<Child, LaunchError> {
    match line.receive().map_err(LaunchError::Line)? {
        Some(message) if message.word == Word::Process => {
            let pid = <[u8; 4]>::try_from(message.text.as_slice()).map(u32::from_le_bytes);
            match (pid, message.fd) {
                (Ok(pid), Some(fd)) => Ok(Child {
                    pid,
                    pidfd: PidFd::from_fd(fd),
                }),
                _ => Err(LaunchError::Line(Errno::PROTO)),
            }
        }
        Some(message) if message.word == Word::Failure => {
            Err(Failure::from_bytes(&message.text).into())
        }
        _ => Err(LaunchError::Line(Errno::PROTO)),
    }
}
