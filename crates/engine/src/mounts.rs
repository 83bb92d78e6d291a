// SPDX-License-Identifier: Apache-2.0
//! `-v`, `--mount` and `--tmpfs` as data.
//!
//! Source: docker's "Bind mounts" and "tmpfs mounts" pages. Named volumes come with the volumes of the engine; until then they are refused with
//! that reason, because a name taken for a path would be worse.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// What is mounted.
    pub source: Source,
    /// Where it appears inside.
    pub target: PathBuf,
    /// It cannot be written through this mount.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A path of this machine.
    Bind {
        /// The path, absolute.
        path: PathBuf,
        /// Make a directory where there is nothing (`-v` does, `--mount` does not).
        create: bool,
        /// Mounts below it come along.
        recursive: bool,
        /// `shared`, `slave` or `private`.
        propagation: Propagation,
    },
    /// Memory.
    Tmpfs {
        /// At most so many bytes.
        size_bytes: Option<u64>,
        /// Permission bits of its top.
        mode: Option<u32>,
        /// Options as mount(8) has them, besides size and mode.
        flags: Vec<String>,
    },
}

/// Whether mounts made later pass through a bind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// Those of this machine appear inside.
    Slave,
}

/// A mount that cannot be read or is not served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadMount {
    /// Not of the form.
    #[error("{flag} {given:?}: {problem}")]
    Form {
        /// The flag.
        flag: &'static str,
        /// Its value.
        given: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A key or option that does not exist.
    #[error("{flag} {given:?}: there is no option {option:?}")]
    Unknown {
        /// The flag.
        flag: &'static str,
        /// Its value.
        given: String,
        /// The option.
        option: String,
    },
    /// A key or option that is not served.
    #[error("{flag} {given:?}: {option} is not served yet: {reason}")]
    Unserved {
        /// The flag.
        flag: &'static str,
        /// Its value.
        given: String,
        /// The option.
        option: String,
        /// Why.
        reason: &'static str,
    },
}

const NAMED: &str =
    "named and anonymous volumes come later; a path of this machine starts with / or ./";

impl MountRequest {
    /// Reads `-v SOURCE:TARGET[:OPTIONS]`; relative sources are below `current`.
    pub fn parse_volume(given: &str, current: &std::path::Path) -> Result<MountRequest, BadMount> {
        const FLAG: &str = "-v";
        let form = |problem| BadMount::Form {
            flag: FLAG,
            given: given.to_owned(),
            problem,
        };
        let unserved = |option: &str, reason| BadMount::Unserved {
            flag: FLAG,
            given: given.to_owned(),
            option: option.to_owned(),
            reason,
        };
        let mut parts = given.splitn(3, ':');
        let source = parts.next().unwrap_or_default();
        let Some(target) = parts.next() else {
            return Err(unserved("an anonymous volume", NAMED));
        };
        let path = if source.starts_with('/') {
            PathBuf::from(source)
        } else if source == "."
            || source == ".."
            || source.starts_with("./")
            || source.starts_with("../")
        {
            current.join(source)
        } else if source.is_empty() {
            return Err(form("the source is empty"));
        } else {
            return Err(unserved("a named volume", NAMED));
        };
        let (mut read_only, mut recursive, mut propagation) = (false, true, Propagation::Private);
        for option in parts
            .next()
            .unwrap_or_default()
            .split(',')
            .filter(|option| !option.is_empty())
        {
            match option {
                "ro" | "readonly" => read_only = true,
                "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" | "private"
                | "rprivate" => {}
                "rbind" => recursive = true,
                "bind" => recursive = false,
                "slave" | "rslave" => propagation = Propagation::Slave,
                "shared" | "rshared" => {
                    return Err(unserved(
                        option,
                        "mounts of a user namespace never reach the machine",
                    ));
                }
                "U" | "O" | "nocopy" => return Err(unserved(option, "it comes with volumes")),
                _ => {
                    return Err(BadMount::Unknown {
                        flag: FLAG,
                        given: given.to_owned(),
                        option: option.to_owned(),
                    });
                }
            }
        }
        Ok(MountRequest {
            source: Source::Bind {
                path,
                create: true,
                recursive,
                propagation,
            },
            target: absolute(target)
                .ok_or_else(|| form("the place inside must be absolute, and not /"))?,
            read_only,
        })
    }

    /// Reads `--tmpfs TARGET[:OPTIONS]`.
    pub fn parse_tmpfs(given: &str) -> Result<MountRequest, BadMount> {
        const FLAG: &str = "--tmpfs";
        let form = |problem| BadMount::Form {
            flag: FLAG,
            given: given.to_owned(),
            problem,
        };
        let (target, options) = given.split_once(':').unwrap_or((given, ""));
        let (mut size_bytes, mut mode, mut flags, mut read_only) = (None, None, Vec::new(), false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", value)) => {
                    size_bytes =
                        Some(size(value).ok_or_else(|| form("the size is not a number of bytes"))?);
                }
                Some(("mode", value)) => {
                    mode = Some(octal(value).ok_or_else(|| form("the mode is not octal"))?);
                }
                Some(("uid" | "gid" | "nr_inodes" | "nr_blocks", _)) => {
                    flags.push(option.to_owned());
                }
                None if option == "ro" => read_only = true,
                None if option == "rw" => {}
                None if TMPFS_FLAGS.contains(&option) => flags.push(option.to_owned()),
                _ => {
                    return Err(BadMount::Unknown {
                        flag: FLAG,
                        given: given.to_owned(),
                        option: option.to_owned(),
                    });
                }
            }
        }
        Ok(MountRequest {
            source: Source::Tmpfs {
                size_bytes,
                mode,
                flags,
            },
            target: absolute(target)
                .ok_or_else(|| form("the place inside must be absolute, and not /"))?,
            read_only,
        })
    }

    /// Reads `--mount type=bind|tmpfs,source=...,target=...`.
    pub fn parse_mount(given: &str, current: &std::path::Path) -> Result<MountRequest, BadMount> {
        let read = MountWords::read(given)?;
        let form = |problem| BadMount::Form {
            flag: MOUNT,
            given: given.to_owned(),
            problem,
        };
        let target = read.target.ok_or_else(|| form("target= is missing"))?;
        let target = absolute(&target)
            .ok_or_else(|| form("the place inside must be absolute, and not /"))?;
        let source = match (read.kind.as_deref(), read.source) {
            (Some("bind"), Some(source)) => Source::Bind {
                path: current.join(source),
                create: read.create,
                recursive: read.recursive,
                propagation: read.propagation,
            },
            (Some("bind"), None) => return Err(form("source= is missing")),
            (Some("tmpfs"), None) => Source::Tmpfs {
                size_bytes: read.size_bytes,
                mode: read.mode,
                flags: Vec::new(),
            },
            (Some("tmpfs"), Some(_)) => return Err(form("a tmpfs has no source")),
            (Some("volume") | None, _) => {
                return Err(BadMount::Unserved {
                    flag: MOUNT,
                    given: given.to_owned(),
                    option: "type=volume (the default type)".into(),
                    reason: NAMED,
                });
            }
            (Some("image" | "npipe" | "cluster"), _) => {
                return Err(BadMount::Unserved {
                    flag: MOUNT,
                    given: given.to_owned(),
                    option: format!("type={}", read.kind.unwrap_or_default()),
                    reason: "bind and tmpfs are served",
                });
            }
            (Some(_), _) => return Err(form("the type is neither bind nor tmpfs")),
        };
        Ok(MountRequest {
            source,
            target,
            read_only: read.read_only,
        })
    }
}

const MOUNT: &str = "--mount";

const TMPFS_FLAGS: [&str; 8] = [
    "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime",
];

/// The words of `--mount`, before they are put together.
#[derive(Default)]
struct MountWords {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    create: bool,
    recursive: bool,
    propagation: Propagation,
    size_bytes: Option<u64>,
    mode: Option<u32>,
}

impl MountWords {
    fn read(given: &str) -> Result<MountWords, BadMount> {
        let form = |problem| BadMount::Form {
            flag: MOUNT,
            given: given.to_owned(),
            problem,
        };
        let mut words = MountWords {
            recursive: true,
            ..MountWords::default()
        };
        for word in given.split(',') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let on = || match value {
                "" | "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(form("a switch is neither true nor false")),
            };
            match key {
                "type" => words.kind = Some(value.to_owned()),
                "source" | "src" => words.source = Some(value.to_owned()),
                "target" | "destination" | "dst" => words.target = Some(value.to_owned()),
                "readonly" | "ro" => words.read_only = on()?,
                "bind-create-src" => words.create = on()?,
                "bind-nonrecursive" => words.recursive = !on()?,
                "bind-recursive" => {
                    words.recursive = match value {
                        "enabled" | "writable" => true,
                        "disabled" => false,
                        _ => return Err(form("bind-recursive is neither enabled nor disabled")),
                    }
                }
                "bind-propagation" => {
                    words.propagation = match value {
                        "private" | "rprivate" => Propagation::Private,
                        "slave" | "rslave" => Propagation::Slave,
                        _ => return Err(form("bind-propagation is neither private nor slave")),
                    }
                }
                "consistency" => {}
                "tmpfs-size" => {
                    let bytes = size(value);
                    words.size_bytes =
                        Some(bytes.ok_or_else(|| form("the size is not a number of bytes"))?);
                }
                "tmpfs-mode" => {
                    words.mode = Some(octal(value).ok_or_else(|| form("the mode is not octal"))?);
                }
                _ => {
                    return Err(BadMount::Unknown {
                        flag: MOUNT,
                        given: given.to_owned(),
                        option: key.to_owned(),
                    });
                }
            }
        }
        Ok(words)
    }
}

/// Returns an absolute path without `.` and `..`; `None` for a relative one and for `/`.
fn absolute(text: &str) -> Option<PathBuf> {
    if !text.starts_with('/') || text.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| PathBuf::from(format!("/{}", parts.join("/"))))
}

/// Reads `64m`, `1g`, `4096`.
fn size(text: &str) -> Option<u64> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let amount: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    amount.checked_mul(unit)
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn bind(path: &str, target: &str, read_only: bool) -> MountRequest {
        MountRequest {
            source: Source::Bind {
                path: path.into(),
                create: true,
                recursive: true,
                propagation: Propagation::Private,
            },
            target: target.into(),
            read_only,
        }
    }

    #[test]
    fn volumes_of_paths() {
        let read = |text: &str| MountRequest::parse_volume(text, Path::new("/here"));
        assert_eq!(read("/a:/b").unwrap(), bind("/a", "/b", false));
        assert_eq!(
            read("./a:/b/../c/:ro,z").unwrap(),
            bind("/here/./a", "/c", true)
        );
        for (text, expected) in [
            ("data:/b", "named volume"),
            ("/b", "anonymous"),
            ("/a:b", "absolute"),
            ("/a:/", "absolute"),
            ("/a:/b:frob", "no option"),
            ("/a:/b:shared", "never reach"),
        ] {
            let text_out = read(text).unwrap_err().to_string();
            assert!(text_out.contains(expected), "{text}: {text_out}");
        }
    }

    #[test]
    fn mounts_by_words() {
        let read = |text: &str| MountRequest::parse_mount(text, Path::new("/here"));
        let made = read("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert!(made.read_only && matches!(made.source, Source::Bind { create: false, .. }));
        let made = read("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770").unwrap();
        let expected = Source::Tmpfs {
            size_bytes: Some(64 << 20),
            mode: Some(0o1770),
            flags: Vec::new(),
        };
        assert_eq!(made.source, expected);
        for bad in [
            "type=bind,dst=/b",
            "src=a,dst=/b",
            "type=tmpfs",
            "type=x,dst=/b",
            "type=bind,frob=1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_by_flag() {
        let made = MountRequest::parse_tmpfs("/run:size=1k,mode=700,noexec,ro").unwrap();
        assert!(made.read_only);
        let Source::Tmpfs {
            size_bytes,
            mode,
            flags,
        } = made.source
        else {
            panic!("not memory")
        };
        assert_eq!(
            (size_bytes, mode, flags),
            (Some(1024), Some(0o700), vec!["noexec".to_owned()])
        );
        assert!(MountRequest::parse_tmpfs("/run:huge=always").is_err());
    }
}
