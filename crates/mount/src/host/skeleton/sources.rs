// SPDX-License-Identifier: Apache-2.0
//! What a skeleton is made from: links into /usr, and the public part of /etc, looked at first and copied when it is new.

use std::{
    collections::hash_map::DefaultHasher,
    fmt::Write as _,
    fs,
    hash::{Hash, Hasher},
    io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{OTHERS_LIST, OTHERS_READ, Result, VERSION, etc, failed, make_directory, set_mode};

/// Bytes of one file of /etc at most, and of all.
const FILE_BYTES_MAX: u64 = 4 << 20;
const ALL_BYTES_MAX: u64 = 16 << 20;
/// Files and directories of /etc at most; a machine has some thousand.
const ENTRIES_MAX: usize = 16_384;
/// Levels below /etc at most.
const DEPTH_MAX: usize = 12;

/// Directories that are made, with their modes. What the file tree has below them appears in them.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/cache/apt", 0o755),
    ("var/cache/apt/archives", 0o755),
    ("var/cache/apt/archives/partial", 0o700),
    ("var/cache/debconf", 0o755),
    ("var/lib", 0o755),
    ("var/lib/apt", 0o755),
    ("var/lib/apt/lists", 0o755),
    ("var/lib/apt/lists/partial", 0o700),
    ("var/lib/apt/mirrors", 0o755),
    ("var/lib/apt/mirrors/partial", 0o755),
    ("var/lib/apt/periodic", 0o755),
    ("var/lib/misc", 0o755),
    ("var/lib/systemd", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/log/apt", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Links that are made.
const LINKS: &[(&str, &str)] = &[("var/run", "/run"), ("var/lock", "/run/lock")];

/// Top-level names that are links into /usr on machines with a merged /usr.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What a skeleton is made from.
pub(super) struct Sources {
    /// Top-level links into /usr, and where they lead.
    links: Vec<(&'static str, PathBuf)>,
    /// What of /etc is copied, directories before what is in them.
    entries: Vec<Source>,
}

struct Source {
    /// Below the machine's root.
    path: PathBuf,
    kind: Kind,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Directory,
    File,
    Link,
}

impl Sources {
    pub(super) fn look(machine: &Path) -> Sources {
        let links = MERGED.iter().filter_map(|name| {
            let target = fs::read_link(machine.join(name)).ok()?;
            Some((*name, target))
        });
        let mut sources = Sources {
            links: links.collect(),
            entries: Vec::new(),
        };
        for name in etc::listed() {
            sources.add(machine, &Path::new("etc").join(name), 0);
        }
        sources
    }

    /// Adds a path and what is below it, as far as others may read it.
    fn add(&mut self, machine: &Path, path: &Path, depth: usize) {
        let place = machine.join(path);
        let Ok(found) = fs::symlink_metadata(&place) else {
            return;
        };
        if self.entries.len() >= ENTRIES_MAX || depth > DEPTH_MAX || etc::is_secret(path) {
            return;
        }
        let mode = found.mode() & 0o7777;
        let kind = found.file_type();
        let kind = if kind.is_symlink() {
            Kind::Link
        } else if kind.is_dir() && mode & OTHERS_LIST == OTHERS_LIST {
            Kind::Directory
        } else if kind.is_file() && mode & OTHERS_READ != 0 && found.len() <= FILE_BYTES_MAX {
            Kind::File
        } else {
            return;
        };
        self.entries.push(Source {
            path: path.to_owned(),
            kind,
            mode,
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
        });
        if kind == Kind::Directory {
            let mut names: Vec<_> = fs::read_dir(&place)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name())
                .collect();
            names.sort_unstable();
            for name in names {
                self.add(machine, &path.join(name), depth + 1);
            }
        }
    }

    /// Not against malice: the files are this machine's. Equal as long as nothing was changed.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (VERSION, &self.links, self.entries.len()).hash(&mut hasher);
        for entry in &self.entries {
            (&entry.path, entry.kind, entry.mode, entry.size).hash(&mut hasher);
            (entry.modified, entry.inode).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Writes the skeleton to `root`, which is made.
    pub(super) fn write(&self, machine: &Path, root: &Path) -> Result<()> {
        make_directory(root, 0o755)?;
        for (path, mode) in DIRECTORIES {
            make_directory(&root.join(path), *mode)?;
        }
        let links = LINKS.iter().map(|(at, to)| (*at, Path::new(to)));
        let merged = self.links.iter().map(|(at, to)| (*at, to.as_path()));
        for (at, target) in links.chain(merged) {
            let at = root.join(at);
            symlink(target, &at).map_err(failed("making", &at))?;
        }
        let mut budget = ALL_BYTES_MAX;
        for entry in &self.entries {
            let (from, to) = (machine.join(&entry.path), root.join(&entry.path));
            match entry.kind {
                Kind::Directory => make_directory(&to, entry.mode)?,
                Kind::Link => {
                    // One that is gone meanwhile is as one that never was.
                    if let Ok(target) = fs::read_link(&from) {
                        symlink(target, &to).map_err(failed("making", &to))?;
                    }
                }
                Kind::File => copy_file(entry, &from, &to, &mut budget)?,
            }
        }
        passwords(root)
    }
}

fn copy_file(entry: &Source, from: &Path, to: &Path, budget: &mut u64) -> Result<()> {
    // What cannot be read, or has become something else, is left out.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(from, flags, Mode::empty()) else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    let read = io::Read::read_to_end(
        &mut io::Read::take(fs::File::from(file), FILE_BYTES_MAX),
        &mut bytes,
    );
    let length = bytes.len() as u64;
    if read.is_err() || length > *budget || etc::holds_private_key(&bytes) {
        return Ok(());
    }
    *budget -= length;
    fs::write(to, &bytes).map_err(failed("writing", to))?;
    set_mode(to, entry.mode & 0o755)?;
    let time = rustix::fs::Timespec {
        tv_sec: entry.modified.0,
        tv_nsec: entry.modified.1,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::empty())
        .map_err(failed("setting the times of", to))
}

/// Writes shadow and gshadow for the users and groups that were copied: no password is valid.
fn passwords(root: &Path) -> Result<()> {
    /// Any day long ago: the last change of a password.
    const DAY: u32 = 19_000;
    let names = |file: &str| -> Vec<(String, Option<u32>)> {
        let text = fs::read(root.join("etc").join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next().filter(|name| !name.is_empty())?;
                let id = fields.nth(1).and_then(|id| id.parse().ok());
                Some((name.to_owned(), id))
            })
            .collect()
    };
    let (users, groups) = (names("passwd"), names("group"));
    let (mut shadow, mut gshadow) = (String::new(), String::new());
    for (name, _) in &users {
        // A string takes all that is written to it.
        let _ = writeln!(shadow, "{name}:*:{DAY}:0:99999:7:::");
    }
    for (name, _) in &groups {
        let _ = writeln!(gshadow, "{name}:*::");
    }
    let owner = groups.iter().find(|(name, _)| name == "shadow");
    let owner = owner.and_then(|(_, id)| *id);
    for (name, text) in [("etc/shadow", shadow), ("etc/gshadow", gshadow)] {
        let path = root.join(name);
        fs::write(&path, text).map_err(failed("writing", &path))?;
        // With a single id there is no such group; root reads it all the same.
        if let Err(error) = std::os::unix::fs::chown(&path, None, owner) {
            tracing::debug!(%error, "shadow belongs to root alone");
        }
        set_mode(&path, 0o640)?;
    }
    Ok(())
}
