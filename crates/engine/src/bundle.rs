// SPDX-License-Identifier: Apache-2.0
//! A container's record becomes the runtime's configuration.
//!
//! Pure but for two looks at this machine: whether a bind mount's source is there, and where our own state really lies, because a mount that contains
//! it has it masked inside: a container must not reach other containers' files, nor the objects of all images, by way of `-v /:/host`.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use thiserror::Error;
use wolffia_runtime::{
    Seccomp, default_spec,
    seccomp::{self, document},
    spec::{Capabilities, Linux, Mount, NamespaceKind, Process, Rlimit, Spec},
};
use wolffia_sys::capabilities::Set;

use crate::{
    containers::Container,
    home::Home,
    hostfiles,
    mounts::{MountRequest, Propagation, Source},
    networks::Network,
    options::{Options, Security},
};

/// What the runtime is given.
#[derive(Debug)]
pub struct Bundle {
    /// The configuration.
    pub spec: Spec,
    /// Whom the program runs as, looked up inside.
    pub user: String,
    /// The system call filter.
    pub seccomp: Seccomp,
}

/// What cannot be configured.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A capability that is none.
    #[error("{flag} {word}: there is no such capability")]
    Capability {
        /// The flag.
        flag: &'static str,
        /// As given.
        word: String,
    },
    /// A bind mount's source.
    #[error("mounting {path}")]
    Source {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory that `-v` names is not there and cannot be made.
    #[error("making {path}, which -v names and which is not there")]
    Make {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A bind mount's source lies in our own state.
    #[error("mounting {0}: it belongs to Wolffia's own state")]
    OwnState(PathBuf),
    /// A path that is not text.
    #[error("mounting {0:?}: not UTF-8")]
    NotText(PathBuf),
    /// A seccomp profile that is none.
    #[error(transparent)]
    Profile(#[from] document::DocumentError),
}

impl BundleError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            BundleError::Capability { .. } => {
                Some("capabilities(7) lists them: NET_ADMIN, SYS_PTRACE, ... or ALL".into())
            }
            BundleError::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("make it first, or use -v, which makes a directory".into())
            }
            BundleError::Make { .. } => Some("is the path spelt right?".into()),
            BundleError::OwnState(_) => {
                Some("copy what you need out of a container's files".into())
            }
            _ => None,
        }
    }
}

/// Makes the configuration of a container.
pub fn make(container: &Container, home: &Home, hostname: &str) -> Result<Bundle, BundleError> {
    let record = &container.record;
    let options = &record.options;
    let mut spec = default_spec();
    spec.hostname = Some(hostname.to_owned());
    let capabilities = capabilities(options)?;
    let process = spec.process.get_or_insert_default();
    process.terminal = options.tty;
    process.args.clone_from(&record.program.args);
    process.env.clone_from(&record.program.env);
    process.cwd = PathBuf::from(&record.program.directory);
    set_rights(process, options, capabilities);
    if let Some(root) = &mut spec.root {
        root.readonly = options.read_only;
    }
    let linux = spec.linux.get_or_insert_default();
    if options.security.unmasked || options.security.nesting {
        linux.masked_paths.clear();
        linux.readonly_paths.clear();
    }
    if options.network != Network::None {
        // The conductor is in the one that the container is to have: this machine's, or a new one.
        linux
            .namespaces
            .retain(|namespace| namespace.kind != NamespaceKind::Network);
    }
    if options.network == Network::Host {
        see_the_machines_sys(&mut spec.mounts);
    }
    spec.mounts.extend(etc_files(&container.folder));
    for request in &options.mounts {
        add(&mut spec.mounts, request, home)?;
    }
    Ok(Bundle {
        user: record.program.user.clone(),
        seccomp: filter(&options.security, capabilities, &mut spec)?,
        spec,
    })
}

/// Returns the process of an `exec`: the container's rights and variables, with its own words.
pub fn exec_process(container: &Container) -> Result<(Process, Linux, Seccomp), BundleError> {
    let record = &container.record;
    let mut spec = default_spec();
    let capabilities = capabilities(&record.options)?;
    let mut process = spec.process.take().unwrap_or_default();
    process.env.clone_from(&record.program.env);
    process.cwd = PathBuf::from(&record.program.directory);
    set_rights(&mut process, &record.options, capabilities);
    let seccomp = filter(&record.options.security, capabilities, &mut spec)?;
    Ok((process, spec.linux.unwrap_or_default(), seccomp))
}

fn set_rights(process: &mut Process, options: &Options, set: Set) {
    let names: Vec<String> = set.names().collect();
    process.capabilities = Some(Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        ..Capabilities::default()
    });
    process.no_new_privileges = options.security.no_new_privileges;
    // The caller's own limits come through unless something is said.
    process.rlimits = options
        .ulimits
        .iter()
        .map(|limit| Rlimit {
            kind: limit.resource.clone(),
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect();
}

/// Docker's rule: `--cap-drop ALL` clears before anything is added, `--cap-add ALL` gives all before anything is dropped.
fn capabilities(options: &Options) -> Result<Set, BundleError> {
    let read = |flag: &'static str, words: &[String]| {
        words
            .iter()
            .filter(|word| !is_all(word))
            .map(|word| {
                let upper = word.to_ascii_uppercase();
                let name = if upper.starts_with("CAP_") {
                    upper
                } else {
                    format!("CAP_{upper}")
                };
                Set::named(&name).ok_or_else(|| BundleError::Capability {
                    flag,
                    word: word.clone(),
                })
            })
            .try_fold(Set::EMPTY, |all, one| one.map(|one| all.with(one)))
    };
    let add = read("--cap-add", &options.cap_add)?;
    let drop = read("--cap-drop", &options.cap_drop)?;
    let base = if options.cap_add.iter().any(|word| is_all(word)) {
        Set::ALL
    } else if options.cap_drop.iter().any(|word| is_all(word)) {
        Set::EMPTY
    } else {
        wolffia_runtime::defaults::CAPABILITIES
            .iter()
            .filter_map(|name| Set::named(name))
            .fold(Set::EMPTY, Set::with)
    };
    Ok(base.without(drop).with(add))
}

fn is_all(word: &str) -> bool {
    word.eq_ignore_ascii_case("all")
}

fn filter(security: &Security, set: Set, spec: &mut Spec) -> Result<Seccomp, BundleError> {
    if security.seccomp_unconfined {
        return Ok(Seccomp::Unconfined);
    }
    if let Some(text) = &security.seccomp_profile {
        let has = |name: &str| Set::named(name).is_some_and(|one| set.contains(one));
        let profile = document::resolve(text.as_bytes(), kernel(), has)?;
        let confined = profile.is_some();
        spec.linux.get_or_insert_default().seccomp = profile;
        return Ok(if confined {
            Seccomp::Spec
        } else {
            Seccomp::Unconfined
        });
    }
    let options = seccomp::Options {
        nesting: security.nesting,
    };
    Ok(Seccomp::Program(seccomp::default_profile(
        set.bits(),
        options,
    )))
}

/// Returns the version of the kernel that runs; one that says none is as old as can be.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

/// Without a network namespace of its own a container may not mount a sysfs; it sees the machine's, read-only.
fn see_the_machines_sys(mounts: &mut [Mount]) {
    if let Some(sys) = mounts
        .iter_mut()
        .find(|mount| mount.destination == Path::new("/sys"))
    {
        *sys = bind(
            Path::new("/sys"),
            Path::new("/sys"),
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        );
    }
}

fn etc_files(folder: &Path) -> impl Iterator<Item = Mount> {
    hostfiles::NAMES
        .map(|name| bind(&folder.join(name), &Path::new("/etc").join(name), &["bind"]))
        .into_iter()
}

fn bind(from: &Path, at: &Path, options: &[&str]) -> Mount {
    Mount {
        destination: at.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(from.to_owned()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn add(mounts: &mut Vec<Mount>, request: &MountRequest, home: &Home) -> Result<(), BundleError> {
    // A mount over one of the default places replaces it (`--tmpfs /dev/shm:size=1g`).
    mounts.retain(|mount| mount.destination != request.target);
    match &request.source {
        Source::Bind {
            path,
            create,
            recursive,
            propagation,
        } => {
            let path = real_source(path, *create)?;
            let root = home
                .root()
                .canonicalize()
                .unwrap_or_else(|_| home.root().to_owned());
            if path.starts_with(&root) {
                return Err(BundleError::OwnState(path));
            }
            let mut words = vec![if *recursive { "rbind" } else { "bind" }];
            words.push(if *propagation == Propagation::Slave {
                "rslave"
            } else {
                "rprivate"
            });
            if request.read_only {
                words.push("ro");
            }
            mounts.push(bind(&path, &request.target, &words));
            if let Ok(below) = root.strip_prefix(&path) {
                mounts.push(mask(&request.target.join(below)));
            }
        }
        Source::Tmpfs {
            size_bytes,
            mode,
            flags,
        } => {
            let mut words = vec!["nosuid".to_owned(), "nodev".to_owned()];
            words.extend(size_bytes.map(|bytes| format!("size={bytes}")));
            words.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            words.extend(flags.iter().cloned());
            if request.read_only {
                words.push("ro".to_owned());
            }
            mounts.push(Mount {
                destination: request.target.clone(),
                kind: Some("tmpfs".to_owned()),
                source: Some("tmpfs".into()),
                options: words,
                ..Mount::default()
            });
        }
    }
    Ok(())
}

/// An empty, read-only directory that nobody may enter.
fn mask(at: &Path) -> Mount {
    Mount {
        destination: at.to_owned(),
        kind: Some("tmpfs".to_owned()),
        source: Some("tmpfs".into()),
        options: ["ro", "nosuid", "nodev", "noexec", "size=4k", "mode=0"]
            .map(String::from)
            .to_vec(),
        ..Mount::default()
    }
}

/// Returns the path without links; makes a directory where there is nothing and `-v` was the flag.
fn real_source(path: &Path, create: bool) -> Result<PathBuf, BundleError> {
    let fail = |source| BundleError::Source {
        path: path.to_owned(),
        source,
    };
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(|source| BundleError::Make {
                    path: path.to_owned(),
                    source,
                })?;
            path.canonicalize().map_err(fail)
        }
        result => result.map_err(fail),
    }
}
