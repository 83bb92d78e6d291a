// SPDX-License-Identifier: Apache-2.0
//! The steps of a plan, carried out.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, open},
    io::Errno,
};

use super::{Bind, FileSystem, MountError, Overlay, Step, make};
use crate::fd::Root;

/// The mode of a mount place that had to be made.
const PLACE_MODE: Mode = Mode::from_raw_mode(0o755);

impl Step {
    /// Carries out the step; returns the new root where the step replaced it.
    pub fn execute(&self, root: &Root) -> Result<Option<Root>, MountError> {
        match self {
            Step::Overlay(overlay) => overlay.mount(root),
            Step::Bind(bind) => bind.mount(root),
            Step::FileSystem(file_system) => file_system.mount(root),
            Step::Attach { mount, at } => {
                let again = |error: std::io::Error| MountError::Attach {
                    at: at.clone(),
                    source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
                };
                put(mount.try_clone().map_err(again)?, root, at)
            }
            Step::Directory { at, mode } => root
                .make_directories(at, Mode::from_raw_mode(*mode))
                .map(|_| None)
                .map_err(place(at)),
            Step::Link { at, target } => match root.make_link(at, target.as_os_str()) {
                Ok(()) | Err(Errno::EXIST) => Ok(None),
                Err(source) => Err(MountError::Link {
                    at: at.clone(),
                    source,
                }),
            },
            Step::Attributes { at, add, recursive } => {
                let there = root.open_place(at).map_err(place(at))?;
                make::set_attributes(&there, *add, None, *recursive).map_err(|source| {
                    MountError::Attributes {
                        at: at.clone(),
                        source,
                    }
                })?;
                Ok(None)
            }
        }
    }
}

fn place(at: &Path) -> impl Fn(Errno) -> MountError {
    move |source| MountError::Place {
        at: at.to_owned(),
        source,
    }
}

fn is_root(at: &Path) -> bool {
    at.components().all(|component| {
        matches!(
            component,
            std::path::Component::RootDir | std::path::Component::CurDir
        )
    })
}

/// Opens the place for a directory mount.
fn directory_place(root: &Root, at: &Path) -> Result<OwnedFd, MountError> {
    root.make_directories(at, PLACE_MODE).map_err(place(at))
}

/// Opens the place for what is open: a directory or an empty file.
fn place_for(from: BorrowedFd<'_>, root: &Root, at: &Path) -> Result<OwnedFd, MountError> {
    let is_directory = fstat(from)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory);
    if is_directory {
        directory_place(root, at)
    } else {
        root.make_file(at, PLACE_MODE).map_err(place(at))
    }
}

/// Moves a detached mount to its place.
fn put(mount: OwnedFd, root: &Root, at: &Path) -> Result<Option<Root>, MountError> {
    let there = place_for(mount.as_fd(), root, at)?;
    make::attach(&mount, &there).map_err(|source| MountError::Attach {
        at: at.to_owned(),
        source,
    })?;
    Ok(is_root(at).then(|| Root::from_fd(mount)))
}

impl FileSystem {
    fn mount(&self, root: &Root) -> Result<Option<Root>, MountError> {
        let there = directory_place(root, &self.at)?;
        let mount = self.attach_to(root, there.as_fd())?;
        Ok(is_root(&self.at).then(|| Root::from_fd(mount)))
    }

    /// Mounts it upon `there`, the open directory of its place inside `root`, and returns its root.
    pub fn attach_to(&self, root: &Root, there: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
        let pairs = self
            .options
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_ref().map(std::ffi::OsStr::new)));
        make::Request {
            kind: &self.kind,
            source: Some(&self.source),
            attributes: self.attributes,
            at: &self.at,
            root,
        }
        .mount(pairs, there)
    }
}

impl Overlay {
    fn mount(&self, root: &Root) -> Result<Option<Root>, MountError> {
        let there = directory_place(root, &self.at)?;
        let lower = self
            .lower
            .iter()
            .map(|path| ("lowerdir+", Some(path.as_os_str())));
        let data = self
            .data
            .iter()
            .map(|path| ("datadir+", Some(path.as_os_str())));
        let writable = self.writable.iter().flat_map(|writable| {
            [
                ("upperdir", Some(writable.upper.as_os_str())),
                ("workdir", Some(writable.work.as_os_str())),
            ]
        });
        let volatile = self
            .writable
            .as_ref()
            .is_some_and(|writable| writable.volatile);
        let flags = [("userxattr", self.userxattr), ("volatile", volatile)];
        let flags = flags
            .into_iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(key, _)| (key, None));
        let more = self
            .options
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_ref().map(std::ffi::OsStr::new)));
        let mount = make::Request {
            kind: "overlay",
            source: Some("overlay"),
            attributes: super::Attributes::empty(),
            at: &self.at,
            root,
        }
        .mount(
            lower.chain(data).chain(writable).chain(flags).chain(more),
            there.as_fd(),
        )?;
        Ok(is_root(&self.at).then(|| Root::from_fd(mount)))
    }
}

impl Bind {
    fn mount(&self, root: &Root) -> Result<Option<Root>, MountError> {
        let source = |source| MountError::Source {
            from: self.from.clone(),
            at: self.at.clone(),
            source,
        };
        let from =
            open(&self.from, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(source)?;
        self.mount_from(from.as_fd(), root)
    }

    /// Mounts what is open as `from`; [`Bind::from`] is only named in errors.
    pub fn mount_from(
        &self,
        from: BorrowedFd<'_>,
        root: &Root,
    ) -> Result<Option<Root>, MountError> {
        let source = |source| MountError::Source {
            from: self.from.clone(),
            at: self.at.clone(),
            source,
        };
        let place = place_for(from, root, &self.at)?;
        let how = make::How {
            recursive: self.recursive,
            attributes: self.attributes,
            attributes_recursive: self.attributes_recursive,
            propagation: Some(self.propagation),
        };
        let mount = make::bind_onto(from, root, &self.at, place.as_fd(), how).map_err(source)?;
        Ok(is_root(&self.at).then(|| Root::from_fd(mount)))
    }
}
