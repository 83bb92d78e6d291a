// SPDX-License-Identifier: Apache-2.0
//! Trees on disk against their records: stub trees, and the plain directories that a mount driver unpacks from them.
//!
//! In both forms an entry has the type, mode, owner and time of its record. A file of a stub tree names its object; one that was
//! unpacked has its bytes, which are read. What the record does not name is a problem too.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use wolffia_image::Digest;
use wolffia_image::tree::{Entry, Kind, Meta};

use super::{READ_BYTES, Repair, Report, hash};
use crate::elsewhere::{Places, REDIRECT_BYTES_MAX};
use crate::error::{Doing, Result};
use crate::garbage::contents;
use crate::layout::Store;
use crate::owners::Owners;
use crate::session::{Session, list};
use crate::stubs::{METACOPY_ATTRIBUTE, REDIRECT_ATTRIBUTE};
use crate::trees::{STUBS_PREFIX, TreeId, UNPACKED, stubs_path};

/// What stands for a file's content.
#[derive(Debug, Clone, Copy)]
enum Form<'a> {
    /// The name of an object, here or elsewhere.
    Stubs(&'a Places),
    /// Its bytes.
    Unpacked,
}

impl Store {
    pub(super) fn check_trees(
        &self,
        session: &Session<'_>,
        owners: Option<&Owners>,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        for id in self.tree_ids()? {
            let before = report.problem_count;
            self.check_tree(id, owners, report)?;
            if report.problem_count > before && repair == Repair::Yes {
                session.take_away(&id.path())?;
                report.repaired += 1;
            } else if let Some(owners) = owners {
                self.check_unpacked(session, id, owners, repair, report)?;
            }
        }
        Ok(())
    }

    /// Looks at what was unpacked from a tree; that alone goes where it is damaged, because it is made again when it is mounted.
    fn check_unpacked(
        &self,
        session: &Session<'_>,
        id: TreeId,
        owners: &Owners,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        let home = stubs_path(id, &owners.key).join(UNPACKED);
        let root = self.path().join(&home);
        if !root.exists() {
            return Ok(());
        }
        let Ok(tree) = self.tree(id) else {
            // Told already.
            return Ok(());
        };
        report.stub_trees += 1;
        let before = report.problem_count;
        self.check_entries(&root, &tree.entries, Form::Unpacked, owners, report)?;
        if report.problem_count > before && repair == Repair::Yes {
            session.take_away(&home)?;
            report.repaired += 1;
        }
        Ok(())
    }

    fn check_tree(&self, id: TreeId, owners: Option<&Owners>, report: &mut Report) -> Result<()> {
        let record = self.path().join(id.path()).join("record");
        let tree = match self.tree(id) {
            Ok(tree) => tree,
            Err(error) => {
                report.add(record, error.to_string());
                return Ok(());
            }
        };
        let places = match self.places(id) {
            Ok(places) => places,
            Err(error) => {
                report.add(record, error.to_string());
                return Ok(());
            }
        };
        let lazy = self.lazy_table(id)?.is_some();
        if !lazy && let Some(problem) = self.missing_object(contents(&tree.entries), &places)? {
            report.add(record, problem);
        }
        self.check_facts(id, report)?;
        let Some(owners) = owners else { return Ok(()) };
        let stubs = self.path().join(stubs_path(id, &owners.key)).join("root");
        if stubs.exists() {
            report.stub_trees += 1;
            let form = Form::Stubs(&places);
            self.check_entries(&stubs, &tree.entries, form, owners, report)?;
        }
        Ok(())
    }

    /// Looks at what was counted for each stub tree of a tree.
    fn check_facts(&self, id: TreeId, report: &mut Report) -> Result<()> {
        for name in self.list(&id.path().to_string_lossy())? {
            if name.starts_with(STUBS_PREFIX)
                && let Err(error) = self.stub_facts(&id.path().join(name))
            {
                report.add(self.path().join(id.path()), error.to_string());
            }
        }
        Ok(())
    }

    /// Compares a tree on disk with its record.
    fn check_entries(
        &self,
        root: &Path,
        entries: &[Entry],
        form: Form<'_>,
        owners: &Owners,
        report: &mut Report,
    ) -> Result<()> {
        let mut expected = HashSet::new();
        for entry in entries {
            let path = root.join(entry.path.as_path());
            if matches!(
                entry.kind,
                Kind::CharDevice { .. } | Kind::BlockDevice { .. }
            ) {
                continue;
            }
            let problem =
                match rustix::fs::statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => self.entry_problem(entry, &path, &stat, form, owners)?,
                    Err(errno) => Some(format!("it cannot be looked at: {errno}")),
                };
            if let Some(problem) = problem {
                report.add(path, problem);
            }
            expected.insert(entry.path.as_bytes());
        }
        let mut to_walk = vec![PathBuf::new()];
        while let Some(directory) = to_walk.pop() {
            let at = crate::layout::open_directory(rustix::fs::CWD, &root.join(&directory))
                .doing("opening", root.join(&directory))?;
            for name in list(&at).doing("listing", root.join(&directory))? {
                let path = directory.join(name);
                if !expected.contains(path.as_os_str().as_bytes()) {
                    report.add(root.join(path), "the record does not name it");
                } else if root
                    .join(&path)
                    .symlink_metadata()
                    .is_ok_and(|found| found.is_dir())
                {
                    to_walk.push(path);
                }
            }
        }
        Ok(())
    }

    fn entry_problem(
        &self,
        entry: &Entry,
        path: &Path,
        stat: &Stat,
        form: Form<'_>,
        owners: &Owners,
    ) -> Result<Option<String>> {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let right_type = match entry.kind {
            Kind::Directory => FileType::Directory,
            Kind::File { .. } => FileType::RegularFile,
            Kind::Symlink { .. } => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            // What it links to was looked at under its first name.
            _ => return Ok(None),
        };
        if file_type != right_type {
            return Ok(Some(format!("it is {file_type:?}, not {right_type:?}")));
        }
        if let Some(problem) = meta_problem(&entry.meta, file_type, stat, owners) {
            return Ok(Some(problem));
        }
        Ok(match &entry.kind {
            Kind::File { size, .. } if u64::try_from(stat.st_size) != Ok(*size) => {
                Some(format!("its size is {}, not {size}", stat.st_size))
            }
            Kind::File { size, digest } => match form {
                Form::Stubs(places) => {
                    self.stub_problem(path, (*size > 0).then_some(digest), places)?
                }
                Form::Unpacked => content_problem(path, digest),
            },
            Kind::Symlink { target } => {
                let found = rustix::fs::readlink(path, Vec::new()).doing("reading", path)?;
                (found.as_bytes() != target.as_slice()).then(|| "its target is another".to_owned())
            }
            _ => None,
        })
    }

    /// Returns what is wrong with a stub of this content; an empty file names none.
    fn stub_problem(
        &self,
        path: &Path,
        digest: Option<&Digest>,
        places: &Places,
    ) -> Result<Option<String>> {
        let attribute = |name: &str| {
            let mut value = [0; REDIRECT_BYTES_MAX];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            Some(value[..length.min(value.len())].to_vec())
        };
        let redirect = attribute(REDIRECT_ATTRIBUTE);
        let Some(digest) = digest else {
            return Ok(redirect.map(|_| "an empty file names an object".to_owned()));
        };
        let right = match places.redirect(digest) {
            Some(redirect) => Some(redirect),
            // An object of a lazy image may be missing; its name is known all the same.
            None => Some(self.name_for(digest)?.redirect().into_bytes()),
        };
        Ok(
            (redirect != right || attribute(METACOPY_ATTRIBUTE) != Some(Vec::new()))
                .then(|| format!("it does not name the object of {digest}")),
        )
    }
}

fn content_problem(path: &Path, digest: &Digest) -> Option<String> {
    // Nobody but us writes here: no link and no fifo takes the file's place between the look and this.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = rustix::fs::open(path, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| hash(File::from(file), &mut vec![0; READ_BYTES]));
    match read {
        Ok((found, _)) => (found != *digest).then(|| format!("its content is not {digest}")),
        Err(error) => Some(format!("it cannot be read: {error}")),
    }
}

fn meta_problem(meta: &Meta, file_type: FileType, stat: &Stat, owners: &Owners) -> Option<String> {
    let symlink = file_type == FileType::Symlink;
    if !symlink && stat.st_mode & 0o7777 != meta.mode {
        return Some(format!(
            "its mode is {:o}, not {:o}",
            stat.st_mode & 0o7777,
            meta.mode
        ));
    }
    let (user, group, _) = owners.shown(meta.uid, meta.gid);
    if !owners.is_single() && (stat.st_uid, stat.st_gid) != (user, group) {
        return Some(format!(
            "it belongs to {}:{}, not {user}:{group}",
            stat.st_uid, stat.st_gid
        ));
    }
    let time = (
        stat.st_mtime,
        u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX),
    );
    (time != (meta.mtime.seconds, meta.mtime.nanoseconds))
        .then(|| "it was changed at another time".to_owned())
}
