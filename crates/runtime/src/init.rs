// SPDX-License-Identifier: Apache-2.0
//! The first process of a container, from its clone into new namespaces to its program.
//!
//! # Theory of operation
//! It is a copy of the process that made it, with one thread. Everything it needs was prepared before the clone. It waits
//! until its ids are mapped, makes itself root of them, and sets up names, loopback and mounts.
//!
//! No place inside the image is ever named by a path that is resolved in our own root: places are opened below the root's
//! descriptor and mounts moved onto them ([`wolffia_sys::mount`]). Device files are bound from the machine's /dev, each
//! checked by its number, into a tmpfs that nobody else can reach yet; what hides a file is /dev/null, checked the same
//! way (CVE-2025-31133). Then the root is changed by `pivot_root` and the old one detached.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags, open};
use wolffia_sys::{
    Errno,
    fd::Root,
    mount::{self, Attributes, How, Pivot, Plan},
    namespace::{self, Namespaces},
    process,
};

use crate::{
    becoming::{Becoming, Gate, Stdio, become_root},
    hooks,
    prepare::Prepared,
    report::{Doing, Failure, Line, Word},
    state::{State, Status},
};

mod devices;
mod hidden;
mod place;
mod settings;

pub(crate) use settings::oom_score;

/// Where the root file system comes from.
#[derive(Debug)]
pub enum RootFs<'a> {
    /// A directory, by a trusted path; it is bound, with the mounts below it.
    Directory(&'a Path),
    /// A plan whose steps at `/` are put upon this directory.
    Plan {
        /// What is mounted.
        plan: &'a Plan,
        /// Any directory, by a trusted path.
        upon: &'a Path,
    },
}

/// What the first process is made of.
pub(crate) struct Init<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) root: &'a RootFs<'a>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) line: Line,
    pub(crate) gate: Gate,
    /// Whether a `Go` comes once the ids are mapped (and with it the process's id outside).
    pub(crate) waits: bool,
    /// Whether somebody runs hooks when everything is mounted.
    pub(crate) hooks_wait: bool,
    pub(crate) state: State,
    pub(crate) pivot: Pivot,
}

impl Init<'_> {
    /// Runs in the child; returns the exit code where the program could not be executed.
    pub(crate) fn run(mut self) -> u8 {
        match self.set_up() {
            Ok(own_dev) => {
                self.state.status = Status::Created;
                Becoming {
                    process: &self.prepared.process,
                    stdio: self.stdio,
                    line: self.line,
                    gate: self.gate,
                    own_dev,
                    hooks: &self.prepared.start_container,
                    hook_state: &self.state.to_json(),
                }
                .execute()
            }
            Err(failure) => {
                let _ = self.line.send(Word::Failure, &failure.to_bytes(), None);
                failure.code()
            }
        }
    }

    /// Everything up to the change of root; tells whether /dev is ours.
    fn set_up(&mut self) -> Result<bool, Failure> {
        let prepared = self.prepared;
        if self.waits {
            self.wait_for_ids()?;
        }
        settings::oom_score(prepared.process.oom_score_adj)?;
        become_root()?;
        rustix::process::setsid().doing(|| "leading a session".to_owned())?;
        process::set_dumpable(false).doing(|| "becoming not dumpable".to_owned())?;
        self.names()?;
        let root = self.root()?;
        let null = devices::Null::open()?;
        let mut own_dev = false;
        for step in &prepared.mounts {
            own_dev |= place::put(step, &root)? && step.takes_devices;
        }
        devices::make(&root, &prepared.devices, own_dev)?;
        settings::write(&root, &prepared.sysctl)?;
        self.run_hooks()?;
        hidden::mask(&root, &prepared.masked_paths, &null)?;
        hidden::make_read_only(&root, &prepared.readonly_paths)?;
        if prepared.readonly_root {
            mount::add_attributes(&root, Attributes::MOUNT_ATTR_RDONLY)
                .doing(|| "making the root read-only".to_owned())?;
        }
        mount::enter_root(&root, self.pivot).doing(|| "changing the root".to_owned())?;
        Ok(own_dev)
    }

    fn wait_for_ids(&mut self) -> Result<(), Failure> {
        let failed = || "waiting for the ids to be mapped".to_owned();
        match self.line.receive().doing(failed)? {
            Some(message) if message.word == Word::Go => {
                let pid = <[u8; 4]>::try_from(message.text.as_slice()).map(u32::from_le_bytes);
                self.state.pid = pid.ok();
                Ok(())
            }
            _ => Err(Failure::setup(failed(), Errno::CANCELED)),
        }
    }

    fn names(&self) -> Result<(), Failure> {
        if self.prepared.new.contains(Namespaces::NETWORK) {
            namespace::raise_loopback().doing(|| "bringing the loopback device up".to_owned())?;
        }
        if let Some(name) = &self.prepared.hostname {
            rustix::system::sethostname(name.as_bytes())
                .doing(|| format!("setting the host name {name}"))?;
        }
        if let Some(name) = &self.prepared.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .doing(|| format!("setting the domain name {name}"))?;
        }
        Ok(())
    }

    fn root(&self) -> Result<Root, Failure> {
        if !self.prepared.new.contains(Namespaces::USER) {
            // With a new user namespace the mounts are born as slaves of the machine's.
            mount::make_slave()
                .doing(|| "taking the mounts apart from the machine's".to_owned())?;
        }
        match self.root {
            RootFs::Directory(path) => {
                let failed = || format!("mounting the root directory {}", path.display());
                // Opened here: a descriptor of before belongs to a mount of the namespace that we have left.
                let directory = open_directory(path).doing(failed)?;
                let how = How {
                    recursive: true,
                    ..How::default()
                };
                let there = directory.as_fd();
                let held = Root::from_fd(open_directory(path).doing(failed)?);
                let root = mount::bind_onto(there, &held, Path::new("/"), there, how);
                Ok(Root::from_fd(root.doing(failed)?))
            }
            RootFs::Plan { plan, upon } => {
                let upon = open_directory(upon)
                    .doing(|| format!("opening {} to mount the root upon it", upon.display()))?;
                plan.execute(upon.as_fd())
                    .map_err(|error| place::mount_failure(&error))
            }
        }
    }

    fn run_hooks(&self) -> Result<(), Failure> {
        if self.hooks_wait {
            self.line
                .say(Word::Mounted)
                .doing(|| "reporting the mounts".to_owned())?;
            self.line
                .expect(Word::Go)
                .doing(|| "waiting for hooks".to_owned())?;
        }
        for hook in &self.prepared.create_container {
            hooks::run(hook, &self.state.to_json())
                .map_err(|error| Failure::setup(error.to_string(), Errno::CANCELED))?;
        }
        Ok(())
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
}
