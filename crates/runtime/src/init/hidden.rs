// SPDX-License-Identifier: Apache-2.0
//! Paths that a container must not see, or not write.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::fs::{FileType, fstat};
use wolffia_sys::{
    Errno,
    fd::Root,
    mount::{self, Attributes, FileSystem, How},
};

use super::devices::Null;
use crate::report::{Doing, Failure};

/// Hides each path: a directory below an empty read-only one, anything else below /dev/null. A missing path needs nothing.
pub(super) fn mask(root: &Root, paths: &[PathBuf], null: &Null) -> Result<(), Failure> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let failed = || format!("hiding {}", path.display());
        let there = match root.open_place_no_follow(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            answer => answer.doing(failed)?,
        };
        let kind = FileType::from_raw_mode(fstat(&there).doing(failed)?.st_mode);
        match kind {
            FileType::Directory => {
                if let Some(empty) = &empty {
                    mount::bind_onto(empty.as_fd(), root, path, there.as_fd(), How::default())
                        .doing(failed)?;
                } else {
                    empty = Some(hide_directory(root, &there, path)?);
                }
            }
            // What is no link now cannot become one: the descriptor is what is mounted upon.
            FileType::Symlink => return Err(Errno::LOOP).doing(failed),
            _ => {
                mount::bind_onto(null.as_fd(), root, path, there.as_fd(), How::default())
                    .doing(failed)?;
            }
        }
    }
    Ok(())
}

fn hide_directory(
    root: &Root,
    there: &OwnedFd,
    path: &std::path::Path,
) -> Result<OwnedFd, Failure> {
    let mut empty = FileSystem::tmpfs(path, &[("size", "0"), ("nr_inodes", "1"), ("mode", "755")]);
    empty.attributes |= Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOEXEC;
    empty
        .attach_to(root, there.as_fd())
        .map_err(|error| super::place::mount_failure(&error))
}

/// Makes each path read-only, with what is mounted below it. A missing path needs nothing.
pub(super) fn make_read_only(root: &Root, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let failed = || format!("making {} read-only", path.display());
        let there = match root.open_place_no_follow(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            answer => answer.doing(failed)?,
        };
        let how = How {
            recursive: true,
            attributes: Attributes::MOUNT_ATTR_RDONLY,
            attributes_recursive: true,
            propagation: None,
        };
        mount::bind_onto(there.as_fd(), root, path, there.as_fd(), how).doing(failed)?;
    }
    Ok(())
}
