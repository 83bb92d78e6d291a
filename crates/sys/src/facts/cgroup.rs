// SPDX-License-Identifier: Apache-2.0
//! Control groups: which version there is, and whether a part of the tree is ours to divide.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The type of the second version: `CGROUP2_SUPER_MAGIC`.
const VERSION_2: u64 = 0x6367_7270;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// The second version; `delegated` is our own group where we may make groups in it, with these controllers.
    Version2 {
        /// Our own group, if it is delegated to us.
        delegated: Option<PathBuf>,
        /// The controllers that it has.
        controllers: Vec<String>,
    },
    /// The first version, or both mixed: nothing is delegated to ordinary users there.
    Version1,
    /// None is mounted.
    Absent,
}

/// Looks at the mount and at our own group.
pub fn look() -> Cgroups {
    let kind = rustix::fs::statfs(MOUNT).map(|found| found.f_type.cast_unsigned());
    match kind {
        Ok(VERSION_2) => {}
        Ok(_) if fs::read_dir(MOUNT).is_ok_and(|mut entries| entries.next().is_some()) => {
            return Cgroups::Version1;
        }
        _ => return Cgroups::Absent,
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = own.map(|own| Path::new(MOUNT).join(own));
    let may_divide = |group: &PathBuf| {
        let may = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        may(group) && may(&group.join("cgroup.procs")) && may(&group.join("cgroup.subtree_control"))
    };
    let delegated = group.filter(may_divide);
    let controllers = delegated
        .iter()
        .filter_map(|group| fs::read_to_string(group.join("cgroup.controllers")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    Cgroups::Version2 {
        delegated,
        controllers,
    }
}
