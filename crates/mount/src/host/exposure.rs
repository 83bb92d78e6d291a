// SPDX-License-Identifier: Apache-2.0
//! Which parts of this machine a host container may see: an allow-list of directories, and names taken out of it again.
//!
//! Everything that is not listed does not exist: no home, no /root, no /etc (a copy of its public part is made apart), no
//! sockets, no devices. Directories above a shown one are made up, and hold the way to it alone.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Directories that are shown where the machine has them and they are no links (with a merged /usr, /bin is one: the skeleton
/// has it then). Programs, and what package tools know of them.
const SHOWN: &[&str] = &[
    "/usr",
    "/opt",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/var/lib/dpkg",
    "/var/lib/ucf",
    "/var/lib/pam",
    "/var/lib/rpm",
    "/var/lib/pacman",
    "/nix/store",
    "/gnu/store",
];

/// What of the machine is shown.
#[derive(Debug, Clone, Default)]
pub struct Exposure {
    shown: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
}

/// The lowest id of people (login.defs: `UID_MIN`), and the highest.
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=60_000;

/// Returns the directories that are nobody's business wherever they lie: the homes of people and of root, and `state`, our own.
///
/// Homes are read from /etc/passwd alone; those of directory services lie below /home, which is not shown.
pub fn private_directories(state: &Path) -> Vec<PathBuf> {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let mut private: Vec<PathBuf> = homes(&passwd).collect();
    private.extend(std::env::var_os("HOME").map(PathBuf::from));
    private.push(state.to_owned());
    // A home of `/` or `/usr`, which odd accounts have, would hide everything.
    let is_above = |path: &PathBuf| SHOWN.iter().any(|shown| Path::new(shown).starts_with(path));
    private.retain(|path| path.is_absolute() && !is_above(path));
    // The way to a directory may lead through links, and the tree is looked at by true paths.
    let real: Vec<PathBuf> = private
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| !is_above(path))
        .collect();
    private.extend(real);
    private.sort_unstable();
    private.dedup();
    private
}

fn homes(passwd: &[u8]) -> impl Iterator<Item = PathBuf> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let id = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        let person = id == 0 || PEOPLE.contains(&id);
        person.then(|| PathBuf::from(OsStr::from_bytes(home)))
    })
}

/// What a path is to an [`Exposure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It is as the machine has it.
    Real,
    /// It is made up: a directory of these names.
    Way(Vec<Vec<u8>>),
    /// It does not exist.
    None,
}

impl Exposure {
    /// Returns the exposure of a machine: programs, and what package tools know of them; `private` directories (homes,
    /// our own state) stay hidden wherever they lie.
    #[must_use]
    pub fn of_machine(private: impl IntoIterator<Item = PathBuf>) -> Self {
        let is_plain = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_dir());
        Self {
            shown: SHOWN.iter().map(PathBuf::from).filter(is_plain).collect(),
            hidden: private
                .into_iter()
                .filter(|path| path.is_absolute())
                .collect(),
        }
    }

    /// Returns an exposure of these directories.
    #[must_use]
    pub fn of(shown: Vec<PathBuf>, hidden: Vec<PathBuf>) -> Self {
        Self { shown, hidden }
    }

    /// Returns what is shown.
    #[must_use]
    pub fn shown(&self) -> &[PathBuf] {
        &self.shown
    }

    /// Returns what stays hidden.
    #[must_use]
    pub fn hidden(&self) -> &[PathBuf] {
        &self.hidden
    }

    /// Returns the names that are hidden right in a directory; `path` has no leading slash.
    pub(crate) fn hidden_in(&self, path: &[u8]) -> impl Iterator<Item = &[u8]> {
        let directory = Path::new("/").join(OsStr::from_bytes(path));
        self.hidden.iter().filter_map(move |hidden| {
            let right_here = hidden.parent() == Some(&directory);
            right_here
                .then(|| hidden.file_name().map(OsStrExt::as_bytes))
                .flatten()
        })
    }

    /// Says what a path below the root is; `path` has no leading slash.
    pub(crate) fn sight(&self, path: &[u8]) -> Sight {
        let path = Path::new("/").join(OsStr::from_bytes(path));
        if self.hidden.iter().any(|hidden| path.starts_with(hidden)) {
            return Sight::None;
        }
        if self.shown.iter().any(|shown| path.starts_with(shown)) {
            return Sight::Real;
        }
        let mut names: Vec<Vec<u8>> = self
            .shown
            .iter()
            .filter_map(|shown| shown.strip_prefix(&path).ok()?.components().next())
            .map(|name| name.as_os_str().as_bytes().to_vec())
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            Sight::None
        } else {
            Sight::Way(names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_have_homes_and_services_have_not() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbin:x:2:2::/usr/bin:/bin/false\nme:x:1000:1000::/opt/me:/bin/sh\n\nnobody:x:65534:1::/:/x\nbad\n";
        let homes: Vec<PathBuf> = homes(passwd).collect();
        assert_eq!(homes, [PathBuf::from("/root"), "/opt/me".into()]);
        let private = private_directories(Path::new("/state"));
        assert!(private.contains(&"/state".into()) && !private.contains(&"/".into()));
    }

    #[test]
    fn what_is_not_listed_does_not_exist() {
        let exposure = Exposure::of(
            vec!["/usr".into(), "/var/lib/dpkg".into()],
            vec!["/usr/home".into()],
        );
        let way =
            |names: &[&str]| Sight::Way(names.iter().map(|n| n.as_bytes().to_vec()).collect());
        for (path, sight) in [
            ("", way(&["usr", "var"])),
            ("usr", Sight::Real),
            ("usr/bin/env", Sight::Real),
            ("usrlocal", Sight::None),
            ("usr/home", Sight::None),
            ("usr/home/me", Sight::None),
            ("usr/homely", Sight::Real),
            ("var", way(&["lib"])),
            ("var/lib", way(&["dpkg"])),
            ("var/lib/dpkg/status", Sight::Real),
            ("var/lib/mysql", Sight::None),
            ("home", Sight::None),
            ("root", Sight::None),
            ("etc/shadow", Sight::None),
        ] {
            assert_eq!(exposure.sight(path.as_bytes()), sight, "{path}");
        }
        let hidden = |path: &str| exposure.hidden_in(path.as_bytes()).count();
        assert_eq!((hidden("usr"), hidden("usr/home"), hidden("")), (1, 0, 0));
    }
}
