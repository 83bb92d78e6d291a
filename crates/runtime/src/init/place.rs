// SPDX-License-Identifier: Apache-2.0
//! One mount of a configuration, put in its place.

use std::{error::Error, path::Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use wolffia_sys::{
    Errno,
    fd::Root,
    mount::{FileSystem, MountError, Step},
};

use crate::{
    mounts::MountStep,
    report::{Doing, Failure},
};

/// Makes the mount; tells whether it is the step's own file system and not what stands in for it.
pub(super) fn put(mount: &MountStep, root: &Root) -> Result<bool, Failure> {
    if mount.exact {
        refuse_link(root, &mount.at)?;
    }
    let answer = match mount.step.execute(root) {
        // Group 5, tty, which devpts is to give its terminals, need not be mapped.
        Err(MountError::Make {
            source: Errno::INVAL,
            ..
        }) => without_group(&mount.step)
            .map_or_else(|| mount.step.execute(root), |step| step.execute(root)),
        answer => answer,
    };
    match (answer, &mount.instead) {
        (Ok(_), _) => Ok(true),
        (Err(error), Some(instead)) if is_refusal(&error) => {
            match Step::Bind(instead.clone()).execute(root) {
                // What the machine has not, a container that shares its namespace has not either.
                Ok(_)
                | Err(MountError::Source {
                    source: Errno::NOENT,
                    ..
                }) => Ok(false),
                Err(error) => Err(mount_failure(&error)),
            }
        }
        (Err(error), _) => Err(mount_failure(&error)),
    }
}

/// Returns the same mount without `gid=`, where it has one.
fn without_group(step: &Step) -> Option<Step> {
    let Step::FileSystem(file_system) = step else {
        return None;
    };
    let is_group = |(key, _): &&(String, Option<String>)| key == "gid";
    file_system.options.iter().find(is_group)?;
    let options = file_system
        .options
        .iter()
        .filter(|option| !is_group(option))
        .cloned();
    Some(Step::FileSystem(FileSystem {
        options: options.collect(),
        ..file_system.clone()
    }))
}

fn is_refusal(error: &MountError) -> bool {
    matches!(
        error,
        MountError::Make {
            source: Errno::PERM | Errno::ACCESS | Errno::BUSY | Errno::NODEV,
            ..
        }
    )
}

/// /proc and /sys must be directories of the image itself: a link would put them where the image wants them.
fn refuse_link(root: &Root, at: &Path) -> Result<(), Failure> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(root, at, flags, Mode::empty(), resolve) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).doing(|| {
            format!(
                "mounting {}: the image has a link or a file there",
                at.display()
            )
        }),
    }
}

/// Returns the failure with the whole chain of what was being done.
pub(super) fn mount_failure(error: &MountError) -> Failure {
    let errno = error
        .source()
        .and_then(|source| source.downcast_ref::<Errno>());
    Failure::setup(error.to_string(), errno.copied().unwrap_or(Errno::IO))
}
