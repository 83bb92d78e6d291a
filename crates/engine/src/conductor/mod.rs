// SPDX-License-Identifier: Apache-2.0
//! The conductor: the one process of ours that stays with a container.
//!
//! Theory of operation. It is cloned from the command that starts the container, into a user namespace, a mount namespace and an outer PID namespace whose
//! process 1 it is; so whatever it starts ends with it, by the kernel's hand. It is root of the user namespace: it may make the root file system, signal
//! a program of any id, and remove files of any owner.
//!
//! 1. It leaves the caller's session, and when detached its streams too.
//! 2. It chooses a driver and prepares the mounts; the runtime clones process 1 of the container, which mounts, pivots and waits at the start gate.
//! 3. The state says `running`; the gate opens; the caller is told.
//! 4. One poll ([`watch`]).
//! 5. Teardown: the last state is written, the layer put away, the lock released, the caller told. Each step goes on past failures of the others.
//!
//! When it is killed at any of these moments, the lock is free and the next command's sweep does step 5.

pub mod channel;
pub mod relay;
pub mod streams;
pub mod watch;

mod launch;
mod lazy;
mod network;
mod root;

use std::os::fd::{AsFd, OwnedFd};

use wolffia_sys::{
    process::{close_except, set_death_signal},
    signal::{SignalFd, block_all_but},
};

use self::{
    channel::{Channel, Problem, Report},
    launch::{Given, Launched},
    network::Helper,
    streams::Streams,
    watch::Watch,
};
use crate::{
    bundle::Bundle,
    containers::{Container, Containers},
    lock::Lock,
    log::Writer,
    ports::Published,
    record::{State, Status},
    start::{Machine, RootFs},
    time::Timestamp,
};

/// What a conductor is cloned with.
#[derive(Debug)]
pub struct Job {
    /// All containers.
    pub containers: Containers,
    /// This one.
    pub container: Container,
    /// Its lock.
    pub lock: Lock,
    /// What its root file system is made from.
    pub root: RootFs,
    /// The server of this machine's own files, where it is made from those.
    pub machine: Option<Machine>,
    /// The ports that it has on this machine.
    pub listeners: Vec<(Published, OwnedFd)>,
    /// The runtime's configuration.
    pub bundle: Bundle,
    /// Who gets which stream.
    pub streams: Streams,
    /// The wire to the caller.
    pub channel: Channel,
    /// The caller goes away after the start report.
    pub detached: bool,
    /// Times are measured.
    pub timed: bool,
}

/// Does a conductor's work and returns its exit code, which nobody reads.
pub fn conduct(job: Job) -> u8 {
    let Job {
        containers,
        mut container,
        lock,
        root,
        machine,
        listeners,
        bundle,
        streams,
        channel,
        detached,
        ..
    } = job;
    let prepared = leave(
        detached,
        &lock,
        &channel,
        &streams,
        machine.as_ref(),
        &listeners,
    )
    .and_then(|signals| {
        container.state.ports = listeners.iter().map(|(told, _)| *told).collect();
        let mut network = network::make(&container.record.options.network, listeners)?;
        let given = Given {
            machine,
            bundle,
            streams,
        };
        let launched = launch::launch(&containers, &mut container, &root, given, &mut network)?;
        Ok((signals, launched, network.helpers))
    });
    match prepared {
        Ok((signals, mut launched, helpers)) => {
            let mounts = launched.mounts.take();
            let code = stay(
                &mut container,
                signals,
                launched,
                helpers,
                &mut Some(channel),
                detached,
            );
            let (code, channel) = code;
            put_away(&containers, &mut container, code, lock);
            if let Some(channel) = channel {
                // A caller that is gone is not told.
                drop(channel.send(&Report::Exited(code)));
            }
            // The caller has gone on; now the mounts may take their time.
            drop(mounts);
            code
        }
        Err(problem) => {
            let code = problem.code;
            container.state = State {
                error: problem.message.clone(),
                exit_code: code,
                ..State::default()
            };
            clean_up(&containers, &container, lock);
            drop(channel.send(&Report::Failed(problem)));
            code
        }
    }
}

/// Leaves the caller's session, and its streams where it will go away.
fn leave(
    detached: bool,
    lock: &Lock,
    channel: &Channel,
    streams: &Streams,
    machine: Option<&Machine>,
    listeners: &[(Published, OwnedFd)],
) -> Result<SignalFd, Problem> {
    let fail = |error: &dyn std::error::Error| Problem::of(OWN_FAILURE, error, Vec::new());
    // Process 1 of a new PID namespace leads no group yet, so this cannot fail for the one reason there is.
    let _ = rustix::process::setsid();
    // The caller's end of the wire is among the rest: while we had it, we would never hear the caller hang up. So is whatever the caller's own caller left
    // open, which must not stay open as long as a container runs.
    let kept: Vec<_> = streams
        .descriptors()
        .chain([lock.as_fd(), channel.as_fd()])
        .chain(machine.map(|machine| machine.link.as_fd()))
        .chain(listeners.iter().map(|(_, listener)| listener.as_fd()))
        .collect();
    close_except(3, &kept).map_err(|error| fail(&error))?;
    block_all_but(&[]).map_err(|error| fail(&error))?;
    let signals = SignalFd::new().map_err(|error| fail(&error))?;
    if detached {
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null");
        let null = null.map_err(|error| fail(&error))?;
        rustix::stdio::dup2_stdin(&null)
            .and_then(|()| rustix::stdio::dup2_stdout(&null))
            .and_then(|()| rustix::stdio::dup2_stderr(&null))
            .map_err(|error| fail(&error))?;
    }
    Ok(signals)
}

/// Our own failure.
const OWN_FAILURE: u8 = 125;

/// Reports the start and watches to the end. Returns the exit code, and the wire if the caller is still there.
fn stay(
    container: &mut Container,
    signals: SignalFd,
    launched: Launched,
    helpers: Vec<Helper>,
    channel: &mut Option<Channel>,
    detached: bool,
) -> (u8, Option<Channel>) {
    // From here on the end of the caller is heard on the wire, and the container ended in order.
    let _ = set_death_signal(None);
    let mut channel = channel.take();
    if let Some(wire) = &channel {
        let notes = launched.machine.iter().flat_map(|machine| &machine.notes);
        for note in notes {
            drop(wire.send(&Report::Note(note.clone())));
        }
        drop(wire.send(&Report::Started));
    }
    if detached {
        channel = None;
    }
    let log = if launched.logged {
        Writer::open(&container.folder).ok()
    } else {
        None
    };
    let mut watch = Watch {
        init: launched.init,
        init_child: launched.init_child,
        init_pid: container.state.pid,
        ended: None,
        signals,
        channel,
        console: launched.console,
        input: launched.input,
        outputs: launched.outputs,
        log,
        paused: true,
        ended_for: None,
        helpers,
        lost: None,
        machine: launched.machine,
        lazy: launched.lazy,
    };
    if detached {
        // Nobody waits for us any more, and we may be here for days.
        wolffia_sys::memory::give_back();
    }
    let code = watch
        .until_end()
        .map_or(OWN_FAILURE, |outcome| outcome.code);
    if let Some(log) = watch.log.take() {
        let lost = log.finish();
        if lost > 0 {
            container.state.error = format!("{lost} lines of the log could not be written");
        }
    }
    if let Some(lost) = watch.lost.take() {
        if let Some(wire) = &watch.channel {
            drop(wire.send(&Report::Note(lost.clone())));
        }
        container.state.error = lost;
    }
    // Unmounts the file tree: the container's folder can be removed then.
    drop(watch.machine.take());
    if let Some(lazy) = watch.lazy.take() {
        lazy.learn();
    }
    (code, watch.channel.take())
}

/// Writes how it ended and puts everything away.
fn put_away(containers: &Containers, container: &mut Container, code: u8, lock: Lock) {
    container.state = State {
        status: Status::Exited,
        pid: 0,
        conductor_pid: 0,
        finished: Some(Timestamp::now()),
        exit_code: code,
        ports: Vec::new(),
        ..container.state.clone()
    };
    clean_up(containers, container, lock);
}

/// Removes the container, or keeps it with its last state; lets go of it.
fn clean_up(containers: &Containers, container: &Container, lock: Lock) {
    let done = if container.record.options.remove {
        containers.remove_as_root(&container.record)
    } else {
        container.save_state().map_err(Into::into)
    };
    match done {
        Ok(()) => lock.release(),
        // The lock file stays without a holder: the next command sweeps, and says what it cannot do.
        Err(error) => tracing::warn!(%error, "a container could not be put away"),
    }
}
