// SPDX-License-Identifier: Apache-2.0
//! Containers go: removed by whoever holds them, or swept after a kill.
//!
//! The record first, so that what is left of a removal that was cut short is no container any more, and is found by its lock.

use std::{fs, io, path::Path};

use super::{ContainerError, Containers, Held, RECORD, STATE, ids_in, killed, read_name};
use crate::{
    file::{read_json, write_json},
    id::{ContainerId, ContainerName},
    lock::Lock,
    record::{Record, State, Status},
    tree,
};

impl Containers {
    /// Removes a container that does not run.
    pub fn remove(&self, held: Held) -> Result<(), ContainerError> {
        let Held { container, lock } = held;
        self.remove_files(&container.record.id, Some(&container.record.name))?;
        lock.release();
        Ok(())
    }

    pub(super) fn remove_files(
        &self,
        id: &ContainerId,
        name: Option<&ContainerName>,
    ) -> Result<(), ContainerError> {
        self.remove_files_by(id, name, tree::remove)
    }

    fn remove_files_by(
        &self,
        id: &ContainerId,
        name: Option<&ContainerName>,
        remove: impl FnOnce(&Path) -> Result<(), tree::TreeError>,
    ) -> Result<(), ContainerError> {
        let folder = self.home.container(id);
        match fs::remove_file(folder.join(RECORD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = folder.join(RECORD);
                return Err(ContainerError::Io {
                    doing: "removing",
                    path,
                    source: error,
                });
            }
            _ => {}
        }
        remove(&folder).map_err(|source| ContainerError::Remove {
            id: id.short().to_owned(),
            source,
        })?;
        self.unpin(id);
        match name {
            Some(name) => drop(fs::remove_file(self.home.names().join(name.as_str()))),
            None => self.drop_names_of(id),
        }
        Ok(())
    }

    /// Removes a container whose lock the caller holds, by the caller's rights alone: a conductor is root of the container's ids.
    pub fn remove_as_root(&self, record: &Record) -> Result<(), ContainerError> {
        self.remove_files_by(&record.id, Some(&record.name), |folder| {
            tree::remove_plainly(folder)
        })
    }

    /// Lets go of the image's tree. A pin that stays only keeps files until the store is checked.
    fn unpin(&self, id: &ContainerId) {
        let store = wolffia_store::Store::open_existing(&self.home.store());
        if let Err(error) = store.and_then(|store| store.unpin(id.as_str())) {
            tracing::debug!(%error, "an image's tree stays pinned");
        }
    }

    pub(super) fn drop_names_of(&self, id: &ContainerId) {
        let Ok(names) = fs::read_dir(self.home.names()) else {
            return;
        };
        for name in names.flatten() {
            if read_name(&name.path()).as_ref() == Some(id) {
                drop(fs::remove_file(name.path()));
            }
        }
    }

    /// Finishes what killed processes of ours left. Returns the containers that were swept.
    pub fn sweep(&self) -> Result<Vec<ContainerId>, ContainerError> {
        let mut swept = Vec::new();
        for id in ids_in(&self.home.running())? {
            let path = self.lock_path(&id);
            let inherited = Lock::inherit(&path).map_err(|source| ContainerError::Io {
                doing: "locking",
                path,
                source,
            })?;
            let Some(lock) = inherited else { continue };
            self.sweep_one(&id)?;
            lock.release();
            swept.push(id);
        }
        Ok(swept)
    }

    fn sweep_one(&self, id: &ContainerId) -> Result<(), ContainerError> {
        let folder = self.home.container(id);
        let Some(record) = read_json::<Record>(&folder.join(RECORD))? else {
            return self.remove_files(id, None);
        };
        let state = read_json::<State>(&folder.join(STATE))?.unwrap_or_default();
        // One that was only made has no lock file; whoever was making or starting it has not reported it.
        if record.options.remove {
            return self.remove_files(id, Some(&record.name));
        }
        if state.status == Status::Running {
            write_json(&folder.join(STATE), &killed(&state))?;
        }
        Ok(())
    }
}
