// SPDX-License-Identifier: Apache-2.0
//! Waiting for a program in the foreground: signals go on to it, a terminal of its own is relayed.
//!
//! # Theory of operation
//! One `poll` over the process, the signals, our input and its terminal. Signals were blocked before the process was made
//! ([`Foreground::prepare`]), so that none is lost between its start and the wait. Our own terminal is raw meanwhile and is
//! put back at the end, whatever happened. After the program's end its terminal is read until it is empty.

use std::{
    io::{self, IsTerminal},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    termios::Termios,
};
use thiserror::Error;
use wolffia_sys::{
    Errno,
    process::Ended,
    pty,
    signal::{self, SignalFd},
};

use crate::launch::Running;

/// What is read from or written to a terminal at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Typed ahead and not yet taken by the program, at most; then reading our input waits.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// What went wrong while waiting.
#[derive(Debug, Error)]
pub enum ForegroundError {
    /// Signals could not be caught.
    #[error("catching signals")]
    Signals(#[source] io::Error),
    /// The wait failed.
    #[error("waiting for the program")]
    Wait(#[source] Errno),
    /// The terminal failed.
    #[error("relaying the terminal")]
    Terminal(#[source] Errno),
}

/// Signals that are caught from now on.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Blocks signals and makes them readable. The process made later begins with none blocked.
    pub fn prepare() -> Result<Foreground, ForegroundError> {
        signal::block_all_but(&[]).map_err(ForegroundError::Signals)?;
        let signals = SignalFd::new().map_err(ForegroundError::Signals)?;
        Ok(Foreground { signals })
    }
}

/// Puts our terminal back when it goes.
struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    former: Termios,
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = pty::restore(self.terminal, &self.former);
    }
}

/// Waits for the program's end.
pub fn wait_in_foreground(
    foreground: &Foreground,
    running: &Running,
) -> Result<Ended, ForegroundError> {
    let stdin = io::stdin();
    let raw = match &running.console {
        Some(console) => {
            let _ = pty::size(stdin.as_fd()).and_then(|size| pty::set_size(console, size));
            set_nonblocking(console)?;
            let former = stdin
                .is_terminal()
                .then(|| pty::make_raw(stdin.as_fd()))
                .transpose();
            former
                .map_err(ForegroundError::Terminal)?
                .map(|former| Raw {
                    terminal: stdin.as_fd(),
                    former,
                })
        }
        None => None,
    };
    let mut relay = running.console.as_ref().map(Relay::new);
    let ended = loop {
        let mut fds = vec![
            PollFd::new(&running.pidfd, PollFlags::IN),
            PollFd::new(&foreground.signals, PollFlags::IN),
        ];
        if let Some(relay) = &relay {
            relay.add(&mut fds, stdin.as_fd());
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(ForegroundError::Wait(error)),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if !ready[1].is_empty() {
            pass_signals(foreground, running)?;
        }
        if let Some(relay) = &mut relay {
            relay.serve(&ready[2..], stdin.as_fd())?;
        }
        if !ready[0].is_empty() {
            break running.wait().map_err(ForegroundError::Wait)?;
        }
    };
    if let Some(relay) = &mut relay {
        relay.drain()?;
    }
    drop(raw);
    Ok(ended)
}

fn pass_signals(foreground: &Foreground, running: &Running) -> Result<(), ForegroundError> {
    while let Some(received) = foreground
        .signals
        .read()
        .map_err(ForegroundError::Signals)?
    {
        match received.signal {
            libc_signal::CHLD => {}
            libc_signal::WINCH if running.console.is_some() => {
                if let Some(console) = &running.console {
                    let _ = pty::size(io::stdin()).and_then(|size| pty::set_size(console, size));
                }
            }
            // It may have ended; that is seen by the wait.
            signal => {
                let _ = running.pidfd.send_signal(signal);
            }
        }
    }
    Ok(())
}

/// Numbers of the signals that are not passed on.
mod libc_signal {
    pub(super) const CHLD: i32 = rustix::process::Signal::CHILD.as_raw();
    pub(super) const WINCH: i32 = rustix::process::Signal::WINCH.as_raw();
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), ForegroundError> {
    fcntl_getfl(fd)
        .and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK))
        .map_err(ForegroundError::Terminal)
}

/// Bytes on their way between our terminal and the program's.
struct Relay<'a> {
    console: &'a OwnedFd,
    ahead: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl<'a> Relay<'a> {
    fn new(console: &'a OwnedFd) -> Relay<'a> {
        Relay {
            console,
            ahead: Vec::new(),
            input_open: true,
            output_open: true,
        }
    }

    /// Adds the program's terminal and our input, in this order.
    fn add<'b>(&'b self, fds: &mut Vec<PollFd<'b>>, stdin: BorrowedFd<'b>) {
        let mut wanted = PollFlags::empty();
        if self.output_open {
            wanted |= PollFlags::IN;
        }
        if !self.ahead.is_empty() {
            wanted |= PollFlags::OUT;
        }
        fds.push(PollFd::new(self.console, wanted));
        if self.input_open && self.ahead.len() < AHEAD_BYTES_MAX {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
    }

    fn serve(&mut self, ready: &[PollFlags], stdin: BorrowedFd<'_>) -> Result<(), ForegroundError> {
        if ready
            .first()
            .is_some_and(|flags| flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
        {
            self.output()?;
        }
        if ready.get(1).is_some_and(|flags| !flags.is_empty()) {
            let mut buffer = [0; CHUNK_BYTES];
            match rustix::io::read(stdin, &mut buffer) {
                Ok(0) | Err(_) => {
                    // The end of a file is the program's end-of-file character.
                    self.input_open = false;
                    self.ahead.push(END_OF_FILE);
                }
                Ok(count) => self.ahead.extend_from_slice(&buffer[..count]),
            }
        }
        if !self.ahead.is_empty() {
            match rustix::io::write(self.console, &self.ahead) {
                Ok(count) => drop(self.ahead.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Nobody has the other end open: what was typed is lost, as on any terminal.
                Err(_) => self.ahead.clear(),
            }
        }
        Ok(())
    }

    /// Passes what the program wrote on; `EIO` means that nobody has the other end open.
    fn output(&mut self) -> Result<bool, ForegroundError> {
        let mut buffer = [0; CHUNK_BYTES];
        match rustix::io::read(self.console, &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                self.output_open = false;
                Ok(false)
            }
            Ok(count) => write_all(&buffer[..count]).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(ForegroundError::Terminal(error)),
        }
    }

    fn drain(&mut self) -> Result<(), ForegroundError> {
        while self.output_open && self.output()? {}
        Ok(())
    }
}

/// Control-D.
const END_OF_FILE: u8 = 4;

fn write_all(mut bytes: &[u8]) -> Result<(), ForegroundError> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(&stdout, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let forever: Option<&Timespec> = None;
                let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], forever);
            }
            // Our reader is gone; the program goes on.
            Err(Errno::PIPE) => return Ok(()),
            Err(error) => return Err(ForegroundError::Terminal(error)),
        }
    }
    Ok(())
}
