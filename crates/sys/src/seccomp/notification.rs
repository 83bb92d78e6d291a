// SPDX-License-Identifier: Apache-2.0
//! System calls that a filter has handed over: read, checked to be still waiting, answered.
//!
//! # Theory of operation
//! A filter's verdict Notify stops the calling thread and queues a [`Notification`] at the listener ([`super::install`] with
//! [`super::Flags::LISTENER`]), which is readable while one waits, and hung up when the last process with the filter has ended. The
//! numbers in it are values of the moment; what pointers point to is the caller's memory, which another thread can rewrite at any
//! time. So a supervisor copies what it needs *once* ([`crate::process::read_memory`]), decides by its copy and does the work
//! itself. [`Answer::Continue`] lets the kernel read the memory again: it is right only where nothing depends on what was checked.
//!
//! A caller that is killed (or, without [`super::Flags::WAIT_KILLABLE`], gets a signal) is gone, and its number may be another's.
//! Whoever opens something by [`Notification::thread`] asks [`Listener::is_waiting`] *afterwards*: as long as the call waits, the
//! thread is the one that made it.
//!
//! # Sources
//! `seccomp_unotify(2)`, `include/uapi/linux/seccomp.h`, `kernel/seccomp.c`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::Errno;

/// The supervisor's end of a filter.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What the answer is addressed to.
    pub id: u64,
    /// The calling thread, in the PID namespace of whoever reads; zero where it cannot be seen from there.
    pub thread: u32,
    /// Whose numbers these are (`AUDIT_ARCH_*`).
    pub audit_token: u32,
    /// The call's number.
    pub number: i32,
    /// Its arguments, as they stand in the registers.
    pub arguments: [u64; 6],
}

/// What a waiting call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This value.
    Value(i64),
    /// This error.
    Error(Errno),
    /// The kernel makes the call after all, with whatever then stands in the caller's memory.
    Continue,
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Received {
    id: u64,
    thread: u32,
    flags: u32,
    number: i32,
    audit_token: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

const RECEIVE: libc::c_ulong = request(3, 0, size_of::<Received>());
const SEND: libc::c_ulong = request(3, 1, size_of::<Response>());
const IS_VALID: libc::c_ulong = request(1, 2, size_of::<u64>());
const ADD: libc::c_ulong = request(1, 3, size_of::<AddDescriptor>());

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`.
const AT_NUMBER: u32 = 1;

/// The number of an ioctl of this device, as `_IOC` builds it: direction, type, number, size.
const fn request(direction: libc::c_ulong, number: libc::c_ulong, size: usize) -> libc::c_ulong {
    (direction << 30) | ((size as libc::c_ulong) << 16) | ((b'!' as libc::c_ulong) << 8) | number
}

impl From<OwnedFd> for Listener {
    fn from(descriptor: OwnedFd) -> Listener {
        Listener { descriptor }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Listener {
    /// Takes the next waiting call. Blocks while there is none: poll for readability first.
    ///
    /// # Errors
    /// `ENOENT` where the caller was gone before it could be read, `EINTR`.
    pub fn receive(&self) -> Result<Notification, Errno> {
        let mut received = Received::default();
        self.control(RECEIVE, &raw mut received)?;
        Ok(Notification {
            id: received.id,
            thread: received.thread,
            audit_token: received.audit_token,
            number: received.number,
            arguments: received.arguments,
        })
    }

    /// Returns whether the call still waits, and so the thread that made it is still there.
    pub fn is_waiting(&self, id: u64) -> bool {
        let mut id = id;
        self.control(IS_VALID, &raw mut id).is_ok()
    }

    /// Answers the call.
    ///
    /// # Errors
    /// `ENOENT` where the caller is gone, `EINPROGRESS` where it was answered.
    pub fn answer(&self, id: u64, answer: Answer) -> Result<(), Errno> {
        let (value, error, flags) = match answer {
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -errno.raw_os_error(), 0),
            Answer::Continue => (0, 0, CONTINUE),
        };
        let mut response = Response {
            id,
            value,
            error,
            flags,
        };
        self.control(SEND, &raw mut response)
    }

    /// Puts `descriptor` into the caller's table at `number`, in place of what is open there, as dup3(2) would.
    ///
    /// # Errors
    /// `ENOENT` where the caller is gone, `EBADF` where `number` is beyond its limit of open files.
    pub fn replace(
        &self,
        id: u64,
        descriptor: BorrowedFd<'_>,
        number: u32,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        let source = descriptor.as_raw_fd().cast_unsigned();
        let mut add = AddDescriptor {
            id,
            flags: AT_NUMBER,
            source,
            target: number,
            target_flags: if close_on_exec {
                libc::O_CLOEXEC.cast_unsigned()
            } else {
                0
            },
        };
        self.control(ADD, &raw mut add)
    }

    #[expect(unsafe_code, reason = "no wrapper has these ioctls")]
    fn control<T>(&self, request: libc::c_ulong, argument: *mut T) -> Result<(), Errno> {
        // SAFETY: every request of this file carries the size of the `T` that its caller points to, a local variable that
        // outlives the call; the kernel reads and writes no more than that.
        let done = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, argument) };
        if done < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        Ok(())
    }
}

// The sizes are part of the request's number: a wrong one would be refused.
const _: () = {
    assert!(size_of::<Received>() == 80);
    assert!(size_of::<Response>() == 24);
    assert!(size_of::<AddDescriptor>() == 24);
};

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::FromRawFd as _;

    use super::*;
    use crate::seccomp::instruction::{JUMP_EQUAL, LOAD, OFFSET_NUMBER, RETURN};
    use crate::seccomp::{Flags, Instruction, Program, install};

    /// Runs `work` on a thread whose `getpriority` is answered by `supervise`.
    fn supervised<T: Send>(
        supervise: impl FnOnce(&Listener, &Notification),
        work: impl FnOnce() -> T + Send,
    ) -> T {
        let filter = Program::new(vec![
            Instruction::plain(LOAD, OFFSET_NUMBER),
            Instruction {
                code: JUMP_EQUAL,
                jump_true: 0,
                jump_false: 1,
                operand: u32::try_from(libc::SYS_getpriority).unwrap(),
            },
            Instruction::plain(RETURN, 0x7FC0_0000),
            Instruction::plain(RETURN, 0x7FFF_0000),
        ])
        .unwrap();
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let worker = scope.spawn(move || {
                rustix::thread::set_no_new_privs(true).unwrap();
                let listener = install(&filter, Flags::LISTENER).unwrap().unwrap();
                sender.send(Listener::from(listener)).unwrap();
                work()
            });
            let listener = receiver.recv().unwrap();
            let notification = listener.receive().unwrap();
            supervise(&listener, &notification);
            worker.join().unwrap()
        })
    }

    fn ask() -> Result<i32, Errno> {
        rustix::process::getpriority_process(None)
    }

    #[test]
    fn answers_reach_the_caller() {
        let answer = |answer| {
            supervised(
                move |listener, call| {
                    assert_eq!(i64::from(call.number), libc::SYS_getpriority);
                    assert!(listener.is_waiting(call.id));
                    listener.answer(call.id, answer).unwrap();
                    assert!(!listener.is_waiting(call.id));
                    assert!(listener.answer(call.id, answer).is_err());
                },
                ask,
            )
        };
        // The kernel's call answers 20 less the priority.
        assert_eq!(answer(Answer::Value(13)), Ok(7));
        assert_eq!(answer(Answer::Error(Errno::XDEV)), Err(Errno::XDEV));
        assert_eq!(answer(Answer::Continue), ask());
    }

    #[test]
    #[expect(unsafe_code, reason = "a number of our own table becomes a file again")]
    fn a_descriptor_takes_the_place_of_another() {
        let (reader, writer) = std::io::pipe().unwrap();
        let old = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(old);
        let text = supervised(
            |listener, call| {
                listener
                    .replace(call.id, reader.as_fd(), number.cast_unsigned(), true)
                    .unwrap();
                listener.answer(call.id, Answer::Value(20)).unwrap();
            },
            move || {
                ask().unwrap();
                // SAFETY: the number is open, by the supervisor's hand, and nobody else owns it.
                let mut put = unsafe { std::fs::File::from_raw_fd(number) };
                (&writer).write_all(b"through").unwrap();
                drop(writer);
                let mut text = String::new();
                put.read_to_string(&mut text).unwrap();
                text
            },
        );
        assert_eq!(text, "through");
    }
}
