// SPDX-License-Identifier: Apache-2.0
//! What went wrong with containers, and what a person can do about it.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    file::FileError,
    id::{BadName, ContainerName},
    tree,
};

/// What went wrong with containers.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// No container is called so.
    #[error("there is no container {0:?}")]
    NotFound(String),
    /// More than one is meant.
    #[error("{word:?} begins the ids of {count} containers")]
    Ambiguous {
        /// As given.
        word: String,
        /// How many.
        count: usize,
    },
    /// The name is taken.
    #[error("the name {name} is in use by container {id}")]
    NameTaken {
        /// The name.
        name: ContainerName,
        /// Who has it.
        id: String,
    },
    /// A name or id could not be made.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A state file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder or link.
    #[error("{doing} {path}")]
    Io {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process works on it.
    #[error("container {0} is in use by another command")]
    Busy(String),
    /// It runs.
    #[error("container {0} is running")]
    Running(String),
    /// Its files could not be removed.
    #[error("removing the files of container {id}")]
    Remove {
        /// The container.
        id: String,
        /// What went wrong.
        source: tree::TreeError,
    },
}

impl ContainerError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ContainerError::NotFound(_) => Some("wolffia ps -a lists them".into()),
            ContainerError::Ambiguous { .. } => Some("give more digits".into()),
            ContainerError::NameTaken { name, .. } => {
                Some(format!("wolffia rm {name}, or use another --name"))
            }
            ContainerError::Running(word) => {
                Some(format!("wolffia stop {word}, or wolffia rm -f {word}"))
            }
            _ => None,
        }
    }
}
