// SPDX-License-Identifier: Apache-2.0
//! The state of a container as the OCI specification has it told: to hooks, and by `state`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// It waits at the start gate.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Stopped,
}

/// A container's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification.
    pub oci_version: String,
    /// Its name.
    pub id: String,
    /// How far it is.
    pub status: Status,
    /// The first process's id outside; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Notes for others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// Returns the text that hooks read.
    ///
    /// # Panics
    /// Never: strings, numbers and a map with string keys have a JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .expect("strings, numbers and a map with string keys have a JSON form")
    }
}
