// SPDX-License-Identifier: Apache-2.0
//! The process whose call waits: its memory, its descriptors, looked at from outside.
//!
//! Everything here is asked for by the number of a thread, which may have ended and be somebody else's by now. So each method
//! looks first and makes sure afterwards that the call still waits ([`Listener::is_waiting`]): then it was the right one all the time.
//!
//! Sources: `seccomp_unotify(2)`, "Design goals"; `pidfd_getfd(2)`; `proc_pid_fdinfo(5)`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use wolffia_sys::Errno;
use wolffia_sys::seccomp::notification::{Listener, Notification};

/// How many descriptors of a process are looked through; one with more is not helped.
pub const DESCRIPTORS_MAX: usize = 512;
/// The longest file of /proc that is read here, bytes.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// A process with a call that waits.
#[derive(Debug)]
pub struct Caller<'a> {
    listener: &'a Listener,
    /// A procfs of the PID namespace in which the listener is read.
    processes: BorrowedFd<'a>,
    /// The call.
    pub notification: Notification,
}

/// What another process has open under a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where it is in the file, or which file it is: the text of the link in /proc, `socket:[1234]`.
    pub link: Vec<u8>,
    /// Closed on execve.
    pub close_on_exec: bool,
    /// The same file is open under another number too, or an epoll set of this process watches it.
    pub is_shared: bool,
}

impl<'a> Caller<'a> {
    /// Returns the caller of a call. `processes` is the root of a procfs of our PID namespace.
    pub fn new(
        listener: &'a Listener,
        processes: BorrowedFd<'a>,
        notification: Notification,
    ) -> Caller<'a> {
        Caller {
            listener,
            processes,
            notification,
        }
    }

    /// Copies memory, once.
    ///
    /// # Errors
    /// `EFAULT` where nothing is mapped, `ESRCH` where the caller is gone.
    pub fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let read = wolffia_sys::process::read_memory(self.notification.thread, address, buffer)?;
        self.still_there().map(|()| read)
    }

    /// Returns a descriptor of ours to what the caller has open under `number`.
    ///
    /// # Errors
    /// `EBADF` where nothing is, `ESRCH` where the caller is gone.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        let process = self.process()?;
        let pid = i32::try_from(process)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        self.still_there()?;
        rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
    }

    /// Tells what the caller has open under `number`.
    ///
    /// # Errors
    /// `EBADF` where nothing is, `EMFILE` where so much is open that it is not looked through.
    pub fn opened(&self, number: i32) -> Result<Opened, Errno> {
        let thread = self.notification.thread;
        let open = |name: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
            openat(
                self.processes,
                format!("{thread}/{name}"),
                flags,
                Mode::empty(),
            )
        };
        let (links, states) = (open("fd")?, open("fdinfo")?);
        let link = |name: &CStr| readlinkat(&links, name, Vec::new()).map(CString::into_bytes);
        let own = CString::new(number.to_string()).map_err(|_| Errno::INVAL)?;
        let text = link(&own).map_err(|_| Errno::BADF)?;
        let flags = state(&states, &own)?;
        let mut is_shared = false;
        let mut names = Vec::with_capacity(4096);
        let mut entries = RawDir::new(&links, names.spare_capacity_mut());
        let mut count = 0;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") || name == own.as_c_str() {
                continue;
            }
            count += 1;
            if count > DESCRIPTORS_MAX {
                return Err(Errno::MFILE);
            }
            let Ok(other) = link(name) else { continue };
            is_shared |= other == text;
            if other == b"anon_inode:[eventpoll]" {
                let watched = state(&states, name)?;
                is_shared |= watched.get("tfd").is_some_and(|all| all.contains(&number));
            }
        }
        self.still_there()?;
        let flags = flags.get("flags").and_then(|all| all.first()).copied();
        Ok(Opened {
            link: text,
            close_on_exec: flags.is_some_and(|flags| flags & CLOSE_ON_EXEC != 0),
            is_shared,
        })
    }

    /// Puts a descriptor of ours in the place of what the caller has open under `number`.
    ///
    /// # Errors
    /// `ENOENT` where the caller is gone.
    pub fn replace(&self, number: i32, by: impl AsFd, close_on_exec: bool) -> Result<(), Errno> {
        let number = u32::try_from(number).map_err(|_| Errno::BADF)?;
        self.listener
            .replace(self.notification.id, by.as_fd(), number, close_on_exec)
    }

    /// Returns the number of the process that the thread is of.
    fn process(&self) -> Result<u32, Errno> {
        let thread = self.notification.thread;
        let status = format!("{thread}/status");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let status = openat(self.processes, status, flags, Mode::empty())?;
        let lines = read_lines(status)?;
        let number = lines.get("Tgid").and_then(|all| all.first()).copied();
        number
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(Errno::SRCH)
    }

    fn still_there(&self) -> Result<(), Errno> {
        if self.listener.is_waiting(self.notification.id) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }
}

/// `O_CLOEXEC` as `fdinfo` shows it.
const CLOSE_ON_EXEC: i32 = 0o2_000_000;

fn state(states: &OwnedFd, name: &CStr) -> Result<BTreeMap<String, Vec<i32>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    read_lines(openat(states, name, flags, Mode::empty())?)
}

/// Reads lines `name: number ...`, of which only the first number counts; `flags` is octal.
fn read_lines(file: OwnedFd) -> Result<BTreeMap<String, Vec<i32>>, Errno> {
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(TEXT_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let mut lines: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let base = if name == "flags" { 8 } else { 10 };
        let word = rest.split_whitespace().next().unwrap_or_default();
        if let Ok(number) = i32::from_str_radix(word, base) {
            lines.entry(name.to_owned()).or_default().push(number);
        }
    }
    Ok(lines)
}
