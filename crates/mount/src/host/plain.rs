// SPDX-License-Identifier: Apache-2.0
//! The root of a host container where no FUSE file system can be mounted: this machine's own directories as lower layers.
//!
//! # Theory of operation
//! Inside the user namespace the machine's files belong to nobody, and a directory of nobody's cannot be copied up: nothing could
//! be made in it. So a tree of directories alone, owned by the container's root, lies above each part of the machine that is
//! shown ([`Exposure`]): everywhere files can be made, removed and replaced. Existing ones stay nobody's and cannot be
//! changed. A directory that others may not enter or list is opaque; what is hidden, and a file that others may not read, is a
//! whiteout: the same is there as in the FUSE tree.
//!
//! The tree is walked once (some 20,000 directories take seconds) and kept until package tools have been at work. Parts of
//! the machine with mounts below them cannot be layers of an overlay; they are bound, for reading only.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags},
    io::Errno,
};
use wolffia_sys::mount::{Bind, Overlay, Plan, Step};

use super::{
    exposure::{Exposure, Sight},
    prepare::PrepareError,
    skeleton::{self, OTHERS_LIST, OTHERS_READ, Skeleton, failed, kept, make_directory},
};
use crate::work::WorkDir;

/// Changes when the tree is made otherwise from the same directories.
const VERSION: u32 = 1;
/// Directories at most; a machine has some ten thousand.
const DIRECTORIES_MAX: usize = 500_000;
/// What changes with the machine's directories, as a rule.
const WITNESSES: &[&str] = &[
    "/var/lib/dpkg/status",
    "/var/lib/rpm",
    "/var/lib/pacman/local",
    "/usr",
    "/usr/lib",
    "/usr/share",
    "/usr/local",
    "/usr/local/lib",
    "/opt",
];

/// Appends the mounts to a plan whose root is a skeleton, and returns what keeps the tree.
pub(super) fn add(
    plan: &mut Plan,
    skeletons: &Path,
    mapping_key: &str,
    work: &WorkDir,
    exposure: &Exposure,
) -> Result<Skeleton, PrepareError> {
    let kind = format!("directories-{mapping_key}");
    let tree = kept(skeletons, &kind, digest(exposure), |root| {
        write(exposure, root)
    })?;
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (number, shown) in exposure.shown().iter().enumerate() {
        if has_mounts_below(&mounted, shown) {
            let bind = Bind::new(shown, shown).read_only();
            plan.steps.push(Step::Bind(bind));
            continue;
        }
        let directories = tree.root.join(shown.strip_prefix("/").unwrap_or(shown));
        let own = WorkDir {
            directory: work.directory.join(format!("part-{number}")),
            committed: Vec::new(),
            ..work.clone()
        };
        make(&own.directory)?;
        plan.steps.push(Step::Overlay(Overlay {
            writable: own.writable(&directories)?,
            lower: vec![directories, shown.clone()],
            data: Vec::new(),
            userxattr: true,
            options: Vec::new(),
            at: shown.clone(),
        }));
    }
    Ok(tree)
}

fn make(path: &Path) -> Result<(), PrepareError> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(PrepareError::Place {
                path: path.to_owned(),
                source,
            })
        }
        _ => Ok(()),
    }
}

fn digest(exposure: &Exposure) -> u64 {
    let mut hasher = DefaultHasher::new();
    (VERSION, exposure.shown(), exposure.hidden()).hash(&mut hasher);
    for witness in WITNESSES {
        let changed = fs::metadata(witness).map(|found| (found.mtime(), found.mtime_nsec()));
        changed.ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// Says whether something is mounted below a directory, by the lines of mountinfo.
fn has_mounts_below(mountinfo: &str, directory: &Path) -> bool {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|place| {
            let place = Path::new(place);
            place.starts_with(directory) && place != directory
        })
}

/// Writes the tree of directories of everything that is shown.
fn write(exposure: &Exposure, root: &Path) -> skeleton::Result<()> {
    make_directory(root, 0o755)?;
    let mut count = 0;
    for shown in exposure.shown() {
        let to = root.join(shown.strip_prefix("/").unwrap_or(shown));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed("making", parent))?;
        }
        let mut found = vec![shown.clone()];
        while let Some(from) = found.pop() {
            count += 1;
            if count > DIRECTORIES_MAX {
                return Err(failed("listing", &from)(Errno::OVERFLOW));
            }
            copy(exposure, &from, root, &mut found)?;
        }
    }
    Ok(())
}

/// Makes one directory, and adds those in it to `found`.
fn copy(
    exposure: &Exposure,
    from: &Path,
    root: &Path,
    found: &mut Vec<PathBuf>,
) -> skeleton::Result<()> {
    let inner = from.strip_prefix("/").unwrap_or(from);
    let to = root.join(inner);
    let Ok(looked) = fs::symlink_metadata(from) else {
        return Ok(());
    };
    if exposure.sight(inner.as_os_str().as_encoded_bytes()) == Sight::None {
        return white_out(&to);
    }
    make_directory(&to, looked.mode() & 0o7777)?;
    if looked.mode() & OTHERS_LIST != OTHERS_LIST {
        return rustix::fs::setxattr(&to, "user.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(failed("closing", &to));
    }
    // Package tools change these files in place or link them, which needs files of our own.
    let copied = from.starts_with("/var") && exposure.shown().iter().any(|shown| shown == from);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.push(entry.path());
        } else if !kind.is_symlink() {
            let readable = |found: fs::Metadata| kind.is_file() && found.mode() & OTHERS_READ != 0;
            let to = to.join(entry.file_name());
            if !entry.metadata().is_ok_and(readable) {
                white_out(&to)?;
            } else if copied {
                fs::copy(entry.path(), &to).map_err(failed("copying", &to))?;
            }
        }
    }
    Ok(())
}

/// Makes what hides a name of the layers below.
fn white_out(path: &Path) -> skeleton::Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(failed("hiding", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_seen_and_its_own_is_not() {
        let lines = "1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /usr rw - ext4 y rw\n3 2 0:5 / /usr/local/net rw - nfs z rw\n";
        assert!(has_mounts_below(lines, Path::new("/usr")));
        assert!(!has_mounts_below(lines, Path::new("/usr/local/net")));
        assert!(!has_mounts_below(lines, Path::new("/us")));
        assert!(!has_mounts_below(lines, Path::new("/opt")));
    }

    #[test]
    fn the_tree_has_directories_alone_and_closed_ones_are_opaque() {
        use std::os::unix::fs::PermissionsExt;
        let (machine, place) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        for directory in ["shown/open/deep", "shown/closed/deep"] {
            fs::create_dir_all(machine.path().join(directory)).expect("directories");
        }
        fs::write(machine.path().join("shown/open/file"), b"x").expect("a file");
        let secret = machine.path().join("shown/open/secret");
        fs::write(&secret, b"x").expect("a file");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).expect("a mode");
        let closed = machine.path().join("shown/closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o750)).expect("a mode");
        let shown = machine.path().join("shown");
        let exposure = Exposure::of(vec![shown.clone()], Vec::new());
        let root = place.path().join("root");
        write(&exposure, &root).expect("written");
        let there = root.join(shown.strip_prefix("/").expect("absolute"));
        assert!(there.join("open/deep").is_dir() && there.join("closed").is_dir());
        assert!(!there.join("open/file").exists() && !there.join("closed/deep").exists());
        let white = fs::symlink_metadata(there.join("open/secret")).expect("a whiteout");
        assert_eq!((white.mode() & 0o170_000, white.rdev()), (0o020_000, 0));
        let mut value = [0; 8];
        let mark = |path: &Path, value: &mut [u8]| {
            rustix::fs::getxattr(path, "user.overlay.opaque", value)
        };
        assert_eq!(mark(&there.join("closed"), &mut value), Ok(1));
        assert!(mark(&there.join("open"), &mut value).is_err());
    }
}
