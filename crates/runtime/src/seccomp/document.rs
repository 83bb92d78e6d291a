// SPDX-License-Identifier: Apache-2.0
//! A seccomp profile as people write it for `--security-opt seccomp=FILE`: docker's form, which
//! podman's is too.
//!
//! It is the OCI section plus what depends on the container and the machine: `archMap` instead of
//! `architectures`, and rules with `includes` and `excludes`. [`resolve`] answers those and leaves
//! an OCI section, so that a bundle with it means the same under any runtime.
//!
//! # Sources
//! docs.docker.com, "Seccomp security profiles for Docker"; github.com/moby/profiles
//! `seccomp/seccomp.go` (the field names); github.com/containers/common `pkg/seccomp`, whose
//! `defaultErrno` and `errno` are names of errnos beside their numbers.

use serde::Deserialize;

use super::oci::{Argument, LinuxSeccomp, Syscall};
use super::{Architecture, NATIVE};

/// The largest profile that is read. Docker's own has 14 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// What is wrong with a profile file.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is too large to be one.
    #[error("the seccomp profile has {bytes} bytes; at most {DOCUMENT_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is JSON of another kind; an empty array would otherwise pass for a profile that says
    /// nothing.
    #[error("the seccomp profile is not a JSON object")]
    NotAnObject,
    /// It is not JSON of this form.
    #[error("reading the seccomp profile")]
    Json(#[from] serde_json::Error),
    /// Two ways to say one thing.
    #[error("the seccomp profile has both {one:?} and {other:?}; use one of them")]
    Both {
        /// A field.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A kernel version that is none.
    #[error("the seccomp profile asks for kernel {0:?}, which is not of the form MAJOR.MINOR")]
    Kernel(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Document {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Vec<String>,
    arch_map: Option<Vec<ArchitectureMap>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    name: String,
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Returns the OCI section that the profile comes to for a container of which `has` says whether
/// its bounding set holds a capability (`CAP_SYS_ADMIN` and the like), on a kernel of this version.
/// `None`: the profile says nothing at all, which docker takes for "unconfined".
pub fn resolve(
    json: &[u8],
    kernel: (u32, u32),
    has: impl Fn(&str) -> bool,
) -> Result<Option<LinuxSeccomp>, DocumentError> {
    if json.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLarge { bytes: json.len() });
    }
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(DocumentError::NotAnObject);
    }
    let document: Document = serde_json::from_slice(json)?;
    let entries = document.syscalls.unwrap_or_default();
    if document.default_action.is_empty() && entries.is_empty() {
        return Ok(None);
    }
    let map = document.arch_map.unwrap_or_default();
    if !map.is_empty() && !document.architectures.is_empty() {
        return Err(DocumentError::Both {
            one: "architectures",
            other: "archMap",
        });
    }
    let mut architectures = document.architectures;
    let native = match NATIVE {
        Architecture::Aarch64 => "SCMP_ARCH_AARCH64",
        _ => "SCMP_ARCH_X86_64",
    };
    if let Some(entry) = map.into_iter().find(|entry| entry.architecture == native) {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for mut entry in entries {
        if !entry.name.is_empty() {
            if !entry.names.is_empty() {
                return Err(DocumentError::Both {
                    one: "name",
                    other: "names",
                });
            }
            entry.names.push(std::mem::take(&mut entry.name));
        }
        if entry.counts(kernel, &has)? {
            syscalls.push(Syscall {
                names: entry.names,
                action: entry.action,
                errno_ret: entry.errno_ret,
                args: entry.args.unwrap_or_default(),
            });
        }
    }
    Ok(Some(LinuxSeccomp {
        default_action: document.default_action,
        default_errno_ret: document.default_errno_ret,
        architectures,
        flags: document.flags,
        listener_path: document.listener_path,
        listener_metadata: document.listener_metadata,
        syscalls,
    }))
}

impl Entry {
    /// Includes: all of it must be so. Excludes: any of it must not be so.
    fn counts(
        &self,
        kernel: (u32, u32),
        has: impl Fn(&str) -> bool,
    ) -> Result<bool, DocumentError> {
        let native = match NATIVE {
            Architecture::Aarch64 => "arm64",
            _ => "amd64",
        };
        let reached = |filter: &Filter| match &filter.min_kernel {
            None => Ok(None),
            Some(text) => version(text).map(|version| Some(kernel >= version)),
        };
        if let Some(excludes) = &self.excludes {
            let arches = excludes.arches.iter().flatten().any(|name| name == native);
            let caps = excludes.caps.iter().flatten().any(|name| has(name));
            if arches || caps || reached(excludes)? == Some(true) {
                return Ok(false);
            }
        }
        if let Some(includes) = &self.includes {
            let mut arches = includes.arches.iter().flatten().peekable();
            let arches = arches.peek().is_none() || arches.any(|name| name == native);
            let caps = includes.caps.iter().flatten().all(|name| has(name));
            return Ok(arches && caps && reached(includes)? != Some(false));
        }
        Ok(true)
    }
}

fn version(text: &str) -> Result<(u32, u32), DocumentError> {
    let error = || DocumentError::Kernel(text.to_owned());
    let (major, minor) = text.split_once('.').ok_or_else(error)?;
    Ok((
        major.parse().map_err(|_| error())?,
        minor.parse().map_err(|_| error())?,
    ))
}
