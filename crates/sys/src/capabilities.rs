// SPDX-License-Identifier: Apache-2.0
//! Capabilities: sets with names, and the five sets of the calling process.
//!
//! A full set of root inside a user namespace is still no right on the machine; yet a container gets only what it needs,
//! because every capability opens kernel code that was written for root.
//!
//! Inheritable and ambient sets are empty unless asked for: a program that is not root must not get rights by exec
//! (CVE-2022-24769 and its likes). Source: capabilities(7).

use std::fmt;

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    },
};

/// Names in the order of their numbers, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Set(u64);

impl Set {
    /// No capability.
    pub const EMPTY: Set = Set(0);

    /// Every capability that has a name here.
    pub const ALL: Set = Set((1 << NAMES.len()) - 1);

    /// `CAP_SYS_ADMIN` alone.
    pub const SYS_ADMIN: Set = Set(1 << 21);

    /// Returns the set with the capability of this name, with or without `CAP_`, in any case; `None` for a stranger.
    pub fn named(name: &str) -> Option<Set> {
        let big = name.to_ascii_uppercase();
        let big = big.strip_prefix("CAP_").unwrap_or(&big);
        let number = NAMES.iter().position(|known| *known == big)?;
        Some(Set(1 << number))
    }

    /// Returns the union.
    #[must_use]
    pub const fn with(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// Returns the set less the other.
    #[must_use]
    pub const fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// Returns what is in both.
    #[must_use]
    pub const fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Tells whether all of `other` is in the set.
    pub const fn contains(self, other: Set) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns a bit for each, by its number, as /proc/PID/status shows them.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Tells whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names, with `CAP_`, in the order of the numbers.
    pub fn names(self) -> impl Iterator<Item = String> {
        self.numbers()
            .map(|number| format!("CAP_{}", NAMES[number]))
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..NAMES.len()).filter(move |number| self.0 >> number & 1 == 1)
    }

    fn singles(self) -> impl Iterator<Item = CapabilitySet> {
        self.numbers()
            .map(|number| CapabilitySet::from_bits_retain(1 << number))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

/// The five sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What the process and its programs can ever gain by exec.
    pub bounding: Set,
    /// What counts now.
    pub effective: Set,
    /// What may be made effective.
    pub permitted: Set,
    /// What passes to programs whose files ask for it.
    pub inheritable: Set,
    /// What passes to programs without file capabilities.
    pub ambient: Set,
}

/// Takes from the bounding set what is not in `keep`; needs `CAP_SETPCAP`. Capabilities this kernel lacks are passed over.
pub fn limit_bounding(keep: Set) -> Result<(), Errno> {
    for one in Set::ALL.without(keep).singles() {
        match remove_capability_from_bounding_set(one) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable, then the ambient set.
pub fn apply(sets: &Sets) -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let set = |set: Set| CapabilitySet::from_bits_retain(set.0);
    set_capabilities(
        None,
        CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        },
    )?;
    for one in sets.ambient.singles() {
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// Returns the effective set of the calling process.
pub fn effective() -> Result<Set, Errno> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(Set(sets.effective.bits()).and(Set::ALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_both_spellings() {
        let one = Set::named("CAP_NET_RAW");
        assert!(one.is_some());
        assert_eq!(one, Set::named("net_raw"));
        assert_eq!(Set::named("SYS_ADMIN"), Some(Set::SYS_ADMIN));
        assert_eq!(Set::named("CAP_EVERYTHING"), None);
        let numbered = Set::named("CHECKPOINT_RESTORE").expect("a name");
        assert_eq!(numbered, Set(1 << 40));
    }

    #[test]
    fn sets_do_what_sets_do() {
        let (chown, kill) = (Set(1), Set(1 << 5));
        let both = chown.with(kill);
        assert!(both.contains(chown) && !chown.contains(both));
        assert_eq!(both.without(chown), kill);
        assert_eq!(both.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_KILL"]);
    }
}
