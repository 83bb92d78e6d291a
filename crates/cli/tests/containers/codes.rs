// SPDX-License-Identifier: Apache-2.0
//! Exit codes, and what is said beside them.

use crate::machine::{IMAGE, Machine};

/// Ours is 125, the program's that cannot be started 126 or 127, a killed one's 128 and the signal; else it is its own.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_code_says_whose_it_is() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", "--rm", IMAGE, "true"], 0, ""),
        (&["run", "--rm", IMAGE, "false"], 1, ""),
        (&["run", "--rm", IMAGE, "sh", "-c", "exit 42"], 42, ""),
        (
            &["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$"],
            137,
            "",
        ),
        (
            &["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -TERM $$"],
            143,
            "",
        ),
        (
            &["run", "--rm", IMAGE, "no-such-program"],
            127,
            "error: executing no-such-program",
        ),
        (
            &["run", "--rm", "--init", IMAGE, "no-such-program"],
            127,
            "error: executing no-such-program",
        ),
        (
            &["run", "--rm", IMAGE, "/etc/passwd"],
            126,
            "cause: Permission denied",
        ),
        (
            &["run", "--rm", IMAGE, "/etc"],
            126,
            "error: executing /etc",
        ),
        (
            &["run", "--rm", "-v", "/proc/none/here:/x", IMAGE],
            125,
            "making /proc/none/here, which -v names and which is not there",
        ),
        (
            &["run", "--rm", "-u", "stranger", IMAGE],
            125,
            "looking up user stranger",
        ),
        (
            &["run", "--rm", "--pull", "never", "no/such/image"],
            125,
            "no/such/image",
        ),
        (
            &["run", "--frobnicate", IMAGE],
            125,
            "has no flag --frobnicate",
        ),
        (
            &["run", "--interactve", IMAGE],
            125,
            "did you mean --interactive?",
        ),
        (
            &["run", "-p", "80:80", IMAGE],
            125,
            "--publish needs a network",
        ),
        (
            &["run", "--userns=keep-id", IMAGE],
            125,
            "comes with the ids",
        ),
        (
            &["run", "--privileged", IMAGE],
            125,
            "does not serve --privileged yet",
        ),
        (
            &["run", "--memory", "1g", IMAGE],
            125,
            "limits come with cgroups",
        ),
        (
            &["run", "--network", "bridge", IMAGE],
            125,
            "--network host",
        ),
        (
            &["run", "--rm", "--cap-add", "FLY", IMAGE],
            125,
            "there is no such capability",
        ),
        (
            &["run", "--rm", "--ulimit", "files=1", IMAGE],
            125,
            "there is no such limit",
        ),
        (
            &["run", "--rm", "-v", "data:/data", IMAGE],
            125,
            "a named volume is not served yet",
        ),
        (&["run", "-t", "-i", IMAGE], 125, "-t needs a terminal"),
        (
            &["exec", "nobody", "true"],
            125,
            "there is no container \"nobody\"",
        ),
        (&["rm", "nobody"], 1, "there is no container \"nobody\""),
        (&["rm", "-f", "nobody"], 0, ""),
        (
            &["inspect", "nobody"],
            1,
            "there is no container and no image \"nobody\"",
        ),
        (&["stop"], 125, "needs at least 1 argument"),
        (&["rnu"], 125, "did you mean `wolffia run`?"),
        (
            &["push", "x"],
            125,
            "push needs the image and where it shall be",
        ),
    ];
    for (words, code, complaint) in cases {
        let said = machine.run(words);
        assert_eq!(said.code, *code, "{words:?}: {}", said.err);
        assert!(said.err.contains(complaint), "{words:?}: {}", said.err);
        assert_eq!(
            said.err.is_empty(),
            complaint.is_empty(),
            "{words:?}: {}",
            said.err
        );
    }
    machine.assert_clean();
}

#[test]
fn each_command_has_its_help() {
    let machine = tempfile::tempdir().unwrap();
    let help = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wolffia"));
        let output = command
            .args(words)
            .env("HOME", machine.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let overview = help(&["--help"]);
    for name in [
        "run", "exec", "ps", "logs", "stop", "kill", "rm", "wait", "start", "create", "pull",
        "images", "doctor",
    ] {
        assert!(
            overview.contains(&format!("\n  {name} ")),
            "{name}: {overview}"
        );
        assert!(
            help(&[name, "--help"]).contains(&format!("usage: wolffia {name} ")),
            "{name}"
        );
        assert!(help(&["help", name]).contains("usage:"), "{name}");
    }
    assert!(
        !machine.path().join(".local").exists(),
        "asking for help leaves nothing"
    );
}
