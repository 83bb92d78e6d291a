// SPDX-License-Identifier: Apache-2.0
//! Why a container was not made or not started, the exit code that stands for it, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;
use wolffia_sys::{Errno, idmap::IdMapError, namespace::Namespaces};

use crate::{
    hooks::HookError,
    prepare::PrepareError,
    report::{Failure, Kind},
};

/// Why a container was not made or not started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The configuration cannot be carried out.
    #[error("preparing the container")]
    Prepare(#[from] PrepareError),
    /// A namespace to join could not be opened.
    #[error("opening the namespace {path}")]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The kernel refused the process.
    #[error("cloning a process into {new:?}")]
    Clone {
        /// The namespaces that it was to have.
        new: Namespaces,
        /// The kernel's answer.
        source: Errno,
    },
    /// The ids could not be mapped.
    #[error("mapping the container's ids")]
    IdMap(#[from] IdMapError),
    /// The process failed to set itself up.
    #[error("{doing}")]
    SetUp {
        /// What it was doing to what.
        doing: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// A user or group of the program is none of the container's ids.
    #[error("{doing}: the container has no such id")]
    NotMapped {
        /// What it was doing to what.
        doing: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The program does not exist.
    #[error("{doing}")]
    NotFound {
        /// What was being executed.
        doing: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The program exists and cannot be executed.
    #[error("{doing}")]
    NotExecutable {
        /// What was being executed.
        doing: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The process ended before its program, and said nothing.
    #[error("the container's first process ended with code {code} while it was set up")]
    Ended {
        /// Its code.
        code: u8,
    },
    /// The line to the process broke.
    #[error("talking to the container's first process")]
    Line(#[source] Errno),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
}

impl LaunchError {
    /// Returns the exit code that stands for it: 127, 126 or 125.
    pub fn code(&self) -> u8 {
        match self {
            LaunchError::NotFound { .. } => 127,
            LaunchError::NotExecutable { .. } => 126,
            _ => 125,
        }
    }

    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            LaunchError::NotMapped { .. } => Some(
                "ids beyond the container's own come with sub-ids of your user: an administrator gives them by \
                 usermod --add-subuids and --add-subgids; wolffia doctor says which there are"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl From<Failure> for LaunchError {
    fn from(failure: Failure) -> LaunchError {
        let Failure {
            kind,
            doing,
            errno: source,
        } = failure;
        match kind {
            Kind::Setup => LaunchError::SetUp { doing, source },
            Kind::NotMapped => LaunchError::NotMapped { doing, source },
            Kind::NotFound => LaunchError::NotFound { doing, source },
            Kind::NotExecutable => LaunchError::NotExecutable { doing, source },
        }
    }
}
