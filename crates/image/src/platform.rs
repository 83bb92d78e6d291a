// SPDX-License-Identifier: Apache-2.0
//! The kind of machine an image is for: operating system, architecture and variant, as Go spells them.
//!
//! An index lists one manifest per platform; [`Platform::choose`] takes the best one for a wanted platform. Rules,
//! as containerd's `platforms` package has them: a 32-bit arm machine runs its own variant and all lower ones, the
//! highest first; `arm64` without variant means `v8`, `arm` without variant means `v7`; amd64 `v2..v4` run on a machine
//! of at least that level, and since the wanted platform is plain `amd64` unless a person says more, plain wins.
//! Manifests for `unknown/unknown` are attestations (`BuildKit` writes them) and never run.
//!
//! Sources: OCI image-spec image-index.md "Image Index Property Descriptions"; Go's `go/build` for the names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::excerpt;
use crate::manifest::{Descriptor, Index};

/// Operating system, architecture and variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`, ...
    pub os: String,
    /// Version of the operating system; used by Windows images only.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v7`, `v8`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Why a text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading platform {0:?}: expected os/architecture or os/architecture/variant, as in linux/arm64"
)]
pub struct PlatformError(String);

impl Platform {
    /// Returns the platform this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, None);
        Self {
            architecture,
            variant,
            os: "linux".to_owned(),
            os_version: None,
            os_features: Vec::new(),
        }
    }

    /// Reads `os/architecture[/variant]`; an architecture alone means that of Linux, and `x86_64`, `aarch64` and the
    /// like are understood.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let refused = || PlatformError(excerpt(text));
        let parts: Vec<&str> = text.split('/').collect();
        let word = |word: &str| {
            let fits = !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
            fits.then(|| word.to_ascii_lowercase()).ok_or_else(refused)
        };
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => ("linux".to_owned(), std::env::consts::ARCH.to_owned(), None),
            [architecture] => ("linux".to_owned(), word(architecture)?, None),
            [os, architecture] => (word(os)?, word(architecture)?, None),
            [os, architecture, variant] => (word(os)?, word(architecture)?, Some(word(variant)?)),
            _ => return Err(refused()),
        };
        let (architecture, variant) = normalise(&architecture, variant.as_deref());
        Ok(Self {
            architecture,
            os,
            os_version: None,
            os_features: Vec::new(),
            variant,
        })
    }

    /// Returns how well an image for `offered` runs where `self` is wanted: lower is better, `None` not at all.
    #[must_use]
    pub fn fitness(&self, offered: &Self) -> Option<u32> {
        let (wanted_architecture, wanted_variant) =
            normalise(&self.architecture, self.variant.as_deref());
        let (architecture, variant) = normalise(&offered.architecture, offered.variant.as_deref());
        if self.os != offered.os || wanted_architecture != architecture {
            return None;
        }
        let default = default_variant(&architecture);
        let wanted = variant_level(wanted_variant.as_deref().or(default))?;
        let offered = variant_level(variant.as_deref().or(default))?;
        wanted.checked_sub(offered)
    }

    /// Returns the manifest of an index that fits best, the first of equals.
    ///
    /// A descriptor without a platform is taken only where the index holds no other choice.
    #[must_use]
    pub fn choose<'index>(&self, index: &'index Index) -> Option<&'index Descriptor> {
        let runnable = || {
            index
                .manifests
                .iter()
                .filter(|descriptor| !descriptor.is_attestation())
        };
        let fitting = runnable()
            .filter_map(|descriptor| {
                Some((self.fitness(descriptor.platform.as_ref()?)?, descriptor))
            })
            .min_by_key(|(fitness, _)| *fitness)
            .map(|(_, descriptor)| descriptor);
        fitting.or_else(|| {
            let mut all = runnable();
            all.next()
                .filter(|only| only.platform.is_none() && all.next().is_none())
        })
    }
}

/// Spells an architecture and its variant the one way that comparisons use.
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, implied) = match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        "x86" | "i386" | "i486" | "i586" | "i686" => ("386", None),
        "powerpc64" => ("ppc64le", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    };
    let variant = variant
        .or(implied)
        .filter(|variant| !variant.is_empty())
        .map(|variant| {
            if variant.starts_with('v') {
                variant.to_owned()
            } else {
                format!("v{variant}")
            }
        })
        .filter(|variant| architecture != "arm64" || variant != "v8")
        .filter(|variant| architecture != "amd64" || variant != "v1");
    (architecture.to_owned(), variant)
}

fn default_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "arm" => Some("v7"),
        "arm64" => Some("v8"),
        "amd64" => Some("v1"),
        _ => None,
    }
}

/// Reads `v7` as 7 and `v8.2` as 8; no variant is level 0; an unknown form fits nothing.
fn variant_level(variant: Option<&str>) -> Option<u32> {
    let Some(variant) = variant else {
        return Some(0);
    };
    variant.strip_prefix('v')?.split('.').next()?.parse().ok()
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(out, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms.iter().map(|platform| {
            let platform = (!platform.is_empty()).then(|| {
                let mut parts = platform.split('/').map(str::to_owned);
                Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next(),
                    os_version: None,
                    os_features: Vec::new(),
                }
            });
            Descriptor {
                platform,
                ..Descriptor::new("", Digest::of(b""), 0)
            }
        });
        Index {
            manifests: manifests.collect(),
            ..Index::default()
        }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let cases: &[(&str, &[&str], Option<usize>)] = &[
            ("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
                Some(1),
            ),
            ("linux/amd64", &["windows/amd64", "unknown/unknown"], None),
            ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            ("linux/arm64/v8", &["linux/arm64"], Some(0)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], Some(1)),
            ("linux/arm", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            ("x86_64", &["linux/amd64"], Some(0)),
            ("linux/amd64", &[""], Some(0)),
            ("linux/amd64", &["", ""], None),
            ("linux/amd64", &["", "linux/amd64"], Some(1)),
            ("linux/riscv64", &["linux/amd64"], None),
        ];
        for (wanted, offered, expected) in cases {
            let index = index(offered);
            let chosen = Platform::parse(wanted).unwrap().choose(&index);
            let expected = expected.map(|place| &index.manifests[place]);
            assert!(
                chosen.map(std::ptr::from_ref) == expected.map(std::ptr::from_ref),
                "{wanted} from {offered:?} gave {chosen:?}"
            );
        }
    }

    #[test]
    fn a_text_that_is_no_platform_is_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "linux//v7",
            "linux/arm/v7/x",
            "lin ux/amd64",
        ] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Platform::parse("linux/arm64/v8").unwrap().to_string(),
            "linux/arm64"
        );
        assert_eq!(
            Platform::parse("Linux/ARM/7").unwrap().to_string(),
            "linux/arm/v7"
        );
    }
}
