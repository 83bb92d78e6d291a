// SPDX-License-Identifier: Apache-2.0
//! The `linux` object.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wolffia_sys::namespace::Namespaces;

use crate::seccomp::LinuxSeccomp;

/// What only Linux has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Users of a new user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Groups of a new user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel settings, by name with dots.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups_path: Option<String>,
    /// Namespaces, new or joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Device files beside the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Which system calls are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<LinuxSeccomp>,
    /// How mounts spread: `private`, `rslave`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// Paths that are hidden.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<PathBuf>,
    /// Paths that cannot be written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<PathBuf>,
    /// `SELinux` label of mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_label: Option<String>,
    /// Cache and memory bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<Value>,
    /// The execution domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<Value>,
    /// Offsets of clocks, by `boottime` and `monotonic`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Network devices that move into the container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub net_devices: BTreeMap<String, Value>,
}

/// A run of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// The first id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A namespace, new or joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// The file of the one to join; a new one is made where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// The kinds of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names of the specification")]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

impl NamespaceKind {
    /// Returns the kernel's bit.
    pub fn bit(self) -> Namespaces {
        match self {
            NamespaceKind::Pid => Namespaces::PID,
            NamespaceKind::Network => Namespaces::NETWORK,
            NamespaceKind::Mount => Namespaces::MOUNT,
            NamespaceKind::Ipc => Namespaces::IPC,
            NamespaceKind::Uts => Namespaces::UTS,
            NamespaceKind::User => Namespaces::USER,
            NamespaceKind::Cgroup => Namespaces::CGROUP,
            NamespaceKind::Time => Namespaces::TIME,
        }
    }
}

/// A device file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Where, inside.
    pub path: PathBuf,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Its mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// Limits. Those that have a type here are known; the rest is kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Number of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// All others, by name.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// Limits of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The most; -1 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
    /// What is kept for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<i64>,
}

/// Limit of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// The most; 0 or less is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// How far a clock is set off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// And nanoseconds.
    pub nanosecs: u32,
}

impl Resources {
    /// Returns the names of limits that are really asked for: a limit of "none" and the rule for devices, which a user
    /// namespace enforces by having no other devices, ask for nothing.
    pub fn asked(&self) -> Vec<String> {
        let mut asked = Vec::new();
        if let Some(memory) = &self.memory {
            let limits = [
                ("memory.limit", memory.limit),
                ("memory.swap", memory.swap),
                ("memory.reservation", memory.reservation),
            ];
            let set = limits
                .into_iter()
                .filter(|(_, value)| value.is_some_and(|value| value > 0));
            asked.extend(set.map(|(name, _)| name.to_owned()));
        }
        if self
            .pids
            .as_ref()
            .and_then(|pids| pids.limit)
            .is_some_and(|limit| limit > 0)
        {
            asked.push("pids.limit".to_owned());
        }
        let others = self.others.iter().filter(|(name, _)| *name != "devices");
        asked.extend(
            others
                .filter(|(_, value)| !is_empty(value))
                .map(|(name, _)| name.clone()),
        );
        asked
    }
}

/// Tells whether a JSON value holds nothing but empty containers.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(is_empty),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}
