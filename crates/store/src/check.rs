// SPDX-License-Identifier: Apache-2.0
//! Looks at everything in the store and says what is not as it must be.
//!
//! Every object is read and its digest compared with its attribute and its name; records are read, what they need is looked
//! for, and trees on disk are compared with their records entry by entry ([`tree`]). With [`Repair::Yes`], damaged objects and stub trees are
//! taken away together with the records of the layers that need them, so that the next pull fetches them anew.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use wolffia_image::{Digest, Hasher, ObjectName};

use crate::elsewhere::Places;
use crate::error::Result;
use crate::garbage::contents;
use crate::layout::Store;
use crate::owners::Owners;
use crate::session::Session;

mod tree;

/// Most problems that are told one by one.
pub const PROBLEMS_MAX: usize = 1000;

/// Bytes of an object that are read at once.
const READ_BYTES: usize = 1 << 18;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Objects that were read.
    pub objects: u64,
    /// Bytes that they have.
    pub bytes: u64,
    /// Images.
    pub images: u64,
    /// Stub trees, and trees unpacked from them, that were compared with their records.
    pub stub_trees: u64,
    /// What is wrong, the first [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How much is wrong.
    pub problem_count: u64,
    /// How much of that was taken away.
    pub repaired: u64,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// What is wrong there.
    pub problem: String,
}

/// Whether a check mends what it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Only look.
    #[default]
    No,
    /// Take away what is damaged and can be fetched or made again.
    Yes,
}

/// Which objects a check reads; records are always read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All.
    Everything,
    /// Those written at this time or later, in seconds since 1970.
    WrittenSince(u64),
}

impl Scope {
    fn contains(self, stat: &Stat) -> bool {
        match self {
            Self::Everything => true,
            Self::WrittenSince(seconds) => {
                u64::try_from(stat.st_mtime).is_ok_and(|written| written >= seconds)
            }
        }
    }
}

impl Report {
    /// Returns whether all is well.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, path: impl Into<PathBuf>, problem: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                path: path.into(),
                problem: problem.into(),
            });
        }
    }
}

impl Store {
    /// Looks at everything. Stub trees of `owners` are compared with their records, which needs the user namespace.
    ///
    /// Nothing is collected meanwhile, but things may be added: an image that appears during the check is not in it.
    pub fn check(&self, owners: Option<&Owners>, repair: Repair) -> Result<Report> {
        self.check_within(Scope::Everything, owners, repair)
    }

    pub(crate) fn check_within(
        &self,
        scope: Scope,
        owners: Option<&Owners>,
        repair: Repair,
    ) -> Result<Report> {
        let mut report = Report::default();
        let left = self.sweep();
        let session = self.session()?;
        for _ in 0..left {
            report.add(
                self.path().join("ingest"),
                "what a killed command left cannot be removed",
            );
        }
        self.check_objects(&session, scope, repair, &mut report)?;
        self.check_layers(&session, repair, &mut report)?;
        self.check_trees(&session, owners, repair, &mut report)?;
        self.check_images(&session, repair, &mut report)?;
        self.check_names(&session, repair, &mut report)?;
        Ok(report)
    }

    fn check_objects(
        &self,
        session: &Session<'_>,
        scope: Scope,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut damaged = Vec::new();
        self.each_object(|name, path| {
            report.objects += 1;
            match self.check_object(name, path, scope, &mut buffer) {
                Ok(Ok(bytes)) => report.bytes += bytes,
                Ok(Err(problem)) => {
                    report.add(self.objects_path().join(path), problem);
                    damaged.push(Path::new("objects").join(path));
                }
                Err(error) => report.add(self.objects_path().join(path), error.to_string()),
            }
            Ok(())
        })?;
        if repair == Repair::Yes {
            for path in damaged {
                session.take_away(&path)?;
                report.repaired += 1;
            }
        }
        Ok(())
    }

    /// Returns an object's size, or what is wrong with it.
    fn check_object(
        &self,
        name: Option<ObjectName>,
        path: &Path,
        scope: Scope,
        buffer: &mut [u8],
    ) -> std::io::Result<Result<u64, String>> {
        let Some(name) = name else {
            return Ok(Err("this is not the name of an object".to_owned()));
        };
        let file = rustix::fs::openat(
            &self.objects,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Err("it is no regular file".to_owned()));
        }
        if stat.st_mode & 0o7333 != 0 {
            return Ok(Err(format!("its mode is {:o}", stat.st_mode & 0o7777)));
        }
        if !scope.contains(&stat) {
            return Ok(Ok(u64::try_from(stat.st_size).unwrap_or(0)));
        }
        let digest = hash(File::from(file), buffer)?;
        match self.digest_at(name) {
            Ok(Some(said)) if said == digest.0 => {}
            Ok(Some(said)) => {
                return Ok(Err(format!(
                    "its content has the digest {}, not {said}",
                    digest.0
                )));
            }
            Ok(None) => return Ok(Err("it vanished".to_owned())),
            Err(error) => return Ok(Err(error.to_string())),
        }
        let (short, long) = (ObjectName::of(&digest.0), ObjectName::long(&digest.0));
        if name != short && name != long {
            return Ok(Err(format!("its name should be {short}")));
        }
        Ok(Ok(digest.1))
    }

    fn check_layers(
        &self,
        session: &Session<'_>,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        for (diff_id, path) in self.layer_files()? {
            let problem = match self.layer(&diff_id) {
                Ok(Some(layer)) => self.missing_object(contents(&layer.entries), &Places::new())?,
                Ok(None) => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                report.add(self.path().join(&path), problem);
                if repair == Repair::Yes {
                    session.take_away(&path)?;
                    report.repaired += 1;
                }
            }
        }
        Ok(())
    }

    /// Returns what to say where an object is missing.
    fn missing_object(
        &self,
        digests: impl Iterator<Item = Digest>,
        places: &Places,
    ) -> Result<Option<String>> {
        for digest in digests {
            if places.redirect(&digest).is_none() && self.locate(&digest)?.is_none() {
                return Ok(Some(format!(
                    "it needs the object {digest}, which is missing"
                )));
            }
        }
        Ok(None)
    }

    fn check_images(
        &self,
        session: &Session<'_>,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        for id in self.image_ids()? {
            report.images += 1;
            let directory = Path::new("images").join(id.hex());
            let path = self.path().join(&directory);
            let unreadable = match self.read_image(&id, &[]) {
                Ok(Some(image)) => {
                    if !self.has_tree(image.tree)? {
                        report.add(path, "its tree is missing");
                    }
                    continue;
                }
                Ok(None) => "its record is missing".to_owned(),
                Err(error) => error.to_string(),
            };
            report.add(path, unreadable);
            if repair == Repair::Yes {
                session.take_away(&directory)?;
                report.repaired += 1;
            }
        }
        Ok(())
    }

    fn check_names(
        &self,
        session: &Session<'_>,
        repair: Repair,
        report: &mut Report,
    ) -> Result<()> {
        for file in self.list("names")? {
            let path = Path::new("names").join(file);
            let problem = match self.read_name(&path) {
                Ok(Some(name)) if !self.has_image(&name.image)? => {
                    format!("{} names an image that is missing", name.reference)
                }
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            report.add(self.path().join(&path), problem);
            if repair == Repair::Yes {
                session.take_away(&path)?;
                report.repaired += 1;
            }
        }
        Ok(())
    }
}

fn hash(mut file: impl Read, buffer: &mut [u8]) -> std::io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    loop {
        let read = file.read(buffer)?;
        if read == 0 {
            let bytes = hasher.fed_bytes();
            return Ok((hasher.finish(), bytes));
        }
        hasher.update(&buffer[..read]);
    }
}
