// SPDX-License-Identifier: Apache-2.0
//! Processes: cloned into namespaces, held by pidfd, waited for, told when to die.
//!
//! # Theory of operation
//! [`clone_into`] is `clone3(2)` as a fork: the child runs on a copy of the memory, calls a function and ends. Only the
//! calling thread exists in the child; a lock that another thread held (the allocator's, say) stays locked there for ever.
//! Therefore callers have a single thread, as every process of ours that forks has; builds with debug assertions count
//! them. glibc does not notice a raw clone, but nothing here uses what it would have to be told (its thread's id).
//!
//! A [`PidFd`] cannot mean another process later, as a number can, and is waited for in `poll`.
//!
//! Sources: clone(2), `pidfd_open(2)`, `close_range(2)`, prctl(2).

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions},
};

use crate::namespace::Namespaces;

/// What a clone shares, makes new, and whose child it is.
#[derive(Clone, Copy, Debug)]
pub struct CloneFlags {
    /// Namespaces that are made for the child; the user namespace first, and owner of the others.
    pub new: Namespaces,
    /// Make it a child of the caller's parent. Refused by the kernel for process 1 of a PID namespace.
    pub sibling: bool,
}

impl CloneFlags {
    /// A plain fork.
    pub const FORK: CloneFlags = CloneFlags::new(Namespaces::empty());

    /// A child in these new namespaces.
    pub const fn new(new: Namespaces) -> CloneFlags {
        CloneFlags {
            new,
            sibling: false,
        }
    }
}

impl From<Namespaces> for CloneFlags {
    fn from(new: Namespaces) -> CloneFlags {
        CloneFlags::new(new)
    }
}

/// A process that was cloned.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's PID namespace.
    pub pid: u32,
    /// Its descriptor.
    pub pidfd: PidFd,
}

/// Clones the calling process; the child runs `work` and exits with the returned code, running no destructors.
///
/// With [`Namespaces::TIME`] the kernel refuses (`EINVAL`). A panic in `work` ends the child with code 125.
///
/// # Panics
/// With debug assertions, where the calling process has more than one thread.
pub fn clone_into(flags: impl Into<CloneFlags>, work: impl FnOnce() -> u8) -> Result<Child, Errno> {
    debug_assert!(
        has_one_thread(),
        "a process with several threads must not fork"
    );
    let flags = flags.into();
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: u64::from(flags.new.bits()) | CLONE_PIDFD,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    if flags.sibling {
        // The kernel takes the exit signal of the caller itself then.
        arguments.flags |= CLONE_PARENT;
        arguments.exit_signal = 0;
    }
    #[expect(unsafe_code, reason = "clone3 has no wrapper")]
    // SAFETY: without CLONE_VM the child works on its own copy of the memory, stack included (`stack` is 0). `arguments`
    // and `pidfd` outlive the call. Locks held by other threads do not exist: the process has one thread (asserted above).
    let mut answer = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut arguments),
            size_of::<CloneArguments>(),
        )
    };
    if answer < 0 && last_errno() == Errno::NOSYS {
        // System call filters answer so to clone3, whose flags they cannot read; the older call knows all the flags that we use.
        let old = arguments.flags | arguments.exit_signal;
        #[expect(unsafe_code, reason = "clone has no wrapper that forks")]
        // SAFETY: as above; the third argument is where the pidfd goes, the others are zero in any order.
        let older = unsafe {
            libc::syscall(
                libc::SYS_clone,
                old,
                0,
                std::ptr::from_mut(&mut pidfd),
                0,
                0,
            )
        };
        answer = older;
    }
    match answer {
        0 => run_and_exit(work),
        1.. => {
            let pid = u32::try_from(answer).map_err(|_| Errno::OVERFLOW)?;
            #[expect(unsafe_code, reason = "the kernel returned a new descriptor")]
            // SAFETY: the kernel stored a new descriptor, owned by nobody else, because CLONE_PIDFD was asked.
            let pidfd = PidFd(unsafe { OwnedFd::from_raw_fd(pidfd) });
            Ok(Child { pid, pidfd })
        }
        _ => Err(last_errno()),
    }
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;

/// `struct clone_args` up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn run_and_exit(work: impl FnOnce() -> u8) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(125);
    exit_now(code)
}

/// Ends the process at once: no destructor, no buffered output, no exit handler.
pub fn exit_now(code: u8) -> ! {
    #[expect(unsafe_code, reason = "_exit is an extern function")]
    // SAFETY: _exit takes no memory and does not return.
    unsafe {
        libc::_exit(libc::c_int::from(code))
    }
}

pub(crate) fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() <= 1)
}

/// A descriptor of a process.
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this id now.
    pub fn open(pid: u32) -> Result<PidFd, Errno> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(Errno::SRCH)?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).map(PidFd)
    }

    /// Makes one of a descriptor that is known to be a pidfd (received over a socket).
    pub fn from_fd(fd: OwnedFd) -> PidFd {
        PidFd(fd)
    }

    /// Returns the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a signal by number, 0 for none; `ESRCH` where the process has ended.
    pub fn send_signal(&self, signal: i32) -> Result<(), Errno> {
        #[expect(
            unsafe_code,
            reason = "rustix takes named signals only, and there are real-time ones"
        )]
        // SAFETY: the descriptor is open; a null siginfo is allowed; no other memory is passed.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if answer == 0 {
            Ok(())
        } else {
            Err(last_errno())
        }
    }

    /// Waits for the end of the process, which must be a child of the caller; blocks.
    pub fn wait(&self) -> Result<Ended, Errno> {
        loop {
            match self.wait_with(WaitIdOptions::EXITED) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns how the process, a child of the caller, ended; `None` while it runs. Never blocks.
    pub fn try_wait(&self) -> Result<Option<Ended>, Errno> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn wait_with(&self, options: WaitIdOptions) -> Result<Option<Ended>, Errno> {
        let status = rustix::process::waitid(WaitId::PidFd(self.0.as_fd()), options)?;
        Ok(status.and_then(|status| {
            let exited = status
                .exit_status()
                .map(|code| Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
            let killed = || status.terminating_signal().map(Ended::Killed);
            exited.or_else(killed)
        }))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for PidFd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PidFd({})", self.0.as_raw_fd())
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(u8),
    /// This signal ended it.
    Killed(i32),
}

impl Ended {
    /// Returns the code a shell would show: the program's own, or 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// What is done to a range of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// They are closed now.
    Now,
    /// They are closed by a successful exec.
    AtExec,
}

/// Closes every descriptor from `first` on, or marks it to be closed at exec.
///
/// Closing now pulls descriptors from under their owners: only for a child that is about to exec.
pub fn close_from(first: u32, closing: Closing) -> Result<(), Errno> {
    let flags = match closing {
        Closing::Now => 0,
        Closing::AtExec => CLOSE_RANGE_CLOEXEC,
    };
    close_range(first, u32::MAX, flags)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "close_range has no wrapper")]
    // SAFETY: no memory is passed. Owners of closed descriptors get EBADF later, which is an error and not unsound here:
    // the callers are documented for children that exec next.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Closes every descriptor from `first` on but those of `kept`. See [`close_from`] for the danger.
pub fn close_except(first: u32, kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let number = |fd: &BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).ok();
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(number)
        .filter(|fd| *fd >= first)
        .collect();
    kept.sort_unstable();
    let mut from = first;
    for fd in kept {
        if fd > from {
            close_range(from, fd - 1, 0)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX, 0)
}

/// Asks for this signal when the parent's thread ends; `None` takes it back.
///
/// The kernel forgets it when the process changes its ids or executes a set-uid program.
pub fn set_death_signal(signal: Option<rustix::process::Signal>) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(signal)
}

/// Makes orphans below the caller become its children.
pub fn become_subreaper() -> Result<(), Errno> {
    rustix::process::set_child_subreaper(Pid::from_raw(1))
}

/// Forbids the caller and its descendants to gain rights by exec, for ever.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)
}

/// Takes on a user and a group for good, and drops all others and every capability. The calling process must have one
/// thread: the kernel changes ids thread by thread.
pub fn become_user(user: rustix::process::Uid, group: rustix::process::Gid) -> Result<(), Errno> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}

/// As [`become_user`], but keeps the capabilities of `sets`, of which the caller must hold the permitted ones.
pub fn become_user_keeping(
    user: rustix::process::Uid,
    group: rustix::process::Gid,
    sets: &crate::capabilities::Sets,
) -> Result<(), Errno> {
    rustix::thread::set_keep_capabilities(true)?;
    become_user(user, group)?;
    rustix::thread::set_keep_capabilities(false)?;
    crate::capabilities::apply(sets)
}

/// Decides whether others of the same user may trace the caller and open its /proc files; also for core dumps.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    use rustix::process::DumpableBehavior;
    rustix::process::set_dumpable_behavior(if dumpable {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    })
}

/// Shows another command line for the calling process in /proc, cut to the room that the old one had.
///
/// Names itself so too, cut to 15 bytes. A process that cannot see its own /proc keeps the old line.
///
/// For a process of one thread that reads its arguments no more.
pub fn set_title(title: &std::ffi::CStr) {
    // A name is a matter of looks alone.
    let _ = rustix::thread::set_name(title);
    let Some((start, room)) = argument_area() else {
        return;
    };
    let line = title.to_bytes();
    let shown = line.len().min(room.saturating_sub(1));
    #[expect(
        unsafe_code,
        reason = "the arguments' memory belongs to nobody in Rust"
    )]
    // SAFETY: the kernel just said that the argument strings of this program lie there, `room` bytes in its own stack,
    // mapped for writing as long as the process lives. Copies of them are what Rust hands out; nobody holds a
    // reference, and with one thread nobody reads them meanwhile.
    unsafe {
        let start = start as *mut u8;
        std::ptr::write_bytes(start, 0, room);
        std::ptr::copy_nonoverlapping(line.as_ptr(), start, shown);
    }
}

/// Returns where the arguments lie in memory, and how many bytes they have.
fn argument_area() -> Option<(usize, usize)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // proc_pid_stat(5): arg_start and arg_end are fields 48 and 49; the second field, in brackets, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3);
    let mut next = || fields.next()?.parse::<usize>().ok();
    let (start, end) = (next()?, next()?);
    (start != 0 && end > start).then(|| (start, end - start))
}

pub(crate) fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Copies up to `buffer.len()` bytes from `address` on out of another process's memory, and returns how many could be read.
///
/// Another thread may change them at any time: copy once, and trust the copy alone (`process_vm_readv(2)`). Needs
/// ptrace's rights over the process.
///
/// # Errors
/// `EFAULT` where nothing is mapped there, `ESRCH`, `EPERM`.
#[expect(unsafe_code, reason = "process_vm_readv(2) has no wrapper")]
pub fn read_memory(thread: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let thread = libc::pid_t::try_from(thread).map_err(|_| Errno::SRCH)?;
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: buffer.len(),
    };
    // SAFETY: the kernel writes at most `iov_len` bytes into `buffer`, which outlives the call; the other address is one of
    // the other process and is never followed here.
    let read =
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Ended::Exited(7).code(), 7);
        assert_eq!(Ended::Killed(9).code(), 137);
    }

    #[test]
    fn an_ended_process_takes_no_signal() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("spawning true");
        let pidfd = PidFd::open(child.id()).expect("opening it");
        assert_eq!(pidfd.wait(), Ok(Ended::Exited(0)));
        assert_eq!(pidfd.send_signal(0), Err(Errno::SRCH));
        drop(child.wait());
    }

    #[test]
    fn memory_of_a_process_is_copied() {
        static TEXT: [u8; 16] = *b"what it holds at";
        let own = std::process::id();
        let address = TEXT.as_ptr().addr() as u64;
        let mut copy = [0; 16];
        assert_eq!(read_memory(own, address, &mut copy), Ok(16));
        assert_eq!(copy, TEXT);
        assert_eq!(read_memory(own, 8, &mut copy), Err(Errno::FAULT));
        // Above the highest number that the kernel gives out.
        assert_eq!(read_memory(1 << 23, address, &mut copy), Err(Errno::SRCH));
    }
}
