// SPDX-License-Identifier: Apache-2.0
//! The command that a person runs, while its conductor works: terminal, signals, reports.
//!
//! Theory of operation. The conductor is in a session of its own, so what the person's terminal does reaches this process alone: it sets the terminal raw
//! and restores it, tells the conductor of its size, passes signals on, and stops and goes on with the person's job (the conductor leaves
//! the terminal alone meanwhile). When this process is killed, the channel hangs up and the conductor ends the container. Output does not come through
//! here: the conductor has the caller's own descriptors.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use wolffia_sys::{
    process::PidFd,
    signal::{Received, SignalFd, block_all_but},
};

use crate::{
    conductor::channel::{Channel, Heard, Order, Problem, Report},
    terminal::{self, RawTerminal},
};

/// So many interrupts end a run whatever the program does with them.
const INTERRUPTS_MAX: u32 = 3;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
const SIGTSTP: i32 = 20;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;

/// How a command's container came out.
#[derive(Debug)]
pub enum Outcome {
    /// It ended with this code.
    Exited(u8),
    /// It was not started.
    Failed(Problem),
    /// The conductor was killed.
    Lost,
}

/// What a command does beside waiting.
#[derive(Debug)]
pub struct Caller {
    signals: SignalFd,
    raw: Option<RawTerminal>,
    interrupts: u32,
}

/// Blocks the signals that the loop reads. Called before the conductor is cloned, so that none is lost between; those by which a terminal stops a job
/// in the background keep their meaning.
pub fn take_signals() -> io::Result<SignalFd> {
    block_all_but(&[SIGTTIN, SIGTTOU])?;
    SignalFd::new()
}

impl Caller {
    /// Makes a caller from the descriptor of [`take_signals`].
    pub fn new(signals: SignalFd) -> Caller {
        Caller {
            signals,
            raw: None,
            interrupts: 0,
        }
    }

    /// Waits for the start report; what a person should know is handed to `say`. Signals wait with it: a start is short, and its end is clean.
    pub fn await_start(
        channel: &Channel,
        say: &mut dyn FnMut(&str),
    ) -> io::Result<Result<(), Outcome>> {
        loop {
            match channel.wait()? {
                Heard::Message(Report::Started) => return Ok(Ok(())),
                Heard::Message(Report::Failed(problem)) => {
                    return Ok(Err(Outcome::Failed(problem)));
                }
                Heard::Message(Report::Exited(code)) => return Ok(Err(Outcome::Exited(code))),
                Heard::Message(Report::Note(note)) => say(&note),
                Heard::Nothing => {}
                Heard::HungUp => return Ok(Err(Outcome::Lost)),
            }
        }
    }

    /// Accompanies a started container to its end. `terminal` is the person's, where the container has one.
    pub fn accompany(
        mut self,
        channel: &Channel,
        conductor: &PidFd,
        terminal: Option<&OwnedFd>,
        say: &mut dyn FnMut(&str),
    ) -> io::Result<Outcome> {
        if let Some(terminal) = terminal {
            self.raw = Some(RawTerminal::enter(terminal)?);
            tell_size(channel, terminal);
        }
        tell(channel, &Order::Resume);
        loop {
            let mut fds = [
                PollFd::new(channel, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                result => drop(result?),
            }
            while let Some(received) = self.signals.read()? {
                self.hear(received, channel, conductor, terminal);
            }
            match channel.listen()? {
                Heard::Message(Report::Exited(code)) => return Ok(Outcome::Exited(code)),
                Heard::Message(Report::Failed(problem)) => return Ok(Outcome::Failed(problem)),
                Heard::Message(Report::Note(note)) => say(&note),
                Heard::Message(Report::Started) | Heard::Nothing => {}
                Heard::HungUp => return Ok(Outcome::Lost),
            }
        }
    }

    fn hear(
        &mut self,
        received: Received,
        channel: &Channel,
        conductor: &PidFd,
        terminal: Option<&OwnedFd>,
    ) {
        match received.signal {
            SIGCHLD | SIGCONT | SIGPIPE | SIGURG => {}
            SIGWINCH => {
                if let Some(terminal) = terminal {
                    tell_size(channel, terminal);
                }
            }
            SIGTSTP => self.stop(channel, terminal),
            signal => {
                if [SIGINT, SIGTERM].contains(&signal) {
                    self.interrupts += 1;
                }
                if self.interrupts >= INTERRUPTS_MAX {
                    // The conductor may be gone already.
                    let _ = conductor.send_signal(9);
                    return;
                }
                tell(channel, &Order::Signal(signal));
                if signal == SIGHUP {
                    // The terminal is gone; there is nothing to restore, and asking it would only fail.
                    self.raw = None;
                }
            }
        }
    }

    /// Stops with the person's job, and goes on with it.
    fn stop(&mut self, channel: &Channel, terminal: Option<&OwnedFd>) {
        tell(channel, &Order::Pause);
        if let Some(raw) = &self.raw {
            // A terminal that cannot be restored is no reason not to stop.
            let _ = raw.leave();
        }
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        // Here we are running again.
        if let Some(raw) = &self.raw {
            let _ = raw.again();
        }
        if let Some(terminal) = terminal {
            tell_size(channel, terminal);
        }
        tell(channel, &Order::Resume);
    }
}

fn tell_size(channel: &Channel, terminal: &OwnedFd) {
    if let Some((rows, columns)) = terminal::size(terminal.as_fd()) {
        tell(channel, &Order::Resize(rows, columns));
    }
}

/// Tells the conductor something; one that is gone is noticed by its hanging up.
fn tell(channel: &Channel, order: &Order) {
    drop(channel.send(order));
}
