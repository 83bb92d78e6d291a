// SPDX-License-Identifier: Apache-2.0
//! `wolffia doctor` names what is taken away: each test takes one ability from a machine that has it.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use wolffia_testkit::need;

const WOLFFIA: &str = env!("CARGO_BIN_EXE_wolffia");

/// Runs a shell script, in namespaces of its own where `unshare` has words; returns exit code, output and complaints.
fn shell(home: &Path, unshare: &[&str], script: &str) -> (i32, String, String) {
    let mut command = if unshare.is_empty() {
        Command::new("/bin/sh")
    } else {
        let mut command = Command::new("unshare");
        command.args(unshare).args(["--", "/bin/sh"]);
        command
    };
    let output = command
        .args(["-c", script])
        .env("WOLFFIA", WOLFFIA)
        .env("WOLFFIA_ROOT", home.join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs doctor after a script, and returns its exit code and the finding about an ability.
fn finding(unshare: &[&str], script: &str, ability: &str) -> (i32, Value) {
    let home = tempfile::tempdir().unwrap();
    let script = format!("{script}\nexec \"$WOLFFIA\" doctor --json");
    let (code, said, complained) = shell(home.path(), unshare, &script);
    let document: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{complained}"));
    let found = document["findings"].as_array().unwrap().iter();
    let found = found.clone().find(|one| one["ability"] == ability);
    (code, found.unwrap_or_else(|| panic!("{said}")).clone())
}

/// Checks a finding: its state, a word of its cause, a word of its cure.
fn is(finding: &Value, state: &str, cause: &str, fix: &str) {
    assert_eq!(finding["state"], state, "{finding:#}");
    assert!(
        finding["cause"].as_str().unwrap().contains(cause),
        "{finding:#}"
    );
    assert!(finding["fix"].to_string().contains(fix), "{finding:#}");
}

#[test]
fn a_machine_that_has_everything_is_ok() {
    need!(UserNamespace, SubIds, Overlay, DataOnlyLayers, Fuse);
    let home = tempfile::tempdir().unwrap();
    let (code, said, complained) = shell(home.path(), &[], "exec \"$WOLFFIA\" doctor");
    assert_eq!(code, 0, "{said}{complained}");
    let states: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(states, ["ok"; 5], "{said}");
    let left = std::fs::read_dir(home.path()).unwrap().count();
    assert_eq!(left, 0, "looking leaves nothing");
}

#[test]
fn no_more_user_namespaces_is_named() {
    need!(UserNamespace);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces";
    let (code, found) = finding(&["--user", "--map-root-user"], script, "user namespaces");
    assert_eq!(code, 1);
    is(
        &found,
        "broken",
        "user.max_user_namespaces = 0",
        "sysctl -w user.max_user_namespaces=",
    );
}

#[test]
fn no_newuidmap_is_named_and_one_id_is_left() {
    need!(UserNamespace, SubIds);
    if rustix::process::geteuid().is_root() {
        return; // root writes its maps itself
    }
    let (code, found) = finding(&[], "export PATH=/nowhere", "ids");
    assert_eq!(code, 0);
    is(&found, "limited", "newuidmap", "install uidmap");
    assert!(
        found["meanwhile"]
            .as_str()
            .unwrap()
            .contains("programs run")
    );
}

#[test]
fn no_fuse_device_is_named() {
    need!(UserNamespace, Overlay, Fuse);
    let script = "mount --bind /dev/null /dev/fuse";
    let unshare = ["--user", "--map-root-user", "--mount"];
    let (code, found) = finding(&unshare, script, "run host");
    assert_eq!(code, 0);
    is(
        &found,
        "limited",
        "mounting a FUSE file system",
        "modprobe fuse",
    );
}

#[test]
fn storage_that_cannot_hold_programs_is_named() {
    need!(UserNamespace);
    let unshare = ["--user", "--map-root-user", "--mount"];
    for (options, cause) in [("noexec", "noexec"), ("ro", "read-only")] {
        let script = format!(
            "mkdir -p \"$WOLFFIA_ROOT\" && mount -t tmpfs -o {options} none \"$WOLFFIA_ROOT\""
        );
        let (code, found) = finding(&unshare, &script, "storage");
        assert_eq!(code, 1);
        is(&found, "broken", cause, "WOLFFIA_ROOT");
    }
}

/// Without /dev/fuse a host container is made of the machine's directories: it says so, and files can be made and replaced.
#[test]
fn run_host_without_fuse_says_so_and_works() {
    need!(UserNamespace, SubIds, Overlay);
    let home = tempfile::tempdir().unwrap();
    let unshare = [
        "--user",
        "--map-root-user",
        "--map-users=auto",
        "--map-groups=auto",
        "--mount",
    ];
    let script = "touch no && chmod 0000 no && mount --bind no /dev/fuse && rm -f no
        inside='id -u; cp /usr/bin/env /usr/bin/new && /usr/bin/new echo made
            rm /usr/bin/env && test ! -e /usr/bin/env && echo removed
            chmod 0700 /usr/bin/yes 2>/dev/null || echo refused; ls -A /home /root | wc -l'
        exec \"$WOLFFIA\" run --rm host /bin/sh -c \"$inside\"";
    let script = format!("cd {} && {script}", home.path().display());
    let (code, said, complained) = shell(home.path(), &unshare, &script);
    assert_eq!(
        (code, said.as_str()),
        (0, "0\nmade\nremoved\nrefused\n3\n"),
        "{complained}"
    );
    assert!(
        complained.starts_with("note: this machine's files can be"),
        "{complained}"
    );
}
