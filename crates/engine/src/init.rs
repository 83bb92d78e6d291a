// SPDX-License-Identifier: Apache-2.0
//! A small init: starts one program, reaps what ends, passes signals on, ends as the program does.
//!
//! Theory of operation. All signals are blocked and read one by one. The program gets a process group of its own, in the foreground where there is a
//! terminal, so that a terminal's interrupt reaches it once and not also by way of us. Orphans of the container become our children and are reaped;
//! when the program has ended the container ends with us, and the kernel ends whoever is left.

use std::{ffi::OsString, io::Write, os::unix::process::CommandExt, process::Command};

use rustix::process::{Pid, WaitOptions, WaitStatus};
use wolffia_sys::{
    process::{Child, CloneFlags, clone_into},
    signal::{SignalFd, block_all_but},
};

const OWN_FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const SIGCHLD: i32 = 17;

/// Signals that a terminal sends to whoever touches it from the background: nothing to pass on.
const TERMINAL: [i32; 3] = [20, 21, 22];

/// Runs a program as process 1 should. Returns its exit code.
pub fn run(words: &[OsString]) -> u8 {
    let Some((program, arguments)) = words.split_first() else {
        return fail("nothing to run", OWN_FAILURE);
    };
    let signals = match block_all_but(&[]).and_then(|_| SignalFd::new()) {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("taking signals: {error}"), OWN_FAILURE),
    };
    let child = clone_into(CloneFlags::FORK, || become_program(program, arguments));
    match child {
        Ok(child) => serve(&signals, &child),
        Err(error) => fail(&format!("starting a process: {error}"), OWN_FAILURE),
    }
}

fn become_program(program: &OsString, arguments: &[OsString]) -> u8 {
    // Without a terminal there is no foreground to be in.
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    fail(&format!("executing {}: {error}", program.display()), code)
}

fn serve(signals: &SignalFd, child: &Child) -> u8 {
    let Some(pid) = i32::try_from(child.pid).ok().and_then(Pid::from_raw) else {
        return OWN_FAILURE;
    };
    loop {
        if let Some(code) = reap(pid) {
            return code;
        }
        let mut fds = [rustix::event::PollFd::new(
            signals,
            rustix::event::PollFlags::IN,
        )];
        // An interrupted wait looks again, which is all that is to be done.
        let _ = rustix::event::poll(&mut fds, None);
        while let Ok(Some(received)) = signals.read() {
            if received.signal != SIGCHLD && !TERMINAL.contains(&received.signal) {
                // A program that has ended is reaped next.
                let _ = child.pidfd.send_signal(received.signal);
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

fn fail(text: &str, code: u8) -> u8 {
    // Nobody is left to be told that nobody can be told.
    let _ = writeln!(std::io::stderr().lock(), "error: {text}");
    code
}
