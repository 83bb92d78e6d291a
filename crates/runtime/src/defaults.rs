// SPDX-License-Identifier: Apache-2.0
//! The configuration a container has when nothing is said: docker's mounts, capabilities, masked and read-only paths.

use std::path::PathBuf;

use crate::spec::{
    Capabilities, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec, VERSION,
};

/// Docker's default capabilities.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What of /proc and /sys is hidden: it tells about the machine, or lets keys be listed.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What of /proc cannot be written.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Returns docker's default configuration: `sh` in all new namespaces but the user namespace, which is the caller's choice.
pub fn default_spec() -> Spec {
    let names = || CAPABILITIES.map(str::to_owned).to_vec();
    Spec {
        oci_version: VERSION.to_owned(),
        process: Some(Process {
            args: vec!["sh".to_owned()],
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                "TERM=xterm".to_owned(),
            ],
            cwd: PathBuf::from("/"),
            capabilities: Some(Capabilities {
                bounding: names(),
                effective: names(),
                permitted: names(),
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(Root {
            path: PathBuf::from("rootfs"),
            readonly: false,
        }),
        hostname: Some("wolffia".to_owned()),
        mounts: mounts(),
        linux: Some(Linux {
            namespaces: [
                NamespaceKind::Pid,
                NamespaceKind::Network,
                NamespaceKind::Ipc,
                NamespaceKind::Uts,
                NamespaceKind::Mount,
                NamespaceKind::Cgroup,
            ]
            .map(|kind| Namespace { kind, path: None })
            .to_vec(),
            masked_paths: MASKED.map(PathBuf::from).to_vec(),
            readonly_paths: READ_ONLY.map(PathBuf::from).to_vec(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

fn mounts() -> Vec<Mount> {
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "nosuid,noexec,nodev,relatime,ro",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
    ]
    .into_iter()
    .map(|(destination, kind, source, options)| Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(source.into()),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_survives_its_own_text() {
        let spec = default_spec();
        let text = serde_json::to_string(&spec).expect("text");
        assert_eq!(
            serde_json::from_str::<Spec>(&text).expect("a configuration"),
            spec
        );
    }
}
