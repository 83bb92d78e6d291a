// SPDX-License-Identifier: Apache-2.0
//! The two files of a container: what it is (`record.json`, written once) and how it is (`state.json`, replaced at each change).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    id::{ContainerId, ContainerName},
    options::Options,
    ports::Published,
    time::Timestamp,
};

/// What a container is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Layout of this file.
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// When it was made.
    pub created: Timestamp,
    /// What it is made from.
    pub image: Image,
    /// What was asked for.
    pub options: Options,
    /// What runs inside, after the image's and the person's words were joined.
    pub program: Program,
    /// Which ids it has: what is in its layer belongs to them.
    pub mapping: String,
    /// Where it was made: relative paths of bind mounts are below it.
    pub current_directory: PathBuf,
}

/// What runs inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=VALUE`, each key once; HOME is added inside.
    pub env: Vec<String>,
    /// As a word, looked up inside.
    pub user: String,
    /// Where it starts.
    pub directory: String,
    /// What `stop` sends.
    pub stop_signal: String,
}

/// The layout of [`Record`] that this program writes.
pub const RECORD_VERSION: u32 = 1;

/// What a container is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Image {
    /// An image of the store.
    Stored {
        /// As it was asked for.
        name: String,
        /// The digest of its configuration.
        id: String,
    },
    /// This machine's own files.
    Host,
}

impl Image {
    /// Returns the name as it was asked for.
    pub fn name(&self) -> &str {
        match self {
            Image::Stored { name, .. } => name,
            Image::Host => "host",
        }
    }

    /// Returns the image's id, empty for this machine.
    pub fn id(&self) -> &str {
        match self {
            Image::Stored { id, .. } => id,
            Image::Host => "",
        }
    }
}

/// How a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What it does.
    pub status: Status,
    /// Process 1 inside, as this machine numbers it; 0 where there is none.
    pub pid: i32,
    /// Our process, as this machine numbers it; 0 where there is none.
    pub conductor_pid: i32,
    /// When its program was last started.
    pub started: Option<Timestamp>,
    /// When its program last ended.
    pub finished: Option<Timestamp>,
    /// How its program ended: its own code, or 128 and the signal.
    pub exit_code: u8,
    /// Why it did not start, or did not end by itself.
    pub error: String,
    /// The ports it has on this machine while it runs.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// Where the output went, if it was not the log.
    pub unlogged: bool,
}

/// What a container does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its program runs.
    Running,
    /// Its program ended.
    Exited,
}

impl Status {
    /// Returns docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Exited => "exited",
        }
    }
}
