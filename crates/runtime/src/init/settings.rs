// SPDX-License-Identifier: Apache-2.0
//! Settings that are files of /proc, written only to a real /proc (CVE-2025-52881).

use std::{io::Write, path::PathBuf};

use rustix::fs::{Mode, OFlags, fstatfs};
use wolffia_sys::{Errno, fd::Root};

use crate::report::{Doing, Failure};

/// The magic number of proc.
const PROC_MAGIC: u64 = 0x9fa0;

/// Writes kernel settings through the container's /proc.
pub(super) fn write(root: &Root, settings: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in settings {
        let failed = || format!("setting {name} to {value:?}");
        let path = PathBuf::from(format!("/proc/sys/{}", name.replace('.', "/")));
        let file = root
            .open_with(&path, OFlags::WRONLY, Mode::empty())
            .doing(failed)?;
        let magic = fstatfs(&file).doing(failed)?.f_type;
        if u64::try_from(magic) != Ok(PROC_MAGIC) {
            return Err(Errno::NOTSUP)
                .doing(|| format!("{}: the container's /proc is no proc", failed()));
        }
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .doing(failed)?;
    }
    Ok(())
}

/// Sets how soon the kernel ends the process when memory runs out. To lower it takes a right that users have not; that it
/// stays as it is, then, is what runc and crun do too.
pub(crate) fn oom_score(value: Option<i32>) -> Result<(), Failure> {
    let Some(value) = value else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::debug!(value, "oom_score_adj stays as it is");
            Ok(())
        }
        answer => answer.doing(|| format!("setting oom_score_adj to {value}")),
    }
}
