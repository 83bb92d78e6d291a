// SPDX-License-Identifier: Apache-2.0
//! A system call filter as a program of the classic BPF machine, and its installation on the calling thread.
//!
//! # Theory of operation
//! A [`Program`] is nothing but checked length: what it decides is the business of whoever emits it (room `runtime`). A
//! filter once installed cannot be taken away, is inherited by every child and kept across execve(2); of several, the
//! strictest verdict counts. The kernel takes it only from a thread that has `no_new_privs` set or holds
//! `CAP_SYS_ADMIN` in its user namespace. A container without `no_new_privs` therefore installs its filter *before* it
//! drops its capabilities, which is why the default profile must allow all that is called between there and execve.
//!
//! [`install`] allocates nothing and takes no lock: it may be called between a clone and execve.
//!
//! # Sources
//! seccomp(2), `seccomp_unotify(2)`, `kernel/seccomp.c`.

use std::borrow::Cow;
use std::os::fd::{FromRawFd, OwnedFd};

pub mod instruction;

pub use instruction::{INSTRUCTIONS_MAX, Instruction};

/// A filter that the kernel will take: between one and [`INSTRUCTIONS_MAX`] instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Cow<'static, [Instruction]>,
}

impl Program {
    /// Returns the program of these instructions.
    pub fn new(instructions: Vec<Instruction>) -> Result<Self, ProgramError> {
        match instructions.len() {
            0 => Err(ProgramError::Empty),
            length if length > INSTRUCTIONS_MAX => Err(ProgramError::TooLong { length }),
            _ => Ok(Self {
                instructions: Cow::Owned(instructions),
            }),
        }
    }

    /// Returns a program that lies ready in the binary. For constants: a length out of bounds does not compile.
    pub const fn from_static(instructions: &'static [Instruction]) -> Self {
        assert!(!instructions.is_empty() && instructions.len() <= INSTRUCTIONS_MAX);
        Self {
            instructions: Cow::Borrowed(instructions),
        }
    }

    /// Returns the instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

/// Why a sequence of instructions is not a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// There is nothing to run.
    #[error("the filter has no instructions")]
    Empty,
    /// The kernel would refuse it.
    #[error("the filter has {length} instructions, the kernel takes {INSTRUCTIONS_MAX}")]
    TooLong {
        /// How many there are.
        length: usize,
    },
}

bitflags::bitflags! {
    /// How a filter is installed.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// On every thread of the process at once.
        const ALL_THREADS = 1;
        /// Log every verdict but Allow, as the machine's `actions_logged` says.
        const LOG = 2;
        /// Do not switch speculative store bypass off. Kernels before 5.16 switch it off for every filtered thread
        /// otherwise, which costs several per cent and guards against nothing that a container could use.
        const ALLOW_SPECULATION = 4;
        /// Return a descriptor from which a supervisor reads the calls whose verdict is Notify.
        const LISTENER = 8;
        /// Fail with ESRCH where a thread cannot be reached ([`Flags::ALL_THREADS`] together with [`Flags::LISTENER`]).
        const REPORT_UNREACHED_THREAD = 16;
        /// A call that the supervisor has read is interrupted by fatal signals alone (kernel 5.19).
        const WAIT_KILLABLE = 32;
    }
}

/// Why a filter was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The thread has neither `no_new_privs` nor `CAP_SYS_ADMIN`.
    #[error("installing the system call filter: neither no_new_privs nor CAP_SYS_ADMIN is held")]
    NotAllowed,
    /// Another filter of this thread already has a listener.
    #[error("installing the system call filter: the process already has a filter with a listener")]
    SecondListener,
    /// A thread could not be given the filter.
    #[error("installing the system call filter: thread {thread} could not be given it")]
    ThreadUnreached {
        /// The thread's id.
        thread: i32,
    },
    /// Anything else that the kernel says.
    #[error("installing the system call filter")]
    Kernel(#[source] std::io::Error),
}

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;

/// Puts `program` on the calling thread, for good. Returns the listener where [`Flags::LISTENER`] asks for one.
///
/// Does not block, does not allocate, is safe after a clone.
#[expect(unsafe_code, reason = "seccomp(2) has no wrapper")]
pub fn install(program: &Program, flags: Flags) -> Result<Option<OwnedFd>, InstallError> {
    let instructions = program.instructions();
    let header = libc::sock_fprog {
        len: u16::try_from(instructions.len()).expect("a program has at most 4096 instructions"),
        filter: instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `header` and the `len` instructions behind it outlive the call, which only reads them; `Instruction` has
    // the layout of `sock_filter` (asserted below).
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags.bits(),
            &raw const header,
        )
    };
    if answer < 0 {
        let error = std::io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EACCES) => InstallError::NotAllowed,
            Some(libc::EBUSY) => InstallError::SecondListener,
            _ => InstallError::Kernel(error),
        });
    }
    let answer = i32::try_from(answer).expect("the kernel returns a descriptor or a thread id");
    if flags.contains(Flags::LISTENER) {
        // SAFETY: with this flag a result of zero or more is a new descriptor that nobody else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(answer) }));
    }
    if answer > 0 {
        return Err(InstallError::ThreadUnreached { thread: answer });
    }
    Ok(None)
}

const _: () = {
    assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
    assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    assert!(
        std::mem::offset_of!(Instruction, code) == std::mem::offset_of!(libc::sock_filter, code)
    );
    assert!(
        std::mem::offset_of!(Instruction, jump_true) == std::mem::offset_of!(libc::sock_filter, jt)
    );
    assert!(
        std::mem::offset_of!(Instruction, jump_false)
            == std::mem::offset_of!(libc::sock_filter, jf)
    );
    assert!(
        std::mem::offset_of!(Instruction, operand) == std::mem::offset_of!(libc::sock_filter, k)
    );
};
