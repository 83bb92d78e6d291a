// SPDX-License-Identifier: Apache-2.0
//! What other commands do to a container that runs: signal it, stop it, wait for it.
//!
//! Theory of operation. A container's process may have any user id, and only its conductor may signal it. The conductor has the caller's own id, so
//! the caller can signal *it*: a queued real-time signal whose value says what to do (see [`Request`]). No socket, no second entrance into the
//! namespaces. The end of a container is the end of its lock, which the kernel tells by `flock` and by the conductor's pidfd.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use thiserror::Error;
use wolffia_sys::process::PidFd;

use crate::{
    containers::{Container, ContainerError, Containers},
    lock::Lock,
    record::Status,
    signal::Signal,
};

/// The real-time signal that carries a [`Request`].
pub fn request_signal() -> i32 {
    wolffia_sys::signal::real_time(3)
}

/// What a conductor is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Pass a signal on to process 1 inside.
    Pass(Signal),
    /// The same, and where process 1 does not care for the signal, end it: what the signal would do to a program that is not process 1.
    End(Signal),
}

/// Requests of the second kind start here.
const END_BASE: i32 = 1000;

impl Request {
    /// Returns the value that stands for it.
    pub fn value(self) -> i32 {
        match self {
            Request::Pass(signal) => signal.number(),
            Request::End(signal) => END_BASE + signal.number(),
        }
    }

    /// Returns the request that a value stands for.
    pub fn from_value(value: i32) -> Option<Request> {
        if value >= END_BASE {
            Signal::from_number(value - END_BASE).map(Request::End)
        } else {
            Signal::from_number(value).map(Request::Pass)
        }
    }
}

/// What went wrong.
#[derive(Debug, Error)]
pub enum ControlError {
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The conductor could not be told.
    #[error("signalling the conductor of container {name}")]
    Signal {
        /// The container.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("waiting for container {name}")]
    Wait {
        /// The container.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Its files.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It did not end, not even when killed.
    #[error("container {0} does not end")]
    Stuck(String),
}

/// After SIGKILL a container that is not stuck in the kernel is gone at once; this is for machines under load.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// A running container's conductor.
#[derive(Debug)]
pub struct Conductor {
    name: String,
    pidfd: PidFd,
}

impl Conductor {
    /// Finds the conductor of a running container.
    pub fn of(containers: &Containers, container: &Container) -> Result<Conductor, ControlError> {
        let name = container.record.name.to_string();
        let not_running = || ControlError::NotRunning(name.clone());
        if container.state.status != Status::Running {
            return Err(not_running());
        }
        let pid = u32::try_from(container.state.conductor_pid).map_err(|_| not_running())?;
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Err(not_running()),
            Err(error) => {
                return Err(ControlError::Signal {
                    name,
                    source: error.into(),
                });
            }
        };
        // The number was the conductor's when the state was read; it still is if the container still runs now that the descriptor is open.
        let now = containers.load(&container.record.id)?;
        let same = now.is_some_and(|now| {
            now.state.status == Status::Running
                && now.state.conductor_pid == container.state.conductor_pid
        });
        if same {
            Ok(Conductor { name, pidfd })
        } else {
            Err(not_running())
        }
    }

    /// Asks for something.
    pub fn request(&self, request: Request) -> Result<(), ControlError> {
        match wolffia_sys::signal::queue(self.pidfd.as_fd(), request_signal(), request.value()) {
            Err(source) if source.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                Err(ControlError::NotRunning(self.name.clone()))
            }
            result => result.map_err(|source| ControlError::Signal {
                name: self.name.clone(),
                source,
            }),
        }
    }

    /// Waits until it has ended; `false` when `limit` was over first.
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool, ControlError> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            match poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                timeout.as_ref(),
            ) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(ControlError::Wait {
                        name: self.name.clone(),
                        source: error.into(),
                    });
                }
            }
        }
    }

    /// Kills the conductor itself, and so everything in it.
    fn kill(&self) {
        // One that is gone already is what was wanted.
        let _ = self.pidfd.send_signal(Signal::KILL.number());
    }
}

/// Stops a container: its stop signal, then after `limit` SIGKILL. A container that does not run is stopped.
pub fn stop(
    containers: &Containers,
    container: &Container,
    signal: Signal,
    limit: Option<Duration>,
) -> Result<(), ControlError> {
    let conductor = match Conductor::of(containers, container) {
        Err(ControlError::NotRunning(_)) => return Ok(()),
        conductor => conductor?,
    };
    match conductor.request(Request::End(signal)) {
        Err(ControlError::NotRunning(_)) => return Ok(()),
        result => result?,
    }
    if conductor.wait(limit)? {
        return Ok(());
    }
    end(&conductor)
}

/// Ends a container at once.
pub fn kill_and_wait(containers: &Containers, container: &Container) -> Result<(), ControlError> {
    match Conductor::of(containers, container) {
        Err(ControlError::NotRunning(_)) => Ok(()),
        conductor => end(&conductor?),
    }
}

fn end(conductor: &Conductor) -> Result<(), ControlError> {
    match conductor.request(Request::Pass(Signal::KILL)) {
        Err(ControlError::NotRunning(_)) => return Ok(()),
        result => result?,
    }
    if conductor.wait(Some(KILL_WAIT))? {
        return Ok(());
    }
    conductor.kill();
    if conductor.wait(Some(KILL_WAIT))? {
        Ok(())
    } else {
        Err(ControlError::Stuck(conductor.name.clone()))
    }
}

/// Waits for a container to end and returns its exit code; one that does not run answers at once.
pub fn wait(containers: &Containers, container: &Container) -> Result<u8, ControlError> {
    let name = || container.record.name.to_string();
    Lock::wait_until_free(&containers.lock_path(&container.record.id)).map_err(|source| {
        ControlError::Wait {
            name: name(),
            source,
        }
    })?;
    match containers.load(&container.record.id)? {
        Some(now) => Ok(now.state.exit_code),
        // It was run with --rm: its code went to whoever ran it, and nobody else can learn it any more.
        None => Err(ContainerError::NotFound(name()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for request in [Request::Pass(Signal::KILL), Request::End(Signal::TERM)] {
            assert_eq!(Request::from_value(request.value()), Some(request));
        }
        assert_eq!(Request::from_value(0), None);
        assert_eq!(Request::from_value(END_BASE + 99), None);
    }
}
