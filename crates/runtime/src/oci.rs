// SPDX-License-Identifier: Apache-2.0
//! Containers of the OCI command line: made from a bundle, kept in a directory each, driven by one command after another.
//!
//! # Theory of operation
//! `ROOT/ID/` holds `state.json` (what the container is; written once, renamed into place) and, until it is started, `gate`,
//! the socket that its first process waits behind. A process id alone could come to mean another process, so its start time
//! is kept beside it; both are compared before anything is done to it. A directory without `state.json` belongs to a
//! `create` that is at work or was killed; `delete --force` removes it.
//!
//! How far a container is follows from what is there: process gone (or a zombie): stopped; `gate` there: created; else running.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use serde::{Deserialize, Serialize};
use wolffia_sys::{Errno, mount::Pivot, process::PidFd};

use crate::{
    becoming::Stdio,
    exec::{Exec, exec},
    hooks,
    launch::{self, LaunchError, Running, StartGate},
    prepare::Seccomp,
    seccomp::cache::Cache,
    spec::{Hook, Process, Spec},
    state::{State, Status},
};

pub use error::OciError;
pub use foreground::{Foreground, ForegroundError, wait_in_foreground};

mod error;
mod foreground;
mod handover;
mod place;
mod processes;

use place::{Launched, Place};

/// The longest name of a container: with the directory's path it must fit a path component.
const ID_BYTES_MAX: usize = 200;

/// How long a killed process may take to go before `delete --force` gives up.
const DEATH_SECONDS_MAX: i64 = 10;

/// Where the containers are kept.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
}

/// What is kept about a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    oci_version: String,
    id: String,
    pid: u32,
    /// Clock ticks since the machine's start, as /proc/PID/stat has it.
    started: u64,
    bundle: PathBuf,
    rootfs: PathBuf,
    /// Seconds since 1970.
    created: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// How a container is made.
#[derive(Debug)]
pub struct Making<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// Where the terminal is handed over.
    pub console_socket: Option<&'a Path>,
    /// Where the process's id is written.
    pub pid_file: Option<&'a Path>,
    /// How many descriptors from 3 on are kept.
    pub preserve_fds: u32,
    /// How the root is changed.
    pub pivot: Pivot,
}

/// A known container.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    record: Record,
    /// What runs when it is deleted, where that is known already; else the bundle says it.
    poststop: Option<Vec<Hook>>,
}

impl Home {
    /// Opens the directory, making it; refuses one that others could have prepared.
    pub fn open(path: &Path) -> Result<Home, OciError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(file("making", path))?;
        let found = fs::symlink_metadata(path).map_err(file("looking at", path))?;
        let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || found.mode() & 0o022 != 0 {
            return Err(OciError::Unsafe {
                path: path.to_owned(),
            });
        }
        Ok(Home {
            path: path.to_owned(),
        })
    }

    /// Makes a container that waits to be started by another command.
    pub fn create(&self, id: &str, making: &Making<'_>) -> Result<(), OciError> {
        let place = Place::make(self, id)?;
        let gate = place.bind_gate()?;
        let launched = place.launch(making, &self.filters(), StartGate::Socket(gate))?;
        place.keep(making, launched.created.pid)
    }

    /// Makes and starts a container that is the caller's child.
    pub fn run(&self, id: &str, making: &Making<'_>) -> Result<(Container, Running), OciError> {
        let place = Place::make(self, id)?;
        let Launched {
            created,
            console,
            poststop,
        } = place.launch(making, &self.filters(), StartGate::Open)?;
        let record = place.record(making, created.pid)?;
        let mut running = created.start()?;
        running.console = console;
        let container = Container {
            directory: place.directory.clone(),
            record,
            poststop: Some(poststop),
        };
        place.settle();
        Ok((container, running))
    }

    /// Returns a container.
    pub fn find(&self, id: &str) -> Result<Container, OciError> {
        let directory = self.directory(id)?;
        let unknown = || OciError::Unknown(id.to_owned());
        let record = read(&directory)?.ok_or_else(unknown)?;
        Ok(Container::known(directory, record))
    }

    /// Returns all containers, by name.
    pub fn list(&self) -> Result<Vec<Container>, OciError> {
        let entries = fs::read_dir(&self.path).map_err(file("reading", &self.path))?;
        let mut containers = Vec::new();
        for entry in entries {
            let directory = entry.map_err(file("reading", &self.path))?.path();
            if let Some(record) = read(&directory)? {
                containers.push(Container::known(directory, record));
            }
        }
        containers.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        Ok(containers)
    }

    /// Removes what is left of a container; with `force` one that runs, and one that was never finished, too.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), OciError> {
        let directory = self.directory(id)?;
        match read(&directory)? {
            Some(record) => Container::known(directory, record).delete(force),
            None if force => match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(file("removing", &directory)(error))
                }
                _ => Ok(()),
            },
            None => Err(OciError::Unknown(id.to_owned())),
        }
    }

    /// The filters of the bundles that were run here; its name cannot be a container's.
    fn filters(&self) -> Cache {
        Cache::new(self.path.join("~filters"))
    }

    fn directory(&self, id: &str) -> Result<PathBuf, OciError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let fits = (1..=ID_BYTES_MAX).contains(&id.len()) && id != "." && id != "..";
        if fits && id.bytes().all(good) {
            Ok(self.path.join(id))
        } else {
            Err(OciError::BadId(id.to_owned()))
        }
    }
}

const STATE: &str = "state.json";
const GATE: &str = "gate";
const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Uses the gate's socket by a path that is short however long the directory's is: a socket's address has 108 bytes.
fn gate_socket(
    directory: &Path,
    work: impl FnOnce(&OwnedFd, &SocketAddrUnix) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let held = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{GATE}", held.as_raw_fd()))?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    work(&socket, &address)?;
    Ok(socket)
}

/// Writes a process id; a reader never sees half of it.
pub fn write_pid(path: &Path, pid: u32) -> Result<(), OciError> {
    let mut name = path.file_name().unwrap_or(OsStr::new("pid")).to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)
        .and_then(|mut opened| io::Write::write_all(&mut opened, pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(file("writing", path))
}

/// Hands a terminal's controlling end over at a socket.
pub fn hand_console_over(socket: &Path, console: &OwnedFd) -> Result<(), OciError> {
    handover::console(socket, console.as_fd())
}

fn file(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> OciError {
    move |source| OciError::File {
        doing,
        path: path.to_owned(),
        source,
    }
}

fn read(directory: &Path) -> Result<Option<Record>, OciError> {
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(file("reading", &path)(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| OciError::Record { path, source })
}

/// Returns when the process started; `None` where there is none, or only its remains.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let status = fields.next()?;
    if matches!(status, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Container {
    fn known(directory: PathBuf, record: Record) -> Container {
        Container {
            directory,
            record,
            poststop: None,
        }
    }

    /// Returns the state as the specification has it.
    pub fn state(&self) -> State {
        let status = self.status();
        State {
            oci_version: self.record.oci_version.clone(),
            id: self.record.id.clone(),
            status,
            pid: (status != Status::Stopped).then_some(self.record.pid),
            bundle: self.record.bundle.clone(),
            annotations: self.record.annotations.clone(),
        }
    }

    /// Returns when it was made, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.record.created
    }

    fn status(&self) -> Status {
        if start_time(self.record.pid) != Some(self.record.started) {
            Status::Stopped
        } else if self.directory.join(GATE).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// Opens the process, if it is still the one that was recorded.
    fn process(&self, wanted: &'static str) -> Result<PidFd, OciError> {
        let gone = || OciError::WrongStatus {
            id: self.record.id.clone(),
            status: Status::Stopped,
            wanted,
        };
        let pidfd = PidFd::open(self.record.pid).map_err(|_| gone())?;
        if start_time(self.record.pid) == Some(self.record.started) {
            Ok(pidfd)
        } else {
            Err(gone())
        }
    }

    /// Opens the gate; returns when the program runs.
    pub fn start(&self) -> Result<(), OciError> {
        let status = self.status();
        if status != Status::Created {
            return Err(OciError::WrongStatus {
                id: self.record.id.clone(),
                status,
                wanted: "started",
            });
        }
        let path = self.directory.join(GATE);
        let connection = gate_socket(&self.directory, |socket, address| connect(socket, address))
            .map_err(|errno| file("connecting to", &path)(errno.into()))?;
        // From now on nobody else can start it.
        fs::remove_file(&path).map_err(file("removing", &path))?;
        launch::start(connection)?;
        let spec = Spec::load(&self.record.bundle)?;
        let hooks = spec.hooks.unwrap_or_default();
        for hook in &hooks.poststart {
            hooks::run(hook, &self.state().to_json()).map_err(LaunchError::from)?;
        }
        Ok(())
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, signal: i32) -> Result<(), OciError> {
        let pidfd = self.process("signalled")?;
        pidfd
            .send_signal(signal)
            .map_err(|source| OciError::Signal {
                signal,
                id: self.record.id.clone(),
                source,
            })
    }

    /// Returns the ids of its processes, as the caller numbers them.
    pub fn processes(&self) -> Result<Vec<u32>, OciError> {
        let pidfd = self.process("listed")?;
        let found = processes::of(self.record.pid).map_err(file("listing", Path::new("/proc")))?;
        // What was listed was the container's if its first process lives still.
        drop(pidfd);
        self.process("listed").map(|_| found)
    }

    /// Starts another process inside; it is the caller's child.
    pub fn exec(
        &self,
        process: &Process,
        spec: &Spec,
        stdio: Stdio,
        preserve_fds: u32,
    ) -> Result<Running, OciError> {
        let target = self.process("joined")?;
        let joining = Exec {
            process,
            linux: spec.linux.as_ref(),
            user: None,
            seccomp: Seccomp::Spec,
            stdio,
            preserve_fds,
        };
        Ok(exec(&target, joining)?)
    }

    /// Returns the bundle's configuration.
    pub fn spec(&self) -> Result<Spec, OciError> {
        Ok(Spec::load(&self.record.bundle)?)
    }

    /// Removes what is left of it; one that runs only with `force`.
    pub fn delete(&self, force: bool) -> Result<(), OciError> {
        let status = self.status();
        if status != Status::Stopped {
            if !force && status == Status::Running {
                return Err(OciError::WrongStatus {
                    id: self.record.id.clone(),
                    status,
                    wanted: "deleted",
                });
            }
            self.end()?;
        }
        let state = State {
            status: Status::Stopped,
            pid: None,
            ..self.state()
        };
        fs::remove_dir_all(&self.directory).map_err(file("removing", &self.directory))?;
        // The bundle may be gone; then nothing is to be run.
        let from_bundle = || {
            let hooks = Spec::load(&self.record.bundle).ok()?.hooks;
            Some(hooks.unwrap_or_default().poststop)
        };
        let poststop = self.poststop.clone().or_else(from_bundle);
        for hook in poststop.iter().flatten() {
            if let Err(error) = hooks::run(hook, &state.to_json()) {
                tracing::warn!(%error, "a poststop hook failed");
            }
        }
        Ok(())
    }

    /// Kills the first process, and with it all of its PID namespace, and waits for its end.
    fn end(&self) -> Result<(), OciError> {
        let Ok(pidfd) = self.process("killed") else {
            return Ok(());
        };
        self.kill(KILL).or_else(|error| match error {
            OciError::Signal {
                source: Errno::SRCH,
                ..
            }
            | OciError::WrongStatus { .. } => Ok(()),
            error => Err(error),
        })?;
        let timeout = Timespec {
            tv_sec: DEATH_SECONDS_MAX,
            tv_nsec: 0,
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => Err(OciError::Undead(self.record.id.clone())),
            _ => Ok(()),
        }
    }
}
