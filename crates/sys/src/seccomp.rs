// SPDX-License-Identifier: Apache-2.0
//! A system call filter as a program of the classic BPF machine, and its installation on the
//! calling thread.
//!
//! # Theory of operation
//! What a filter decides is written as a [`policy::Policy`]; [`tree::emit`] lays that out. A
//! [`Program`] is nothing but checked length. A filter once installed cannot be taken away, is inherited by every child and
//! kept across execve(2); of several, the strictest verdict counts. The kernel takes it only from a
//! thread that has `no_new_privs` set or holds `CAP_SYS_ADMIN` in its user namespace. A container
//! without `no_new_privs` therefore installs its filter *before* it drops its capabilities, which
//! is why the default profile must allow all that is called between there and execve.
//!
//! [`install`] allocates nothing and takes no lock: it may be called between a clone and execve.
//!
//! # Sources
//! seccomp(2), `seccomp_unotify(2)`, `kernel/seccomp.c`.

use std::borrow::Cow;
use std::os::fd::{FromRawFd, OwnedFd};

pub mod instruction;
pub mod notification;
pub mod policy;
pub mod tree;

pub use instruction::{INSTRUCTIONS_MAX, Instruction};

/// A filter that the kernel will take: between one and [`INSTRUCTIONS_MAX`] instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Cow<'static, [Instruction]>,
    length: u16,
}

impl Program {
    /// Returns the program of these instructions.
    pub fn new(instructions: Vec<Instruction>) -> Result<Self, ProgramError> {
        let length = checked_length(instructions.len())?;
        Ok(Self {
            instructions: Cow::Owned(instructions),
            length,
        })
    }

    /// Returns a program that lies ready in the binary.
    ///
    /// # Panics
    /// Where its length is out of bounds: a constant of that kind does not compile.
    pub const fn from_static(instructions: &'static [Instruction]) -> Self {
        match checked_length(instructions.len()) {
            Ok(length) => Self {
                instructions: Cow::Borrowed(instructions),
                length,
            },
            Err(_) => panic!("the program is empty or too long"),
        }
    }

    /// Returns the instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be at most 4096"
)]
const fn checked_length(length: usize) -> Result<u16, ProgramError> {
    match length {
        0 => Err(ProgramError::Empty),
        1..=INSTRUCTIONS_MAX => Ok(length as u16),
        _ => Err(ProgramError::TooLong { length }),
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
        /// Do not switch speculative store bypass off. Kernels before 5.16 switch it off for every
        /// filtered thread otherwise, which costs several per cent and guards against nothing that
        /// a container could use.
        const ALLOW_SPECULATION = 4;
        /// Return a descriptor from which a supervisor reads the calls whose verdict is Notify.
        const LISTENER = 8;
        /// Fail with ESRCH where a thread cannot be reached ([`Flags::ALL_THREADS`] together with
        /// [`Flags::LISTENER`]).
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

/// Puts `program` on the calling thread, for good. Returns the listener where [`Flags::LISTENER`]
/// asks for one.
///
/// Does not block, does not allocate, is safe after a clone.
#[expect(unsafe_code, reason = "seccomp(2) has no wrapper")]
pub fn install(program: &Program, flags: Flags) -> Result<Option<OwnedFd>, InstallError> {
    let header = libc::sock_fprog {
        len: program.length,
        filter: program
            .instructions
            .as_ptr()
            .cast::<libc::sock_filter>()
            .cast_mut(),
    };
    // SAFETY: `header` and the `len` instructions behind it outlive the call, which only reads
    // them; `Instruction` has the layout of `sock_filter` (asserted below).
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
    // A descriptor or a thread id, both of which are ints.
    let answer = i32::try_from(answer)
        .map_err(|_| InstallError::Kernel(std::io::ErrorKind::InvalidData.into()))?;
    if flags.contains(Flags::LISTENER) {
        // SAFETY: with this flag a result of zero or more is a new descriptor that nobody else
        // owns.
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

#[cfg(test)]
mod tests {
    use super::instruction::{JUMP_EQUAL, LOAD, OFFSET_NUMBER, RETURN};
    use super::*;

    const ALLOW: u32 = 0x7FFF_0000;
    /// Errno 77.
    const ANSWER: u32 = 0x0005_004D;
    const NOTIFY: u32 = 0x7FC0_0000;

    /// `verdict` for this call, Allow for all others.
    fn program(number: libc::c_long, verdict: u32) -> Program {
        let number = u32::try_from(number).unwrap();
        Program::new(vec![
            Instruction::plain(LOAD, OFFSET_NUMBER),
            Instruction {
                code: JUMP_EQUAL,
                jump_true: 0,
                jump_false: 1,
                operand: number,
            },
            Instruction::plain(RETURN, verdict),
            Instruction::plain(RETURN, ALLOW),
        ])
        .unwrap()
    }

    /// Runs `work` on a thread of its own: a filter stays for the thread's life.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn filter_answers_the_call_on_this_thread_alone() {
        let inside = on_a_thread(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert!(
                install(&program(libc::SYS_sync, ANSWER), Flags::default())
                    .unwrap()
                    .is_none()
            );
            install(
                &program(libc::SYS_getpriority, ANSWER),
                Flags::ALLOW_SPECULATION,
            )
            .unwrap();
            rustix::process::getpriority_process(None)
        });
        assert_eq!(inside.unwrap_err().raw_os_error(), 77);
        rustix::process::getpriority_process(None).unwrap();
    }

    #[test]
    fn listener_is_handed_out_once() {
        let (first, second) = on_a_thread(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let filter = program(libc::SYS_getpriority, NOTIFY);
            (
                install(&filter, Flags::LISTENER),
                install(&filter, Flags::LISTENER),
            )
        });
        let listener = first.unwrap().unwrap();
        assert!(
            rustix::io::fcntl_getfd(&listener)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        assert!(matches!(second, Err(InstallError::SecondListener)));
    }

    #[test]
    fn program_that_the_kernel_refuses_is_an_error() {
        let endless = Program::new(vec![Instruction::plain(LOAD, OFFSET_NUMBER)]).unwrap();
        let answer = on_a_thread(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            install(&endless, Flags::default())
        });
        let Err(InstallError::Kernel(error)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn thread_without_no_new_privs_or_capability_is_refused() {
        let answer = on_a_thread(|| {
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            rustix::thread::set_capabilities(None, sets).unwrap();
            install(&program(libc::SYS_sync, ALLOW), Flags::default())
        });
        assert!(
            matches!(answer, Err(InstallError::NotAllowed)),
            "{answer:?}"
        );
    }

    #[test]
    fn length_is_checked() {
        assert_eq!(Program::new(Vec::new()), Err(ProgramError::Empty));
        let long = vec![Instruction::plain(RETURN, ALLOW); INSTRUCTIONS_MAX + 1];
        assert_eq!(
            Program::new(long),
            Err(ProgramError::TooLong {
                length: INSTRUCTIONS_MAX + 1
            })
        );
    }
}
