// SPDX-License-Identifier: Apache-2.0
//! Signals as something to poll: blocked, read from a descriptor, sent with a value.
//!
//! A process of ours that must not miss a signal blocks all of them once and reads a signalfd in its one poll loop; there are no handlers, hence
//! nothing that has to be async-signal-safe. Process 1 of a PID namespace gets a signal only if it is blocked or handled, so blocking is also what
//! lets the conductor hear. Sources: signalfd(2), `pidfd_send_signal(2)`, `sigqueue(3)`, `pid_namespaces(7)`.

#![expect(
    unsafe_code,
    reason = "signal sets, signalfd and pidfd_send_signal have no safe wrapper in rustix"
)]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// A signal that was read from a [`SignalFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The value that [`queue`] gave it, else 0.
    pub value: i32,
    /// Whether it was sent by [`queue`] (or `sigqueue(3)`).
    pub queued: bool,
}

/// The blocked signals of the process, as a descriptor that becomes readable.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// What was blocked before; to be restored in a child that executes another program.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Mask")
    }
}

/// The first real-time signal: as the C library says, since it keeps some to itself.
pub fn real_time(offset: i32) -> i32 {
    libc::SIGRTMIN() + offset
}

/// Blocks every signal that can be blocked in the calling thread, but for those of `open`, and returns what was blocked before. Faults (SIGSEGV
/// and its like) stay unblocked too, so that a bug of ours ends us.
pub fn block_all_but(open: &[i32]) -> io::Result<Mask> {
    let mut all = full();
    for signal in open {
        // SAFETY: `all` is an initialised set; a number that is no signal is refused and changes nothing.
        unsafe { libc::sigdelset(&raw mut all, *signal) };
    }
    for fault in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGTRAP,
    ] {
        // SAFETY: `all` is an initialised set, and the numbers are those of signals.
        unsafe { libc::sigdelset(&raw mut all, fault) };
    }
    set_mask(&Mask(all))
}

/// Sets what is blocked in the calling thread, and returns what was. Safe after fork.
pub fn set_mask(mask: &Mask) -> io::Result<Mask> {
    let mut before = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both pointers are to sets that live through the call; the second is written by it.
    let result =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, before.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    // SAFETY: the call succeeded, so it has written the set.
    Ok(Mask(unsafe { before.assume_init() }))
}

/// Sets every signal back to what it does by default, as a program expects at its start: what our caller's caller ignores (a shell ignores
/// interrupts for what it puts in the background) would be inherited through exec. Safe after fork.
pub fn reset_dispositions() {
    const LAST: i32 = 64;
    for signal in 1..=LAST {
        // SAFETY: SIG_DFL runs no code of ours; numbers that cannot be set (SIGKILL, SIGSTOP, the C library's own) are refused and change nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Returns the mask that blocks nothing.
pub fn empty_mask() -> Mask {
    let mut set = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given and cannot fail.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        Mask(set.assume_init())
    }
}

fn full() -> libc::sigset_t {
    let mut set = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given and cannot fail.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Sends `signal` with a value to the process behind `pidfd`.
pub fn queue(pidfd: BorrowedFd<'_>, signal: i32, value: i32) -> io::Result<()> {
    // SAFETY: siginfo_t is plain data for which all zeroes is valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    info.si_signo = signal;
    info.si_code = libc::SI_QUEUE;
    let fields = QueuedFields {
        // The kernel fills in the true sender's numbers only for itself; for SI_QUEUE they are what the sender says.
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        uid: rustix::process::getuid().as_raw(),
        value: isize::try_from(value).unwrap_or_default(),
    };
    // SAFETY: on every 64-bit Linux the union of siginfo_t starts 16 bytes in, and for SI_QUEUE it begins with pid, uid and the value
    // (include/uapi/asm-generic/siginfo.h); the struct is 128 bytes, so the write stays inside it.
    unsafe {
        ptr::write_unaligned(
            (&raw mut info).cast::<u8>().add(FIELDS_OFFSET).cast(),
            fields,
        );
    }
    // SAFETY: the descriptor is open for the call, and `info` is a siginfo_t that lives through it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            &raw const info,
            0u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

const FIELDS_OFFSET: usize = 16;

#[repr(C)]
struct QueuedFields {
    pid: i32,
    uid: u32,
    value: isize,
}

impl SignalFd {
    /// Makes a descriptor for all blocked signals; it never waits.
    pub fn new() -> io::Result<SignalFd> {
        let all = full();
        // SAFETY: `all` is an initialised set; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns the next signal, or `None` where there is none yet.
    pub fn read(&self) -> io::Result<Option<Received>> {
        let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(count) if count == bytes.len() => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the kernel wrote a whole signalfd_siginfo, which is plain data; the buffer may be unaligned, the read does not mind.
        let info: libc::signalfd_siginfo = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
        Ok(Some(Received {
            signal: i32::try_from(info.ssi_signo).unwrap_or_default(),
            value: info.ssi_int,
            queued: info.ssi_code == libc::SI_QUEUE,
        }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    /// A signal to the whole process could be taken by a thread of the test harness, so a pidfd of this thread is used (Linux 6.9).
    #[test]
    fn a_value_comes_back() {
        let thread_only = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
        let Ok(me) = pidfd_open(rustix::thread::gettid(), thread_only) else {
            return;
        };
        let before = block_all_but(&[]).unwrap();
        let signals = SignalFd::new().unwrap();
        assert_eq!(signals.read().unwrap(), None);
        for (signal, value) in [(libc::SIGUSR1, 42), (real_time(3), -7)] {
            queue(me.as_fd(), signal, value).unwrap();
            assert_eq!(
                signals.read().unwrap(),
                Some(Received {
                    signal,
                    value,
                    queued: true
                })
            );
        }
        let me = crate::process::PidFd::from_fd(me);
        me.send_signal(libc::SIGUSR1).unwrap();
        let got = signals.read().unwrap().unwrap();
        assert_eq!((got.signal, got.queued), (libc::SIGUSR1, false));
        set_mask(&before).unwrap();
    }
}
