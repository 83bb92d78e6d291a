// SPDX-License-Identifier: Apache-2.0
//! `config.json` of an OCI bundle, runtime-spec 1.0 to 1.3, as far as it concerns a container on Linux.
//!
//! Fields are as in the specification, where each is described; here is only what we make of them. What we do not know is
//! passed over, as the specification asks; what we know and cannot do is refused when a container is prepared, never
//! ignored. An absent list and an empty one mean the same, so lists are not optional.
//!
//! Source: opencontainers/runtime-spec, config.md and config-linux.md, 1.3.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use wolffia_sys::{Errno, fd::Root as Directory};

pub use linux::{
    Device, IdMapping, Linux, Memory, Namespace, NamespaceKind, Pids, Resources, TimeOffset,
};
pub use process::{Capabilities, ConsoleSize, IoPriority, Process, Rlimit, Scheduler, User};

mod linux;
mod process;

use crate::seccomp::{Filter, LinuxSeccomp, cache::Cache, from_oci, oci::SeccompError};

/// The specification's version that we write and the newest whose meaning we know.
pub const VERSION: &str = "1.3.0";

/// The file of a bundle that says all but the content.
const CONFIG: &str = "config.json";

/// The largest `config.json` that is read; a default profile of docker's is 20 KiB.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Why a bundle's configuration is of no use.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The file could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer; `EFBIG` where it is larger than 8 MiB.
        source: Errno,
    },
    /// It is not what the specification describes.
    #[error("reading {path}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It is of a version whose meaning we do not know.
    #[error("reading {path}: ociVersion {version:?} is not supported, only 1.x is")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
    },
}

/// Why a configuration and its filter are of no use.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its seccomp section.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// A container's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version of the specification.
    pub oci_version: String,
    /// The first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The NIS domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// What is mounted, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs that are run as the container comes and goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Notes for others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Where it is, from the bundle's directory.
    pub path: PathBuf,
    /// Whether it is shown read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub readonly: bool,
}

/// Something to mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where, inside the container.
    pub destination: PathBuf,
    /// The type; meaningless for a bind mount.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What; a path from the bundle's directory for a bind mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// How.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// An id mapping of the mount's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// An id mapping of the mount's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Hooks by the moment they run at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before pivoting, in our namespaces (deprecated).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// Before pivoting, in our namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// Before pivoting, in the container's namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// Before the program starts, inside the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// After it was started, in our namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// After the container was deleted, in our namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// A program that is told the container's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, the first being its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// As much of a configuration as shows where its seccomp section stands.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    linux: Option<LinuxOutline<'a>>,
}

#[derive(Deserialize)]
struct LinuxOutline<'a> {
    #[serde(borrow)]
    seccomp: Option<&'a RawValue>,
}

impl Spec {
    /// Reads `config.json` of the bundle in this directory.
    pub fn load(bundle: &Path) -> Result<Spec, SpecError> {
        Spec::parse(bundle, &Spec::text(bundle)?)
    }

    /// Reads it, and returns its system call filter beside it: from the cache, and then the configuration has no section
    /// any more; else from the section, and the cache has it the next time. A section is nine tenths of what there is to read.
    pub fn load_with_filter(
        bundle: &Path,
        cache: &Cache,
    ) -> Result<(Spec, Option<Filter>), LoadError> {
        let text = Spec::text(bundle)?;
        let outline: Option<Outline<'_>> = serde_json::from_slice(&text).ok();
        let section = outline
            .and_then(|outline| outline.linux?.seccomp)
            .map(RawValue::get);
        let Some(section) = section else {
            // None, or a mistake that the whole reading tells better.
            return Ok((Spec::parse(bundle, &text)?, None));
        };
        if let Some(filter) = cache.find(section) {
            let from = section.as_ptr().addr() - text.as_ptr().addr();
            let rest = &text[from + section.len()..];
            let without = [&text[..from], b"null", rest].concat();
            return Ok((Spec::parse(bundle, &without)?, Some(filter)));
        }
        let spec = Spec::parse(bundle, &text)?;
        let filter = spec.seccomp().map(from_oci).transpose()?;
        if let Some(filter) = &filter {
            cache.keep(section, filter);
        }
        Ok((spec, filter))
    }

    fn text(bundle: &Path) -> Result<Vec<u8>, SpecError> {
        Directory::open(bundle)
            .and_then(|bundle| bundle.read_regular(Path::new(CONFIG), CONFIG_BYTES_MAX))
            .map_err(|source| SpecError::Read {
                path: bundle.join(CONFIG),
                source,
            })
    }

    fn parse(bundle: &Path, text: &[u8]) -> Result<Spec, SpecError> {
        let spec: Spec = serde_json::from_slice(text).map_err(|source| SpecError::Content {
            path: bundle.join(CONFIG),
            source,
        })?;
        if !spec.oci_version.starts_with("1.") {
            return Err(SpecError::Version {
                path: bundle.join(CONFIG),
                version: spec.oci_version,
            });
        }
        Ok(spec)
    }

    /// Returns the seccomp section.
    pub fn seccomp(&self) -> Option<&LinuxSeccomp> {
        self.linux.as_ref()?.seccomp.as_ref()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}
