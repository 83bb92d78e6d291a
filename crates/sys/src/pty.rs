// SPDX-License-Identifier: Apache-2.0
//! Pseudo-terminals: a pair from a chosen devpts, sizes, raw mode.
//!
//! The other end is opened by `TIOCGPTPEER`, never by its name below /dev/pts: a container could put a link there
//! (CVE-2025-52565).

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{self, OptionalActions, Termios},
};

pub use rustix::termios::Winsize;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pair {
    /// The controller's end.
    pub controller: OwnedFd,
    /// The end that programs see as their terminal.
    pub terminal: OwnedFd,
}

/// Opens a pair in the devpts whose root directory is `devpts`.
pub fn open_in(devpts: impl AsFd) -> Result<Pair, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    pair(openat(devpts, "ptmx", flags, Mode::empty())?)
}

/// Opens a pair in the devpts of this machine.
pub fn open() -> Result<Pair, Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    pair(rustix::pty::openpt(flags)?)
}

fn pair(controller: OwnedFd) -> Result<Pair, Errno> {
    unlockpt(&controller)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&controller, flags)?;
    Ok(Pair {
        controller,
        terminal,
    })
}

/// Makes the terminal the controlling one of the calling process, which must lead a session.
pub fn set_controlling(terminal: impl AsFd) -> Result<(), Errno> {
    rustix::process::ioctl_tiocsctty(terminal)
}

/// Returns the size of a terminal.
pub fn size(terminal: impl AsFd) -> Result<Winsize, Errno> {
    termios::tcgetwinsize(terminal)
}

/// Sets the size; programs on the terminal get `SIGWINCH`.
pub fn set_size(terminal: impl AsFd, size: Winsize) -> Result<(), Errno> {
    termios::tcsetwinsize(terminal, size)
}

/// Puts a terminal into raw mode and returns its former settings, for [`restore`].
pub fn make_raw(terminal: impl AsFd) -> Result<Termios, Errno> {
    let former = termios::tcgetattr(&terminal)?;
    let mut raw = former.clone();
    raw.make_raw();
    termios::tcsetattr(&terminal, OptionalActions::Now, &raw)?;
    Ok(former)
}

/// Puts a terminal's settings back.
pub fn restore(terminal: impl AsFd, settings: &Termios) -> Result<(), Errno> {
    termios::tcsetattr(terminal, OptionalActions::Now, settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_one_size() {
        let Ok(pair) = open() else { return }; // no devpts here
        let wanted = Winsize {
            ws_row: 31,
            ws_col: 97,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        set_size(&pair.controller, wanted).expect("setting the size");
        let seen = size(&pair.terminal).expect("the size");
        assert_eq!((seen.ws_row, seen.ws_col), (31, 97));
    }
}
