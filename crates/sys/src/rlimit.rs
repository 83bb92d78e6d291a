// SPDX-License-Identifier: Apache-2.0
//! Resource limits by their names.
//!
//! In a user namespace the hard limits can only be lowered: raising one takes `CAP_SYS_RESOURCE` in the first namespace.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Names as `prlimit(1)` and docker write them, without `RLIMIT_`, in small letters.
pub const NAMES: &[(&str, Resource)] = &[
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Returns the resource with this name: `nofile`, or `RLIMIT_NOFILE`.
pub fn by_name(name: &str) -> Option<Resource> {
    let small = name.to_ascii_lowercase();
    let small = small.strip_prefix("rlimit_").unwrap_or(&small);
    let row = NAMES.iter().find(|(known, _)| *known == small)?;
    Some(row.1)
}

/// A soft and a hard limit; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced now.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Returns the limit of the calling process.
pub fn get(resource: Resource) -> Limit {
    let limit = getrlimit(resource);
    Limit {
        soft: limit.current.unwrap_or(u64::MAX),
        hard: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// Sets the limit of the calling process; `EPERM` where the hard limit would rise.
pub fn set(resource: Resource, limit: Limit) -> Result<(), Errno> {
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    setrlimit(
        resource,
        Rlimit {
            current: bound(limit.soft),
            maximum: bound(limit.hard),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_a_resource() {
        assert_eq!(by_name("nofile"), by_name("RLIMIT_NOFILE"));
        assert_eq!(by_name("nothing"), None);
    }

    #[test]
    fn a_limit_set_is_the_limit_got() {
        let before = get(Resource::Core);
        let same = set(Resource::Core, before);
        assert_eq!(same, Ok(()));
        assert_eq!(get(Resource::Core), before);
    }
}
