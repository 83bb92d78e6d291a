// SPDX-License-Identifier: Apache-2.0
//! A path inside a tree: names with single slashes between, from the root, nothing else.
//!
//! Any bytes but NUL and `/` make a name; names need not be UTF-8. `.` and empty names are dropped, leading slashes too: an
//! archive's `/etc`, `./etc/` and `etc` are one path. `..` is refused, not resolved: no builder writes it, and what it would
//! mean depends on links.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A normal path from the root of a tree; the root itself is empty.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Why bytes make no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is a `..`.
    #[error("reading a path: it leads upward")]
    Upward,
    /// There is nothing.
    #[error("reading a path: it is empty")]
    Empty,
    /// It, or a name in it, is too long.
    #[error(
        "reading a path: it is longer than {PATH_BYTES_MAX} bytes or has a name longer than {NAME_BYTES_MAX}"
    )]
    Length,
    /// There is a NUL.
    #[error("reading a path: it has a NUL")]
    Nul,
}

impl RelPath {
    /// Returns the root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path as an archive has it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        let mut normal = Vec::with_capacity(bytes.len());
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(PathError::Upward),
                _ if name.contains(&0) => return Err(PathError::Nul),
                _ if name.len() > NAME_BYTES_MAX => return Err(PathError::Length),
                _ => {}
            }
            if !normal.is_empty() {
                normal.push(b'/');
            }
            normal.extend_from_slice(name);
        }
        if normal.len() > PATH_BYTES_MAX {
            return Err(PathError::Length);
        }
        Ok(Self(normal.into()))
    }

    /// Returns the path of these names, which are normal ones.
    pub(super) fn from_normal(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty() || Self::parse(&bytes).is_ok_and(|path| *path.0 == *bytes));
        Self(bytes.into())
    }

    /// Returns the bytes; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path for calls relative to the root; empty for the root itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the last name; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.split().1
    }

    /// Returns the directory it is in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(self.split().0.into()))
    }

    /// Returns the names from the root on; none for the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
    }

    /// Returns the path of `name` in this directory, if the name is one and the path not too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if name.is_empty() || name.contains(&b'/') || name == b"." {
            return Err(PathError::Empty);
        }
        let joined = if self.is_root() {
            name.to_vec()
        } else {
            [&self.0, &b"/"[..], name].concat()
        };
        Self::parse(&joined)
    }

    fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl Ord for RelPath {
    /// Orders as a walk does that takes the names of each directory in the order of their bytes.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_spell_one_path_in_many_ways() {
        for (text, expected) in [
            ("etc/passwd", Ok("etc/passwd")),
            ("./etc//passwd/", Ok("etc/passwd")),
            ("/etc/./passwd", Ok("etc/passwd")),
            ("./", Ok("")),
            (".", Ok("")),
            ("/", Ok("")),
            ("...", Ok("...")),
            ("..a/b..", Ok("..a/b..")),
            ("", Err(PathError::Empty)),
            ("..", Err(PathError::Upward)),
            ("a/../b", Err(PathError::Upward)),
            ("/../etc", Err(PathError::Upward)),
            ("a\0b", Err(PathError::Nul)),
        ] {
            let read = RelPath::parse(text.as_bytes());
            assert_eq!(
                read.as_ref().map(RelPath::as_bytes),
                expected.as_ref().map(|text| text.as_bytes()),
                "{text:?}"
            );
        }
        assert_eq!(RelPath::parse(&[b'a'; 256]), Err(PathError::Length));
        assert_eq!(
            RelPath::parse("a/".repeat(2049).as_bytes()),
            Err(PathError::Length)
        );
        assert!(RelPath::parse("a/".repeat(2048).as_bytes()).is_ok());
    }

    #[test]
    fn paths_order_as_a_walk() {
        let mut paths =
            ["a.b", "a/b", "a", "", "a/b/c", "a-", "b"].map(|text| RelPath(text.as_bytes().into()));
        paths.sort();
        assert_eq!(
            paths.map(|path| path.to_string()),
            ["/", "/a", "/a/b", "/a/b/c", "/a-", "/a.b", "/b"]
        );
    }

    #[test]
    fn a_path_is_taken_apart_and_put_together() {
        let path = RelPath::parse(b"a/b/c").unwrap();
        assert_eq!(path.name(), b"c");
        assert_eq!(path.parent().unwrap().join(b"c"), Ok(path.clone()));
        assert_eq!(path.names().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(RelPath::root().join(b"a"), RelPath::parse(b"a"));
        assert_eq!(RelPath::root().parent(), None);
        assert!(path.join(b"..").is_err() && path.join(b"x/y").is_err() && path.join(b"").is_err());
    }
}
