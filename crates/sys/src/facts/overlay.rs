// SPDX-License-Identifier: Apache-2.0
//! Which overlay mounts work in a user namespace, on a given file system.
//!
//! Mounting is not enough to know: without `userxattr` a mount succeeds and then cannot mark directories opaque, and a
//! data-only layer may be accepted and its files still refuse to open. So a file is read, changed and removed, a directory is
//! replaced, and the result is looked at.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, XattrFlags},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags},
};

use super::trial::{Ability, Lack, attempt};
use crate::{
    mount::{Overlay, Plan, Step, Upper},
    namespace::Namespaces,
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlays {
    /// A writable overlay of ordinary directories, with attributes of the user's (`userxattr`).
    pub plain: Ability,
    /// The same with a data-only layer that holds the contents.
    pub data_layers: Ability,
}

/// Where the caller stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Outside: the attempt makes a user namespace.
    Outside,
    /// Inside a user namespace, as its root.
    Inside,
}

/// Tries both, on the file system of `scratch`: a directory that the caller may write, in which nothing stays.
pub fn probe(scratch: &Path, standing: Standing) -> Overlays {
    let new = match standing {
        Standing::Outside => Namespaces::USER | Namespaces::MOUNT,
        Standing::Inside => Namespaces::MOUNT,
    };
    let top = scratch.join(format!(".probe-{}", std::process::id()));
    let tried = |name: &str, content: Content| {
        let top = top.join(name);
        attempt(new, || {
            let result = try_overlay(&top, content);
            let removed = fs::remove_dir_all(&top);
            result.and(removed.map_err(io("removing the attempt's files")))
        })
    };
    if let Err(error) = fs::create_dir(&top) {
        let lack = io("making a directory on the storage")(error);
        return Overlays {
            plain: Err(lack.clone()),
            data_layers: Err(lack),
        };
    }
    let found = Overlays {
        plain: tried("plain", Content::InLayer),
        data_layers: tried("data", Content::InDataLayer),
    };
    // Empty now, unless an attempt was killed.
    drop(fs::remove_dir_all(&top));
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    InLayer,
    InDataLayer,
}

const TEXT: &[u8] = b"content";

fn try_overlay(top: &Path, content: Content) -> Ability {
    let at = |name: &str| top.join(name);
    for name in ["lower/directory/old", "data", "upper", "work", "merged"] {
        fs::create_dir_all(at(name)).map_err(io("making directories on the storage"))?;
    }
    let place = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", place).map_err(Lack::at("making mounts private"))?;
    let mut data = Vec::new();
    if content == Content::InLayer {
        fs::write(at("lower/file"), TEXT).map_err(io("writing a file"))?;
    } else {
        fs::write(at("data/object"), TEXT).map_err(io("writing a file"))?;
        stub(&at("lower/file"), TEXT.len() as u64, b"/object")
            .map_err(Lack::at("writing user extended attributes"))?;
        data.push(at("data"));
    }
    let plan = Plan {
        steps: vec![Step::Overlay(Overlay {
            lower: vec![at("lower")],
            data,
            writable: Some(Upper {
                upper: at("upper"),
                work: at("work"),
                volatile: false,
            }),
            userxattr: true,
            options: Vec::new(),
            at: PathBuf::from("/"),
        })],
    };
    let target = rustix::fs::open(at("merged"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Lack::at("opening a mount place"))?;
    let root = plan
        .execute(target.as_fd())
        .map_err(|error| Lack::new("mounting an overlay", errno_of(&error)))?
        .into_fd();
    let used = use_overlay(root.as_fd());
    drop(root);
    drop(target);
    let unmounted = rustix::mount::unmount(at("merged"), UnmountFlags::DETACH);
    used.and(unmounted.map_err(Lack::at("unmounting it")))
}

/// Writes what the store writes for a regular file.
fn stub(path: &Path, size: u64, object: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::ftruncate(&file, size)?;
    let set = |name, value| rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty());
    set("user.overlay.metacopy", b"")?;
    set("user.overlay.redirect", object)
}

fn use_overlay(root: impl AsFd) -> Ability {
    let open = |flags| rustix::fs::openat(&root, "file", flags | OFlags::CLOEXEC, Mode::empty());
    let mut bytes = [0; 32];
    let mut read = |doing: &'static str, expected: &[u8]| {
        let length = open(OFlags::RDONLY)
            .and_then(|file| rustix::io::read(file, &mut bytes[..]))
            .map_err(Lack::at(doing))?;
        if bytes[..length] == *expected {
            Ok(())
        } else {
            Err(Lack::new(doing, Errno::IO))
        }
    };
    read("reading a file through it", TEXT)?;
    open(OFlags::WRONLY | OFlags::APPEND)
        .and_then(|file| rustix::io::write(file, b"!"))
        .map_err(Lack::at("changing a file in it"))?;
    read("reading the changed file", b"content!")?;
    rustix::fs::unlinkat(&root, "file", AtFlags::empty())
        .map_err(Lack::at("removing a file of a lower layer"))?;
    let remove = |name: &str| rustix::fs::unlinkat(&root, name, AtFlags::REMOVEDIR);
    remove("directory/old")
        .and_then(|()| remove("directory"))
        .and_then(|()| rustix::fs::mkdirat(&root, "directory", Mode::RWXU))
        .map_err(Lack::at("replacing a directory of a lower layer"))?;
    let gone = |name: &str| match rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Ok(_) => Err(Lack::new("hiding what was removed", Errno::EXIST)),
        Err(errno) => Err(Lack::new("looking for what was removed", errno)),
    };
    gone("file")?;
    gone("directory/old")
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Lack {
    move |error| Lack::new(doing, Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Returns the innermost system error of a chain.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Errno {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(errno) = error.downcast_ref::<Errno>() {
            return *errno;
        }
        at = error.source();
    }
    Errno::IO
}
