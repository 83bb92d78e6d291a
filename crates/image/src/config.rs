// SPDX-License-Identifier: Apache-2.0
//! How an image wants to be run: the configuration document, in OCI's and in Docker's spelling.
//!
//! The digest of its bytes is the image's identifier, so the bytes are kept as they came; the fields are read from
//! them once. Go writes `null` for empty lists and maps and old builders wrote a string for a list of one: both are read.
//! Fields that nobody here needs stay in the raw bytes.
//!
//! Sources: OCI image-spec config.md; moby `image/spec` v1.2 and `api/types/container/config.go` for `Healthcheck`,
//! `Shell`, `StopTimeout`, `OnBuild`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::manifest::{LAYERS_MAX, MANIFEST_BYTES_MAX, null_is_default};
use crate::{Digest, Platform};

/// Largest configuration that is read; Docker's own are tens of kilobytes.
pub const CONFIG_BYTES_MAX: usize = MANIFEST_BYTES_MAX;

/// An image's configuration, and the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    raw: Vec<u8>,
    digest: Digest,
    document: ConfigDocument,
}

/// The document's fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigDocument {
    /// When the image was made, as RFC 3339 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The architecture it is for; missing in images of other things.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The architecture's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system it is for.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// The operating system's version.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// The operating system's features.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_features: Vec<String>,
    /// How containers of it run.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// The layers' digests after decompression.
    pub rootfs: RootFs,
    /// How it was built.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub history: Vec<History>,
}

/// How containers of an image run, unless the person who runs them says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `port/protocol` of what listens.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "set")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// What is always executed.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Vec<String>,
    /// Its default arguments, or the program where there is no entrypoint.
    #[serde(deserialize_with = "words")]
    pub cmd: Vec<String>,
    /// Paths that hold data of their own.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "set")]
    pub volumes: BTreeSet<String>,
    /// The first process's directory; empty means `/`.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Remarks of the builder.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end: a name or a number; empty means SIGTERM.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// The shell that builders use for the shell form.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub shell: Vec<String>,
    /// What builders of images on top run first.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub on_build: Vec<String>,
    /// How to ask whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only: the command line is already escaped.
    #[serde(
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_is_default"
    )]
    pub args_escaped: bool,
}

/// How to ask a container whether it is well; times in nanoseconds, 0 means the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// Empty: inherit. `NONE`: never. `CMD` and arguments, or `CMD-SHELL` and a line.
    #[serde(deserialize_with = "words")]
    pub test: Vec<String>,
    /// Between two questions.
    pub interval: i64,
    /// Until an answer counts as none.
    pub timeout: i64,
    /// In which bad answers do not count.
    pub start_period: i64,
    /// Between two questions in that period.
    pub start_interval: i64,
    /// Bad answers in a row that make it ill.
    pub retries: i64,
}

/// The layers that make up the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// Digest of each layer's tar, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By which instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_is_default"
    )]
    pub empty_layer: bool,
}

/// Why a document is no configuration that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The document is too long.
    #[error("reading an image configuration of {0} bytes: at most {CONFIG_BYTES_MAX} are allowed")]
    Length(usize),
    /// The document is not JSON, or a field has the wrong type.
    #[error("reading an image configuration")]
    Json(#[from] serde_json::Error),
    /// The root file system is made of something else than layers.
    #[error(
        "reading an image configuration: its root file system is of type {0:?}, only \"layers\" is known"
    )]
    RootFs(String),
    /// There are absurdly many layers.
    #[error("reading an image configuration of {0} layers: at most {LAYERS_MAX} are allowed")]
    Layers(usize),
}

impl ImageConfig {
    /// Reads a configuration and keeps its bytes.
    pub fn parse(raw: impl Into<Vec<u8>>) -> Result<Self, ConfigError> {
        let raw = raw.into();
        if raw.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::Length(raw.len()));
        }
        let document: ConfigDocument = serde_json::from_slice(&raw)?;
        let RootFs { kind, diff_ids } = &document.rootfs;
        if kind != "layers" && !kind.is_empty() {
            return Err(ConfigError::RootFs(crate::digest::excerpt(kind)));
        }
        if diff_ids.len() > LAYERS_MAX {
            return Err(ConfigError::Layers(diff_ids.len()));
        }
        Ok(Self {
            digest: Digest::of(&raw),
            raw,
            document,
        })
    }

    /// Makes a configuration of our own, as `import` does.
    pub fn from_document(document: ConfigDocument) -> Result<Self, ConfigError> {
        let raw = serde_json::to_vec(&document)?;
        Ok(Self {
            digest: Digest::of(&raw),
            raw,
            document,
        })
    }

    /// Returns the bytes as they came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the digest of the bytes: the image's identifier.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns all fields.
    #[must_use]
    pub fn document(&self) -> &ConfigDocument {
        &self.document
    }

    /// Returns how containers run.
    #[must_use]
    pub fn run(&self) -> &RunConfig {
        &self.document.config
    }

    /// Returns the digests of the layers' tars, the lowest first.
    #[must_use]
    pub fn diff_ids(&self) -> &[Digest] {
        &self.document.rootfs.diff_ids
    }

    /// Returns what the image is for, if it says so.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let document = &self.document;
        (!document.os.is_empty() && !document.architecture.is_empty()).then(|| Platform {
            architecture: document.architecture.clone(),
            os: document.os.clone(),
            os_version: document.os_version.clone(),
            os_features: document.os_features.clone(),
            variant: document
                .variant
                .clone()
                .filter(|variant| !variant.is_empty()),
        })
    }
}

/// Go's sets: an object whose keys are the members and whose values are empty objects.
mod set {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer};
    use serde::ser::{SerializeMap, Serializer};

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(set.len()))?;
        for member in set {
            map.serialize_entry(member, &serde_json::Map::new())?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map =
            Option::<BTreeMap<String, serde_json::Value>>::deserialize(input)?.unwrap_or_default();
        Ok(map.into_keys().collect())
    }
}

/// Reads a list of words: a list, `null`, or one word as old builders wrote it.
fn words<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Option::deserialize(input)? {
        None => Vec::new(),
        Some(Words::One(word)) => vec![word],
        Some(Words::Many(words)) => words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_configuration_is_read() {
        let raw = br#"{"architecture":"amd64","config":{"Hostname":"","User":"www-data:33","ExposedPorts":{"80/tcp":{}},
            "Env":["PATH=/bin","A=b=c"],"Cmd":["nginx","-g"],"Healthcheck":{"Test":["CMD","true"],"Interval":30000000000},
            "Volumes":{"/data":{}},"WorkingDir":"/srv","Entrypoint":"/entry.sh","OnBuild":null,
            "Labels":{"a":"b"},"StopSignal":"SIGQUIT","StopTimeout":7},
            "created":"2024-01-02T03:04:05Z","history":[{"created_by":"RUN x","empty_layer":true}],"os":"linux","variant":"",
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let config = ImageConfig::parse(&raw[..]).unwrap();
        let run = config.run();
        assert_eq!(run.user, "www-data:33");
        assert_eq!(run.entrypoint, ["/entry.sh"]);
        assert_eq!(run.cmd, ["nginx", "-g"]);
        assert_eq!(run.env, ["PATH=/bin", "A=b=c"]);
        assert_eq!(run.working_dir, "/srv");
        assert_eq!(
            (run.stop_signal.as_str(), run.stop_timeout),
            ("SIGQUIT", Some(7))
        );
        assert_eq!(run.exposed_ports.iter().collect::<Vec<_>>(), ["80/tcp"]);
        assert_eq!(run.volumes.iter().collect::<Vec<_>>(), ["/data"]);
        assert_eq!(run.healthcheck.as_ref().unwrap().interval, 30_000_000_000);
        assert_eq!(config.diff_ids(), [Digest::of(b"")]);
        assert_eq!(config.platform().unwrap().to_string(), "linux/amd64");
        assert_eq!(config.digest(), Digest::of(raw));
        assert_eq!(config.raw(), raw);
        assert!(config.document().history[0].empty_layer);
    }

    #[test]
    fn nulls_and_absences_are_empty() {
        for raw in [
            r#"{"rootfs":{"type":"layers","diff_ids":null}}"#,
            r#"{"config":null,"history":null,"rootfs":{}}"#,
            r#"{"config":{"User":null,"Env":null,"Cmd":null,"Entrypoint":null,"Labels":null,"Volumes":null,"ExposedPorts":null,
               "WorkingDir":null,"StopSignal":null,"StopTimeout":null,"Healthcheck":null,"ArgsEscaped":null},"rootfs":{"type":"layers"}}"#,
        ] {
            let config = ImageConfig::parse(raw).unwrap_or_else(|error| panic!("{raw}: {error:?}"));
            assert_eq!(config.run(), &RunConfig::default(), "{raw}");
            assert_eq!(config.platform(), None);
        }
    }

    #[test]
    fn our_own_configuration_is_read_again() {
        let mut document = ConfigDocument {
            os: "linux".into(),
            ..ConfigDocument::default()
        };
        document.config.cmd = vec!["sh".into()];
        document.config.volumes.insert("/data".into());
        let made = ImageConfig::from_document(document).unwrap();
        assert_eq!(ImageConfig::parse(made.raw()).unwrap(), made);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for raw in [
            "",
            "[]",
            "{}",
            r#"{"rootfs":{"type":"windows"}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:x"]}}"#,
        ] {
            assert!(ImageConfig::parse(raw).is_err(), "{raw}");
        }
        assert!(matches!(
            ImageConfig::parse(vec![b' '; CONFIG_BYTES_MAX + 1]),
            Err(ConfigError::Length(_))
        ));
    }
}
