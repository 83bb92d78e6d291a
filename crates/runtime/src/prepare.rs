// SPDX-License-Identifier: Apache-2.0
//! A configuration turned into what the child needs, before there is a child.
//!
//! Everything that can be wrong with a configuration is found here, where errors are values; everything that takes an
//! allocation or a parse is done here, so that the child only makes system calls. What we know and cannot do is refused
//! by name: a container that silently lacks what was asked for is worse than none.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use rustix::process::Resource;
use thiserror::Error;
use wolffia_sys::{
    capabilities,
    namespace::Namespaces,
    rlimit::{self, Limit},
    seccomp::Program,
};

use crate::{
    mounts::{self, MountStep},
    seccomp::{
        self,
        oci::{Filter, SeccompError},
    },
    spec::{Capabilities, Device, Hook, Linux, Process, Spec},
};

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// A part that a container cannot do without is missing.
    #[error("the configuration has no {0}")]
    Missing(&'static str),
    /// A path that must be absolute is not.
    #[error("{what} {path} is not an absolute path")]
    Relative {
        /// What it is.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A string has a zero byte inside.
    #[error("{what} {value:?} has a zero byte inside")]
    ZeroByte {
        /// What it is.
        what: &'static str,
        /// The string.
        value: String,
    },
    /// A word we do not know where only known ones make sense.
    #[error("unknown {what} {word:?}")]
    Unknown {
        /// What it is.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// One kind of namespace stands there twice.
    #[error("namespace {0:?} is listed twice")]
    NamespaceTwice(Namespaces),
    /// Something that needs a namespace of its own has none.
    #[error("{what} needs a {namespace} namespace of the container's own")]
    NeedsNamespace {
        /// What needs it.
        what: String,
        /// Which.
        namespace: &'static str,
    },
    /// Known, and not served.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Limits that nothing would enforce.
    #[error("the limits {} cannot be enforced: no control group is delegated to this user", .0.join(", "))]
    Limits(Vec<String>),
    /// The system call filter makes no sense.
    #[error("reading the system call filter")]
    Seccomp(#[from] SeccompError),
}

/// Whom the process runs as.
#[derive(Debug)]
pub(crate) enum Who {
    /// Ids are given.
    Ids {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// A word to be looked up in the image's files, and groups besides those found there.
    Word { word: String, groups: Vec<u32> },
}

/// A process, ready to be become.
#[derive(Debug)]
pub(crate) struct PreparedProcess {
    pub(crate) who: Who,
    pub(crate) umask: Option<u32>,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// Directories to look for the program in; empty where its name has a slash.
    pub(crate) search: Vec<PathBuf>,
    pub(crate) has_home: bool,
    pub(crate) cwd: PathBuf,
    pub(crate) capabilities: capabilities::Sets,
    pub(crate) rlimits: Vec<(String, Resource, Limit)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) filter: Option<Filter>,
    pub(crate) preserve_fds: u32,
    /// Process 1 stays and reaps; the program is its child.
    pub(crate) reaper: bool,
}

/// A container, ready to be made.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Namespaces that are made.
    pub(crate) new: Namespaces,
    /// Namespaces that are joined, the user namespace first.
    pub(crate) join: Vec<(Namespaces, PathBuf)>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) mounts: Vec<MountStep>,
    pub(crate) devices: Vec<Device>,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    pub(crate) readonly_root: bool,
    pub(crate) sysctl: Vec<(String, String)>,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    pub(crate) process: PreparedProcess,
}

/// Which system call filter a process gets.
#[derive(Clone, Debug, Default)]
pub enum Seccomp {
    /// What the configuration says; none where it says nothing.
    #[default]
    Spec,
    /// This one.
    Program(Program),
    /// This one, installed in its own way.
    Filter(Filter),
    /// None.
    Unconfined,
}

/// What is asked besides the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Besides<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) seccomp: Option<&'a Seccomp>,
    pub(crate) preserve_fds: u32,
    pub(crate) reaper: bool,
}

/// Prepares a container; `bundle` is what relative paths of the configuration start from.
pub(crate) fn container(
    spec: &Spec,
    bundle: &Path,
    besides: Besides<'_>,
) -> Result<Prepared, PrepareError> {
    let process = spec
        .process
        .as_ref()
        .ok_or(PrepareError::Missing("process"))?;
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    refuse_unserved(spec, linux)?;
    let (new, join) = namespaces(linux)?;
    let own = join.iter().fold(new, |own, (kind, _)| own | *kind);
    if !own.contains(Namespaces::MOUNT) {
        return Err(PrepareError::NeedsNamespace {
            what: "a container".to_owned(),
            namespace: "mount",
        });
    }
    let names = [
        ("hostname", &spec.hostname),
        ("domainname", &spec.domainname),
    ];
    if let Some((what, _)) = names.iter().find(|(_, name)| name.is_some())
        && !own.contains(Namespaces::UTS)
    {
        return Err(PrepareError::NeedsNamespace {
            what: (*what).to_owned(),
            namespace: "uts",
        });
    }
    let hooks = spec.hooks.clone().unwrap_or_default();
    Ok(Prepared {
        new,
        join,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        mounts: spec
            .mounts
            .iter()
            .map(|mount| mounts::step(mount, bundle, new))
            .collect::<Result<_, _>>()?,
        devices: linux.devices.clone(),
        masked_paths: linux.masked_paths.clone(),
        readonly_paths: linux.readonly_paths.clone(),
        readonly_root: spec.root.as_ref().is_some_and(|root| root.readonly),
        sysctl: sysctl(linux, own)?,
        create_container: hooks.create_container,
        start_container: hooks.start_container,
        process: self::process(process, linux, besides)?,
    })
}

/// Prepares a process; `linux` has the filter.
pub(crate) fn process(
    process: &Process,
    linux: &Linux,
    besides: Besides<'_>,
) -> Result<PreparedProcess, PrepareError> {
    let program = process
        .args
        .first()
        .ok_or(PrepareError::Missing("process.args"))?;
    if !process.cwd.is_absolute() {
        return Err(PrepareError::Relative {
            what: "process.cwd",
            path: process.cwd.clone(),
        });
    }
    if process
        .apparmor_profile
        .as_deref()
        .is_some_and(|profile| !profile.is_empty())
    {
        return Err(PrepareError::Unsupported(
            "process.apparmorProfile".to_owned(),
        ));
    }
    if process
        .selinux_label
        .as_deref()
        .is_some_and(|label| !label.is_empty())
    {
        return Err(PrepareError::Unsupported("process.selinuxLabel".to_owned()));
    }
    if process.scheduler.is_some() {
        return Err(PrepareError::Unsupported("process.scheduler".to_owned()));
    }
    if process.io_priority.is_some() {
        return Err(PrepareError::Unsupported("process.ioPriority".to_owned()));
    }
    let search = if program.contains('/') {
        Vec::new()
    } else {
        std::env::split_paths(process.variable("PATH").unwrap_or(DEFAULT_PATH)).collect()
    };
    let groups = process.user.additional_gids.clone();
    let who = match besides.user {
        Some(word) => Who::Word {
            word: word.to_owned(),
            groups,
        },
        None => Who::Ids {
            uid: process.user.uid,
            gid: process.user.gid,
            groups,
        },
    };
    Ok(PreparedProcess {
        who,
        umask: process.user.umask,
        args: c_strings("process.args", &process.args)?,
        env: c_strings("process.env", &process.env)?,
        search,
        has_home: process.variable("HOME").is_some(),
        cwd: process.cwd.clone(),
        capabilities: sets(process.capabilities.as_ref()),
        rlimits: rlimits(process)?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process.oom_score_adj,
        filter: filter(besides.seccomp, linux)?,
        preserve_fds: besides.preserve_fds,
        reaper: besides.reaper,
    })
}

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn refuse_unserved(spec: &Spec, linux: &Linux) -> Result<(), PrepareError> {
    let label = linux
        .mount_label
        .as_deref()
        .is_some_and(|label| !label.is_empty());
    let unserved = [
        (label, "linux.mountLabel"),
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
        (linux.personality.is_some(), "linux.personality"),
        (!linux.net_devices.is_empty(), "linux.netDevices"),
        (!linux.time_offsets.is_empty(), "linux.timeOffsets"),
    ];
    if let Some((_, what)) = unserved.iter().find(|(asked, _)| *asked) {
        return Err(PrepareError::Unsupported((*what).to_owned()));
    }
    if let Some(mount) = spec
        .mounts
        .iter()
        .find(|mount| !mount.uid_mappings.is_empty())
    {
        let what = format!(
            "an id mapping of the mount at {}",
            mount.destination.display()
        );
        return Err(PrepareError::Unsupported(what));
    }
    let limits = linux
        .resources
        .as_ref()
        .map(crate::spec::Resources::asked)
        .unwrap_or_default();
    if limits.is_empty() {
        Ok(())
    } else {
        Err(PrepareError::Limits(limits))
    }
}

type Joined = Vec<(Namespaces, PathBuf)>;

fn namespaces(linux: &Linux) -> Result<(Namespaces, Joined), PrepareError> {
    let (mut new, mut join) = (Namespaces::empty(), Vec::new());
    let mut seen = Namespaces::empty();
    for namespace in &linux.namespaces {
        let kind = namespace.kind.bit();
        if seen.contains(kind) {
            return Err(PrepareError::NamespaceTwice(kind));
        }
        seen |= kind;
        match &namespace.path {
            Some(path) if !path.as_os_str().is_empty() => join.push((kind, path.clone())),
            _ => new |= kind,
        }
    }
    if seen.contains(Namespaces::TIME) {
        return Err(PrepareError::Unsupported("a time namespace".to_owned()));
    }
    // The user namespace first: it gives the rights to join the others.
    join.sort_by_key(|(kind, _)| *kind != Namespaces::USER);
    Ok((new, join))
}

/// Settings that are the container's own in its namespaces; any other would be the machine's.
fn sysctl(linux: &Linux, own: Namespaces) -> Result<Vec<(String, String)>, PrepareError> {
    let row = |(name, value): (&String, &String)| {
        let (kind, namespace) = match name.as_str() {
            name if name.starts_with("net.") => (Namespaces::NETWORK, "network"),
            name if name.starts_with("fs.mqueue.") => (Namespaces::IPC, "ipc"),
            "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => (Namespaces::IPC, "ipc"),
            "kernel.domainname" | "kernel.hostname" => (Namespaces::UTS, "uts"),
            name if name.starts_with("user.") => (Namespaces::USER, "user"),
            _ => {
                return Err(PrepareError::Unsupported(format!(
                    "linux.sysctl {name}, which is the machine's,"
                )));
            }
        };
        if !own.contains(kind) {
            return Err(PrepareError::NeedsNamespace {
                what: format!("linux.sysctl {name}"),
                namespace,
            });
        }
        Ok((name.clone(), value.clone()))
    };
    linux.sysctl.iter().map(row).collect()
}

fn c_strings(what: &'static str, values: &[String]) -> Result<Vec<CString>, PrepareError> {
    values
        .iter()
        .map(|value| {
            CString::new(value.as_str()).map_err(|_| PrepareError::ZeroByte {
                what,
                value: value.clone(),
            })
        })
        .collect()
}

/// Names this kernel or we do not know are passed over: a newer profile must not keep a container from starting.
fn sets(capabilities: Option<&Capabilities>) -> capabilities::Sets {
    let Some(capabilities) = capabilities else {
        return capabilities::Sets::default();
    };
    let set = |names: &[String]| {
        names.iter().fold(capabilities::Set::EMPTY, |all, name| {
            let Some(one) = capabilities::Set::named(name) else {
                tracing::warn!(capability = name, "unknown capability passed over");
                return all;
            };
            all.with(one)
        })
    };
    let (permitted, inheritable) = (set(&capabilities.permitted), set(&capabilities.inheritable));
    capabilities::Sets {
        bounding: set(&capabilities.bounding),
        effective: set(&capabilities.effective),
        permitted,
        inheritable,
        // The kernel raises none that is not in both of the others (capabilities(7)), yet `crun spec` and older `runc spec` write such.
        ambient: set(&capabilities.ambient).and(permitted).and(inheritable),
    }
}

fn rlimits(process: &Process) -> Result<Vec<(String, Resource, Limit)>, PrepareError> {
    let row = |limit: &crate::spec::Rlimit| {
        let resource = rlimit::by_name(&limit.kind).ok_or_else(|| PrepareError::Unknown {
            what: "resource limit",
            word: limit.kind.clone(),
        })?;
        let values = Limit {
            soft: limit.soft,
            hard: limit.hard,
        };
        Ok((limit.kind.clone(), resource, values))
    };
    process.rlimits.iter().map(row).collect()
}

fn filter(asked: Option<&Seccomp>, linux: &Linux) -> Result<Option<Filter>, PrepareError> {
    match asked.unwrap_or(&Seccomp::Spec) {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Program(program) => Ok(Some(Filter {
            program: program.clone(),
            flags: wolffia_sys::seccomp::Flags::ALLOW_SPECULATION,
        })),
        Seccomp::Filter(filter) => Ok(Some(filter.clone())),
        Seccomp::Spec => Ok(linux.seccomp.as_ref().map(seccomp::from_oci).transpose()?),
    }
}

#[cfg(test)]
mod tests;
