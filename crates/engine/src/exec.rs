// SPDX-License-Identifier: Apache-2.0
//! Another program in a running container.
//!
//! Theory of operation. The command joins the container's namespaces itself, by a pidfd of its process 1, and the program is the command's child: no
//! message goes to the conductor. The pidfd names the right process because the container is looked at again after it was opened. Streams are the
//! caller's own where no terminal is involved; else they are relayed here, in one poll with the program's pidfd and our signals. What runs in
//! the container's PID namespace ends with the container.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use thiserror::Error;
use wolffia_runtime::{Exec, LaunchError, Running, Stdio};
use wolffia_sys::{
    process::{Ended, PidFd},
    pty::{self, Winsize},
    signal::{Received, SignalFd},
};

use crate::{
    bundle::{self, BundleError},
    caller::take_signals,
    conductor::relay::Relay,
    containers::{Container, ContainerError, Containers},
    program,
    record::Status,
    terminal::{self, RawTerminal},
};

/// What is to run.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables besides the container's.
    pub env: Vec<String>,
    /// Whom it runs as, instead of the container's user.
    pub user: Option<String>,
    /// Where it starts, instead of the container's directory.
    pub directory: Option<String>,
    /// `-i`.
    pub interactive: bool,
    /// `-t`.
    pub tty: bool,
    /// `-d`.
    pub detached: bool,
}

/// Why it does not run.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The container does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Its records.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its rights.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It could not be joined, or the program not executed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A stream.
    #[error("preparing the streams of the program")]
    Streams(#[source] io::Error),
    /// Watching failed.
    #[error("waiting for the program")]
    Wait(#[source] Errno),
}

impl ExecError {
    /// Returns the exit code that stands for it, where it is not our own failure.
    pub fn code(&self) -> Option<u8> {
        match self {
            ExecError::Launch(error) => Some(error.code()),
            _ => None,
        }
    }

    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ExecError::NotRunning(name) => Some(format!("wolffia start {name}")),
            ExecError::Container(error) => error.hint(),
            ExecError::Launch(error) => error.hint(),
            _ => None,
        }
    }
}

const SIGCHLD: i32 = 17;
const SIGTSTP: i32 = 20;
const SIGWINCH: i32 = 28;
/// Signals that concern the command alone: ignored child news, a lost pipe, going on, urgent data.
const OWN: [i32; 4] = [SIGCHLD, 13, 18, 23];

/// Runs a program in a container and returns its exit code; detached, returns 0 when it runs.
pub fn exec(
    containers: &Containers,
    container: &Container,
    request: &Request,
) -> Result<u8, ExecError> {
    let target = process_one(containers, container)?;
    let (mut process, linux, seccomp) = bundle::exec_process(container)?;
    process.args.clone_from(&request.args);
    process.terminal = request.tty;
    process.env = program::merged(&process.env, &request.env, request.tty);
    if let Some(directory) = &request.directory {
        process.cwd = directory.into();
    }
    let user = request
        .user
        .as_deref()
        .unwrap_or(&container.record.program.user);
    let signals = take_signals().map_err(ExecError::Streams)?;
    let Streams {
        stdio,
        input,
        outputs,
    } = Streams::of(request).map_err(ExecError::Streams)?;
    let running = wolffia_runtime::exec(
        &target,
        Exec {
            process: &process,
            linux: Some(&linux),
            user: Some(user),
            seccomp,
            stdio,
            preserve_fds: 0,
        },
    )?;
    if request.detached {
        return Ok(0);
    }
    let mut session = Session {
        running,
        signals,
        input,
        outputs,
        raw: None,
    };
    if request.tty {
        session
            .join_terminal(request.interactive)
            .map_err(ExecError::Streams)?;
    }
    session
        .until_end()
        .map(Ended::code)
        .map_err(ExecError::Wait)
}

/// Returns process 1 of a container that runs.
fn process_one(containers: &Containers, container: &Container) -> Result<PidFd, ExecError> {
    let not_running = || ExecError::NotRunning(container.record.name.to_string());
    if container.state.status != Status::Running {
        return Err(not_running());
    }
    let mut pid = u32::try_from(container.state.pid).map_err(|_| not_running())?;
    if container.record.options.init {
        // Process 1 is ours then, and closed to everybody; its first child stands in the same namespaces.
        pid = first_child(pid).ok_or_else(not_running)?;
    }
    let target = PidFd::open(pid).map_err(|_| not_running())?;
    let now = containers.load(&container.record.id)?;
    let same = now.is_some_and(|now| {
        now.state.status == Status::Running && now.state.pid == container.state.pid
    });
    if same { Ok(target) } else { Err(not_running()) }
}

fn first_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// What the program gets, and the relays behind it.
struct Streams {
    stdio: Stdio,
    input: Option<Relay>,
    outputs: Vec<Relay>,
}

impl Streams {
    fn of(request: &Request) -> io::Result<Streams> {
        if request.tty {
            let size = terminal::size(rustix::stdio::stdout());
            let stdio = Stdio::Terminal(size.map(window));
            return Ok(Streams {
                stdio,
                input: None,
                outputs: Vec::new(),
            });
        }
        if request.detached {
            let null = || {
                File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/null")
                    .map(OwnedFd::from)
            };
            let stdio = Stdio::Descriptors {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
            };
            return Ok(Streams {
                stdio,
                input: None,
                outputs: Vec::new(),
            });
        }
        let (stdin, input) = crate::conductor::streams::input_of(request.interactive)?;
        let mut outputs = Vec::new();
        let mut output = |fd: std::os::fd::BorrowedFd<'_>| -> io::Result<OwnedFd> {
            let own = fd.try_clone_to_owned()?;
            if !terminal::is_terminal(&own) {
                return Ok(own);
            }
            let (reader, writer) = io::pipe()?;
            outputs.push(Relay::output(reader.into(), Some(own), None));
            Ok(writer.into())
        };
        let stdout = output(rustix::stdio::stdout())?;
        let stderr = output(rustix::stdio::stderr())?;
        Ok(Streams {
            stdio: Stdio::Descriptors {
                stdin,
                stdout,
                stderr,
            },
            input,
            outputs,
        })
    }
}

fn window((ws_row, ws_col): (u16, u16)) -> Winsize {
    Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A program that runs, and everything around it.
struct Session {
    running: Running,
    signals: SignalFd,
    input: Option<Relay>,
    outputs: Vec<Relay>,
    raw: Option<RawTerminal>,
}

impl Session {
    fn join_terminal(&mut self, interactive: bool) -> io::Result<()> {
        let Some(console) = &self.running.console else {
            return Ok(());
        };
        let out = rustix::stdio::stdout().as_fd().try_clone_to_owned()?;
        self.outputs
            .push(Relay::output(console.try_clone()?, Some(out), None));
        if interactive {
            let stdin = rustix::stdio::stdin().as_fd().try_clone_to_owned()?;
            self.raw = RawTerminal::enter(&stdin).ok();
            self.input = Some(Relay::input(stdin, console.try_clone()?, false));
        }
        Ok(())
    }

    fn until_end(&mut self) -> Result<Ended, Errno> {
        loop {
            self.step(true)?;
            if let Some(ended) = self.running.pidfd.try_wait()? {
                self.input = None;
                // What the program's own children still say belongs to nobody; what is in the pipes is passed on.
                while self.outputs.iter().any(|output| !output.is_over()) && self.step(false)? {}
                return Ok(ended);
            }
        }
    }

    /// Waits and does what came; without `alive` only what is there already. Tells whether there was something.
    fn step(&mut self, alive: bool) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if alive {
            fds.push(PollFd::new(&self.running.pidfd, PollFlags::IN));
        }
        let first = fds.len();
        let input = self.input.as_ref().and_then(Relay::wants);
        let wanted = input
            .into_iter()
            .chain(self.outputs.iter().filter_map(Relay::wants));
        let has_input = input.is_some();
        let indices: Vec<usize> = (0..self.outputs.len())
            .filter(|index| self.outputs[*index].wants().is_some())
            .collect();
        fds.extend(wanted.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, if alive { None } else { Some(&at_once) }) {
            Err(Errno::INTR) => return Ok(true),
            result => result?,
        };
        let ready: Vec<bool> = fds[first..]
            .iter()
            .map(|fd| !fd.revents().is_empty())
            .collect();
        let signalled = !fds[0].revents().is_empty();
        drop(fds);
        if signalled {
            while let Ok(Some(received)) = self.signals.read() {
                self.hear(received);
            }
        }
        let mut ready_each = ready.iter().copied();
        if has_input
            && ready_each.next() == Some(true)
            && let Some(input) = &mut self.input
        {
            input.step(None);
            if input.is_over() {
                self.input = None;
            }
        }
        for index in indices {
            if ready_each.next() == Some(true) {
                self.outputs[index].step(None);
            }
        }
        Ok(ready.contains(&true))
    }

    fn hear(&mut self, received: Received) {
        match received.signal {
            signal if OWN.contains(&signal) => {}
            SIGWINCH => {
                let size = terminal::size(rustix::stdio::stdout()).map(window);
                if let (Some(console), Some(size)) = (&self.running.console, size) {
                    // A terminal that is gone has no size.
                    let _ = pty::set_size(console, size);
                }
            }
            SIGTSTP => {
                let _ = self.raw.as_ref().map(RawTerminal::leave);
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                );
                let _ = self.raw.as_ref().map(RawTerminal::again);
            }
            // The program may run as another user, whom we may not signal; then the terminal's own way is the only one.
            signal => drop(self.running.pidfd.send_signal(signal)),
        }
    }
}
