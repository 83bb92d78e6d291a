// SPDX-License-Identifier: Apache-2.0
//! From a root file system and a configuration to a running process 1.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::PathBuf,
};

use wolffia_mount::host::HostRoot;
use wolffia_runtime::{self as runtime, Launch, LaunchError, Running, StartGate, Stdio, create};
use wolffia_sys::{process::PidFd, pty::Winsize};

use super::{
    OWN_FAILURE, channel::Problem, lazy::LazyRoot, network::Made, relay::Relay, root::Root,
    streams::Streams,
};
use crate::{
    bundle::Bundle,
    containers::{Container, Containers},
    log::Stream,
    record::{State, Status},
    start::{Machine, RootFs},
    time::Timestamp,
};

/// A container that runs.
pub(super) struct Launched {
    pub(super) init: PidFd,
    pub(super) init_child: i32,
    pub(super) console: Option<OwnedFd>,
    pub(super) input: Option<Relay>,
    pub(super) outputs: Vec<Relay>,
    pub(super) logged: bool,
    /// The container's mounts, where they are to be kept until we end.
    pub(super) mounts: Option<fs::File>,
    pub(super) machine: Option<HostRoot>,
    pub(super) lazy: Option<LazyRoot>,
}

/// What a container is launched with.
pub(super) struct Given {
    pub(super) machine: Option<Machine>,
    pub(super) bundle: Bundle,
    pub(super) streams: Streams,
}

/// Prepares the mounts, makes process 1, opens its gate.
pub(super) fn launch(
    containers: &Containers,
    container: &mut Container,
    root: &RootFs,
    given: Given,
    network: &mut Made,
) -> Result<Launched, Problem> {
    let Given {
        machine,
        bundle,
        streams,
    } = given;
    let root = Root::prepare(containers, container, root, machine)?;
    let Streams {
        given,
        input,
        outputs,
        terminal_input,
        terminal_output,
        size,
        logged,
    } = streams;
    let upon = place(containers)?;
    let mut launch = Launch::new(
        &bundle.spec,
        container.record.id.as_str(),
        &container.folder,
        runtime::RootFs::Plan {
            plan: root.plan(),
            upon: &upon,
        },
    );
    launch.stdio = match given {
        Some(given) => Stdio::Descriptors {
            stdin: given.stdin,
            stdout: given.stdout,
            stderr: given.stderr,
        },
        None => Stdio::Terminal(size.map(window)),
    };
    launch.user = Some(&bundle.user);
    launch.seccomp = bundle.seccomp;
    // Its network is being made meanwhile; a program must not find it half made.
    launch.start = if network.waits() {
        StartGate::Caller
    } else {
        StartGate::Open
    };
    launch.reaper = container.record.options.init;
    // Only a thing of the child from here on: an end of a pipe that we kept would keep the pipe from ending.
    let started = Timestamp::now();
    let created = create(launch).map_err(|error| problem(&error))?;
    container.state = State {
        status: Status::Running,
        pid: number_here(&created.pidfd).unwrap_or_default(),
        conductor_pid: own_number().unwrap_or_default(),
        started: Some(started),
        unlogged: !logged,
        ports: std::mem::take(&mut container.state.ports),
        ..State::default()
    };
    container
        .save_state()
        .map_err(|error| Problem::of(OWN_FAILURE, &error, Vec::new()))?;
    // Taking many mounts down waits for other processors. Held here, it happens when we end, for which nobody waits: a container that is thrown away
    // is not mounted again.
    let thrown_away = container.record.options.remove;
    let mounts = thrown_away
        .then(|| fs::File::open(format!("/proc/{}/ns/mnt", container.state.pid)).ok())
        .flatten();
    let init_child = i32::try_from(created.pid).unwrap_or_default();
    network.await_ready()?;
    let Running {
        pidfd: init,
        console,
        ..
    } = created.start().map_err(|error| problem(&error))?;
    let (machine, lazy) = root.into_watched();
    let mut launched = Launched {
        init,
        init_child,
        console,
        input,
        outputs,
        logged,
        mounts,
        machine,
        lazy,
    };
    launched.join_terminal(terminal_input, terminal_output)?;
    Ok(launched)
}

impl Launched {
    /// Connects the container's terminal with the caller's streams and the log.
    fn join_terminal(
        &mut self,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<(), Problem> {
        let Some(console) = &self.console else {
            return Ok(());
        };
        let fail = |error: std::io::Error| Problem::of(OWN_FAILURE, &error, Vec::new());
        let reader = console.try_clone().map_err(fail)?;
        self.outputs
            .push(Relay::output(reader, output, Some(Stream::Stdout)));
        if let Some(input) = input {
            let writer = console.try_clone().map_err(fail)?;
            self.input = Some(Relay::input(input, writer, false));
        }
        Ok(())
    }
}

/// Returns the number that this machine gives a process. Our /proc is still the machine's, and what it says of a descriptor is in its own numbers.
fn number_here(pidfd: &PidFd) -> Option<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// Returns the number that this machine gives us.
fn own_number() -> Option<i32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// Returns an empty directory that root file systems are mounted upon: one that hides nothing that other mounts take, and that stays. Removing a
/// place takes away what is mounted there in other namespaces too, and the removal waits for it.
fn place(containers: &Containers) -> Result<PathBuf, Problem> {
    let path = containers.home().root().join("place");
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Problem::of(OWN_FAILURE, &error, Vec::new()))
        }
        _ => Ok(path),
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

fn problem(error: &LaunchError) -> Problem {
    Problem::of(error.code(), error, error.hint().into_iter().collect())
}
