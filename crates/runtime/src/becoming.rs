// SPDX-License-Identifier: Apache-2.0
//! The last steps of a process of a container, inside it: who it is, what it may do, what it executes.
//!
//! # Theory of operation
//! Order matters, and each step has its reason:
//!
//! 1. Limits, working directory, terminal, standard descriptors: with all rights, as root of the container. The working
//!    directory is looked up (and made, where the image lacks it) inside the container's root and entered by descriptor;
//!    then the kernel is asked whether it is reachable from the root (CVE-2024-21626, CVE-2026-55686).
//! 2. The bounding set shrinks, groups and ids change, permitted capabilities are kept over that change.
//! 3. Every descriptor but 0 to 2, those asked for, and our line is *closed*, not only marked: a program named
//!    `/proc/self/fd/7/...` is looked up before marked ones go.
//! 4. The start gate.
//! 5. With `no_new_privs` capabilities fall first and the filter comes last. Without it the kernel takes a filter only from
//!    one who holds `CAP_SYS_ADMIN`, so the filter comes first, and capset and execve must pass it.
//! 6. The [stepping stone](wolffia_sys::stepping_stone), and from it the program: no path of the image is ever executed
//!    by a process that runs our own binary, which `/proc/self/exe` would name (CVE-2019-5736). An error goes back over
//!    the line, typed.
//!
//! Until then the process is not dumpable: nobody in the container can open its memory, its descriptors, or the program
//! it still runs, which is ours.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, FileType, Gid, Mode, OFlags, Uid, accessat},
    net::{SocketFlags, accept_with},
    thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use wolffia_sys::{
    Errno,
    capabilities::{self, Set, Sets},
    fd::Root,
    process, pty, rlimit, seccomp,
    stepping_stone::SteppingStone,
};

use crate::{
    prepare::{PreparedProcess, Who},
    reaper::Reaper,
    report::{Doing, Failure, Kind, Line, Word, unless_mapped},
    user::{self, Ids},
};

mod descriptors;

/// Where the process waits before it executes its program.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Nowhere.
    Open,
    /// On the line, for a word of the one who made it.
    Line,
    /// On a listening socket, for whoever connects; the connection is the line from then on.
    Socket(OwnedFd),
}

/// What a process's descriptors 0 to 2 are.
#[derive(Debug)]
pub enum Stdio {
    /// Those of the caller.
    Inherit,
    /// These.
    Descriptors {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A new terminal of the container, of this size; its other end is handed out.
    Terminal(Option<pty::Winsize>),
}

/// What process 1 is called inside where it is our own.
const TITLE: &CStr = c"wolffia-init";

/// Takes every step but those that differ between a first process and one that joins.
pub(crate) struct Becoming<'a> {
    pub(crate) process: &'a PreparedProcess,
    pub(crate) stdio: &'a Stdio,
    pub(crate) line: Line,
    pub(crate) gate: Gate,
    /// The device file system of the container is ours: /dev/console may be made in it.
    pub(crate) own_dev: bool,
    /// What runs between the gate and the exec.
    pub(crate) hooks: &'a [crate::spec::Hook],
    pub(crate) hook_state: &'a [u8],
}

impl Becoming<'_> {
    /// Becomes the program; reports and returns the exit code where that failed.
    pub(crate) fn execute(mut self) -> u8 {
        match self.steps() {
            Ok(code) => code,
            Err(failure) => {
                // Nobody may listen any more; the exit code says it too.
                let _ = self.line.send(Word::Failure, &failure.to_bytes(), None);
                failure.code()
            }
        }
    }

    /// Returns only where it failed, or, as a process 1 that stays, when the program has ended.
    fn steps(&mut self) -> Result<u8, Failure> {
        // Whoever made us may have blocked signals to read them; a program begins with none blocked.
        wolffia_sys::signal::reset_dispositions();
        wolffia_sys::signal::set_mask(&wolffia_sys::signal::empty_mask())
            .doing(|| "unblocking signals".to_owned())?;
        let root =
            Root::open(Path::new("/")).doing(|| "opening the container's root".to_owned())?;
        let ids = self.ids(&root)?;
        let environment = self.environment(&ids)?;
        self.limits()?;
        self.standard_descriptors(&root, ids.uid)?;
        self.enter_directory(&root)?;
        drop(root);
        self.change_ids(&ids)?;
        if let Some(umask) = self.process.umask {
            rustix::process::umask(Mode::from_raw_mode(umask));
        }
        // Before the filter, which may forbid what it takes to make it.
        let doing = format!("executing {}", self.program().display());
        let stone = SteppingStone::new(self.line.as_fd(), &doing)
            .doing(|| format!("{doing}: making the stepping stone"))?;
        // Before the gate, whose other side is told when there is none, and before the filter, which may forbid to look.
        let path = self.find_program()?;
        let path = CString::new(path.into_os_string().into_vec())
            .map_err(|_| self.failure(Errno::NOENT))?;
        if self.process.reaper {
            // The words that a person typed are none of the container's business.
            process::set_title(TITLE);
        }
        let listens = self.filter_listens();
        if listens {
            self.confine()?;
        }
        self.close_others(&stone)?;
        self.wait_at_gate()?;
        for hook in self.hooks {
            crate::hooks::run(hook, self.hook_state)
                .map_err(|error| Failure::setup(error.to_string(), Errno::CANCELED))?;
        }
        self.announce()?;
        if !listens {
            self.confine()?;
        }
        if self.process.reaper {
            return self.stay_as_process_1(&stone, &path, &environment);
        }
        Err(self.execute_program(&stone, &path, &environment))
    }

    fn stay_as_process_1(
        &mut self,
        stone: &SteppingStone,
        path: &CStr,
        environment: &[CString],
    ) -> Result<u8, Failure> {
        let reaper = Reaper::fork(|| {
            let failure = self.execute_program(stone, path, environment);
            // Nobody may listen any more; the exit code says it too.
            let _ = self.line.send(Word::Failure, &failure.to_bytes(), None);
            failure.code()
        })?;
        // Our end of the line must end with the exec of the child's, or its success would never be seen.
        let other = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .doing(|| "leaving the line".to_owned())?;
        self.line = Line::from_fd(other);
        Ok(reaper.serve())
    }

    fn ids(&self, root: &Root) -> Result<Ids, Failure> {
        match &self.process.who {
            Who::Ids { uid, gid, groups } => Ok(Ids {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
                home: if self.process.has_home {
                    None
                } else {
                    user::home_of(root, *uid)
                },
            }),
            Who::Word { word, groups } => {
                let mut ids = user::look_up(root, word)?;
                ids.groups.extend(groups);
                Ok(ids)
            }
        }
    }

    /// The environment, with HOME where it has none.
    fn environment(&self, ids: &Ids) -> Result<Vec<CString>, Failure> {
        let mut environment = self.process.env.clone();
        if !self.process.has_home {
            let home = ids.home.as_deref().unwrap_or("/");
            let row = CString::new(format!("HOME={home}"));
            environment.push(
                row.map_err(io::Error::from)
                    .doing(|| "setting HOME".to_owned())?,
            );
        }
        Ok(environment)
    }

    fn limits(&self) -> Result<(), Failure> {
        for (name, resource, limit) in &self.process.rlimits {
            rlimit::set(*resource, *limit)
                .doing(|| format!("setting {name} to {}:{}", limit.soft, limit.hard))?;
        }
        Ok(())
    }

    fn enter_directory(&self, root: &Root) -> Result<(), Failure> {
        let cwd = &self.process.cwd;
        let failed = || format!("entering the working directory {}", cwd.display());
        let there = root
            .make_directories(cwd, Mode::from_raw_mode(0o755))
            .doing(failed)?;
        rustix::process::fchdir(&there).doing(failed)?;
        let seen = rustix::process::getcwd(Vec::new()).doing(failed)?;
        if seen.as_bytes().first() == Some(&b'/') {
            Ok(())
        } else {
            // "(unreachable)/..."
            Err(Errno::XDEV).doing(|| format!("{}: it lies outside the container", failed()))
        }
    }

    fn change_ids(&self, ids: &Ids) -> Result<(), Failure> {
        capabilities::limit_bounding(self.process.capabilities.bounding)
            .doing(|| "limiting the capabilities".to_owned())?;
        let groups: Vec<Gid> = ids.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        match set_thread_groups(&groups) {
            // Where one id is mapped the kernel forbids it, and the groups that are kept are the user's own.
            Err(Errno::PERM) if groups.is_empty() || one_id() => {}
            answer => {
                unless_mapped(answer, || format!("setting the groups {:?}", ids.groups))?;
            }
        }
        let gid = Gid::from_raw(ids.gid);
        unless_mapped(set_gid(gid), || format!("changing to group {}", ids.gid))?;
        set_keep_capabilities(true).doing(|| "keeping the capabilities".to_owned())?;
        unless_mapped(set_uid(Uid::from_raw(ids.uid)), || {
            format!("changing to user {}", ids.uid)
        })?;
        if ids.uid != 0 {
            // The change to another user took all effective ones. One is needed for the filter; with more, the program
            // would be looked for with rights that its user has not.
            let all = Sets {
                effective: Set::SYS_ADMIN,
                permitted: Set::ALL,
                ..Sets::default()
            };
            capabilities::apply(&all).doing(|| "keeping the capabilities".to_owned())?;
        }
        Ok(())
    }

    fn filter_listens(&self) -> bool {
        let filter = self.process.filter.as_ref();
        filter.is_some_and(|filter| filter.flags.contains(seccomp::Flags::LISTENER))
    }

    /// Capabilities and the filter, in the order that the kernel asks for.
    fn confine(&self) -> Result<(), Failure> {
        let lower = || {
            capabilities::apply(&self.process.capabilities)
                .doing(|| "setting the capabilities".to_owned())
        };
        if self.process.no_new_privileges {
            process::set_no_new_privileges().doing(|| "setting no_new_privs".to_owned())?;
            lower()?;
            self.filter()
        } else {
            self.filter()?;
            lower()
        }
    }

    fn filter(&self) -> Result<(), Failure> {
        let Some(filter) = &self.process.filter else {
            return Ok(());
        };
        let listener = seccomp::install(&filter.program, filter.flags).map_err(|error| {
            let errno = match &error {
                seccomp::InstallError::Kernel(source) => {
                    Errno::from_io_error(source).unwrap_or(Errno::IO)
                }
                seccomp::InstallError::SecondListener => Errno::BUSY,
                seccomp::InstallError::NotAllowed
                | seccomp::InstallError::ThreadUnreached { .. } => Errno::PERM,
            };
            Failure::setup(error.to_string(), errno)
        })?;
        if let Some(listener) = listener {
            self.line
                .send(Word::Listener, &[], Some(listener.as_fd()))
                .doing(|| "handing out the seccomp listener".to_owned())?;
        }
        Ok(())
    }

    fn close_others(&self, stone: &SteppingStone) -> Result<(), Failure> {
        let mut kept = vec![self.line.as_fd(), stone.as_fd()];
        if let Gate::Socket(socket) = &self.gate {
            kept.push(socket.as_fd());
        }
        process::close_except(3 + self.process.preserve_fds, &kept)
            .doing(|| "closing descriptors".to_owned())?;
        Ok(())
    }

    fn wait_at_gate(&mut self) -> Result<(), Failure> {
        if matches!(self.gate, Gate::Open) {
            return Ok(());
        }
        self.line
            .say(Word::Ready)
            .doing(|| "reporting at the start gate".to_owned())?;
        match std::mem::replace(&mut self.gate, Gate::Open) {
            Gate::Open => Ok(()),
            Gate::Line => self
                .line
                .expect(Word::Start)
                .doing(|| "waiting at the start gate".to_owned()),
            Gate::Socket(socket) => {
                let failed = || "waiting at the start gate".to_owned();
                let connection = accept_with(&socket, SocketFlags::CLOEXEC).doing(failed)?;
                self.line.continue_as(&connection).doing(failed)
            }
        }
    }

    /// Looks for the program; the answer at exec counts.
    fn find_program(&self) -> Result<PathBuf, Failure> {
        let mut answer = Errno::NOENT;
        for path in self.candidates() {
            let access = accessat(rustix::fs::CWD, &path, Access::EXEC_OK, AtFlags::EACCESS);
            let is_file = || {
                rustix::fs::stat(&path).is_ok_and(|status| {
                    FileType::from_raw_mode(status.st_mode) == FileType::RegularFile
                })
            };
            match access {
                Ok(()) if is_file() => return Ok(path),
                Ok(()) => answer = Errno::ACCESS,
                Err(error) => answer = worse(answer, error),
            }
        }
        Err(self.failure(answer))
    }

    /// Says that nothing but a failure comes from now on; a filter may forbid to say more.
    fn announce(&self) -> Result<(), Failure> {
        self.line
            .say(Word::Executing)
            .doing(|| "reporting the execution".to_owned())?;
        SteppingStone::prepare(self.line.as_fd())
            .doing(|| "preparing the stepping stone".to_owned())
    }

    fn execute_program(
        &self,
        stone: &SteppingStone,
        path: &CStr,
        environment: &[CString],
    ) -> Failure {
        let errno = stone.execute(path, &self.process.args, environment);
        Failure::setup(
            format!(
                "executing {}: executing the stepping stone",
                self.program().display()
            ),
            errno,
        )
    }

    fn program(&self) -> &OsStr {
        self.process
            .args
            .first()
            .map_or(OsStr::new(""), |name| OsStr::from_bytes(name.to_bytes()))
    }

    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        let program = self.program();
        let has_slash = self.process.search.is_empty();
        let here = has_slash.then(|| PathBuf::from(program));
        here.into_iter().chain(
            self.process
                .search
                .iter()
                .map(move |directory| directory.join(program)),
        )
    }

    fn failure(&self, errno: Errno) -> Failure {
        let program = self.program().display();
        let missing = matches!(errno, Errno::NOENT | Errno::NOTDIR);
        let doing = match (missing, self.process.search.is_empty()) {
            (true, false) => format!("executing {program}: executable file not found in $PATH"),
            _ => format!("executing {program}"),
        };
        Failure {
            kind: if missing {
                Kind::NotFound
            } else {
                Kind::NotExecutable
            },
            doing,
            errno,
        }
    }
}

/// Of two answers for two candidates, returns the one that tells more.
fn worse(one: Errno, other: Errno) -> Errno {
    if matches!(other, Errno::NOENT | Errno::NOTDIR) {
        one
    } else {
        other
    }
}

/// Tells whether setgroups is denied, as it is where a user mapped himself.
fn one_id() -> bool {
    let path = Path::new("proc/self/setgroups");
    let said = Root::open(Path::new("/")).and_then(|root| {
        let file = root.open_with(path, OFlags::RDONLY, Mode::empty())?;
        let mut buffer = [0; 4];
        rustix::io::read(&file, &mut buffer).map(|_| buffer)
    });
    // Without a /proc we cannot know; the kernel's refusal then stands for it.
    said.map_or(true, |said| said == *b"deny")
}

/// Changes real, effective and saved group. The call for threads is the plain system call: this process has one thread.
fn set_gid(gid: Gid) -> Result<(), Errno> {
    set_thread_res_gid(gid, gid, gid)
}

fn set_uid(uid: Uid) -> Result<(), Errno> {
    set_thread_res_uid(uid, uid, uid)
}

/// Becomes root of the user namespace, which alone may set its container up; passes where nobody is mapped to root.
pub(crate) fn become_root() -> Result<(), Failure> {
    let failed = || "becoming root of the user namespace".to_owned();
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    if rustix::process::getegid() != gid {
        match set_gid(gid) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error).doing(failed),
        }
    }
    if rustix::process::geteuid() != uid {
        match set_uid(uid) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error).doing(failed),
        }
    }
    Ok(())
}
