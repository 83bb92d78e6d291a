// SPDX-License-Identifier: Apache-2.0
//! The line between us and a container's first process, from its clone to its exec.
//!
//! # Theory of operation
//! A pair of `SOCK_SEQPACKET` sockets: messages keep their borders, carry descriptors, and the end of the line is seen. The
//! socket in the child closes at exec, so "end of line, and no failure before it" means that the program runs.
//!
//! ```text
//! us                                   the first process
//! (maps are written)      Go     ──►
//!                                ◄──   Console, Listener (each with a descriptor), as they come to be
//! (hooks run)                    ◄──   Mounted      only where there are hooks that wait for it
//!                         Go     ──►
//!                                ◄──   Ready        the start gate
//!                         Start  ──►
//!                                ◄──   Executing    from here on only a Failure can come
//!                                ◄──   (end)        the program runs
//! at any time                    ◄──   Failure
//! ```

use std::{
    fmt,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use wolffia_sys::{Errno, stepping_stone};

/// No message is longer; a failure's text is cut.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Word {
    Go = b'G',
    Start = b'S',
    Console = b'C',
    Listener = b'L',
    Mounted = b'M',
    Ready = b'R',
    /// What follows is said by the [stepping stone](wolffia_sys::stepping_stone), a process of the container already:
    /// a failure is believed, nothing else.
    Executing = b'X',
    /// The process we wait for is this one: its id, with its pidfd.
    Process = b'P',
    Failure = b'F',
}

impl Word {
    fn from_byte(byte: u8) -> Option<Word> {
        [
            Word::Go,
            Word::Start,
            Word::Console,
            Word::Listener,
            Word::Mounted,
            Word::Ready,
            Word::Executing,
            Word::Process,
            Word::Failure,
        ]
        .into_iter()
        .find(|word| *word as u8 == byte)
    }
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) word: Word,
    pub(crate) text: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

/// One end of the line.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

impl Line {
    /// Returns both ends.
    pub(crate) fn pair() -> Result<(Line, Line), Errno> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Line(ours), Line(theirs)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Line {
        Line(fd)
    }

    /// Lets this end be that of another line from now on, under its own number.
    pub(crate) fn continue_as(&mut self, other: &OwnedFd) -> Result<(), Errno> {
        rustix::io::dup3(other, &mut self.0, rustix::io::DupFlags::CLOEXEC)
    }

    pub(crate) fn say(&self, word: Word) -> Result<(), Errno> {
        self.send(word, &[], None)
    }

    pub(crate) fn send(
        &self,
        word: Word,
        text: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let text = &text[..text.len().min(MESSAGE_BYTES_MAX - 1)];
        let byte = [word as u8];
        let parts = [IoSlice::new(&byte), IoSlice::new(text)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the next message; `None` at the end of the line.
    pub(crate) fn receive(&self) -> Result<Option<Message>, Errno> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let answer = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                // The other end ended with something of ours unread: told once, before what it said last.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error),
                Ok(answer) => break answer,
            }
        };
        if answer.bytes == 0 {
            return Ok(None);
        }
        if answer
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Errno::MSGSIZE);
        }
        let word = Word::from_byte(bytes[0]).ok_or(Errno::PROTO)?;
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(Some(Message {
            word,
            text: bytes[1..answer.bytes].to_vec(),
            fd,
        }))
    }

    /// Waits, behind `Executing`, for the end of the line, which means that the program runs.
    pub(crate) fn hear_execution(&self) -> Result<Result<(), Failure>, Errno> {
        match self.receive()? {
            None => Ok(Ok(())),
            Some(message) if message.word == Word::Failure => {
                Ok(Err(Failure::from_bytes(&message.text)))
            }
            Some(_) => Err(Errno::PROTO),
        }
    }

    /// Waits for this word alone; anything else, or the end, is `EPROTO`.
    pub(crate) fn expect(&self, word: Word) -> Result<(), Errno> {
        match self.receive()? {
            Some(message) if message.word == word => Ok(()),
            _ => Err(Errno::PROTO),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Line> for OwnedFd {
    fn from(line: Line) -> OwnedFd {
        line.0
    }
}

/// Of which kind a failure is: it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours: 125.
    Setup,
    /// The program does not exist: 127.
    NotFound,
    /// It exists and cannot be executed: 126.
    NotExecutable,
    /// A user or group that the container has no id for: 125.
    NotMapped,
}

/// The byte of [`Kind::NotMapped`]: not the stepping stone's.
const NOT_MAPPED: u8 = 4;
const _: () = assert!(stepping_stone::MESSAGE_HEAD[1] != NOT_MAPPED);

/// What went wrong in the child: what was being done to what, and the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) doing: String,
    pub(crate) errno: Errno,
}

impl Failure {
    pub(crate) fn setup(doing: impl Into<String>, errno: Errno) -> Failure {
        Failure {
            kind: Kind::Setup,
            doing: doing.into(),
            errno,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Setup => 0,
            Kind::NotFound => 1,
            Kind::NotExecutable => 2,
            Kind::NotMapped => NOT_MAPPED,
        };
        let mut bytes = vec![kind];
        bytes.extend(self.errno.raw_os_error().to_le_bytes());
        bytes.extend(self.doing.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Failure {
        let errno = bytes
            .get(1..5)
            .and_then(|raw| raw.try_into().ok())
            .map(i32::from_le_bytes);
        // What is no errno was not written by us.
        let errno = errno
            .filter(|errno| (1..4096).contains(errno))
            .map_or(Errno::IO, Errno::from_raw_os_error);
        let kind = match bytes.first() {
            Some(1) => Kind::NotFound,
            Some(2) => Kind::NotExecutable,
            Some(&NOT_MAPPED) => Kind::NotMapped,
            // The stepping stone's: it tells no kinds apart.
            Some(&kind) if kind == stepping_stone::MESSAGE_HEAD[1] => match errno {
                Errno::NOENT | Errno::NOTDIR => Kind::NotFound,
                _ => Kind::NotExecutable,
            },
            _ => Kind::Setup,
        };
        Failure {
            kind,
            doing: String::from_utf8_lossy(bytes.get(5..).unwrap_or_default()).into_owned(),
            errno,
        }
    }

    /// Returns the code with which a process that failed so ends.
    pub(crate) fn code(&self) -> u8 {
        match self.kind {
            Kind::Setup | Kind::NotMapped => 125,
            Kind::NotExecutable => 126,
            Kind::NotFound => 127,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.doing)
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

/// Says for which user or group the kernel knows no id.
pub(crate) fn unless_mapped(
    answer: Result<(), Errno>,
    what: impl FnOnce() -> String,
) -> Result<(), Failure> {
    answer.doing(what).map_err(|failure| match failure.errno {
        Errno::INVAL => Failure {
            kind: Kind::NotMapped,
            ..failure
        },
        _ => failure,
    })
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure::setup(what(), errno))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            Failure::setup(what(), Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_descriptors_arrive_and_the_end_is_seen() {
        let (ours, theirs) = Line::pair().expect("a pair");
        let null = std::fs::File::open("/dev/null").expect("opening /dev/null");
        theirs
            .send(Word::Console, b"text", Some(null.as_fd()))
            .expect("sending");
        theirs.say(Word::Ready).expect("sending");
        drop(theirs);
        let first = ours.receive().expect("receiving").expect("a message");
        assert_eq!(
            (first.word, first.text.as_slice()),
            (Word::Console, &b"text"[..])
        );
        let fd = first.fd.expect("a descriptor");
        assert_eq!(wolffia_sys::fd::is_same_file(&fd, &null), Ok(true));
        assert_eq!(ours.expect(Word::Ready), Ok(()));
        assert!(ours.receive().expect("receiving").is_none());
    }

    #[test]
    fn last_words_are_heard_although_ours_were_not() {
        let (ours, theirs) = Line::pair().expect("a pair");
        ours.say(Word::Start).expect("sending");
        theirs.say(Word::Failure).expect("sending");
        drop(theirs);
        let heard = ours.receive().expect("receiving").expect("a message");
        assert_eq!(heard.word, Word::Failure);
        assert!(ours.receive().expect("receiving").is_none());
    }

    #[test]
    fn a_failure_survives_the_line() {
        let failure = Failure {
            kind: Kind::NotFound,
            doing: "executing /bin/nothing".to_owned(),
            errno: Errno::NOENT,
        };
        assert_eq!(Failure::from_bytes(&failure.to_bytes()), failure);
        assert_eq!(failure.code(), 127);
        assert_eq!(Failure::from_bytes(&[]).kind, Kind::Setup);
    }

    #[test]
    fn what_the_stepping_stone_says_is_a_failure() {
        for (errno, kind) in [
            (Errno::NOENT, Kind::NotFound),
            (Errno::ACCESS, Kind::NotExecutable),
            (Errno::NOEXEC, Kind::NotExecutable),
        ] {
            let [word, head] = stepping_stone::MESSAGE_HEAD;
            assert_eq!(Word::from_byte(word), Some(Word::Failure));
            let mut bytes = vec![head];
            bytes.extend(errno.raw_os_error().to_le_bytes());
            bytes.extend(b"executing it");
            let doing = "executing it".to_owned();
            assert_eq!(Failure::from_bytes(&bytes), Failure { kind, doing, errno });
        }
    }
}
