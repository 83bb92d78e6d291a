// SPDX-License-Identifier: Apache-2.0
//! `login` and `logout`: credentials tried at the registry, then kept where they will be found.
//!
//! # Theory of operation
//! A name and password are kept only after the registry has accepted them at `/v2/`; what does not work is never written.
//! They are kept where they were read from, if they were: in the file that already has an entry for the name, or with the helper
//! that is named for it. Else in the first of the files that are [looked through](crate::credentials) whose directory
//! can be: as with podman that is `$XDG_RUNTIME_DIR/containers/auth.json`, which is gone after a reboot, and is never
//! a disk. Logging out takes every entry away, wherever it is.
//!
//! Two commands at once do not lose each other's entry: the file is changed under a lock on its directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::credentials::{self, AuthFile, Credential, CredentialError, helper, storage_name};
use crate::environment::Environment;
use crate::error::Error;
use crate::limits::Limits;
use crate::registries::Registries;
use crate::secret::Secret;
use crate::sources::registry;

/// The registry that is meant where none is named.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// What a person wants to log in with.
#[derive(Debug, Clone)]
pub struct Login {
    /// A registry, or a part of one: `ghcr.io`, `registry.example.com/team`.
    pub registry: String,
    /// The user's name.
    pub user: String,
    /// The password, or a token that serves as one.
    pub password: Secret,
    /// Whether the registry may be reached without TLS, or with a certificate nobody vouches for.
    pub insecure: bool,
    /// Where to keep it, if not at the usual place.
    pub file: Option<PathBuf>,
}

/// Where credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In a file, readable by the user alone, but plain.
    File(PathBuf),
    /// With a helper program.
    Helper(String),
}

impl Login {
    /// Asks the registry, and keeps the credentials if it accepts them. Blocks.
    ///
    /// # Errors
    /// Fails where the registry refuses them ([`Error::Login`]), cannot be asked, or they cannot be written.
    pub fn perform(&self, environment: &Environment, limits: Limits) -> Result<Kept, Error> {
        let name = storage_name(&self.registry);
        let host = name.split('/').next().unwrap_or(name);
        let insecure = self.insecure || Registries::read(environment)?.is_insecure(name);
        let credential = Credential::Password {
            user: self.user.clone(),
            password: self.password.clone(),
        };
        registry::check(host, insecure, environment, limits, credential.clone()).map_err(
            |error| match error {
                Error::Denied { .. } => Error::Login {
                    host: host.to_owned(),
                },
                error => error,
            },
        )?;
        Ok(keep(environment, name, &credential, self.file.as_deref())?)
    }
}

/// Takes the credentials for a registry away; returns the places where there were some.
///
/// # Errors
/// Fails where a file cannot be read or written.
pub fn log_out(
    environment: &Environment,
    registry: &str,
    file: Option<&Path>,
) -> Result<Vec<Kept>, Error> {
    let name = storage_name(registry);
    let mut places = Vec::new();
    for path in files(environment, file) {
        let Some(content) = AuthFile::read(&path)? else {
            continue;
        };
        if let Some(program) = content.helper_for(name) {
            match helper::erase(environment, &program, name) {
                Ok(true) => places.push(Kept::Helper(program)),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, file = %path.display(), "passed over"),
            }
        }
        if content.holds(name) {
            change(&path, |content| content.remove(name))?;
            places.push(Kept::File(path));
        }
    }
    Ok(places)
}

/// Takes all credentials in files away; returns the files that had some.
///
/// # Errors
/// Fails where a file cannot be read or written.
pub fn log_out_everywhere(
    environment: &Environment,
    file: Option<&Path>,
) -> Result<Vec<Kept>, Error> {
    let mut places = Vec::new();
    for path in files(environment, file) {
        if AuthFile::read(&path)?.is_some_and(|content| content.holds_any()) {
            change(&path, AuthFile::clear)?;
            places.push(Kept::File(path));
        }
    }
    Ok(places)
}

/// Returns the name under which a registry is logged in to, if it is.
///
/// # Errors
/// Fails where a file cannot be read.
pub fn user_of(environment: &Environment, registry: &str) -> Result<Option<String>, Error> {
    let found = credentials::find(environment, storage_name(registry))?;
    Ok(found.map(|credential| match credential {
        Credential::Password { user, .. } => user,
        Credential::IdentityToken(_) | Credential::RegistryToken(_) => "<token>".to_owned(),
    }))
}

fn files(environment: &Environment, file: Option<&Path>) -> Vec<PathBuf> {
    match file {
        Some(file) => vec![file.to_owned()],
        None => credentials::files(environment),
    }
}

fn keep(
    environment: &Environment,
    name: &str,
    credential: &Credential,
    file: Option<&Path>,
) -> Result<Kept, CredentialError> {
    let candidates = files(environment, file);
    let mut chosen = None;
    for path in &candidates {
        let Some(content) = AuthFile::read(path)? else {
            continue;
        };
        if let Some(program) = content.helper_for(name) {
            match helper::store(environment, &program, name, credential) {
                Ok(()) => return Ok(Kept::Helper(program)),
                Err(error) => tracing::warn!(%error, file = %path.display(), "passed over"),
            }
        }
        if content.holds(name) {
            chosen = Some(path);
            break;
        }
    }
    let runtime = environment.path("XDG_RUNTIME_DIR");
    // A stale variable of another session names a directory that is not there.
    let is_stale = |path: &&PathBuf| {
        runtime
            .as_ref()
            .is_some_and(|runtime| path.starts_with(runtime) && !runtime.is_dir())
    };
    let path = chosen
        .or_else(|| candidates.iter().find(|path| !is_stale(path)))
        .ok_or(CredentialError::NoPlace)?;
    change(path, |content| {
        content.insert(name, credential);
        true
    })?;
    Ok(Kept::File(path.clone()))
}

/// Changes a file under a lock on its directory, which is made if it is not there.
fn change(path: &Path, edit: impl FnOnce(&mut AuthFile) -> bool) -> Result<(), CredentialError> {
    let failed = |source: io::Error| CredentialError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let lock = File::open(directory).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let mut content = match AuthFile::read(path)? {
        Some(content) => content,
        None => AuthFile::empty(path),
    };
    if edit(&mut content) {
        content.write()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
