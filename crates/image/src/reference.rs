// SPDX-License-Identifier: Apache-2.0
//! The name of an image as people type it: `debian`, `ghcr.io/owner/app:1.2`, `name@sha256:...`.
//!
//! Theory of operation: the text is split from the right (digest, then tag), the first path component is a registry
//! if it has a dot, a colon, an upper-case letter or is `localhost`; otherwise the name is short and means Docker Hub, and a
//! short name of one component means its `library/`. Then every part is checked against the grammar. A name with
//! neither tag nor digest means `latest`. Limits: name 255 bytes, tag 128.
//!
//! Sources: the grammar in the head of distribution/reference `reference.go`, and its `normalize.go`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::digest::{DigestError, excerpt};

/// The registry that short names mean.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that is meant where neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";

const DEFAULT_NAMESPACE: &str = "library/";
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A complete reference: where, what, and which of it.
///
/// At least one of tag and digest is present; where both are, the digest decides and the tag is a remark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty.
    #[error("reading an image reference: it is empty")]
    Empty,
    /// The registry's part breaks the grammar.
    #[error(
        "reading image reference {0:?}: the registry must be a host name or address, perhaps with a port"
    )]
    Registry(String),
    /// The repository's part breaks the grammar.
    #[error(
        "reading image reference {0:?}: a repository is of a-z, 0-9, single '.', '_' or '-' between, and '/'"
    )]
    Repository(String),
    /// The repository's part has upper-case letters: said apart, since everybody makes this mistake once.
    #[error("reading image reference {0:?}: a repository's name must be lower-case")]
    UpperCase(String),
    /// The name is a bare identifier, which must not be mistaken for a repository.
    #[error("reading image reference {0:?}: 64 hexadecimal digits are an identifier, not a name")]
    Identifier(String),
    /// The name is too long.
    #[error("reading image reference {0:?}: a name has at most {NAME_BYTES_MAX} bytes")]
    Length(String),
    /// The tag breaks the grammar.
    #[error(
        "reading image reference {0:?}: a tag is 1 to {TAG_BYTES_MAX} of a-z, A-Z, 0-9, '_', '.', '-', the first no '.' or '-'"
    )]
    Tag(String),
    /// The digest is none.
    #[error("reading the digest of image reference {reference:?}")]
    Digest {
        /// What was read.
        reference: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

impl Reference {
    /// Reads what a person typed, and completes it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if Digest::parse_hex(text).is_some() {
            return Err(ReferenceError::Identifier(excerpt(text)));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).map_err(|source| ReferenceError::Digest {
                    reference: excerpt(text),
                    source,
                })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => (
                &rest[..name_start + colon],
                Some(&rest[name_start + colon + 1..]),
            ),
            None => (rest, None),
        };
        let (registry, repository) = split_name(name);
        let reference = Self {
            registry: registry.to_owned(),
            repository,
            tag: tag
                .or(digest.is_none().then_some(DEFAULT_TAG))
                .map(str::to_owned),
            digest,
        };
        reference.check(text)?;
        Ok(reference)
    }

    fn check(&self, text: &str) -> Result<(), ReferenceError> {
        if !is_registry(&self.registry) {
            return Err(ReferenceError::Registry(excerpt(text)));
        }
        if !is_repository(&self.repository) {
            let lower = self.repository.to_ascii_lowercase();
            return Err(if lower != self.repository && is_repository(&lower) {
                ReferenceError::UpperCase(excerpt(text))
            } else {
                ReferenceError::Repository(excerpt(text))
            });
        }
        if self.registry.len() + 1 + self.repository.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::Length(excerpt(text)));
        }
        if self.tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(excerpt(text)));
        }
        Ok(())
    }

    /// Returns the registry: `docker.io`, `localhost:5000`, ...
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository: `library/debian`, ...
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, if one was said or implied.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was said.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns what a registry is asked for after `/manifests/`: the digest if there is one, else the tag.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Returns `registry/repository` without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns `registry/repository` as short as a person would write it.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = self
            .repository
            .strip_prefix(DEFAULT_NAMESPACE)
            .unwrap_or(&self.repository);
        // `library/a/b` must keep its namespace, or it would be read as another repository.
        if short.contains('/') {
            self.repository.clone()
        } else {
            short.to_owned()
        }
    }

    /// Returns the shortest text that is read as this reference, with its tag: `debian:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_version(self.familiar_name())
    }

    /// Returns the same name with this digest instead of tag and digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn with_version(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

/// Finds the registry and completes the repository.
fn split_name(name: &str) -> (&str, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if looks_like_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == OLD_DEFAULT_REGISTRY {
        DEFAULT_REGISTRY
    } else {
        registry
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        (registry, format!("{DEFAULT_NAMESPACE}{repository}"))
    } else {
        (registry, repository.to_owned())
    }
}

fn looks_like_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return false;
        };
        let is_address = !address.is_empty()
            && address
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.');
        if !is_address {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if after.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

fn is_repository(text: &str) -> bool {
    text.split('/').all(|component| {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = component.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
            return false;
        };
        if !is_word(*first) || !is_word(*last) {
            return false;
        }
        // Between words: one dot, one or two underscores, or any number of dashes.
        bytes.split(|byte| is_word(*byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__")
                || separator.iter().all(|byte| *byte == b'-')
        })
    })
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_word)
        && text
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.with_version(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(input)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_does() {
        let cases = [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("owner/app:1", "docker.io/owner/app:1", "owner/app:1"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "localhost/app:latest",
            ),
            (
                "localhost:5000/app",
                "localhost:5000/app:latest",
                "localhost:5000/app:latest",
            ),
            ("app:5000", "docker.io/library/app:5000", "app:5000"),
            (
                "127.0.0.1:5000/a/b:x",
                "127.0.0.1:5000/a/b:x",
                "127.0.0.1:5000/a/b:x",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("Registry/a", "Registry/a:latest", "Registry/a:latest"),
            (
                "ghcr.io/o/a--b__c.d_e",
                "ghcr.io/o/a--b__c.d_e:latest",
                "ghcr.io/o/a--b__c.d_e:latest",
            ),
        ];
        for (text, full, familiar) in cases {
            let reference =
                Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(full).unwrap(), reference, "{text}");
            assert_eq!(Reference::parse(familiar).unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_decides() {
        let bare = Reference::parse(&format!("debian@sha256:{HEX}")).unwrap();
        assert_eq!(
            (bare.tag(), bare.version()),
            (None, format!("sha256:{HEX}"))
        );
        let both = Reference::parse(&format!("localhost:1/a:b@sha256:{HEX}")).unwrap();
        assert_eq!(
            (both.tag(), both.version()),
            (Some("b"), format!("sha256:{HEX}"))
        );
        assert_eq!(both.to_string(), format!("localhost:1/a:b@sha256:{HEX}"));
    }

    #[test]
    fn a_text_that_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a@",
            ":tag",
            "Debian",
            "a b",
            "a/../b",
            "..",
            "-a",
            "a-",
            "a..b",
            "a.-b",
            "a___b",
            "a:.x",
            "a:-x",
            "a:b/c",
            "a:b:c",
            "a@sha256:12",
            "a@md5:12",
            "exa_mple.com/a",
            "-x.com/a",
            "x.com:port/a",
            "x.com:70000/a",
            "x.com:+1/a",
            "[::1/a",
            "[]/a",
            "[::1]x/a",
            "http://a/b",
            "a?b",
            "\u{e4}",
            HEX,
            &long,
            &long_tag,
        ] {
            assert!(
                Reference::parse(text).is_err(),
                "{text:?} gave {:?}",
                Reference::parse(text)
            );
        }
        assert!(matches!(
            Reference::parse("Debian"),
            Err(ReferenceError::UpperCase(_))
        ));
    }

    mod any_text {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn is_refused_or_read_the_same_again(text in "[a-zA-Z0-9.:/@_-]{0,40}") {
                if let Ok(reference) = Reference::parse(&text) {
                    prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                    prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
                }
            }
        }
    }
}
