// SPDX-License-Identifier: Apache-2.0
//! A container is made, waits at its start gate, and is started.
//!
//! # Theory of operation
//! The calling process has one thread. It prepares everything, clones the first process into its new namespaces, writes the
//! id maps, and listens to the [line](crate::report) until the process stands at the gate. Where namespaces are joined, a
//! helper process joins them and clones the first process as our child (`CLONE_PARENT`), so that it is we who wait for it.
//!
//! If the caller ends before it starts the container, the process at the gate sees the end of the line and ends too; behind a
//! gate that is a socket it stays, for whoever connects.

use std::{os::fd::OwnedFd, path::Path};

use wolffia_sys::{
    Errno,
    idmap::{self, IdMap, IdMaps, IdRange, Mapping},
    mount::Pivot,
    namespace::Namespaces,
    process::{Child, Ended, PidFd},
};

use crate::{
    becoming::{Gate, Stdio},
    hooks,
    init::{Init, RootFs},
    prepare::{self, Besides, Seccomp},
    report::{Failure, Line, Word},
    spec::{IdMapping, Spec, VERSION},
    state::{State, Status},
};

mod error;
mod spawn;

pub use error::LaunchError;
pub(crate) use spawn::through_helper;

/// What a container is made of.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Its configuration.
    pub spec: &'a Spec,
    /// Its name, told to hooks.
    pub id: &'a str,
    /// Where relative paths of the configuration start.
    pub bundle: &'a Path,
    /// Its root file system.
    pub root: RootFs<'a>,
    /// The ids of a new user namespace. Without it the configuration decides: a new one with the mappings it has, or the
    /// caller's where it names none.
    pub mapping: Option<&'a Mapping>,
    /// Its descriptors 0 to 2.
    pub stdio: Stdio,
    /// Whom it runs as, as a word for the image's own files; else the ids of the configuration.
    pub user: Option<&'a str>,
    /// Its system call filter.
    pub seccomp: Seccomp,
    /// How many descriptors from 3 on it keeps.
    pub preserve_fds: u32,
    /// Process 1 is a small init of ours that reaps and passes signals on; the program is its child.
    pub reaper: bool,
    /// Where it waits to be started.
    pub start: StartGate,
    /// How its root is changed.
    pub pivot: Pivot,
}

/// Where a container waits to be started.
#[derive(Debug, Default)]
pub enum StartGate {
    /// For [`Created::start`], in the process that made it.
    #[default]
    Caller,
    /// For whoever connects to this listening `SOCK_SEQPACKET` socket and calls [`start`].
    Socket(OwnedFd),
    /// Nowhere: it starts at once, and [`create`] returns when it has. Faster by two switches between processes.
    Open,
}

impl<'a> Launch<'a> {
    /// Returns a launch that inherits the standard descriptors and leaves the rest to the configuration.
    pub fn new(spec: &'a Spec, id: &'a str, bundle: &'a Path, root: RootFs<'a>) -> Launch<'a> {
        Launch {
            spec,
            id,
            bundle,
            root,
            mapping: None,
            stdio: Stdio::Inherit,
            user: None,
            seccomp: Seccomp::Spec,
            preserve_fds: 0,
            reaper: false,
            start: StartGate::Caller,
            pivot: Pivot::Pivot,
        }
    }
}

/// A container that waits at its start gate.
#[derive(Debug)]
pub struct Created {
    /// Its first process, in the caller's PID namespace.
    pub pid: u32,
    /// That process.
    pub pidfd: PidFd,
    /// The other end of its terminal, where it has one.
    pub console: Option<OwnedFd>,
    /// The listener of its system call filter, where it has one.
    pub listener: Option<OwnedFd>,
    line: Line,
    poststart: Vec<crate::spec::Hook>,
    state: State,
    /// There was no gate.
    is_running: bool,
}

/// A container whose program runs.
#[derive(Debug)]
pub struct Running {
    /// Its process, in the caller's PID namespace.
    pub pid: u32,
    /// That process.
    pub pidfd: PidFd,
    /// The other end of its terminal, where it has one.
    pub console: Option<OwnedFd>,
    /// The listener of its system call filter, where it has one.
    pub listener: Option<OwnedFd>,
}

impl Running {
    /// Waits for the program's end; blocks.
    pub fn wait(&self) -> Result<Ended, Errno> {
        self.pidfd.wait()
    }
}

impl Created {
    /// Starts the program, unless there was no gate, and returns when it runs; `poststart` hooks have run then.
    pub fn start(self) -> Result<Running, LaunchError> {
        let heard = if self.is_running {
            Ok(None)
        } else {
            self.line.say(Word::Start).map_err(LaunchError::Line)?;
            hear_start(&self.line)
        };
        let Created {
            pid,
            pidfd,
            console,
            mut listener,
            mut state,
            ..
        } = self;
        match heard {
            Ok(late) => listener = late.or(listener),
            Err(error) => {
                let _ = pidfd.wait();
                return Err(error);
            }
        }
        state.status = Status::Running;
        for hook in &self.poststart {
            hooks::run(hook, &state.to_json())?;
        }
        Ok(Running {
            pid,
            pidfd,
            console,
            listener,
        })
    }
}

/// Starts a container through the socket that it waits behind; returns when its program runs.
pub fn start(connection: OwnedFd) -> Result<(), LaunchError> {
    hear_start(&Line::from_fd(connection)).map(drop)
}

/// Listens until the program runs; returns a listener that came meanwhile.
fn hear_start(line: &Line) -> Result<Option<OwnedFd>, LaunchError> {
    let mut listener = None;
    while let Some(message) = line.receive().map_err(LaunchError::Line)? {
        match message.word {
            Word::Failure => return Err(Failure::from_bytes(&message.text).into()),
            Word::Listener => listener = message.fd,
            Word::Executing => {
                line.hear_execution().map_err(LaunchError::Line)??;
                return Ok(listener);
            }
            _ => return Err(LaunchError::Line(Errno::PROTO)),
        }
    }
    // It ended at its gate.
    Err(LaunchError::Line(Errno::CONNRESET))
}

/// Makes a container and returns when it waits at its start gate; with [`StartGate::Open`], when its program runs.
///
/// The caller must have one thread, and must be able to wait for children. Hooks `prestart` and `createRuntime` run in it.
pub fn create(launch: Launch<'_>) -> Result<Created, LaunchError> {
    let besides = Besides {
        user: launch.user,
        seccomp: Some(&launch.seccomp),
        preserve_fds: launch.preserve_fds,
        reaper: launch.reaper,
    };
    let mut prepared = prepare::container(launch.spec, launch.bundle, besides)?;
    let from_spec = if prepared.new.contains(Namespaces::USER) && launch.mapping.is_none() {
        Some(spec_mapping(launch.spec)?)
    } else {
        None
    };
    let mapping = launch.mapping.or(from_spec.as_ref());
    if mapping.is_some() {
        prepared.new |= Namespaces::USER;
    }
    let hooks = launch.spec.hooks.clone().unwrap_or_default();
    let first_hooks: Vec<_> = hooks
        .prestart
        .into_iter()
        .chain(hooks.create_runtime)
        .collect();
    let state = State {
        oci_version: VERSION.to_owned(),
        id: launch.id.to_owned(),
        status: Status::Creating,
        pid: None,
        bundle: launch.bundle.to_owned(),
        annotations: launch.spec.annotations.clone(),
    };
    let tells_pid = !prepared.create_container.is_empty() || !prepared.start_container.is_empty();
    let waits = mapping.is_some() || tells_pid;
    let (ours, theirs) = Line::pair().map_err(LaunchError::Line)?;
    let init = Init {
        prepared: &prepared,
        root: &launch.root,
        stdio: &launch.stdio,
        line: theirs,
        gate: match launch.start {
            StartGate::Caller => Gate::Line,
            StartGate::Socket(socket) => Gate::Socket(socket),
            StartGate::Open => Gate::Open,
        },
        waits,
        hooks_wait: !first_hooks.is_empty(),
        state: state.clone(),
        pivot: launch.pivot,
    };
    let child = spawn::spawn(&prepared, init)?;
    let mut making = Making {
        child,
        line: ours,
        first_hooks,
        state,
        console: None,
        listener: None,
        is_running: false,
    };
    making.state.pid = Some(making.child.pid);
    if let Err(error) = making.finish(mapping, waits) {
        // Whatever it was doing: it cannot become a container any more.
        let _ = making.child.pidfd.send_signal(KILL);
        let _ = making.child.pidfd.wait();
        return Err(error);
    }
    making.state.status = Status::Created;
    Ok(Created {
        pid: making.child.pid,
        pidfd: making.child.pidfd,
        console: making.console,
        listener: making.listener,
        line: making.line,
        poststart: hooks.poststart,
        state: making.state,
        is_running: making.is_running,
    })
}

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// A container between clone and gate.
struct Making {
    child: Child,
    line: Line,
    first_hooks: Vec<crate::spec::Hook>,
    state: State,
    console: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    is_running: bool,
}

impl Making {
    fn finish(&mut self, mapping: Option<&Mapping>, waits: bool) -> Result<(), LaunchError> {
        if let Some(mapping) = mapping {
            idmap::write_maps(self.child.pid, mapping)?;
        }
        if waits {
            self.go()?;
        }
        loop {
            let Some(message) = self.line.receive().map_err(LaunchError::Line)? else {
                return Err(self.gone());
            };
            match message.word {
                Word::Console => self.console = message.fd,
                Word::Listener => self.listener = message.fd,
                Word::Mounted => {
                    for hook in &self.first_hooks {
                        hooks::run(hook, &self.state.to_json())?;
                    }
                    self.go()?;
                }
                Word::Ready => return Ok(()),
                Word::Failure => return Err(Failure::from_bytes(&message.text).into()),
                Word::Executing => {
                    self.line.hear_execution().map_err(LaunchError::Line)??;
                    self.is_running = true;
                    return Ok(());
                }
                Word::Go | Word::Start | Word::Process => {
                    return Err(LaunchError::Line(Errno::PROTO));
                }
            }
        }
    }

    fn go(&self) -> Result<(), LaunchError> {
        let sent = self
            .line
            .send(Word::Go, &self.child.pid.to_le_bytes(), None);
        match sent {
            // It has ended; what it said before stands on the line.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(LaunchError::Line(error)),
        }
    }

    /// The line ended before the process stood at its gate or said that it executes its program: it is gone.
    fn gone(&self) -> LaunchError {
        match self.child.pidfd.wait() {
            Ok(ended) => LaunchError::Ended { code: ended.code() },
            Err(error) => LaunchError::Line(error),
        }
    }
}

/// Returns the mapping that the configuration has, and how it must be written.
fn spec_mapping(spec: &Spec) -> Result<Mapping, LaunchError> {
    let linux = spec.linux.as_ref();
    let (uid, gid) = linux.map_or((&[][..], &[][..]), |linux| {
        (&linux.uid_mappings[..], &linux.gid_mappings[..])
    });
    let map = |rows: &[IdMapping]| {
        IdMap::new(
            rows.iter()
                .map(|row| IdRange {
                    inside: row.container_id,
                    outside: row.host_id,
                    count: row.size,
                })
                .collect(),
        )
    };
    let maps = IdMaps {
        uid: map(uid)?,
        gid: map(gid)?,
    };
    let own = |map: &IdMap, id: u32| map.count() == 1 && map.ranges()[0].outside == id;
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    Ok(if user == 0 {
        Mapping::RootRange(maps)
    } else if own(&maps.uid, user) && own(&maps.gid, group) {
        Mapping::SingleId(maps)
    } else {
        Mapping::SubIds(maps)
    })
}
