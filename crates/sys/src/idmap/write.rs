// SPDX-License-Identifier: Apache-2.0
//! Maps written into a new user namespace, by its parent.
//!
//! The process that is written to must be an unreaped child of ours, so that its number cannot come to mean another.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{IdMap, IdMapError, Mapping};

/// Writes the maps of the user namespace that process `pid` was cloned into. Blocks on the helpers (about 1 ms) for sub-ids.
pub fn write_maps(pid: u32, mapping: &Mapping) -> Result<(), IdMapError> {
    let maps = mapping.maps();
    match mapping {
        Mapping::SubIds(_) => {
            let users = Helper::start("newuidmap", pid, &maps.uid)?;
            let groups = Helper::start("newgidmap", pid, &maps.gid);
            // The first is waited for, whatever became of the second.
            let users = users.finish();
            groups?.finish()?;
            users?;
            is_written(pid, "uid_map", &maps.uid)?;
            is_written(pid, "gid_map", &maps.gid)
        }
        Mapping::SingleId(_) => {
            write(pid, "setgroups", "deny")?;
            write(pid, "uid_map", &maps.uid.to_string())?;
            write(pid, "gid_map", &maps.gid.to_string())
        }
        Mapping::RootRange(_) => {
            write(pid, "uid_map", &maps.uid.to_string())?;
            write(pid, "gid_map", &maps.gid.to_string())
        }
    }
}

fn file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// One write call: the kernel takes a map whole or not at all.
fn write(pid: u32, name: &str, map: &str) -> Result<(), IdMapError> {
    let path = file(pid, name);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut opened| io::Write::write_all(&mut opened, map.as_bytes()))
        .map_err(|source| IdMapError::Write {
            path,
            map: map.to_owned(),
            source,
        })
}

/// newuidmap or newgidmap at work.
struct Helper {
    program: &'static str,
    child: Child,
}

impl Helper {
    fn start(program: &'static str, pid: u32, map: &IdMap) -> Result<Helper, IdMapError> {
        let numbers = map.ranges().iter().flat_map(|range| {
            [range.inside, range.outside, range.count].map(|number| number.to_string())
        });
        let child = Command::new(program)
            .arg(pid.to_string())
            .args(numbers)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| IdMapError::Start { program, source })?;
        Ok(Helper { program, child })
    }

    fn finish(self) -> Result<(), IdMapError> {
        let Helper { program, child } = self;
        let output = child
            .wait_with_output()
            .map_err(|source| IdMapError::Start { program, source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(IdMapError::Refused { program, said })
    }
}

fn is_written(pid: u32, name: &str, map: &IdMap) -> Result<(), IdMapError> {
    let path = file(pid, name);
    let found = fs::read_to_string(&path).map_err(|source| IdMapError::Read {
        path: path.clone(),
        source,
    })?;
    let wanted = map.to_string();
    if found.split_whitespace().eq(wanted.split_whitespace()) {
        return Ok(());
    }
    Err(IdMapError::NotWritten {
        path,
        found,
        wanted,
    })
}
