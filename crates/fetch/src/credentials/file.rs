// SPDX-License-Identifier: Apache-2.0
//! One `auth.json` or `config.json`: read, looked into, changed, written.
//!
//! The file is kept as the JSON it is, so that everything we do not know survives a login. It is written beside the old
//! one with mode 0600 and renamed over it: nobody ever sees half a file, and no other user ever sees the new one. A symbolic
//! link is followed once to the file it means, or a login would tear it from its place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde_json::{Map, Value};

use super::{Credential, CredentialError, keys, normalised, registry_of};
use crate::secret::Secret;

/// A file of credentials is a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads base64 with padding or without, as both are written by hand.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file of credentials.
pub(crate) struct AuthFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl std::fmt::Debug for AuthFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AuthFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl AuthFile {
    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// Fails where it cannot be read, is too long, or is no JSON object.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let mut text = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
        match read {
            Ok(_length) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(source) => {
                let path = path.to_owned();
                return Err(CredentialError::Read { path, source });
            }
        }
        let format = |problem: &str| CredentialError::Format {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            return Err(format("it is too long"));
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Self::empty(path)));
        }
        match serde_json::from_slice(&text) {
            Ok(Value::Object(content)) => Ok(Some(Self {
                path: path.to_owned(),
                content,
            })),
            Ok(_) => Err(format("it is no JSON object")),
            // The reader's own text may quote the file.
            Err(error) => Err(format(&format!(
                "no JSON at line {}, column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    /// Returns a file with nothing in it, not yet on disk.
    pub(crate) fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            content: Map::new(),
        }
    }

    /// Returns the helper that is responsible for a name: its short name, as in `docker-credential-NAME`.
    pub(crate) fn helper_for(&self, name: &str) -> Option<String> {
        let helpers = self.content.get("credHelpers").and_then(Value::as_object);
        let of_name = helpers.and_then(|helpers| {
            keys(name).find_map(|key| {
                let mut named = helpers.iter();
                named
                    .find(|(host, _)| normalised(host) == key)
                    .map(|(_, helper)| helper)
            })
        });
        of_name
            .or_else(|| self.content.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|helper| !helper.is_empty())
            .map(str::to_owned)
    }

    /// Returns the file's own entry for a name.
    pub(super) fn entry_for(&self, name: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(entries) = self.content.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let entry = keys(name).find_map(|key| {
            let exact = entries.get_key_value(key);
            exact.or_else(|| entries.iter().find(|(host, _)| normalised(host) == key))
        });
        match entry {
            Some((key, entry)) => self.read_entry(key, entry),
            None => Ok(None),
        }
    }

    fn read_entry(&self, key: &str, entry: &Value) -> Result<Option<Credential>, CredentialError> {
        let text = |field: &str| {
            entry
                .get(field)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        if let Some(pair) = text("auth") {
            let decoded = LENIENT.decode(pair.trim()).ok();
            let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
            let Some((user, password)) = pair else {
                return Err(CredentialError::Format {
                    path: self.path.clone(),
                    problem: format!("`auth` of {key:?} is no base64 of user:password"),
                });
            };
            // Docker pads with NUL.
            return Ok(Some(password_of(user, password.trim_end_matches('\0'))));
        }
        Ok(text("username")
            .zip(text("password"))
            .map(|(user, password)| password_of(user, password)))
    }

    /// Tells whether the file itself holds an entry for exactly this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        let entries = self.content.get("auths").and_then(Value::as_object);
        entries.is_some_and(|entries| entries.keys().any(|key| normalised(key) == name))
    }

    /// Tells whether the file itself holds any entry.
    pub(crate) fn holds_any(&self) -> bool {
        let entries = self.content.get("auths").and_then(Value::as_object);
        entries.is_some_and(|entries| !entries.is_empty())
    }

    /// Puts a name and password in.
    pub(crate) fn insert(&mut self, name: &str, credential: &Credential) {
        let entry = match credential {
            Credential::Password { user, password } => {
                let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
                serde_json::json!({ "auth": pair })
            }
            Credential::IdentityToken(token) => {
                serde_json::json!({ "identitytoken": token.expose() })
            }
            Credential::RegistryToken(token) => {
                serde_json::json!({ "registrytoken": token.expose() })
            }
        };
        let _had = self.remove(name);
        let entries = self
            .content
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        if !entries.is_object() {
            *entries = Value::Object(Map::new());
        }
        if let Some(entries) = entries.as_object_mut() {
            // Docker knows its Hub by this key alone; podman reads both.
            let key = if name == "docker.io" && self.path.ends_with("config.json") {
                "https://index.docker.io/v1/"
            } else {
                name
            };
            let _old = entries.insert(key.to_owned(), entry);
        }
    }

    /// Takes all spellings of a name out; tells whether there were any.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let entries = self.content.get_mut("auths").and_then(Value::as_object_mut);
        let Some(entries) = entries else {
            return false;
        };
        let before = entries.len();
        entries.retain(|key, _| normalised(key) != name);
        entries.len() != before
    }

    /// Takes all entries out; tells whether there were any.
    pub(crate) fn clear(&mut self) -> bool {
        let entries = self.content.get_mut("auths").and_then(Value::as_object_mut);
        entries.is_some_and(|entries| {
            let had_any = !entries.is_empty();
            entries.clear();
            had_any
        })
    }

    /// Writes the file, with mode 0600, in one step, into a directory that is there.
    pub(crate) fn write(&self) -> Result<(), CredentialError> {
        let failed = |source| CredentialError::Write {
            path: self.path.clone(),
            source,
        };
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut text = serde_json::to_vec_pretty(&self.content)
            .map_err(io::Error::from)
            .map_err(failed)?;
        text.push(b'\n');
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written =
            write_new(&temporary, &text).and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            let _cleaned = std::fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }
}

fn password_of(user: &str, password: &str) -> Credential {
    Credential::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Returns the registry under which credentials for a name as typed are stored: old spellings and Docker Hub's are one.
pub(crate) fn storage_name(name: &str) -> &str {
    let bare = normalised(name);
    if registry_of(bare).is_empty() {
        name
    } else {
        bare
    }
}
