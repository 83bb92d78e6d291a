// SPDX-License-Identifier: Apache-2.0
//! A container is started: the command's half.
//!
//! Theory of operation. Everything that can be found out on this side is: the files of `/etc`, the configuration for the runtime, who gets which
//! stream. Then the conductor is cloned into its namespaces with all of that in its memory, its maps are written, and it reports. The command goes on
//! alone (`-d`) or stays with it. What fails on the way is undone by whoever has the lock: the conductor, or the next command's sweep.

use std::{io, os::fd::OwnedFd, path::PathBuf, time::Instant};

use thiserror::Error;
use wolffia_mount::host::{self, ServerError};
use wolffia_net::drivers::{NetDriver, Unfit, tap::TapDriver};
use wolffia_store::{ImageRoot, StoreError};
use wolffia_sys::{idmap::Mapping, namespace::Namespaces, process::PidFd};

use crate::{
    bundle,
    caller::{Caller, Outcome, take_signals},
    conductor::{
        self, Job,
        channel::{Channel, Problem},
        streams::Streams,
    },
    containers::{ContainerError, Containers, Held},
    file::FileError,
    home::Home,
    hostfiles,
    inside::{self, InsideError},
    inspect,
    networks::Network,
    options::Options,
    ports::{self, PublishError},
    terminal,
};

/// How a start goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The command stays, attached to the streams.
    Foreground,
    /// The command returns after the start report.
    Detached,
}

/// What the root file system is made from.
#[derive(Debug, Clone)]
pub enum RootFs {
    /// An image's stub tree and objects.
    Image(ImageRoot),
    /// This machine's own files.
    Host,
}

/// The server of this machine's own files, as the conductor gets it.
#[derive(Debug)]
pub struct Machine {
    /// The wire to it.
    pub link: host::Link,
    /// What it hides.
    pub private: Vec<PathBuf>,
}

impl Machine {
    /// Starts it, outside the user namespace: only there owners are true.
    fn serve(home: &Home, mapping: &Mapping) -> Result<Machine, ServerError> {
        let private = host::private_directories(home.root());
        let link = host::spawn(&private, host::Identity::for_mapping(mapping))?;
        Ok(Machine { link, private })
    }
}

/// What came of a start.
#[derive(Debug)]
pub enum Started {
    /// It runs on its own.
    Detached,
    /// It ended with this code.
    Ended(u8),
    /// It was not started.
    Failed(Problem),
    /// Its conductor was killed.
    Lost,
}

/// Why a start did not come to a report.
#[derive(Debug, Error)]
pub enum StartError {
    /// Records of containers.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Files of the container.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for cannot be configured.
    #[error(transparent)]
    Bundle(#[from] bundle::BundleError),
    /// The namespaces.
    #[error(transparent)]
    Inside(#[from] InsideError),
    /// Its ids are no longer the ones its files belong to.
    #[error("container {name} was made with the ids {made}, and yours are {now} now")]
    Ids {
        /// The container.
        name: String,
        /// Key of its ids.
        made: String,
        /// Key of the caller's.
        now: String,
    },
    /// A descriptor or the terminal.
    #[error("talking to the conductor")]
    Talk(#[source] io::Error),
    /// The server of this machine's own files.
    #[error(transparent)]
    Machine(#[from] ServerError),
    /// A port is not to be had.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The user-mode network cannot be had.
    #[error("making the container's network: {}", .0.why)]
    NoNetwork(Unfit),
    /// A stream could not be prepared.
    #[error("preparing the streams of the container")]
    Streams(#[source] io::Error),
}

impl StartError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::Container(error) => error.hint(),
            StartError::Store(error) => error.hint(),
            StartError::Inside(error) => error.hint(),
            StartError::Ids { .. } => {
                Some("give the user the former sub-ids again, or make the container anew".into())
            }
            StartError::Bundle(error) => error.hint(),
            StartError::NoNetwork(unfit) => Some(format!(
                "{}; --network none and --network host need none",
                unfit.hint
            )),
            StartError::Publish(error) => error.hint(),
            StartError::File(_)
            | StartError::Talk(_)
            | StartError::Machine(_)
            | StartError::Streams(_) => None,
        }
    }
}

/// Starts a container that is ours to work on; what a person should know about it is handed to `say`.
pub fn start(
    containers: &Containers,
    held: Held,
    root: RootFs,
    mapping: &Mapping,
    mode: Mode,
    clock: &mut Clock,
    say: &mut dyn FnMut(&str),
) -> Result<Started, StartError> {
    let Held {
        mut container,
        lock,
    } = held;
    if let Some(note) = fall_back(&mut container.record.options)? {
        say(&note);
    }
    let record = &container.record;
    if record.mapping != mapping.key() {
        return Err(StartError::Ids {
            name: record.name.to_string(),
            made: record.mapping.clone(),
            now: mapping.key(),
        });
    }
    let hostname = inspect::hostname(&container).to_owned();
    let options = &record.options;
    hostfiles::write_all(
        &container.folder,
        &hostname,
        &options.network,
        &options.add_hosts,
    )?;
    let bundle = bundle::make(&container, containers.home(), &hostname)?;
    clock.lap("configuration");

    let listeners = match options.network {
        // Its ports are this machine's already; without a network there is nobody to be joined.
        Network::Host | Network::None => Vec::new(),
        Network::User(_) => ports::publish(&options.publish)?,
    };
    let streams = Streams::of(&container, mode).map_err(StartError::Streams)?;
    let terminal = streams.terminal().map_err(StartError::Streams)?;
    let signals = take_signals().map_err(StartError::Talk)?;
    let (ours, theirs) = Channel::pair().map_err(StartError::Talk)?;
    let machine = match root {
        RootFs::Host => Some(Machine::serve(containers.home(), mapping)?),
        RootFs::Image(_) => None,
    };
    let job = Job {
        containers: containers.clone(),
        container,
        lock,
        root,
        machine,
        listeners,
        bundle,
        streams,
        channel: theirs,
        detached: mode == Mode::Detached,
        timed: clock.is_on(),
    };
    let child = inside::start(mapping, Namespaces::PID | Namespaces::MOUNT, move || {
        conductor::conduct(job)
    })?;
    clock.lap("conductor and id maps");
    match Caller::await_start(&ours, say).map_err(StartError::Talk)? {
        Ok(()) => clock.lap("start"),
        Err(outcome) => return Ok(told(outcome)),
    }
    if mode == Mode::Detached {
        return Ok(Started::Detached);
    }
    stay(
        containers,
        signals,
        &ours,
        &child.pidfd,
        terminal.as_ref(),
        clock,
        say,
    )
}

/// Where the user-mode network cannot be had, a container that did not ask for it goes without; returns what a person must know then.
fn fall_back(options: &mut Options) -> Result<Option<String>, StartError> {
    let Network::User(user) = &options.network else {
        return Ok(None);
    };
    let Err(unfit) = TapDriver.fitness() else {
        return Ok(None);
    };
    if !user.is_default || !options.publish.is_empty() {
        return Err(StartError::NoNetwork(unfit));
    }
    options.network = Network::None;
    Ok(Some(format!(
        "warning: the container has no network: {} ({})",
        unfit.why, unfit.hint
    )))
}

fn stay(
    containers: &Containers,
    signals: wolffia_sys::signal::SignalFd,
    channel: &Channel,
    conductor: &PidFd,
    terminal: Option<&OwnedFd>,
    clock: &mut Clock,
    say: &mut dyn FnMut(&str),
) -> Result<Started, StartError> {
    // While the program runs there is time to finish what killed commands left; a sweep that fails is the next command's.
    drop(containers.sweep());
    let outcome = Caller::new(signals).accompany(channel, conductor, terminal, say);
    clock.lap("run");
    outcome.map(told).map_err(StartError::Talk)
}

fn told(outcome: Outcome) -> Started {
    match outcome {
        Outcome::Exited(code) => Started::Ended(code),
        Outcome::Failed(problem) => Started::Failed(problem),
        Outcome::Lost => Started::Lost,
    }
}

/// Where the time of a start goes, if somebody wants to know.
#[derive(Debug)]
pub struct Clock {
    laps: Option<Vec<(&'static str, Instant)>>,
}

impl Clock {
    /// Makes a clock that counts from now; one that is off costs nothing.
    pub fn new(on: bool) -> Clock {
        Clock {
            laps: on.then(|| vec![("", Instant::now())]),
        }
    }

    /// Ends a lap.
    pub fn lap(&mut self, name: &'static str) {
        if let Some(laps) = &mut self.laps {
            laps.push((name, Instant::now()));
        }
    }

    /// Tells whether somebody wants to know.
    pub fn is_on(&self) -> bool {
        self.laps.is_some()
    }

    /// Returns each lap with its milliseconds.
    pub fn report(&self) -> Vec<(&'static str, f64)> {
        let laps = self.laps.as_deref().unwrap_or_default();
        laps.windows(2)
            .map(|pair| {
                (
                    pair[1].0,
                    pair[1].1.duration_since(pair[0].1).as_secs_f64() * 1e3,
                )
            })
            .collect()
    }
}

/// Tells whether a foreground container with a terminal has one to be attached to.
pub fn has_terminal() -> bool {
    terminal::is_terminal(rustix::stdio::stdin())
}
