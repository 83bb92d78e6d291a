// SPDX-License-Identifier: Apache-2.0
//! The object server: a FUSE file system of objects that are still to come, the last data layer of a lazy image's mount.
//!
//! # Theory of operation
//! The kernel asks here only for what no earlier data layer has: an object that is in the store is never looked up. There are
//! two levels, `/x/NAME`, as in every store. A directory's node is its character, a file's is its number in the image's table
//! behind [`OBJECT_NODES`]: so node ids follow from the table alone, and a server that takes over from a dead one needs no
//! memory of it. What was found is good for ever; what was not found is not remembered.
//!
//! OPEN is answered with `ENOSYS`: the kernel never asks again and keeps pages as long as it has memory for them.
//!
//! A read of bytes that are not here yet must hold nothing up: [`Objects::read`] takes the request's [`Ticket`] and answers
//! [`Answer::Later`]; whoever has the bytes answers by [`Replies`], from any thread. So a few threads serve any number of readers.
//!
//! Sources: those of [`super`]; Documentation/filesystems/overlayfs.rst, "Data-only lower layers".

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::io::Errno;
use wolffia_image::ObjectName;

use super::{
    Answer as Answered, READ_BYTES_MAX, REQUEST_BYTES, Turn, ask_again, ended, granted,
    protocol::{Attributes, Message, ROOT_NODE, Reply, Request},
};

/// Node ids below are directories'.
pub const OBJECT_NODES: u64 = 1 << 12;
/// Seconds that what was found is good for: for ever.
const VALID_S: u64 = u32::MAX as u64;
/// What a directory shows as its links, whatever is in it.
const DIRECTORY_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_444;
const BLOCK_BYTES: u32 = 4096;

/// An object that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its number in the image's table.
    pub number: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// What the server hands out; called from several threads, and must not wait.
pub trait Objects: Sync {
    /// Finds an object by its name. Somebody is about to read it.
    fn find(&self, name: ObjectName) -> Option<Object>;
    /// Returns the size of an object.
    fn size_bytes(&self, number: u64) -> Option<u64>;
    /// Reads an object from `offset` on: as many bytes as the buffer has room for, fewer only at its end.
    fn read(&self, number: u64, offset: u64, buffer: &mut [u8], ticket: Ticket) -> Answer;
}

/// What comes of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes are in the buffer.
    Now(usize),
    /// The ticket is kept and answered later.
    Later,
    /// It cannot be read.
    Failed(Errno),
}

/// A request that waits for its answer; every one must be answered once.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    unique: u64,
}

/// The way of late answers.
pub struct Replies {
    device: OwnedFd,
}

impl fmt::Debug for Replies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Replies").finish_non_exhaustive()
    }
}

impl Replies {
    /// Returns the way of late answers over a connection.
    ///
    /// # Errors
    /// Fails where the descriptor cannot be duplicated.
    pub fn over(device: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self {
            device: rustix::io::fcntl_dupfd_cloexec(device, 3)?,
        })
    }

    /// Answers a read: `fill` writes at most `len` bytes and says how many.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is answered once")]
    pub fn data(
        &self,
        ticket: Ticket,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) {
        let mut reply = Reply::default();
        reply.clear();
        let errno = match reply.fill(len, fill) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        };
        self.send(reply.finish(ticket.unique, errno));
    }

    /// Answers a read that failed.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is answered once")]
    pub fn failed(&self, ticket: Ticket, errno: Errno) {
        let mut reply = Reply::default();
        reply.clear();
        self.send(reply.finish(ticket.unique, errno.raw_os_error()));
    }

    /// Whoever asked may be gone, and the connection too.
    fn send(&self, bytes: &[u8]) {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.device, bytes)) {
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => tracing::warn!(%errno, "an answer was not taken"),
        }
    }
}

/// Serves until the connection ends; blocks. The calling process must never fork afterwards.
///
/// # Errors
/// What reading the descriptor answered, other than that the connection has ended.
pub fn serve(
    device: BorrowedFd<'_>,
    objects: &impl Objects,
    turn: Turn,
    workers: usize,
) -> Result<(), Errno> {
    if ask_again(device, turn)? {
        return Ok(());
    }
    thread::scope(|scope| {
        let others: Vec<_> = (1..workers)
            .map(|_| scope.spawn(|| work(device, objects)))
            .collect();
        let mut result = work(device, objects);
        for other in others {
            result = result.and(other.join().unwrap_or(Err(Errno::IO)));
        }
        result
    })
}

fn work(device: BorrowedFd<'_>, objects: &impl Objects) -> Result<(), Errno> {
    let mut request = vec![0; REQUEST_BYTES];
    let mut reply = Reply::default();
    loop {
        let len = match rustix::io::read(device, &mut request[..]) {
            Ok(len) => len,
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(errno) => return ended(errno),
        };
        let Some(message) = Message::parse(&request[..len]) else {
            continue;
        };
        reply.clear();
        let errno = match answer(objects, &message, &mut reply) {
            Answered::Reply(Ok(())) => 0,
            Answered::Reply(Err(errno)) => errno.raw_os_error(),
            Answered::None => continue,
            Answered::End => return Ok(()),
        };
        match rustix::io::write(device.as_fd(), reply.finish(message.unique, errno)) {
            Ok(_) | Err(Errno::NOENT | Errno::INTR) => {}
            Err(errno) => return ended(errno),
        }
    }
}

fn answer(objects: &impl Objects, message: &Message<'_>, reply: &mut Reply) -> Answered {
    let node = message.node;
    Answered::Reply(match message.request {
        Request::Init { .. } => {
            granted(&message.request, reply);
            Ok(())
        }
        Request::Lookup(name) => lookup(objects, node, name, reply),
        Request::GetAttributes => attributes(objects, node).map(|attributes| {
            reply.attributes_valid(&attributes, VALID_S);
        }),
        Request::Read { offset, size } => {
            let Some(number) = node.checked_sub(OBJECT_NODES) else {
                return Answered::Reply(Err(Errno::ISDIR));
            };
            let Some(bytes) = objects.size_bytes(number) else {
                return Answered::Reply(Err(Errno::STALE));
            };
            let wanted = bytes
                .saturating_sub(offset)
                .min(size.min(READ_BYTES_MAX).into());
            let wanted = usize::try_from(wanted).unwrap_or(0);
            if wanted == 0 {
                return Answered::Reply(Ok(()));
            }
            let ticket = Ticket {
                unique: message.unique,
            };
            let mut answer = Answer::Later;
            let filled = reply.fill(wanted, |buffer| {
                answer = objects.read(number, offset, buffer, ticket);
                match answer {
                    Answer::Now(count) => Ok(count),
                    Answer::Later => Ok(0),
                    Answer::Failed(errno) => Err(errno),
                }
            });
            if answer == Answer::Later {
                return Answered::None;
            }
            filled
        }
        // Directories are looked things up in; nobody lists a data layer.
        Request::ReadDirectory { .. } => Ok(()),
        Request::FileSystemStatistics => {
            reply.statistics([0; 5], BLOCK_BYTES, 255);
            Ok(())
        }
        Request::Silent => return Answered::None,
        Request::Destroy => return Answered::End,
        Request::ReadLink => Err(Errno::INVAL),
        Request::Unserved => Err(Errno::NOSYS),
    })
}

fn lookup(objects: &impl Objects, node: u64, name: &[u8], reply: &mut Reply) -> Result<(), Errno> {
    if node == ROOT_NODE {
        let [character] = name else {
            return Err(Errno::NOENT);
        };
        let node = directory_node(*character).ok_or(Errno::NOENT)?;
        reply.entry(node, &directory(node), VALID_S);
        return Ok(());
    }
    let shard = directory_character(node).ok_or(Errno::NOTDIR)?;
    let rest = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
    let name = ObjectName::parse(&format!("{}/{rest}", char::from(shard))).ok_or(Errno::NOENT)?;
    let found = objects.find(name).ok_or(Errno::NOENT)?;
    let node = OBJECT_NODES + found.number;
    reply.entry(node, &file(node, found.size_bytes), VALID_S);
    Ok(())
}

fn attributes(objects: &impl Objects, node: u64) -> Result<Attributes, Errno> {
    match node.checked_sub(OBJECT_NODES) {
        Some(number) => objects
            .size_bytes(number)
            .map(|bytes| file(node, bytes))
            .ok_or(Errno::STALE),
        None => Ok(directory(node)),
    }
}

/// A directory's node is its character: none of them is 1, the root's.
fn directory_node(character: u8) -> Option<u64> {
    let known = character.is_ascii_alphanumeric() || matches!(character, b'-' | b'_');
    known.then_some(character.into())
}

fn directory_character(node: u64) -> Option<u8> {
    let character = u8::try_from(node).ok()?;
    directory_node(character).map(|_| character)
}

fn directory(node: u64) -> Attributes {
    Attributes {
        inode: node,
        mode: DIRECTORY_MODE,
        links: 2,
        block_bytes: BLOCK_BYTES,
        ..Attributes::default()
    }
}

fn file(node: u64, size_bytes: u64) -> Attributes {
    Attributes {
        inode: node,
        size_bytes,
        blocks: size_bytes.div_ceil(512),
        mode: FILE_MODE,
        links: 1,
        block_bytes: BLOCK_BYTES,
        ..Attributes::default()
    }
}

/// Mounts a connection for [`serve`] on a directory of ours and returns its descriptor; nothing is served yet.
///
/// Must run inside the user namespace, as its root, in a mount namespace of its own.
///
/// # Errors
/// The system's answer: no `/dev/fuse`, or no right to mount it.
pub fn mount(place: &Path) -> Result<OwnedFd, Errno> {
    super::mount(place)
}

#[cfg(test)]
mod tests {
    use wolffia_image::Digest;

    use super::*;
    use crate::fuse::protocol::OUT_HEADER_BYTES;

    struct One(ObjectName);

    impl Objects for One {
        fn find(&self, name: ObjectName) -> Option<Object> {
            (name == self.0).then_some(Object {
                number: 5,
                size_bytes: 10,
            })
        }
        fn size_bytes(&self, number: u64) -> Option<u64> {
            (number == 5).then_some(10)
        }
        fn read(&self, _: u64, offset: u64, buffer: &mut [u8], _: Ticket) -> Answer {
            match offset {
                0 => {
                    buffer.fill(b'x');
                    Answer::Now(buffer.len())
                }
                1 => Answer::Later,
                _ => Answer::Failed(Errno::IO),
            }
        }
    }

    fn message(node: u64, request: Request<'_>) -> Message<'_> {
        Message {
            unique: 3,
            node,
            request,
        }
    }

    /// Returns the length of the body, the errno, or nothing where no answer is due.
    fn asked(node: u64, request: Request<'_>) -> Option<Result<usize, Errno>> {
        let objects = One(ObjectName::of(&Digest::of(b"one")));
        let mut reply = Reply::default();
        reply.clear();
        match answer(&objects, &message(node, request), &mut reply) {
            Answered::Reply(result) => Some(result.map(|()| reply.body_len())),
            _ => None,
        }
    }

    #[test]
    fn names_lead_to_nodes_and_what_is_unknown_is_not_there() {
        let name = ObjectName::of(&Digest::of(b"one"));
        let other = ObjectName::of(&Digest::of(b"two"));
        let shard = name.shard().as_bytes();
        assert_eq!(asked(ROOT_NODE, Request::Lookup(shard)), Some(Ok(128)));
        let directory = u64::from(shard[0]);
        let rest = |name: &ObjectName| name.rest().as_bytes().to_vec();
        assert_eq!(
            asked(directory, Request::Lookup(&rest(&name))),
            Some(Ok(128))
        );
        let absent = Some(Err(Errno::NOENT));
        let elsewhere = u64::from(other.shard().as_bytes()[0]);
        assert_eq!(asked(elsewhere, Request::Lookup(&rest(&other))), absent);
        for name in [&b"."[..], b"ab", b"", b"/"] {
            assert_eq!(asked(ROOT_NODE, Request::Lookup(name)), absent, "{name:?}");
            assert_eq!(asked(directory, Request::Lookup(name)), absent, "{name:?}");
        }
        assert_eq!(
            asked(OBJECT_NODES + 6, Request::GetAttributes),
            Some(Err(Errno::STALE))
        );
    }

    #[test]
    fn reads_are_answered_now_later_or_by_an_error() {
        let read = |offset| asked(OBJECT_NODES + 5, Request::Read { offset, size: 4096 });
        assert_eq!(read(0), Some(Ok(10)));
        assert_eq!(read(1), None);
        assert_eq!(read(2), Some(Err(Errno::IO)));
        assert_eq!(read(10), Some(Ok(0)), "at the end there is nothing");
    }

    #[test]
    fn a_late_answer_has_the_number_of_its_request() {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let replies = Replies::over(writer.as_fd()).expect("duplicated");
        replies.data(Ticket { unique: 77 }, 8, |buffer| {
            buffer[..3].copy_from_slice(b"abc");
            Ok(3)
        });
        let mut bytes = [0; 64];
        let len = rustix::io::read(reader, &mut bytes[..]).expect("an answer");
        assert_eq!(len, OUT_HEADER_BYTES + 3);
        assert_eq!(bytes[8..16], 77_u64.to_ne_bytes());
        assert_eq!(&bytes[16..19], b"abc");
    }
}
