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

/// What of the machine is shown.
#[derive(Debug, Clone, Default)]
pub struct Exposure {
    shown: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
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
        let shown = [
            "/usr",
            "/opt",
            "/var/lib/dpkg",
            "/var/lib/rpm",
            "/var/lib/pacman",
        ];
        Self {
            shown: shown
                .iter()
                .map(PathBuf::from)
                .filter(|path| path.is_dir())
                .collect(),
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
    }
}
