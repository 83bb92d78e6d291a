// SPDX-License-Identifier: Apache-2.0
//! What the helper is asked to do, and what it says meanwhile: lines of data.
//!
//! Jobs are done by a re-executed process *inside the user namespace*: only there stubs can be given their owners, and only
//! there what subordinate ids own can be deleted. The asking process writes one [`Job`] as a line of JSON to the helper and
//! reads [`Message`]s, one a line, from it; the last is [`Message::Done`] or
//! [`Message::Failed`]. An output that ends without either means the helper was killed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wolffia_fetch::Credential;
use wolffia_image::{Digest, Platform};
use wolffia_store::{Owners, Repair, StubFacts};

/// What is asked of the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The `store` directory of the state root.
    pub store: PathBuf,
    /// How owners are shown: stub trees are made for this mapping.
    pub owners: Owners,
    /// What to do.
    pub task: Task,
}

impl Job {
    /// Tells whether it is about what the helper finds on its standard input.
    pub fn reads_input(&self) -> bool {
        matches!(&self.task, Task::Import(request) if request.reads_input())
    }
}

impl ImportRequest {
    /// Tells whether the tar comes from standard input.
    pub fn reads_input(&self) -> bool {
        self.file.as_os_str() == "-"
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Fetch an image.
    Pull(PullRequest),
    /// Make an image of a tar of a root file system.
    Import(ImportRequest),
    /// Bring an image somewhere, perhaps in another format.
    Convert(crate::convert::ConvertRequest),
    /// Make the stub tree of an image that is here, where it is missing for this mapping.
    Stubs {
        /// Which image.
        image: Digest,
    },
    /// Take images away and collect what nobody needs.
    Remove {
        /// Names or identifiers, with the containers that stand on each.
        images: Vec<Doomed>,
        /// Go on where an image has several names or is used.
        force: bool,
    },
    /// Collect what nobody needs.
    Collect,
    /// Look at everything.
    Check {
        /// Whether to take away what is damaged.
        repair: Repair,
    },
    /// Delete the whole store.
    Reset,
}

/// An image that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doomed {
    /// Its name or identifier, as it was given.
    pub name: String,
    /// The containers that stand on it.
    pub users: Vec<String>,
}

/// Which image to fetch. Proxies, registries and most credentials are found by the helper's own environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// As a person gives it: `debian:12`, `ghcr.io/a/b@sha256:...`, `oci:DIR[:tag]`.
    pub name: String,
    /// For which machine.
    pub platform: Platform,
    /// When to ask the registry.
    pub policy: Policy,
    /// Directories in which layers may lie unpacked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpacked: Vec<PathBuf>,
    /// Whether the program may start before the image has come.
    #[serde(default)]
    pub lazy: Lazy,
    /// Refuse a layer that stays where it is if nothing in the manifest answers for its index.
    #[serde(default)]
    pub strict: bool,
    /// What a credential helper knows, asked outside: inside the user namespace a keyring would not know its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

/// Whether layers may stay where they are, and their files come when they are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lazy {
    /// All of it comes first.
    #[default]
    Never,
    /// Layers that have an index and are worth it stay.
    Auto,
    /// Every layer that has an index stays.
    Always,
}

/// When a registry is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Always: a tag may have moved. Layers that are here are not fetched again.
    #[default]
    Always,
    /// Only where no image of that name is here.
    Missing,
}

/// What to import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The tar, perhaps packed by gzip or zstd; `-` is the helper's standard input.
    pub file: PathBuf,
    /// The image's name, if it shall have one.
    pub name: Option<String>,
    /// Remark in the image's history.
    pub message: Option<String>,
    /// For which machine it is.
    pub platform: Platform,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// How far it is.
    Progress(Progress),
    /// Layers that a site unpacked must be walked by the process that asked, which sees true owners. It answers with a line: what
    /// it could not use, and why.
    Walk(Vec<wolffia_store::Site>),
    /// The job is done.
    Done(Box<Outcome>),
    /// The job failed; nothing of it is visible.
    Failed(Failure),
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Packed bytes of all layers that must be fetched; 0 while that is not known.
    pub bytes_total: u64,
    /// Packed bytes that have arrived.
    pub bytes_done: u64,
    /// Layers of the image.
    pub layers_total: u32,
    /// Layers that are complete, those that were here before included.
    pub layers_done: u32,
    /// What is going on.
    pub stage: Stage,
}

/// What is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The manifest is asked for.
    #[default]
    Resolving,
    /// Layers arrive and are stored.
    Fetching,
    /// The stub tree is written.
    Writing,
}

/// What a job brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An image is here, with its stub tree.
    Image(ImageOutcome),
    /// An image is somewhere else now.
    Brought(crate::convert::Brought),
    /// Images are gone.
    Removed {
        /// What `rmi` prints: names that were taken away, images that are gone.
        removed: Vec<wolffia_store::Removed>,
        /// Names that could not be removed, and why.
        failed: Vec<(String, Failure)>,
        /// What was collected.
        collected: wolffia_store::Collected,
    },
    /// What nobody needs is gone.
    Collected(wolffia_store::Collected),
    /// What the check found.
    Checked(wolffia_store::Report),
    /// The store is gone.
    Reset,
}

/// An image that is here now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOutcome {
    /// Its identifier.
    pub image: Digest,
    /// The manifest it came by.
    pub manifest: Digest,
    /// Its name in full, if it has one.
    pub name: Option<String>,
    /// Whether the same image was here under this name before.
    pub up_to_date: bool,
    /// Packed bytes that were fetched.
    pub fetched_bytes: u64,
    /// Bytes that were added to the objects.
    pub stored_bytes: u64,
    /// Layers of the image.
    pub layers: u32,
    /// Layers that were here before.
    pub layers_present: u32,
    /// Entries that were refused, the first ones in words.
    pub refused: Vec<String>,
    /// How many were refused.
    pub refused_count: u64,
    /// What the mapping of owners could not show.
    pub facts: StubFacts,
    /// Why layers that a site unpacked are not used, in words.
    #[serde(default)]
    pub not_used: Vec<String>,
    /// Packed bytes of layers that stayed where they are; 0 where everything is here.
    #[serde(default)]
    pub lazy_bytes: u64,
}

impl ImageOutcome {
    /// Returns what a person should be told, one line each: refused entries, owners beyond the mapping.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(first) = self.refused.first() {
            notes.push(match self.refused_count {
                1 => format!("1 entry of the image was left out: {first}"),
                count => format!("{count} entries of the image were left out; the first: {first}"),
            });
        }
        notes.extend(
            self.not_used
                .iter()
                .map(|why| format!("fetched although it is unpacked here: {why}")),
        );
        let facts = &self.facts;
        if facts.unmapped > 0 {
            notes.push(format!(
                "{} files belong to ids beyond your mapping and are shown as {}",
                facts.unmapped, facts.shown_as
            ));
        }
        if facts.devices > 0 {
            notes.push(format!(
                "{} device nodes of the image are not made",
                facts.devices
            ));
        }
        if facts.attributes_refused > 0 {
            notes.push(format!(
                "{} extended attributes of the image cannot be kept here",
                facts.attributes_refused
            ));
        }
        notes
    }
}

/// Why a job failed, as data that survives a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What was being done to what.
    pub message: String,
    /// Why it failed, from the outside in.
    pub causes: Vec<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// What kind of failure, where callers act upon it.
    pub kind: FailureKind,
}

/// What callers act upon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The image, or the registry, does not exist.
    NotFound,
    /// Something still uses the image.
    InUse,
    /// Anything else.
    #[default]
    Other,
}
