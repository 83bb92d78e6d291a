// SPDX-License-Identifier: Apache-2.0
//! Deletes a store with everything in it.
//!
//! Stub trees hold directories of subordinate ids, which only a process inside the user namespace can empty. The store is
//! renamed out of the way first: from then on there is none, and a reset that is killed leaves a directory that the
//! next one deletes.

use std::ffi::OsString;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::layout::Store;
use crate::lock::{Hold, Lock};
use crate::session::random_name;

/// How the directories are called that a reset deletes.
const DOOMED_PREFIX: &str = ".doomed-store-";

impl Store {
    /// Deletes the store at `path`, and what an earlier reset left beside it. Waits until nobody adds anything.
    pub fn reset(path: &Path) -> Result<()> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        match rustix::fs::open(
            path,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        ) {
            Ok(store) => {
                // A store that is damaged beyond having a lock is deleted all the same.
                let _lock = Lock::wait(&store, "lock", Hold::Exclusive).ok();
                let doomed = parent.join(format!("{DOOMED_PREFIX}{}", random_name()?));
                std::fs::rename(path, &doomed).doing("removing", path)?;
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno).doing("opening", path),
        }
        let entries = match std::fs::read_dir(parent) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.doing("listing", parent)?,
        };
        for entry in entries {
            let name: OsString = entry.doing("listing", parent)?.file_name();
            if name.to_string_lossy().starts_with(DOOMED_PREFIX) {
                let doomed = parent.join(name);
                std::fs::remove_dir_all(&doomed).doing("removing", doomed)?;
            }
        }
        Ok(())
    }
}
