// SPDX-License-Identifier: Apache-2.0
//! `registries.conf`: where a registry really is, its mirrors, and which ones need no TLS or are forbidden.
//!
//! # Theory of operation
//! One main file counts: `$CONTAINERS_REGISTRIES_CONF`, else the user's, else the machine's; then the `*.conf` of the
//! machine's and of the user's `registries.conf.d`, in order of their names, each replacing entries of equal prefix. Of all
//! `[[registry]]` tables the one with the longest prefix that covers the reference is taken; a prefix ends at a
//! border of the name, and may begin with `*.`, which stands for any sub-domain. The prefix is replaced by `location`; its
//! mirrors are tried before it. Version 1 files are read as far as `insecure` and `block` go. Short names and
//! aliases are not looked at: a short name always means Docker Hub.
//!
//! Source: containers-registries.conf(5), containers-registries.conf.d(5).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use wolffia_image::Reference;

use crate::environment::Environment;

/// Such files are a few KiB; shipped alias lists some hundred.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 256;

/// Why the configuration of registries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("reading {path}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: toml::de::Error,
    },
}

/// The configuration of all registries.
#[derive(Debug, Default)]
pub struct Registries {
    rules: Vec<Rule>,
}

/// One `[[registry]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Rule {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    #[serde(rename = "pull-from-mirror")]
    pulls: String,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Document {
    registry: Vec<Rule>,
    registries: Option<VersionOne>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionOne {
    insecure: Names,
    block: Names,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    registries: Vec<String>,
}

/// A place that serves a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host` or `host:port`.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// Whether it may be reached without TLS, or with a certificate nobody vouches for.
    pub insecure: bool,
}

/// Where a reference is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Try these, in order.
    Try(Vec<Place>),
    /// Not at all.
    Blocked,
}

impl Registries {
    /// Reads the configuration files.
    ///
    /// # Errors
    /// Fails where a file exists that cannot be read or understood: to pass over it could send a name to the wrong host.
    pub fn read(environment: &Environment) -> Result<Self, RegistriesError> {
        let mut registries = Self::default();
        for path in paths(environment) {
            if let Some(document) = read(&path)? {
                registries.merge(document);
            }
        }
        Ok(registries)
    }

    fn merge(&mut self, document: Document) {
        let version_one = document.registries.unwrap_or_default();
        let mut old = Vec::new();
        for name in version_one.insecure.registries {
            old.push(Rule {
                location: name,
                insecure: true,
                ..Rule::default()
            });
        }
        for name in version_one.block.registries {
            old.push(Rule {
                location: name,
                blocked: true,
                ..Rule::default()
            });
        }
        for mut rule in old.into_iter().chain(document.registry) {
            if rule.prefix.is_empty() {
                rule.prefix.clone_from(&rule.location);
            }
            let prefix = rule.prefix.trim_end_matches('/').to_owned();
            if prefix.is_empty() {
                continue;
            }
            self.rules.retain(|known| known.prefix != prefix);
            self.rules.push(Rule { prefix, ..rule });
        }
    }

    /// Returns where a reference is to be had.
    pub fn places(&self, reference: &Reference) -> Places {
        let name = reference.name();
        let rule = self
            .rules
            .iter()
            .filter_map(|rule| Some((rule, rule.covered(&name)?)))
            .max_by_key(|(_, covered)| *covered);
        let Some((rule, covered)) = rule else {
            return Places::Try(vec![Place::of(&name, false)]);
        };
        if rule.blocked {
            return Places::Blocked;
        }
        let rest = &name[covered..];
        let by_digest = reference.digest().is_some();
        let mirrors = rule
            .mirror
            .iter()
            .filter(|mirror| !mirror.location.is_empty())
            .filter(|mirror| match mirror.pulls.as_str() {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => by_digest || !rule.mirror_by_digest_only,
            })
            .map(|mirror| Place::of(&moved(&mirror.location, rest), mirror.insecure));
        let place = if rule.location.is_empty() {
            Place::of(&name, rule.insecure)
        } else {
            Place::of(&moved(&rule.location, rest), rule.insecure)
        };
        Places::Try(mirrors.chain(std::iter::once(place)).collect())
    }

    /// Tells whether a registry, named alone, may be reached without TLS.
    pub fn is_insecure(&self, registry: &str) -> bool {
        let rule = self
            .rules
            .iter()
            .filter_map(|rule| Some((rule, rule.covered(registry)?)))
            .max_by_key(|(_, covered)| *covered);
        rule.is_some_and(|(rule, _)| rule.insecure)
    }
}

impl Rule {
    /// Returns how many bytes of a name the prefix covers.
    fn covered(&self, name: &str) -> Option<usize> {
        let length = match self.prefix.strip_prefix('*') {
            // The name's registry must end so, with at least one label before the dot.
            Some(suffix) => {
                let end = name.find('/').unwrap_or(name.len());
                let (host, _port) = name[..end].split_once(':').unwrap_or((&name[..end], ""));
                let covers = |host: &str| {
                    host.ends_with(suffix) && host.len() > suffix.len() && suffix.starts_with('.')
                };
                if !covers(host) && !covers(&name[..end]) {
                    return None;
                }
                end
            }
            None => name
                .starts_with(&self.prefix)
                .then_some(self.prefix.len())?,
        };
        // A prefix ends where a component does.
        let at_border = matches!(name.as_bytes().get(length), None | Some(b'/' | b':'));
        at_border.then_some(length)
    }
}

impl Place {
    fn of(name: &str, insecure: bool) -> Self {
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            insecure,
        }
    }
}

fn moved(location: &str, rest: &str) -> String {
    format!("{}{rest}", location.trim_end_matches('/'))
}

/// Returns the files that may exist, each overriding those before it.
fn paths(environment: &Environment) -> Vec<PathBuf> {
    let user = environment.configuration("containers/registries.conf");
    let main = environment
        .path("CONTAINERS_REGISTRIES_CONF")
        .or_else(|| user.filter(|path| path.is_file()))
        .unwrap_or_else(|| environment.machine("/etc/containers/registries.conf"));
    let mut paths = vec![main];
    paths.extend(drop_ins(
        &environment.machine("/etc/containers/registries.conf.d"),
    ));
    if let Some(directory) = environment.configuration("containers/registries.conf.d") {
        paths.extend(drop_ins(&directory));
    }
    paths
}

fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .take(FILES_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<Option<Document>, RegistriesError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_length) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(RegistriesError::Read { path, source });
        }
    }
    match toml::from_str(&text) {
        Ok(document) => Ok(Some(document)),
        Err(source) => Err(RegistriesError::Format {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
