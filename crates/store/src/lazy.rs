// SPDX-License-Identifier: Apache-2.0
//! Lazy images: trees whose objects are still to come, the tables that say from where, and who fetches what.
//!
//! # Theory of operation
//! A lazy image has a tree and stub trees as every other, made from the indexes of its layers before the layers were there. Its
//! tree is *not* named by the chain ID: nobody has seen the tars, so nothing may claim their digests. It is named by what it was made from,
//! the layers' own digests and those of their indexes. Beside the record lies `lazy`, the table of objects and where their bytes
//! are; this room only keeps it. Once everything is here the table becomes `whole`, and the image starts without anybody's help.
//!
//! Several processes may want the same object: whoever has its [`ObjectClaim`] fetches, the others wait for the object. The
//! claim's file goes with the claim; one that a killed process left is free and harmless.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use wolffia_image::{Digest, ObjectName};

use crate::error::{Doing, Result};
use crate::layout::Store;
use crate::lock::{Hold, Lock};
use crate::record;
use crate::session::{Session, is_there};
use crate::trees::TreeId;

/// Where claims of objects lie.
const CLAIMS: &str = "claims";
/// The table's name beside a tree's record.
const TABLE: &str = "lazy";
/// How marks of layers begin that were compared with their digests.
const COMPARED: &str = "compared-";
/// The table's name when everything is here.
const WHOLE: &str = "whole";

/// The right to fetch an object, until this is dropped or the process ends.
#[derive(Debug)]
pub struct ObjectClaim<'store> {
    store: &'store Store,
    file: PathBuf,
    _lock: Lock,
}

impl Drop for ObjectClaim<'_> {
    fn drop(&mut self) {
        if let Err(errno) = rustix::fs::unlinkat(self.store.at(), &self.file, AtFlags::empty()) {
            tracing::debug!(file = %self.file.display(), %errno, "a claim's file stays");
        }
    }
}

impl Store {
    /// Returns the table of a tree's objects, where they are not all here.
    pub fn lazy_table(&self, tree: TreeId) -> Result<Option<PathBuf>> {
        let table = tree.path().join(TABLE);
        Ok(is_there(self, &table)?.then(|| self.path().join(table)))
    }

    /// Returns whether a tree was made from the indexes of layers, whatever is here now.
    pub fn is_lazy(&self, tree: TreeId) -> Result<bool> {
        Ok(is_there(self, &tree.path().join(TABLE))? || is_there(self, &tree.path().join(WHOLE))?)
    }

    /// Remembers that all objects of a table's tree are here.
    pub fn set_whole(table: &Path) -> Result<()> {
        let to = table.with_file_name(WHOLE);
        match rustix::fs::rename(table, &to) {
            Err(Errno::NOENT) => Ok(()),
            other => other.doing("writing", to),
        }
    }

    /// Tells whether a layer of a table, by its place there, was compared with its digest.
    pub fn is_compared(table: &Path, layer: u16) -> bool {
        table.with_file_name(format!("{COMPARED}{layer}")).exists()
    }

    /// Remembers that a layer of a table was compared with its digest, and fitted.
    pub fn set_compared(table: &Path, layer: u16) -> Result<()> {
        let path = table.with_file_name(format!("{COMPARED}{layer}"));
        std::fs::write(&path, b"").doing("writing", path)
    }

    /// Claims the right to fetch an object; nothing while another process has it. Who gets it looks for the object once more.
    pub fn claim_object(&self, digest: &Digest) -> Result<Option<ObjectClaim<'_>>> {
        let name = ObjectName::long(digest).to_string().replacen('/', "", 1);
        let file = Path::new(CLAIMS).join(name);
        let path = || self.path().join(&file);
        match record::write_new(self.at(), &file, b"") {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make_claims()?;
                match record::write_new(self.at(), &file, b"") {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made.doing("writing", path())?,
                }
            }
            made => made.doing("writing", path())?,
        }
        let locked = match Lock::attempt(self.at(), &file, Hold::Exclusive) {
            // Who had it has just finished.
            Err(Errno::NOENT) => None,
            other => other.doing("locking", path())?,
        };
        Ok(locked.map(|lock| ObjectClaim {
            store: self,
            file,
            _lock: lock,
        }))
    }

    fn make_claims(&self) -> Result<()> {
        match rustix::fs::mkdirat(self.at(), CLAIMS, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            made => made.doing("making", self.path().join(CLAIMS)),
        }
    }
}

impl Session<'_> {
    /// Keeps the table of a lazy tree, whose record is there.
    pub fn put_lazy_table(&self, tree: TreeId, table: &[u8]) -> Result<()> {
        if is_there(self.store(), &tree.path().join(WHOLE))? {
            return Ok(());
        }
        self.replace(&tree.path().join(TABLE), table)
    }
}
