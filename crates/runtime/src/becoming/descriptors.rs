// SPDX-License-Identifier: Apache-2.0
//! Descriptors 0 to 2 of a process of a container: put in place, a terminal among them, and given to its user.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::fs::{FileType, Mode, Uid, fchown, fstat, fstatfs};
use wolffia_sys::{Errno, fd::Root, mount, pty};

use super::{Becoming, Stdio};
use crate::report::{Doing, Failure, Word};

/// The magic number of devpts.
const DEVPTS_MAGIC: u64 = 0x1cd1;

impl Becoming<'_> {
    pub(super) fn standard_descriptors(&self, root: &Root, uid: u32) -> Result<(), Failure> {
        let put = |fds: [BorrowedFd<'_>; 3]| -> Result<(), Failure> {
            let failed = || "setting the standard descriptors".to_owned();
            // Sources below 3 would be overwritten on the way.
            let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).doing(failed);
            let [stdin, stdout, stderr] = [lift(fds[0])?, lift(fds[1])?, lift(fds[2])?];
            rustix::stdio::dup2_stdin(&stdin).doing(failed)?;
            rustix::stdio::dup2_stdout(&stdout).doing(failed)?;
            rustix::stdio::dup2_stderr(&stderr).doing(failed)
        };
        match self.stdio {
            Stdio::Inherit => {}
            Stdio::Descriptors {
                stdin,
                stdout,
                stderr,
            } => put([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?,
            Stdio::Terminal(size) => {
                let pair = self.terminal(root, *size)?;
                put([pair.terminal.as_fd(); 3])?;
                pty::set_controlling(&pair.terminal)
                    .doing(|| "making the terminal the controlling one".to_owned())?;
                self.line
                    .send(Word::Console, &[], Some(pair.controller.as_fd()))
                    .doing(|| "handing out the terminal".to_owned())?;
            }
        }
        self.give_descriptors(uid)
    }

    /// Opens a terminal in the container's own devpts.
    fn terminal(&self, root: &Root, size: Option<pty::Winsize>) -> Result<pty::Pair, Failure> {
        let devpts = root
            .open_directory(Path::new("/dev/pts"))
            .doing(|| "opening the container's /dev/pts".to_owned())?;
        let magic = fstatfs(&devpts)
            .doing(|| "looking at the container's /dev/pts".to_owned())?
            .f_type;
        if u64::try_from(magic) != Ok(DEVPTS_MAGIC) {
            return Err(Failure::setup(
                "opening a terminal: the container's /dev/pts is no devpts",
                Errno::NOTTY,
            ));
        }
        let pair = pty::open_in(&devpts)
            .doing(|| "opening a terminal in the container's /dev/pts".to_owned())?;
        if let Some(size) = size {
            pty::set_size(&pair.controller, size)
                .doing(|| "setting the terminal's size".to_owned())?;
        }
        if self.own_dev {
            let failed = || "putting the terminal at /dev/console".to_owned();
            let place = root
                .make_file(Path::new("/dev/console"), Mode::from_raw_mode(0o600))
                .doing(failed)?;
            let (from, at) = (pair.terminal.as_fd(), Path::new("/dev/console"));
            mount::bind_onto(from, root, at, place.as_fd(), mount::How::default()).doing(failed)?;
        }
        Ok(pair)
    }

    /// Makes pipes and our terminal the user's, so that /dev/stdout opens for him; files and the caller's terminal keep
    /// their owners.
    fn give_descriptors(&self, uid: u32) -> Result<(), Failure> {
        if uid == 0 {
            return Ok(());
        }
        let ours = matches!(self.stdio, Stdio::Terminal(_));
        for fd in [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ] {
            let Ok(status) = fstat(fd) else { continue };
            let kind = FileType::from_raw_mode(status.st_mode);
            if matches!(kind, FileType::Fifo | FileType::Socket) || ours {
                match fchown(fd, Some(Uid::from_raw(uid)), None) {
                    Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::ACCESS) => {}
                    Err(error) => {
                        return Err(error)
                            .doing(|| "giving a standard descriptor to the user".to_owned());
                    }
                }
            }
        }
        Ok(())
    }
}
