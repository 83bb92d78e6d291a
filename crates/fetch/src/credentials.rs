// SPDX-License-Identifier: Apache-2.0
//! Stored credentials: found in the files and helpers that podman and docker use.
//!
//! # Theory of operation
//! Files are asked in podman's order: `$REGISTRY_AUTH_FILE` alone if it is set; else
//! `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`, docker's `config.json` (in `$DOCKER_CONFIG` or
//! `~/.docker`). The first that has something for the name wins. A name is `registry/repository`, and an entry may stand for
//! any front part of it: the longest wins (`host/team/app`, `host/team`, `host`). Old spellings are understood: a scheme
//! before the host, a path after it, and Docker Hub's `https://index.docker.io/v1/`.
//!
//! Inside one file a helper named in `credHelpers` is asked first, then the one of `credsStore`, then the file's own
//! entries. A helper that is not there or fails is passed over with a warning: most images are public, and a locked
//! keyring must not keep them away.
//!
//! Sources: containers-auth.json(5), docker's `config.json` reference, docker-credential-helpers README.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::secret::Secret;

mod file;
pub(crate) mod helper;

pub(crate) use file::{AuthFile, storage_name};

/// What shows a registry who we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// A name and a password, or a token that serves as one.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, exchanged at the registry's token server.
    IdentityToken(Secret),
    /// A token that is sent to the registry as it is.
    RegistryToken(Secret),
}

impl Credential {
    /// Returns what of it nobody may see.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::Password { password, .. } => {
                let header = crate::auth::basic_header(self);
                let encoded =
                    header.map(|header| Secret::new(header.expose().replace("Basic ", "")));
                std::iter::once(password.clone()).chain(encoded).collect()
            }
            Self::IdentityToken(token) | Self::RegistryToken(token) => vec![token.clone()],
        }
    }
}

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("reading credentials from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("reading credentials from {path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong. Holds nothing of the file's contents.
        problem: String,
    },
    /// The file cannot be written.
    #[error("writing credentials to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no place for the file.
    #[error("storing credentials: neither XDG_RUNTIME_DIR nor HOME is set")]
    NoPlace,
    /// A credential helper failed.
    #[error("asking the credential helper {program}: {problem}")]
    Helper {
        /// The helper's program.
        program: String,
        /// What happened. Holds nothing of the helper's output.
        problem: String,
    },
}

impl CredentialError {
    /// Tells whether it is a file that others may read, but not we.
    fn is_closed(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoPlace => Some("set HOME, or name a file in REGISTRY_AUTH_FILE".to_owned()),
            Self::Format { path, .. } => Some(format!(
                "mend {}, or move it away and log in again",
                path.display()
            )),
            Self::Helper { program, .. } => Some(format!(
                "try `{program} list`, or remove the helper from the configuration file"
            )),
            _ => None,
        }
    }
}

/// Returns the stored credentials for `registry/repository`, or for a registry alone.
///
/// # Errors
/// Fails where a file exists that cannot be read or understood. One of the usual places that is closed to us is passed over:
/// most pulls need no credentials, and [`closed`] names it where one does.
pub fn find(environment: &Environment, name: &str) -> Result<Option<Credential>, CredentialError> {
    for path in files(environment) {
        let file = match AuthFile::read(&path) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) if error.is_closed() && environment.path(NAMED_FILE).is_none() => {
                tracing::warn!(file = %path.display(), "closed to us, passed over");
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(program) = file.helper_for(name) {
            match helper::get(environment, &program, registry_of(name)) {
                Ok(Some(credential)) => return Ok(Some(credential)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, file = %path.display(), "passed over"),
            }
        }
        if let Some(credential) = file.entry_for(name)? {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

/// Returns what a helper program knows for `registry/repository`, where the files name one.
///
/// For a process that will not be able to ask it any more: inside a user namespace the user seems to be somebody else, and
/// a keyring does not answer strangers. Whatever fails here is left to [`find`], which says so.
pub fn find_by_helper(environment: &Environment, name: &str) -> Option<Credential> {
    for path in files(environment) {
        let Ok(Some(file)) = AuthFile::read(&path) else {
            continue;
        };
        if let Some(program) = file.helper_for(name)
            && let Ok(Some(credential)) = helper::get(environment, &program, registry_of(name))
        {
            return Some(credential);
        }
        if !matches!(file.entry_for(name), Ok(None)) {
            return None;
        }
    }
    None
}

/// Returns the files of credentials that we have no right to read, or to see.
pub fn closed(environment: &Environment) -> Vec<PathBuf> {
    let mut files = files(environment);
    files.retain(|path| AuthFile::read(path).is_err_and(|error| error.is_closed()));
    files
}

/// The variable that names the one file to use.
const NAMED_FILE: &str = "REGISTRY_AUTH_FILE";

/// Returns the files in which credentials are looked for, in order.
pub fn files(environment: &Environment) -> Vec<PathBuf> {
    if let Some(path) = environment.path(NAMED_FILE) {
        return vec![path];
    }
    let runtime = environment.path("XDG_RUNTIME_DIR");
    let docker = environment
        .path("DOCKER_CONFIG")
        .or_else(|| Some(environment.home()?.join(".docker")));
    [
        runtime.map(|directory| directory.join("containers/auth.json")),
        environment.configuration("containers/auth.json"),
        docker.map(|directory| directory.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the registry's part of a name.
fn registry_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(registry, _)| registry)
}

/// Returns the spellings under which a name may be stored, the most particular first.
fn keys(name: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(name);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.rsplit_once('/').map(|(front, _)| front);
        Some(current)
    })
}

/// Returns the registry that a key of the old form means: without scheme and path, Docker Hub under one name.
fn normalised(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let bare = match bare {
        Some(bare) => registry_of(bare),
        None => key
            .strip_suffix("/v1/")
            .or(key.strip_suffix("/v2/"))
            .unwrap_or(key),
    };
    let bare = bare.trim_end_matches('/');
    match bare {
        "index.docker.io" | "registry-1.docker.io" | "index.docker.io/v1" => "docker.io",
        bare => bare,
    }
}

#[cfg(test)]
mod tests;
