// SPDX-License-Identifier: Apache-2.0
//! A container of the command line while it is being made: its directory, its gate, what is handed over, its record.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustix::net::{bind, listen};
use wolffia_sys::{
    idmap::{Mapping, Wish},
    namespace::Namespaces,
    process::PidFd,
};

use super::{
    GATE, Home, KILL, Making, OciError, Record, STATE, file, gate_socket, handover, start_time,
    write_pid,
};
use crate::{
    becoming::Stdio,
    init::RootFs,
    launch::{Created, Launch, StartGate, create},
    prepare::Seccomp,
    seccomp::cache::Cache,
    spec::{Hook, Process, Spec, VERSION},
    state::{State, Status},
};

/// A container that was launched.
pub(super) struct Launched {
    pub(super) created: Created,
    /// The terminal's end where nobody else took it.
    pub(super) console: Option<OwnedFd>,
    /// What runs when it is deleted.
    pub(super) poststop: Vec<Hook>,
}

/// A container's directory while it is being made; removed again unless it is kept.
pub(super) struct Place {
    id: String,
    pub(super) directory: PathBuf,
    settled: bool,
}

impl Place {
    pub(super) fn make(home: &Home, id: &str) -> Result<Place, OciError> {
        let directory = home.directory(id)?;
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(Place {
                id: id.to_owned(),
                directory,
                settled: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(OciError::Exists(id.to_owned()))
            }
            Err(error) => Err(file("making", &directory)(error)),
        }
    }

    pub(super) fn bind_gate(&self) -> Result<OwnedFd, OciError> {
        let path = self.directory.join(GATE);
        gate_socket(&self.directory, |socket, address| {
            bind(socket, address)?;
            listen(socket, 1)
        })
        .map_err(|errno| file("binding", &path)(errno.into()))
    }

    /// Launches the container.
    pub(super) fn launch(
        &self,
        making: &Making<'_>,
        filters: &Cache,
        start: StartGate,
    ) -> Result<Launched, OciError> {
        let (spec, filter) = Spec::load_with_filter(making.bundle, filters)?;
        let process = spec.process.as_ref().ok_or(OciError::Missing("process"))?;
        let detached = matches!(start, StartGate::Socket(_));
        match (process.terminal, making.console_socket.is_some()) {
            (true, false) if detached => {
                return Err(OciError::Terminal(
                    "a terminal is asked for, and there is no --console-socket to hand it over at",
                ));
            }
            (false, true) => {
                return Err(OciError::Terminal(
                    "--console-socket is given, and process.terminal is not set",
                ));
            }
            _ => {}
        }
        let root = spec.root.as_ref().ok_or(OciError::Missing("root"))?;
        let rootfs = making.bundle.join(&root.path);
        let chosen = mapping_for(&spec)?;
        let mut launch = Launch::new(&spec, &self.id, making.bundle, RootFs::Directory(&rootfs));
        launch.mapping = chosen.as_ref();
        launch.preserve_fds = making.preserve_fds;
        launch.pivot = making.pivot;
        launch.start = start;
        launch.seccomp = filter.map_or(Seccomp::Unconfined, Seccomp::Filter);
        if process.terminal {
            launch.stdio = Stdio::Terminal(console_size(process));
        }
        let mut created = create(launch)?;
        let handed = self.hand_over(&spec, making, &mut created);
        if let Err(error) = handed {
            let _ = created.pidfd.send_signal(KILL);
            return Err(error);
        }
        Ok(Launched {
            console: created.console.take(),
            created,
            poststop: spec.hooks.unwrap_or_default().poststop,
        })
    }

    fn hand_over(
        &self,
        spec: &Spec,
        making: &Making<'_>,
        created: &mut Created,
    ) -> Result<(), OciError> {
        if let (Some(path), Some(console)) = (making.console_socket, &created.console) {
            handover::console(path, console.as_fd())?;
            created.console = None;
        }
        if let (Some(listener), Some(seccomp)) = (created.listener.take(), spec.seccomp()) {
            let state = State {
                oci_version: VERSION.to_owned(),
                id: self.id.clone(),
                status: Status::Creating,
                pid: Some(created.pid),
                bundle: making.bundle.to_owned(),
                annotations: spec.annotations.clone(),
            };
            handover::listener(seccomp, &state, listener.as_fd())?;
        }
        Ok(())
    }

    pub(super) fn record(&self, making: &Making<'_>, pid: u32) -> Result<Record, OciError> {
        let record = Record {
            oci_version: VERSION.to_owned(),
            id: self.id.clone(),
            pid,
            started: start_time(pid).unwrap_or_default(),
            bundle: making.bundle.to_owned(),
            rootfs: making.bundle.join("rootfs"),
            created: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .as_ref()
                .map_or(0, Duration::as_secs),
            annotations: BTreeMap::new(),
        };
        let text = serde_json::to_vec(&record)
            .expect("strings, numbers and a map with string keys have a JSON form");
        let (new, path) = (self.directory.join("state.new"), self.directory.join(STATE));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(file("writing", &path))?;
        if let Some(path) = making.pid_file {
            write_pid(path, pid)?;
        }
        Ok(record)
    }

    pub(super) fn keep(self, making: &Making<'_>, pid: u32) -> Result<(), OciError> {
        if let Err(error) = self.record(making, pid) {
            if let Ok(pidfd) = PidFd::open(pid) {
                let _ = pidfd.send_signal(KILL);
            }
            return Err(error);
        }
        self.settle();
        Ok(())
    }

    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.settled {
            // What cannot be removed now is removed by `delete --force`.
            drop(fs::remove_dir_all(&self.directory));
        }
    }
}

/// The size the terminal begins with.
fn console_size(process: &Process) -> Option<wolffia_sys::pty::Winsize> {
    process.console_size.map(|size| wolffia_sys::pty::Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

/// An ordinary user needs a user namespace, whether the configuration names one or not.
fn mapping_for(spec: &Spec) -> Result<Option<Mapping>, OciError> {
    let namespaces = spec
        .linux
        .as_ref()
        .map_or(&[][..], |linux| &linux.namespaces);
    let named = namespaces
        .iter()
        .any(|one| one.kind.bit() == Namespaces::USER);
    let is_admin = || {
        wolffia_sys::capabilities::effective()
            .is_ok_and(|set| set.contains(wolffia_sys::capabilities::Set::SYS_ADMIN))
    };
    if named || is_admin() {
        return Ok(None);
    }
    let (mapping, _) = Mapping::choose(Wish::Best)?;
    Ok(Some(mapping))
}
