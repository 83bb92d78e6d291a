// SPDX-License-Identifier: Apache-2.0
//! The verbs that only tell.

use std::{
    ffi::OsString,
    fs,
    time::{Duration, SystemTime},
};

use serde_json::json;
use wolffia_runtime::{
    default_spec,
    seccomp::numbers,
    spec::{IdMapping, Namespace, NamespaceKind, Spec, VERSION},
};
use wolffia_sys::capabilities;

use super::{
    Failure, Globals, bundle, say,
    words::{Flags, Words},
};

pub(super) fn version() -> u8 {
    say(&format!(
        "wolffia version {}\nspec: {VERSION}\n",
        env!("CARGO_PKG_VERSION")
    ))
}

pub(super) fn help() -> u8 {
    say("\
usage: wolffia oci [--root DIR] [--log FILE] [--log-format text|json] VERB ...

An OCI runtime for bundles (a directory with config.json and a root file system), with the words of runc and crun.

  create [-b BUNDLE] [--console-socket S] [--pid-file F] [--no-pivot] [--preserve-fds N] ID
  start ID
  run [-d] [--keep] [the flags of create] ID
  exec [-t] [-d] [-e A=B] [-u UID[:GID]] [--cwd DIR] [-p FILE] [--console-socket S] [--pid-file F] ID COMMAND ...
  state ID           list [-f table|json] [-q]   ps [-f table|json] ID
  kill ID [SIGNAL]   delete [-f] ID
  spec [-b BUNDLE] [--rootless]
  features
")
}

/// Returns the time as RFC 3339 has it, in UTC.
pub(super) fn time_now() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    stamp(now.as_ref().map_or(0, Duration::as_secs))
}

/// Writes seconds since 1970 as a date (the days-to-date rule of Howard Hinnant's `civil_from_days`).
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

pub(super) fn state(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &[],
        switches: &[],
        shorts: &[],
    };
    let words = Words::read(words, &flags)?;
    let container = globals.home()?.find(words.id()?)?;
    let mut value =
        serde_json::to_value(container.state()).map_err(|error| Failure::with(&error, 1))?;
    // Callers that know runc's answer expect a number and a time.
    if value.get("pid").is_none() {
        value["pid"] = 0.into();
    }
    value["created"] = stamp(container.created()).into();
    let text = serde_json::to_string_pretty(&value).map_err(|error| Failure::with(&error, 1))?;
    Ok(say(&(text + "\n")))
}

/// The ids of a container's processes; what runc would pass on to ps(1) is passed over.
pub(super) fn ps(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &["format"],
        switches: &[],
        shorts: &[('f', "format")],
    };
    let words = Words::read(words, &flags)?;
    let processes = globals.home()?.find(words.id()?)?.processes()?;
    match words.text("format")?.unwrap_or("table") {
        "json" => Ok(say(&format!("{}\n", json!(processes)))),
        "table" => {
            let rows = processes.iter().map(|pid| format!("{pid}\n"));
            Ok(say(&("PID\n".to_owned() + &rows.collect::<String>())))
        }
        other => Err(Failure::usage(format!("there is no format {other:?}"))),
    }
}

pub(super) fn list(globals: &Globals, words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &["format"],
        switches: &["quiet"],
        shorts: &[('f', "format"), ('q', "quiet")],
    };
    let words = Words::read(words, &flags)?;
    let containers = globals.home()?.list()?;
    let rows = containers
        .iter()
        .map(|one| (one.state(), stamp(one.created())));
    if words.has("quiet") {
        let names: String = rows.map(|(state, _)| state.id + "\n").collect();
        return Ok(say(&names));
    }
    match words.text("format")?.unwrap_or("table") {
        "json" => {
            let all: Vec<_> = rows
                .map(|(state, created)| {
                    json!({
                        "ociVersion": state.oci_version,
                        "id": state.id,
                        "pid": state.pid.unwrap_or(0),
                        "status": state.status,
                        "bundle": state.bundle,
                        "created": created,
                    })
                })
                .collect();
            Ok(say(&format!("{}\n", json!(all))))
        }
        "table" => {
            let mut text = "ID\tPID\tSTATUS\tBUNDLE\tCREATED\n".to_owned();
            for (state, created) in rows {
                let row = [
                    state.id,
                    state.pid.unwrap_or(0).to_string(),
                    format!("{:?}", state.status).to_lowercase(),
                    state.bundle.display().to_string(),
                    created,
                ];
                text.push_str(&row.join("\t"));
                text.push('\n');
            }
            Ok(say(&text))
        }
        other => Err(Failure::usage(format!(
            "--format is table or json, not {other:?}"
        ))),
    }
}

pub(super) fn spec(words: &[OsString]) -> Result<u8, Failure> {
    let flags = Flags {
        values: &["bundle"],
        switches: &["rootless"],
        shorts: &[('b', "bundle")],
    };
    let words = Words::read(words, &flags)?;
    let mut spec = default_spec();
    if words.has("rootless") || !rustix::process::geteuid().is_root() {
        add_user_namespace(&mut spec);
    }
    let path = bundle(&words)?.join("config.json");
    if path.exists() {
        return Err(Failure::usage(format!("{} exists already", path.display())));
    }
    let text = serde_json::to_string_pretty(&spec).map_err(|error| Failure::with(&error, 1))?;
    let written = fs::write(&path, text + "\n");
    written.map_err(|error| Failure::usage(format!("writing {}: {error}", path.display())))?;
    Ok(0)
}

fn add_user_namespace(spec: &mut Spec) {
    let linux = spec.linux.get_or_insert_default();
    linux.namespaces.push(Namespace {
        kind: NamespaceKind::User,
        path: None,
    });
    let one = |host_id| {
        vec![IdMapping {
            container_id: 0,
            host_id,
            size: 1,
        }]
    };
    linux.uid_mappings = one(rustix::process::geteuid().as_raw());
    linux.gid_mappings = one(rustix::process::getegid().as_raw());
}

pub(super) fn features() -> u8 {
    let native = wolffia_runtime::seccomp::NATIVE;
    let calls = numbers::calls(native).count();
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime",
            "noexec", "nosuid", "nosymfollow", "private", "rbind", "relatime", "ro", "rprivate", "rro", "rshared",
            "rslave", "rw", "shared", "slave", "strictatime", "suid", "symfollow", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities::Set::ALL.names().collect::<Vec<_>>(),
            "cgroup": { "v1": false, "v2": false, "systemd": false, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
            "netDevices": { "enabled": false },
        },
        "annotations": { "org.wolffia.version": env!("CARGO_PKG_VERSION"), "org.wolffia.seccomp.calls": calls.to_string() },
    });
    say(&format!("{features:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(stamp(seconds), wanted);
        }
    }
}
