// SPDX-License-Identifier: Apache-2.0
//! Mounts of a configuration as steps: option words become attributes, propagation and options of the file system.
//!
//! Source: OCI runtime-spec, config.md, "Mounts", and the table of Linux mount options there; mount(8).

use std::path::{Path, PathBuf};

use wolffia_sys::{
    mount::{Attributes, Bind, FileSystem, Propagation, Step},
    namespace::Namespaces,
};

use crate::{prepare::PrepareError, spec::Mount};

/// One mount, ready to be made.
#[derive(Debug)]
pub(crate) struct MountStep {
    pub(crate) step: Step,
    /// What is mounted where the kernel refuses the step, because a namespace it belongs to is not the container's own.
    pub(crate) instead: Option<Bind>,
    /// Whether a link at the place is refused: /proc and /sys must be what they seem (CVE-2019-19921).
    pub(crate) exact: bool,
    /// Whether our device files go into it.
    pub(crate) takes_devices: bool,
    pub(crate) at: PathBuf,
}

/// What the words of one mount say.
struct Words {
    bind: Option<bool>,
    attributes: Attributes,
    attributes_recursive: bool,
    propagation: Propagation,
    options: Vec<(String, Option<String>)>,
}

/// Returns the step for one mount of a configuration.
pub(crate) fn step(
    mount: &Mount,
    bundle: &Path,
    new: Namespaces,
) -> Result<MountStep, PrepareError> {
    let at = mount.destination.clone();
    let words = read(mount)?;
    let kind = mount.kind.as_deref().unwrap_or_default();
    let is_bind = words.bind.is_some() || matches!(kind, "bind" | "rbind");
    if is_bind {
        let source = mount
            .source
            .as_ref()
            .ok_or(PrepareError::Missing("source of a bind mount"))?;
        let bind = Bind {
            from: bundle.join(source),
            at: at.clone(),
            recursive: words.bind.unwrap_or(kind == "rbind"),
            attributes: words.attributes,
            attributes_recursive: words.attributes_recursive,
            propagation: words.propagation,
        };
        return Ok(MountStep {
            step: Step::Bind(bind),
            instead: None,
            exact: false,
            takes_devices: false,
            at,
        });
    }
    if kind.is_empty() {
        return Err(PrepareError::Missing("type of a mount"));
    }
    let machine = |from: &str| Bind {
        from: from.into(),
        at: at.clone(),
        recursive: true,
        attributes: words.attributes,
        attributes_recursive: true,
        propagation: Propagation::Slave,
    };
    let is_cgroup = matches!(kind, "cgroup" | "cgroup2");
    let instead = match kind {
        "proc" if !new.contains(Namespaces::PID) => Some(machine("/proc")),
        "sysfs" if !new.contains(Namespaces::NETWORK) => Some(machine("/sys")),
        "mqueue" if !new.contains(Namespaces::IPC) => Some(machine("/dev/mqueue")),
        _ if is_cgroup => Some(machine("/sys/fs/cgroup")),
        _ => None,
    };
    let source = mount
        .source
        .as_ref()
        .map_or(kind.into(), |source| source.to_string_lossy());
    let file_system = FileSystem {
        // There is one hierarchy that a user may mount, also on a machine that has the old ones beside it.
        kind: if is_cgroup { "cgroup2" } else { kind }.to_owned(),
        source: source.into_owned(),
        at: at.clone(),
        options: if is_cgroup { Vec::new() } else { words.options },
        attributes: words.attributes,
    };
    Ok(MountStep {
        step: Step::FileSystem(file_system),
        instead,
        exact: matches!(kind, "proc" | "sysfs"),
        takes_devices: kind == "tmpfs" && at == Path::new("/dev"),
        at,
    })
}

fn read(mount: &Mount) -> Result<Words, PrepareError> {
    let mut words = Words {
        bind: None,
        attributes: Attributes::empty(),
        attributes_recursive: false,
        propagation: Propagation::Private,
        options: Vec::new(),
    };
    for word in &mount.options {
        if let Some((attribute, wanted)) = attribute(word) {
            words.attributes.set(attribute, wanted);
            continue;
        }
        if let Some((attribute, wanted)) = word.strip_prefix('r').and_then(attribute) {
            words.attributes.set(attribute, wanted);
            words.attributes_recursive = true;
            continue;
        }
        match word.as_str() {
            "bind" => words.bind = Some(false),
            "rbind" => words.bind = Some(true),
            "private" | "rprivate" => words.propagation = Propagation::Private,
            "slave" | "rslave" => words.propagation = Propagation::Slave,
            "shared" | "rshared" => words.propagation = Propagation::Shared,
            "unbindable" | "runbindable" => words.propagation = Propagation::Unbindable,
            // What is so anyway, or has no meaning for a new mount.
            "defaults" | "async" | "loud" | "silent" | "nomand" | "norelatime"
            | "nostrictatime" | "nolazytime" | "noiversion" | "notmpcopyup" | "remount" | "" => {}
            "tmpcopyup" | "idmap" | "ridmap" | "copy-symlink" | "src-nofollow"
            | "dest-nofollow" => {
                let at = mount.destination.display();
                return Err(PrepareError::Unsupported(format!(
                    "option {word:?} of the mount at {at}"
                )));
            }
            _ => words.options.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            }),
        }
    }
    Ok(words)
}

/// Returns the attribute a word is about, and whether it sets it.
fn attribute(word: &str) -> Option<(Attributes, bool)> {
    Some(match word {
        "ro" => (Attributes::MOUNT_ATTR_RDONLY, true),
        "rw" => (Attributes::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (Attributes::MOUNT_ATTR_NOSUID, true),
        "suid" => (Attributes::MOUNT_ATTR_NOSUID, false),
        "nodev" => (Attributes::MOUNT_ATTR_NODEV, true),
        "dev" => (Attributes::MOUNT_ATTR_NODEV, false),
        "noexec" => (Attributes::MOUNT_ATTR_NOEXEC, true),
        "exec" => (Attributes::MOUNT_ATTR_NOEXEC, false),
        "noatime" => (Attributes::MOUNT_ATTR_NOATIME, true),
        "atime" => (Attributes::MOUNT_ATTR_NOATIME, false),
        "strictatime" => (Attributes::MOUNT_ATTR_STRICTATIME, true),
        "relatime" => (Attributes::MOUNT_ATTR_RELATIME, true),
        "nodiratime" => (Attributes::MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (Attributes::MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (Attributes::MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (Attributes::MOUNT_ATTR_NOSYMFOLLOW, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        Mount {
            destination: "/there".into(),
            kind: Some(kind.into()),
            source: Some("data".into()),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            ..Mount::default()
        }
    }

    fn made(kind: &str, options: &[&str]) -> MountStep {
        step(
            &mount(kind, options),
            Path::new("/bundle"),
            Namespaces::all(),
        )
        .expect("a step")
    }

    #[test]
    fn words_become_a_bind_mount() {
        let Step::Bind(bind) = made("none", &["rbind", "rro", "nosuid", "rslave"]).step else {
            panic!("a bind mount");
        };
        assert_eq!(bind.from, Path::new("/bundle/data"));
        assert!(bind.recursive && bind.attributes_recursive);
        assert_eq!(
            bind.attributes,
            Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOSUID
        );
        assert_eq!(bind.propagation, Propagation::Slave);
        let Step::Bind(bind) = made("bind", &["ro", "rw"]).step else {
            panic!("a bind mount");
        };
        assert!(!bind.recursive && bind.attributes.is_empty());
    }

    #[test]
    fn other_words_go_to_the_file_system() {
        let Step::FileSystem(file_system) =
            made("tmpfs", &["size=64k", "noexec", "huge=never", "defaults"]).step
        else {
            panic!("a file system");
        };
        let options: Vec<_> = file_system
            .options
            .iter()
            .map(|(key, _)| key.as_str())
            .collect();
        assert_eq!(options, ["size", "huge"]);
        assert_eq!(file_system.attributes, Attributes::MOUNT_ATTR_NOEXEC);
    }

    #[test]
    fn what_belongs_to_a_shared_namespace_is_bound_instead() {
        let shared = |kind| {
            step(&mount(kind, &[]), Path::new("/"), Namespaces::empty())
                .expect("a step")
                .instead
        };
        for kind in ["proc", "sysfs", "mqueue", "cgroup"] {
            assert!(shared(kind).is_some(), "{kind}");
        }
        assert!(shared("tmpfs").is_none());
        for kind in ["proc", "sysfs", "mqueue"] {
            assert!(made(kind, &[]).instead.is_none(), "{kind}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let refused = step(
            &mount("bind", &["rbind", "idmap"]),
            Path::new("/"),
            Namespaces::all(),
        );
        assert!(refused.is_err_and(|error| error.to_string().contains("idmap")));
    }
}
