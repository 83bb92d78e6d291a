// SPDX-License-Identifier: Apache-2.0
//! Landlock: the kernel's own list of the files, ports and processes that a process may still reach.
//!
//! # Theory of operation
//! Every right that the kernel's version knows is *handled*, that is forbidden, and given back below the descriptors that the
//! caller names. Versions differ in what they know:
//!
//! | version | Linux | adds |
//! |---|---|---|
//! | 1 | 5.13 | opening, making and removing files; moving between directories is always forbidden |
//! | 2 | 5.19 | moving between directories as a right |
//! | 3 | 6.2 | cutting files |
//! | 4 | 6.7 | TCP bind and connect |
//! | 5 | 6.10 | ioctl of devices |
//! | 6 | 6.12 | signals and abstract sockets to processes outside |
//!
//! A process that writes cannot live with version 1: everything of ours is put in place by a rename. It then goes without.
//! Files that are open stay usable; a descriptor of a directory alone opens nothing below it.
//!
//! Sources: landlock(7), `landlock_create_ruleset(2)`, `landlock_add_rule(2)`, `landlock_restrict_self(2)`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
};

use crate::process::last_errno;

/// What may be done below a directory, or with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Listing directories, opening files for reading.
    Read,
    /// That, and making, changing, moving and removing everything but device nodes of hardware (which no user can make).
    Write,
}

bitflags::bitflags! {
    /// Rights over files (`LANDLOCK_ACCESS_FS_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Rights: u64 {
        const EXECUTE = 1;
        const WRITE_FILE = 1 << 1;
        const READ_FILE = 1 << 2;
        const READ_DIRECTORY = 1 << 3;
        const REMOVE_DIRECTORY = 1 << 4;
        const REMOVE_FILE = 1 << 5;
        /// Also what overlayfs takes for a whiteout.
        const MAKE_CHARACTER_DEVICE = 1 << 6;
        const MAKE_DIRECTORY = 1 << 7;
        const MAKE_FILE = 1 << 8;
        const MAKE_SOCKET = 1 << 9;
        const MAKE_FIFO = 1 << 10;
        const MAKE_BLOCK_DEVICE = 1 << 11;
        const MAKE_LINK = 1 << 12;
        /// Links and renames from one directory to another.
        const REFER = 1 << 13;
        const TRUNCATE = 1 << 14;
        const IOCTL_DEVICE = 1 << 15;
    }
}

impl Rights {
    /// What the kernel lets one say of something that is no directory.
    const OF_FILES: Rights = Rights::EXECUTE
        .union(Rights::WRITE_FILE)
        .union(Rights::READ_FILE)
        .union(Rights::TRUNCATE)
        .union(Rights::IOCTL_DEVICE);

    /// All that this version of the interface knows.
    fn known(version: u32) -> Rights {
        let first_unknown = match version {
            1 => Rights::REFER,
            2 => Rights::TRUNCATE,
            3 | 4 => Rights::IOCTL_DEVICE,
            _ => return Rights::all(),
        };
        Rights::from_bits_truncate(first_unknown.bits() - 1)
    }
}

impl Reach {
    fn rights(self) -> Rights {
        let read = Rights::READ_FILE | Rights::READ_DIRECTORY;
        match self {
            Reach::Read => read,
            Reach::Write => Rights::all()
                .difference(Rights::EXECUTE | Rights::MAKE_BLOCK_DEVICE | Rights::IOCTL_DEVICE),
        }
    }
}

/// `struct landlock_ruleset_attr`. Older kernels take the longer one where what they do not know is zero.
#[repr(C)]
struct RulesetAttributes {
    handled_files: u64,
    handled_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `LANDLOCK_ACCESS_NET_CONNECT_TCP`.
const NET_ALL: u64 = 0b11;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` and `LANDLOCK_SCOPE_SIGNAL`.
const SCOPE_ALL: u64 = 0b11;
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// The versions from which something can be used.
const VERSION_MOVES: u32 = 2;
const VERSION_NET: u32 = 4;
const VERSION_SCOPES: u32 = 6;

/// Returns the version of the kernel's interface; `None` where it has none or was booted without.
#[expect(unsafe_code, reason = "landlock_create_ruleset(2) has no wrapper")]
pub fn version() -> Option<u32> {
    // SAFETY: with this flag the call takes no memory and returns a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(answer).ok().filter(|version| *version > 0)
}

/// Restricts the calling thread to these directories and files. Returns the version used; `None` where there is none of use.
/// Needs `no_new_privs`.
pub(super) fn restrict(ground: &[(OwnedFd, Reach)], internet: bool) -> Result<Option<u32>, Errno> {
    let Some(version) = version() else {
        return Ok(None);
    };
    if version < VERSION_MOVES && ground.iter().any(|(_, reach)| *reach == Reach::Write) {
        return Ok(None);
    }
    let known = Rights::known(version);
    let from = |first, bits| if version >= first { bits } else { 0 };
    let ruleset = new_ruleset(&RulesetAttributes {
        handled_files: known.bits(),
        handled_net: if internet {
            0
        } else {
            from(VERSION_NET, NET_ALL)
        },
        scoped: from(VERSION_SCOPES, SCOPE_ALL),
    })?;
    for (beneath, reach) in ground {
        add(&ruleset, beneath, reach.rights() & known)?;
    }
    restrict_self(&ruleset)?;
    Ok(Some(version))
}

#[expect(unsafe_code, reason = "landlock_create_ruleset(2) has no wrapper")]
fn new_ruleset(attributes: &RulesetAttributes) -> Result<OwnedFd, Errno> {
    // SAFETY: the attributes outlive the call, which reads as many bytes as it is told.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(attributes),
            size_of::<RulesetAttributes>(),
            0_u32,
        )
    };
    match i32::try_from(answer) {
        // SAFETY: the kernel returned a new descriptor, which nobody else owns; it is closed at exec.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_errno()),
    }
}

#[expect(unsafe_code, reason = "landlock_add_rule(2) has no wrapper")]
fn add(ruleset: &OwnedFd, beneath: &OwnedFd, rights: Rights) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(fstat(beneath)?.st_mode);
    let rights = if kind == FileType::Directory {
        rights
    } else {
        rights & Rights::OF_FILES
    };
    let rule = PathBeneath {
        allowed: rights.bits(),
        parent: beneath.as_raw_fd(),
    };
    // SAFETY: the rule outlives the call, which only reads it; both descriptors are open.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

#[expect(unsafe_code, reason = "landlock_restrict_self(2) has no wrapper")]
fn restrict_self(ruleset: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: takes an open descriptor and a number, no memory.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_know_what_their_kernels_know() {
        assert_eq!(Rights::known(1).bits(), 0x1FFF);
        assert_eq!(Rights::known(2).bits(), 0x3FFF);
        assert_eq!(Rights::known(3).bits(), 0x7FFF);
        assert_eq!(Rights::known(4).bits(), 0x7FFF);
        assert_eq!(Rights::known(7).bits(), 0xFFFF);
    }
}
