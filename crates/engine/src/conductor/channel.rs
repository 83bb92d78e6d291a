// SPDX-License-Identifier: Apache-2.0
//! The wire between a command and the conductor it made: whole messages over a pair of sockets.
//!
//! Each side learns of the other's end by the socket's: a caller that is killed hangs up, and so does a conductor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use serde::{Deserialize, Serialize};

/// Messages are at most so long; errors are cut to fit.
const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// What a command tells its conductor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The person's terminal changed its size: rows, columns.
    Resize(u16, u16),
    /// The command got this signal.
    Signal(i32),
    /// Do not read the terminal: the command is stopped.
    Pause,
    /// Read the terminal again.
    Resume,
}

/// What a conductor tells its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The program runs.
    Started,
    /// It does not.
    Failed(Problem),
    /// It ended; everything is put away.
    Exited(u8),
    /// Something that a person should know.
    Note(String),
}

/// Why a program does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// 125, 126 or 127.
    pub code: u8,
    /// What was being done.
    pub message: String,
    /// Why it failed, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// One end of the wire.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What came of listening.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// A message.
    Message(T),
    /// Nothing yet.
    Nothing,
    /// The other side is gone.
    HungUp,
}

impl Channel {
    /// Makes both ends.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel(one), Channel(other)))
    }

    /// Sends a message. Never waits: an other side that does not listen is treated as gone.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        loop {
            match send(&self.0, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a message.
    pub fn wait<T: for<'de> Deserialize<'de>>(&self) -> io::Result<Heard<T>> {
        self.receive(RecvFlags::empty())
    }

    /// Returns a message if there is one.
    pub fn listen<T: for<'de> Deserialize<'de>>(&self) -> io::Result<Heard<T>> {
        self.receive(RecvFlags::DONTWAIT)
    }

    fn receive<T: for<'de> Deserialize<'de>>(&self, flags: RecvFlags) -> io::Result<Heard<T>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        loop {
            match recv(&self.0, &mut bytes[..], flags) {
                Ok((0, _)) => return Ok(Heard::HungUp),
                Ok((count, _)) => {
                    return Ok(Heard::Message(serde_json::from_slice(&bytes[..count])?));
                }
                // A side that ends without having read everything resets the other (`unix_release_sock` in net/unix/af_unix.c), and that is told
                // once, *before* what it had said: its last words are still to be had, and only then the end.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Problem {
    /// Describes an error and its sources, cut to what a message holds.
    pub fn of(code: u8, error: &dyn std::error::Error, hints: Vec<String>) -> Problem {
        /// A quarter of a message for each part leaves room for the frame.
        const PART_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 16;
        const CAUSES_MAX: usize = 8;
        let cut = |text: String| match text.char_indices().nth(PART_BYTES_MAX / 4) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        };
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source.filter(|_| causes.len() < CAUSES_MAX) {
            causes.push(cut(cause.to_string()));
            source = cause.source();
        }
        Problem {
            code,
            message: cut(error.to_string()),
            causes,
            hints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_heard_from_a_side_that_did_not_listen() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&Order::Resume).unwrap();
        other.send(&Report::Exited(3)).unwrap();
        drop(other);
        assert_eq!(one.listen().unwrap(), Heard::Message(Report::Exited(3)));
        assert_eq!(one.listen::<Report>().unwrap(), Heard::HungUp);
    }

    #[test]
    fn messages_and_hanging_up_are_heard() {
        let (one, other) = Channel::pair().unwrap();
        assert_eq!(other.listen::<Order>().unwrap(), Heard::Nothing);
        one.send(&Order::Resize(24, 80)).unwrap();
        one.send(&Order::Pause).unwrap();
        assert_eq!(other.wait().unwrap(), Heard::Message(Order::Resize(24, 80)));
        assert_eq!(other.wait().unwrap(), Heard::Message(Order::Pause));
        other.send(&Report::Exited(3)).unwrap();
        drop(other);
        assert_eq!(
            one.wait().unwrap(),
            Heard::Message(Report::Exited(3)),
            "said before the end"
        );
        assert_eq!(one.wait::<Report>().unwrap(), Heard::HungUp);
        assert!(one.send(&Order::Pause).is_err());
    }
}
