// SPDX-License-Identifier: Apache-2.0
//! A small init as process 1: starts the program as its child, reaps what ends, passes signals on, ends as the program does.
//!
//! # Theory of operation
//! Instead of executing the program, process 1 forks and the child executes it. So nothing of ours has to lie in the container's file system, and the
//! image needs no loader for it. All signals are blocked in process 1 and read one by one. The program gets a process group of its own, in the
//! foreground where there is a terminal, so that a terminal's interrupt reaches it once and not also by way of us. Process 1 has the program's ids,
//! capabilities and filter, and stays not dumpable: nobody inside can look into it or open what it runs.

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, WaitOptions, WaitStatus},
};
use wolffia_sys::{
    process::{Child, CloneFlags, clone_into},
    signal::{SignalFd, block_all_but, empty_mask, set_mask},
};

use crate::report::{Doing, Failure};

/// Our own failure, where the program's code would stand.
const OWN_FAILURE: u8 = 125;
const SIGCHLD: i32 = 17;
/// Signals that a terminal sends to whoever touches it from the background: nothing to pass on.
const TERMINAL: [i32; 3] = [20, 21, 22];

/// A process 1 whose program has been forked.
pub(crate) struct Reaper {
    signals: SignalFd,
    child: Child,
}

impl Reaper {
    /// Forks; the child runs `work`, which executes the program, with no signal blocked.
    pub(crate) fn fork(work: impl FnOnce() -> u8) -> Result<Reaper, Failure> {
        block_all_but(&[]).doing(|| "blocking signals".to_owned())?;
        let signals = SignalFd::new().doing(|| "reading signals".to_owned())?;
        let child = clone_into(CloneFlags::FORK, || {
            // Without a terminal there is no foreground to be in.
            let _ = rustix::process::setpgid(None, None);
            let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            if set_mask(&empty_mask()).is_err() {
                return OWN_FAILURE;
            }
            work()
        })
        .doing(|| "starting the program below process 1".to_owned())?;
        Ok(Reaper { signals, child })
    }

    /// Serves until the program has ended, and returns its exit code.
    pub(crate) fn serve(&self) -> u8 {
        let pid = i32::try_from(self.child.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return OWN_FAILURE };
        loop {
            if let Some(code) = reap(pid) {
                return code;
            }
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            // An interrupted wait looks again, which is all that is to be done.
            let _ = poll(&mut fds, None);
            while let Ok(Some(received)) = self.signals.read() {
                if received.signal != SIGCHLD && !TERMINAL.contains(&received.signal) {
                    // A program that has ended is reaped next.
                    let _ = self.child.pidfd.send_signal(received.signal);
                }
            }
        }
    }
}

/// Reaps everything that ended; returns the exit code when the program is among it.
fn reap(program: Pid) -> Option<u8> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == program {
            ended = Some(code(status));
        }
    }
    ended
}

fn code(status: WaitStatus) -> u8 {
    let killed = status.terminating_signal().map(|signal| 128 + signal);
    let code = killed.or(status.exit_status()).unwrap_or_default();
    u8::try_from(code & 0xff).unwrap_or_default()
}
