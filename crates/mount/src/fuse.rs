// SPDX-License-Identifier: Apache-2.0
//! A FUSE server's loop over `/dev/fuse`: read a request, ask a [`FileSystem`], write the reply.
//!
//! Theory of operation: the descriptor is opened by whoever mounts and handed over, so the server needs no privilege, no
//! helper program and no mount of its own. Workers are threads that share the descriptor; the kernel gives each request to
//! one of them. The loop ends with the connection: `ENODEV` once the last mount is gone. OPEN and OPENDIR are answered
//! with `ENOSYS`: the kernel then never asks again and keeps pages and listings for as long as it has memory.
//! A server that takes over from a dead one asks the kernel to send unanswered requests again (since 6.9).
//!
//! Large files come in windows of 128 KiB, which only root can widen, so a [`Pusher`] puts the rest of a file that is being
//! read into the kernel's cache by itself, beside the workers. `FUSE_NOTIFY_STORE` waits for pages that a worker is to fill,
//! and so is written by a thread of its own.
//!
//! Sources: fs/fuse/dev.c, Documentation/filesystems/fuse.rst; sizes in [`protocol`].

pub mod objects;
pub(crate) mod protocol;
pub(crate) mod push;

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::MountFlags,
};

use protocol::{Message, Reply, Request, feature};
use push::Pusher;

/// Bytes of a worker's request buffer: the kernel demands at least 8 KiB; names and headers are all that comes.
const REQUEST_BYTES: usize = 16 * 1024;
/// Bytes of one answer to READ at most: 256 pages, as INIT agrees.
pub(crate) const READ_BYTES_MAX: u32 = 1024 * 1024;

/// A read-only tree, asked by node id.
///
/// Methods append their answer to the reply and are called from several threads.
pub(crate) trait FileSystem: Sync {
    /// Finds a name in a directory.
    fn lookup(&self, node: u64, name: &[u8], reply: &mut Reply) -> Result<(), Errno>;
    /// Says what a node is.
    fn attributes(&self, node: u64, reply: &mut Reply) -> Result<(), Errno>;
    /// Says where a symbolic link leads.
    fn read_link(&self, node: u64, reply: &mut Reply) -> Result<(), Errno>;
    /// Reads a file: short only at its end.
    fn read(&self, node: u64, offset: u64, size: u32, reply: &mut Reply) -> Result<(), Errno>;
    /// Lists a directory from a cookie on, as far as `size` bytes go.
    fn read_directory(
        &self,
        node: u64,
        offset: u64,
        size: u32,
        plus: bool,
        reply: &mut Reply,
    ) -> Result<(), Errno>;
    /// Says how large the file system below is.
    fn statistics(&self, reply: &mut Reply) -> Result<(), Errno>;
    /// Puts what will be read into the kernel's cache, until [`end`](Self::end); has a thread of its own.
    fn push(&self, pusher: &Pusher<'_>);
    /// Tells [`push`](Self::push) that the connection has ended.
    fn end(&self);
}

/// Whether a server is the connection's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nobody served before: the kernel will begin with INIT.
    First,
    /// An earlier server died: what it took and did not answer is asked for again.
    Successor,
}

/// Serves until the connection ends; blocks. The calling process must never fork afterwards.
///
/// # Errors
/// What reading the descriptor answered, other than that the connection has ended.
pub(crate) fn serve(
    device: BorrowedFd<'_>,
    tree: &impl FileSystem,
    turn: Turn,
    workers: usize,
) -> Result<(), Errno> {
    if ask_again(device, turn)? {
        return Ok(());
    }
    thread::scope(|scope| {
        let others: Vec<_> = (1..workers)
            .map(|_| scope.spawn(|| work(device, tree)))
            .collect();
        scope.spawn(|| tree.push(&Pusher::new(device)));
        let mut result = work(device, tree);
        tree.end();
        for other in others {
            let theirs = other.join().unwrap_or(Err(Errno::IO));
            result = result.and(theirs);
        }
        result
    })
}

/// Has a successor asked what nobody answered; tells whether the connection has ended meanwhile.
fn ask_again(device: BorrowedFd<'_>, turn: Turn) -> Result<bool, Errno> {
    if turn == Turn::First {
        return Ok(false);
    }
    // A kernel before 6.9 has no such notification (EINVAL): requests that were in flight then wait for their caller's
    // interrupt, and all later ones are served.
    match rustix::io::write(device, &protocol::resend_notification()) {
        Ok(_) | Err(Errno::INVAL) => Ok(false),
        Err(errno) => ended(errno).map(|()| true),
    }
}

fn work(device: BorrowedFd<'_>, tree: &impl FileSystem) -> Result<(), Errno> {
    let mut request = vec![0; REQUEST_BYTES];
    let mut reply = Reply::default();
    loop {
        let len = match rustix::io::read(device, &mut request[..]) {
            Ok(len) => len,
            // ENOENT: the request was interrupted before it was taken.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(errno) => return ended(errno),
        };
        let Some(message) = Message::parse(&request[..len]) else {
            continue;
        };
        reply.clear();
        let errno = match answer(tree, &message, &mut reply) {
            Answer::Reply(Ok(())) => 0,
            Answer::Reply(Err(errno)) => errno.raw_os_error(),
            Answer::None => continue,
            Answer::End => return Ok(()),
        };
        match rustix::io::write(device.as_fd(), reply.finish(message.unique, errno)) {
            // ENOENT: whoever asked was killed meanwhile.
            Ok(_) | Err(Errno::NOENT | Errno::INTR) => {}
            Err(errno) => return ended(errno),
        }
    }
}

enum Answer {
    Reply(Result<(), Errno>),
    None,
    End,
}

fn answer(tree: &impl FileSystem, message: &Message<'_>, reply: &mut Reply) -> Answer {
    let node = message.node;
    Answer::Reply(match message.request {
        Request::Init { .. } => {
            granted(&message.request, reply);
            Ok(())
        }
        Request::Lookup(name) => tree.lookup(node, name, reply),
        Request::GetAttributes => tree.attributes(node, reply),
        Request::ReadLink => tree.read_link(node, reply),
        Request::Read { offset, size } => tree.read(node, offset, size.min(READ_BYTES_MAX), reply),
        Request::ReadDirectory { offset, size, plus } => {
            tree.read_directory(node, offset, size.min(READ_BYTES_MAX), plus, reply)
        }
        Request::FileSystemStatistics => tree.statistics(reply),
        Request::Silent => return Answer::None,
        Request::Destroy => return Answer::End,
        Request::Unserved => Err(Errno::NOSYS),
    })
}

/// Answers INIT: what we want of what the kernel offers.
fn granted(request: &Request<'_>, reply: &mut Reply) {
    let Request::Init {
        minor,
        readahead_bytes,
        flags,
        flags2,
    } = *request
    else {
        return;
    };
    let wanted = feature::ASYNC_READ
        | feature::READDIRPLUS
        | feature::READDIRPLUS_AUTO
        | feature::NO_OPEN
        | feature::PARALLEL_DIROPS
        | feature::MAX_PAGES
        | feature::CACHE_SYMLINKS
        | feature::NO_OPENDIR
        | feature::INIT_EXT;
    reply.init(
        minor,
        readahead_bytes,
        flags & wanted,
        flags2 & feature::HAS_RESEND,
    );
}

/// The device that a connection is opened by.
const DEVICE: &str = "/dev/fuse";

/// Mounts a new connection on a directory and returns its descriptor.
pub(crate) fn mount(place: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty())?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={READ_BYTES_MAX}",
        device.as_raw_fd()
    );
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    rustix::mount::mount("wolffia", place, "fuse", flags, Some(options.as_c_str()))?;
    Ok(device)
}

/// A connection that has ended is the end of a server's work, not a failure.
fn ended(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::NODEV {
        Ok(())
    } else {
        Err(errno)
    }
}
