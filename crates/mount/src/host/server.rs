// SPDX-License-Identifier: Apache-2.0
//! The file server of a host container: how it is started, kept alive, and ends.
//!
//! # Theory of operation
//! [`spawn`] runs this program again under the name [`SERVER_NAME`], in a session of its own, with one end of a socket as
//! standard input. The *keeper* waits there for the FUSE descriptor and a memory file for the table of nodes (or the end of
//! whoever would send them), and forks the *worker*, which serves with a few threads. Where the worker ends by
//! anything but the end of its connection, the keeper forks another, which reads the table and asks the kernel to send again
//! what was not answered. The connection ends with the container's mount namespace; worker and keeper then end by
//! themselves. Neither has anything to clean up.
//!
//! Both hold the socket, so whoever has the other end sees it close when, and only when, both are gone.
//!
//! A server that root starts gives its ids up before anything else: no process of ours works on a container with the
//! machine's root id, and the kernel then refuses what an ordinary user could not read.

use std::{
    ffi::OsString,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Command,
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, memfd_create},
    io::{Errno, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use thiserror::Error;
use wolffia_sys::{
    idmap::{IdMap, Mapping},
    process::{Child, CloneFlags, Closing, Ended, clone_into, close_from},
};

use super::{
    exposure::Exposure,
    tree::{HostTree, OPEN_MAX, Standing},
};
use crate::fuse::{self, Turn};

/// The name that a server is started by; the door hands over to [`serve`].
pub const SERVER_NAME: &str = "wolffia-host-server";

/// Descriptors that a worker has beside the two caches of the tree.
const BESIDES_MAX: usize = 64;
/// Threads of a worker at most: more do not help one container on the machines measured.
const WORKERS_MAX: usize = 4;
/// How often a worker is replaced: a fault that comes back at every start must not burn a processor for ever.
const REPLACEMENTS_MAX: u32 = 1000;
/// The id that a container calls nobody.
const OVERFLOW_ID: u32 = 65_534;
/// Exit code of a server that could not begin.
const FAILED: u8 = 1;
/// Exit code of a child that could not execute this program.
const NOT_EXECUTED: u8 = 127;
/// Stands in the argument list for ids that are kept.
const KEEP: &str = "-";
/// Stands there for a last successor, which has device and table as standard input and output.
const SUCCESSOR: &str = "successor";
/// Bytes for the two descriptors in a control message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(2));

/// The socket to a file server.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// User and group that a server takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The machine's user id.
    pub uid: u32,
    /// The machine's group id.
    pub gid: u32,
}

impl Identity {
    /// Returns what a server must take on where root calls: an id of the container's own range, which owns nothing on the
    /// machine. For anybody else there is nothing to give up.
    pub fn for_mapping(mapping: &Mapping) -> Option<Identity> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let maps = mapping.maps();
        let of = |map: &IdMap| map.to_outside(OVERFLOW_ID).or_else(|| map.to_outside(0));
        let identity = Identity {
            uid: of(&maps.uid)?,
            gid: of(&maps.gid)?,
        };
        // In a user namespace around us root's id may be all there is; it is an ordinary user's on the machine.
        (identity.uid != 0).then_some(identity)
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
#[error("starting the file server: {doing}")]
pub struct ServerError {
    /// What was done.
    pub doing: &'static str,
    /// The system's answer.
    pub source: Errno,
}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> ServerError {
    move |source| ServerError { doing, source }
}

/// Starts a file server that hides the directories `private`, and returns at once.
///
/// Must be called outside the user namespace, in a process with one thread. `identity` must be given where root calls: ids that
/// own nothing on the machine.
pub fn spawn(private: &[PathBuf], identity: Option<Identity>) -> Result<Link, ServerError> {
    let mut words: Vec<OsString> = match identity {
        Some(Identity { uid, gid }) => vec![uid.to_string().into(), gid.to_string().into()],
        None => vec![KEEP.into(), KEEP.into()],
    };
    words.extend(private.iter().map(|path| path.clone().into_os_string()));
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed("making a socket"))?;
    // Nobody waits for it: it outlives the caller, and its end says nothing.
    let _keeper = clone_into(CloneFlags::FORK, || {
        let error = become_server(theirs.as_fd(), &words);
        tracing::error!(%error, "the file server was not started");
        NOT_EXECUTED
    })
    .map_err(failed("cloning"))?;
    Ok(Link(ours))
}

/// Executes this program again. Returns only when that failed.
fn become_server(link: BorrowedFd<'_>, words: &[OsString]) -> std::io::Error {
    let detached = rustix::process::setsid()
        .map(drop)
        .and_then(|()| rustix::stdio::dup2_stdin(link))
        .and_then(|()| silence())
        .and_then(|()| close_from(3, Closing::AtExec));
    detached.map_or_else(Into::into, |()| execute(words))
}

/// Lets go of the caller's terminal and files.
fn silence() -> Result<(), Errno> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Is a file server: the keeper, under the name [`SERVER_NAME`]. Returns its exit code.
pub fn serve(words: &[OsString]) -> u8 {
    match begin(words) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the file server failed");
            FAILED
        }
    }
}

fn begin(words: &[OsString]) -> Result<(), ServerError> {
    if let Some((first, private)) = words.split_first()
        && first == SUCCESSOR
    {
        return succeed(private);
    }
    let (identity, private) = read(words)
        .ok_or(Errno::INVAL)
        .map_err(failed("its arguments"))?;
    if let Some(Identity { uid, gid }) = identity {
        let (uid, gid) = (
            rustix::process::Uid::from_raw(uid),
            rustix::process::Gid::from_raw(gid),
        );
        wolffia_sys::process::become_user(uid, gid).map_err(failed("giving up root's ids"))?;
    }
    wolffia_sys::process::set_no_new_privileges().map_err(failed("giving up privileges"))?;
    let link = rustix::stdio::stdin();
    match receive(link).map_err(failed("receiving the FUSE descriptor"))? {
        Some([device, log]) => keep(&device, &log, &private),
        None => Ok(()),
    }
}

/// Is a last successor, inside the namespace.
fn succeed(private: &[OsString]) -> Result<(), ServerError> {
    let duplicate = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let device = duplicate(rustix::stdio::stdin()).map_err(failed("taking the descriptor"))?;
    let log = duplicate(rustix::stdio::stdout()).map_err(failed("taking the table of nodes"))?;
    let private: Vec<PathBuf> = private.iter().map(PathBuf::from).collect();
    work(&device, &log, &private, Turn::Successor, Standing::Inside).map_err(failed("serving"))
}

/// Starts a last successor, a child of the caller, which stands inside the namespace and has one thread.
pub(super) fn spawn_successor(
    device: BorrowedFd<'_>,
    log: BorrowedFd<'_>,
    private: &[PathBuf],
) -> Result<Child, Errno> {
    let mut words = vec![OsString::from(SUCCESSOR)];
    words.extend(private.iter().map(|path| path.clone().into_os_string()));
    clone_into(CloneFlags::FORK, || {
        let ready = rustix::stdio::dup2_stdin(device)
            .and_then(|()| rustix::stdio::dup2_stdout(log))
            .and_then(|()| close_from(3, Closing::AtExec));
        let error = ready.map_or_else(Into::into, |()| execute(&words));
        tracing::error!(%error, "the file server's successor was not started");
        NOT_EXECUTED
    })
}

fn execute(words: &[OsString]) -> std::io::Error {
    Command::new("/proc/self/exe")
        .arg0(SERVER_NAME)
        .args(words)
        .env_clear()
        .current_dir("/")
        .exec()
}

fn read(words: &[OsString]) -> Option<(Option<Identity>, Vec<PathBuf>)> {
    let (uid, rest) = words.split_first()?;
    let (gid, rest) = rest.split_first()?;
    let identity = match (uid.to_str()?, gid.to_str()?) {
        (KEEP, KEEP) => None,
        (uid, gid) => Some(Identity {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        }),
    };
    Some((identity, rest.iter().map(PathBuf::from).collect()))
}

/// Has the connection served until it ends.
fn keep(device: &OwnedFd, log: &OwnedFd, private: &[PathBuf]) -> Result<(), ServerError> {
    let mut turn = Turn::First;
    for _ in 0..=REPLACEMENTS_MAX {
        let worker = clone_into(CloneFlags::FORK, || {
            u8::from(work(device, log, private, turn, Standing::Outside).is_err())
        })
        .map_err(failed("cloning a worker"))?;
        let ended = worker
            .pidfd
            .wait()
            .map_err(failed("waiting for a worker"))?;
        if ended == Ended::Exited(0) {
            return Ok(());
        }
        turn = Turn::Successor;
    }
    Err(failed("replacing a worker once more")(Errno::AGAIN))
}

/// Serves in this process, with threads.
fn work(
    device: &OwnedFd,
    log: &OwnedFd,
    private: &[PathBuf],
    turn: Turn,
    standing: Standing,
) -> Result<(), Errno> {
    let log = rustix::io::fcntl_dupfd_cloexec(log, 3)?;
    let exposure = Exposure::of_machine(private.iter().cloned());
    let tree = HostTree::new(exposure, log, standing)?;
    wolffia_sys::fd::make_room(2 * OPEN_MAX + BESIDES_MAX);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    fuse::serve(device.as_fd(), &tree, turn, workers.clamp(2, WORKERS_MAX))
}

/// Makes an empty table of nodes.
pub(super) fn new_log() -> Result<OwnedFd, Errno> {
    memfd_create("wolffia-nodes", MemfdFlags::CLOEXEC)
}

impl Link {
    /// Gives the server the descriptor of a FUSE mount and the table of nodes that it shall use; does not wait for it.
    pub(super) fn hand_over(
        &self,
        device: BorrowedFd<'_>,
        log: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        send(self.as_fd(), [device, log])
    }
}

fn send(link: BorrowedFd<'_>, fds: [BorrowedFd<'_>; 2]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let word = [IoSlice::new(b"d")];
    rustix::io::retry_on_intr(|| sendmsg(link, &word, &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Waits for the descriptors; `None` where the other end is gone.
fn receive(link: BorrowedFd<'_>) -> Result<Option<[OwnedFd; 2]>, Errno> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0_u8; 1];
    let mut words = [IoSliceMut::new(&mut word)];
    let received = loop {
        match recvmsg(link, &mut words, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => Some([fds.next()?, fds.next()?]),
        _ => None,
    });
    fds.map(Some).ok_or(Errno::BADMSG)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn arguments_are_read_as_they_were_written() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            read(&words(&["-", "-", "/a", "/b"])),
            Some((None, vec!["/a".into(), "/b".into()]))
        );
        assert_eq!(
            read(&words(&["5", "6"])),
            Some((Some(Identity { uid: 5, gid: 6 }), vec![]))
        );
        for bad in [&[][..], &["-"], &["-", "6"], &["x", "6"]] {
            assert_eq!(read(&words(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn descriptors_travel_and_an_end_is_an_end() {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket");
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        send(one.as_fd(), [writer.as_fd(), reader.as_fd()]).expect("sent");
        drop(writer);
        let [received, _] = receive(other.as_fd()).expect("received").expect("two");
        rustix::io::write(received, b"x").expect("written");
        assert_eq!(rustix::io::read(reader, &mut [0; 2][..]), Ok(1));
        drop(one);
        assert!(receive(other.as_fd()).expect("an end").is_none());
    }

    #[test]
    fn bytes_of_paths_survive_the_argument_list() {
        let path = OsStr::from_bytes(b"/h\xff me");
        let read = read(&["-".into(), "-".into(), path.to_owned()]).expect("arguments");
        assert_eq!(read.1, [PathBuf::from(path)]);
    }
}
