// SPDX-License-Identifier: Apache-2.0
//! The person's terminal: raw while a container has it, always restored.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    io::Errno,
    termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

/// A terminal that was set to raw mode; dropping it restores it.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Sets `terminal` raw. From a background job this stops us until the job is brought to the foreground, as it should.
    pub fn enter(terminal: impl AsFd) -> Result<RawTerminal, Errno> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 3)?;
        let before = tcgetattr(&terminal)?;
        let raw = RawTerminal { terminal, before };
        raw.again()?;
        Ok(raw)
    }

    /// Sets it raw again after [`RawTerminal::leave`].
    pub fn again(&self) -> Result<(), Errno> {
        let mut raw = self.before.clone();
        raw.make_raw();
        retry(|| tcsetattr(&self.terminal, OptionalActions::Drain, &raw))
    }

    /// Restores it, for as long as we are stopped.
    pub fn leave(&self) -> Result<(), Errno> {
        retry(|| tcsetattr(&self.terminal, OptionalActions::Drain, &self.before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = self.leave();
    }
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Returns rows and columns of a terminal; `None` where it is not one or does not say.
pub fn size(terminal: impl AsFd) -> Option<(u16, u16)> {
    let Winsize { ws_row, ws_col, .. } = tcgetwinsize(terminal).ok()?;
    (ws_row > 0 && ws_col > 0).then_some((ws_row, ws_col))
}

/// Tells whether a descriptor is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// A terminal that does not show what is typed; dropping it restores it.
#[derive(Debug)]
pub struct Quiet {
    terminal: OwnedFd,
    before: Termios,
}

impl Quiet {
    /// Stops showing. `None` where it is no terminal.
    pub fn enter(terminal: impl AsFd) -> Option<Quiet> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 3).ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(rustix::termios::LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Drain, &quiet).ok()?;
        Some(Quiet { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
