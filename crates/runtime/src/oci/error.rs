// SPDX-License-Identifier: Apache-2.0
//! Why a command about a container came to nothing.

use std::{io, path::PathBuf};

use thiserror::Error;
use wolffia_sys::{Errno, idmap::IdMapError};

use super::DEATH_SECONDS_MAX;
use crate::{
    launch::LaunchError,
    prepare::PrepareError,
    spec::{LoadError, SpecError},
    state::Status,
};

/// What went wrong.
#[derive(Debug, Error)]
pub enum OciError {
    /// The name cannot be a container's.
    #[error(
        "invalid container id {0:?}: letters, digits and _ + - . only, at most 200, and not . or .."
    )]
    BadId(String),
    /// There is such a container.
    #[error("container {0} exists already")]
    Exists(String),
    /// There is none.
    #[error("container {0} does not exist")]
    Unknown(String),
    /// It is not as far as this needs.
    #[error("container {id} is {status:?}, which does not allow it to be {wanted}")]
    WrongStatus {
        /// The container.
        id: String,
        /// How far it is.
        status: Status,
        /// What was wanted of it.
        wanted: &'static str,
    },
    /// A file of the state failed us.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The state directory is another user's, or open to others.
    #[error("the state directory {path} must belong to this user and nobody else may write to it")]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
    /// A record cannot be read.
    #[error("reading {path}: not a record of ours")]
    Record {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The bundle's configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The configuration says nothing about this.
    #[error("the configuration has no {0}")]
    Missing(&'static str),
    /// Terminal and console socket do not go together.
    #[error("{0}")]
    Terminal(&'static str),
    /// The ids could not be chosen.
    #[error("choosing the container's ids")]
    IdMap(#[from] IdMapError),
    /// The container was not made or started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The process could not be signalled.
    #[error("sending signal {signal} to container {id}")]
    Signal {
        /// The number.
        signal: i32,
        /// The container.
        id: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// It did not end although it was killed.
    #[error("container {0} was killed and has not ended after {DEATH_SECONDS_MAX} seconds")]
    Undead(String),
    /// The other side of a socket did not take what it was to get.
    #[error("handing {what} over at {path}")]
    Handover {
        /// What.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
}

impl From<LoadError> for OciError {
    fn from(error: LoadError) -> OciError {
        match error {
            LoadError::Spec(error) => error.into(),
            LoadError::Seccomp(error) => LaunchError::from(PrepareError::from(error)).into(),
        }
    }
}

impl OciError {
    /// Returns the exit code that stands for it.
    pub fn code(&self) -> u8 {
        match self {
            OciError::Launch(error) => error.code(),
            _ => 1,
        }
    }
}
