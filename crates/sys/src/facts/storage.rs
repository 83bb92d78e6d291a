// SPDX-License-Identifier: Apache-2.0
//! The file system that our state lies on.

use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one answer of the kernel's"
)]
pub struct Storage {
    /// The directory that was looked at.
    pub path: PathBuf,
    /// The type, `0x...` for one that is not in our table; empty where looking failed.
    pub kind: String,
    /// Whether it lies on another machine: locks and extended attributes are weaker there.
    pub remote: bool,
    /// Programs on it may not be executed.
    pub no_exec: bool,
    /// It may not be written.
    pub read_only: bool,
    /// Whether this user may write the directory.
    pub writable: bool,
    /// Bytes left for this user.
    pub free_bytes: u64,
}

/// Magic numbers of linux/magic.h, their names, and whether they are on the network.
const KINDS: &[(u64, &str, bool)] = &[
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x0102_1994, "tmpfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0xca45_1a4e, "bcachefs", false),
    (0x794c_7630, "overlay", false),
    (0x6573_5546, "fuse", false),
    (0x6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x0bd0_0bd0, "lustre", true),
    (0x4750_4653, "gpfs", true),
    (0x00c3_6400, "ceph", true),
    (0x1983_0326, "beegfs", true),
    (0x5346_414f, "afs", true),
    (0x0102_1997, "9p", true),
];

/// Looks at the file system of a directory.
pub fn look(path: &Path) -> Storage {
    let mut storage = Storage {
        path: path.to_owned(),
        kind: String::new(),
        remote: false,
        no_exec: false,
        read_only: false,
        writable: rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
        free_bytes: 0,
    };
    if let Ok(found) = rustix::fs::statfs(path) {
        // The type is a signed word on some machines; the numbers are 32 bits wide.
        let magic = found.f_type.cast_unsigned() & 0xffff_ffff;
        let known = KINDS.iter().find(|(number, ..)| *number == magic);
        storage.kind = known.map_or_else(|| format!("{magic:#x}"), |known| known.1.to_owned());
        storage.remote = known.is_some_and(|known| known.2);
    }
    if let Ok(found) = rustix::fs::statvfs(path) {
        storage.no_exec = found.f_flag.contains(StatVfsMountFlags::NOEXEC);
        storage.read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
        storage.free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    }
    storage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_file_system_is_named_by_its_number() {
        let storage = look(Path::new("/proc"));
        assert_eq!(storage.kind, "0x9fa0");
        assert_eq!(storage.free_bytes, 0);
    }
}
