// SPDX-License-Identifier: Apache-2.0
//! Tests of the gates: each ability is really taken away, and the refusal must name it.

use std::process::Command;

use super::*;

/// Where the child of a test writes its answer.
const CHILD_NEED: &str = "TESTKIT_CHILD_NEED";
const CHILD_ANSWER: &str = "TESTKIT_CHILD_ANSWER";

/// How an ability is taken from a child, as a script that runs as root of a fresh user and mount namespace.
enum Taken {
    /// By a limit, a mount or whatever else a shell can do there.
    By(&'static str),
    /// By an empty PATH.
    Program,
}

fn taken(need: Need) -> (Taken, &'static str) {
    match need {
        // Limits in /proc/sys/user hold for the namespace in which they are written, and its children.
        Need::UserNamespace => (
            Taken::By("echo 0 > /proc/sys/user/max_user_namespaces"),
            "No space left on device",
        ),
        Need::SubIds => (
            Taken::By("mount --bind /dev/null /etc/subuid"),
            "/etc/subuid gives",
        ),
        Need::Overlay => (
            Taken::By("echo 0 > /proc/sys/user/max_mnt_namespaces"),
            "No space left on device",
        ),
        // A file system that keeps no xattrs of users.
        Need::DataOnlyLayers => (
            Taken::By("mount -t ramfs ramfs /tmp && chmod 1777 /tmp && export TMPDIR=/tmp"),
            "setting user.overlay.metacopy",
        ),
        Need::Fuse => (
            Taken::By("mount --bind /dev/null /dev/fuse"),
            "wrong fs type",
        ),
        Need::Tun => (
            Taken::By("mount -t tmpfs -o mode=0 tmpfs /dev/net"),
            "/dev/net/tun",
        ),
        // The child is root of a user namespace, not of the machine.
        Need::Root => (Taken::By("true"), "root of a user namespace"),
        Need::Cc => (Taken::Program, "no program cc"),
        Need::Git => (Taken::Program, "no program git"),
        Need::Python => (Taken::Program, "no program python3"),
        Need::Tmux => (Taken::Program, "no program tmux"),
        Need::Strace => (Taken::Program, "no program strace"),
        Need::Busybox => (Taken::Program, "no program busybox"),
        Need::Mmdebstrap => (Taken::Program, "no program mmdebstrap"),
        Need::Zstd => (Taken::Program, "no program zstd"),
        Need::Podman => (Taken::Program, "no program podman"),
        Need::Skopeo => (Taken::Program, "no program skopeo"),
        Need::Umoci => (Taken::Program, "no program umoci"),
        Need::DockerRegistry => (Taken::Program, "no program docker-registry"),
        Need::Crun => (Taken::Program, "no program crun"),
        Need::Bubblewrap => (Taken::Program, "no program bwrap"),
    }
}

/// Runs this very binary again, with the ability taken away, and returns what its probe answered.
fn probe_without(need: Need, taken: &Taken) -> Option<Missing> {
    let directory = tempfile::tempdir().unwrap();
    let answer = directory.path().join("answer");
    let test = std::env::current_exe().unwrap();
    let mut child = match taken {
        Taken::Program => {
            let mut child = Command::new(test);
            child.env("PATH", "");
            child
        }
        Taken::By(script) => {
            // The answer's folder may vanish below a mount: the shell holds it open as its working directory.
            let mut child = Command::new("unshare");
            child.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
            child
                .arg(format!("exec 9>answer && {{ {script}; }} && exec \"$@\""))
                .arg("sh")
                .arg(test);
            child
        }
    };
    let answer_name = if matches!(taken, Taken::By(_)) {
        "/proc/self/fd/9".into()
    } else {
        answer.clone()
    };
    let output = child
        .args(["--exact", "gate::tests::child_answers", "--nocapture"])
        .current_dir(directory.path())
        .env(CHILD_NEED, need.name())
        .env(CHILD_ANSWER, answer_name)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{need:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&std::fs::read(&answer).unwrap()).unwrap()
}

/// The child's half of [`probe_without`]; by itself it does nothing.
#[test]
fn child_answers() {
    let Some(name) = std::env::var_os(CHILD_NEED) else {
        return;
    };
    let need = Need::from_name(name.to_str().unwrap()).unwrap();
    let answer = serde_json::to_vec(&need.probe()).unwrap();
    std::fs::write(std::env::var_os(CHILD_ANSWER).unwrap(), answer).unwrap();
}

#[test]
fn an_ability_taken_away_is_refused_by_name() {
    crate::need!(UserNamespace);
    for need in Need::ALL {
        let (how, expected) = taken(*need);
        let missing = probe_without(*need, &how)
            .unwrap_or_else(|| panic!("{need:?} was taken away and still found"));
        assert!(missing.reason.contains(expected), "{need:?}: {missing:?}");
        assert!(!missing.hint.is_empty(), "{need:?} has no hint");
    }
}

/// Guards the test above: what it sees as missing must come from the taking away, not from the child.
#[test]
fn an_ability_left_alone_is_found_by_the_child() {
    crate::need!(UserNamespace, Overlay);
    for need in [Need::UserNamespace, Need::Overlay] {
        assert_eq!(probe_without(need, &Taken::By("true")), None, "{need:?}");
    }
}

#[test]
fn names_are_unique_and_come_back() {
    for need in Need::ALL {
        assert_eq!(Need::from_name(need.name()), Some(*need));
    }
    assert_eq!(Need::from_name("Overlay"), None);
}

#[test]
fn require_turns_a_skip_into_a_failure() {
    let row = Row {
        target: String::new(),
        test: "t".into(),
        need: "overlay".into(),
        reason: "no such thing".into(),
        hint: "get it".into(),
    };
    let refusal = required(Some("fuse, overlay"), &row).unwrap();
    assert_eq!(
        refusal,
        "REQUIRE asks for overlay, which is missing: no such thing\nhint: get it"
    );
    assert!(required(Some("all"), &row).is_some());
    assert!(required(Some("fuse"), &row).is_none());
    assert!(required(Some(""), &row).is_none());
    assert!(required(None, &row).is_none());
}

#[test]
fn a_test_knows_its_name_on_every_thread() {
    let caller = "wolffia_image::tar::tests::a_test::here";
    assert_eq!(
        test_name(Some("tar::tests::a_test"), caller),
        "tar::tests::a_test"
    );
    assert_eq!(test_name(Some("main"), caller), "tar::tests::a_test");
    assert_eq!(test_name(None, "it::a_test::{{closure}}::here"), "a_test");
}

#[test]
fn what_needs_root_runs_as_root() {
    crate::need!(Root);
    assert_eq!(rustix::process::geteuid().as_raw(), 0);
}

#[test]
fn the_ordinary_pass_has_no_root() {
    if std::env::var_os(ROOT_FOLLOWS_VARIABLE).is_some() {
        assert_ne!(rustix::process::geteuid().as_raw(), 0);
    }
}
