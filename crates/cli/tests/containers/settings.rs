// SPDX-License-Identifier: Apache-2.0
//! The surroundings of a program: variables, names, rights, limits.

use crate::machine::{IMAGE, Machine};

#[test]
fn a_program_finds_what_docker_would_give_it() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox);
    let machine = Machine::new();
    std::fs::write(machine.path("vars"), "# note\nFILE=1\nBOTH=file\n").unwrap();
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "echo $PATH $FROM $HOME $TERM.", "/bin image /root ."),
        (&["-e", "FROM=me", "-e", "X=a b"], "echo $FROM $X", "me a b"),
        (
            &["--env-file", "vars", "-e", "BOTH=flag"],
            "echo $FILE $BOTH",
            "1 flag",
        ),
        (
            &["-u", "app"],
            "id -u; id -G; echo $HOME",
            "1000\n1000 2000\n/home/app",
        ),
        (&["-u", "1234:55"], "id -u; id -g", "1234\n55"),
        (&["-w", "/made/here"], "pwd", "/made/here"),
        (
            &["--hostname", "box", "--add-host", "db:10.0.0.9"],
            "hostname; echo $HOSTNAME; cat /etc/hostname; grep -c 'box$' /etc/hosts; grep db /etc/hosts",
            "box\nbox\nbox\n1\n10.0.0.9\tdb",
        ),
        (
            &["--ulimit", "nofile=77:99"],
            "ulimit -n; ulimit -Hn",
            "77\n99",
        ),
        (
            &[],
            "grep -h CapEff /proc/self/status",
            "CapEff:\t00000000a80425fb",
        ),
        (
            &["--cap-drop", "ALL"],
            "grep -h CapBnd /proc/self/status",
            "CapBnd:\t0000000000000000",
        ),
        (
            &["--cap-drop", "ALL", "--cap-add", "chown"],
            "grep -h CapEff /proc/self/status",
            "CapEff:\t0000000000000001",
        ),
        (
            &[],
            "grep -h -e NoNewPrivs -e Seccomp: /proc/self/status",
            "NoNewPrivs:\t0\nSeccomp:\t2",
        ),
        (
            &["--security-opt", "no-new-privileges"],
            "grep -h NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1",
        ),
        (
            &["--security-opt", "seccomp=unconfined"],
            "grep -h Seccomp: /proc/self/status",
            "Seccomp:\t0",
        ),
        (&["--network", "none"], "ls /sys/class/net", "lo"),
        (&["--entrypoint", "echo"], "x", "-c x"),
    ];
    for (flags, line, expected) in cases {
        let said = if flags.contains(&"--entrypoint") {
            machine.run(&[&["run", "--rm"], *flags, &[IMAGE, "-c", line]].concat())
        } else {
            machine.shell(flags, line)
        };
        assert_eq!(
            (said.code, said.out.as_str()),
            (0, *expected),
            "{flags:?}: {}",
            said.err
        );
    }
}

/// The machine's own network is there when it is asked for, and its ports; the other platform is refused by its name.
#[test]
fn the_hosts_network_and_another_platform() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    let said = machine.shell(&["--network", "host"], "readlink /proc/self/ns/net");
    assert_eq!(said.out, ours.to_str().unwrap(), "{}", said.err);
    let said = machine.shell(&["--network", "none"], "readlink /proc/self/ns/net");
    assert_ne!(said.out, ours.to_str().unwrap(), "{}", said.err);
    let said = machine.shell(&["--platform", "linux/s390x"], "true");
    assert_eq!(said.code, 125);
    assert!(said.err.contains("linux/s390x"), "{}", said.err);
}

/// Without sub-ids there is one id; another is refused with what to do about it.
#[test]
fn a_user_that_is_not_mapped_is_refused_with_help() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    for user in ["70000", "0:70000"] {
        let said = machine.shell(&["-u", user], "true");
        assert_eq!(said.code, 125, "{user}");
        for text in [
            "changing to",
            "the container has no such id",
            "help: ",
            "--add-subuids",
        ] {
            assert!(said.err.contains(text), "{user}: {text} in {}", said.err);
        }
    }
    machine.good(&["run", "-d", "--name", "up", IMAGE, "sleep", "1000"]);
    let said = machine.run(&["exec", "-u", "70000", "up", "true"]);
    assert!(said.err.contains("--add-subuids"), "{}", said.err);
    machine.good(&["rm", "-f", "up"]);
    machine.assert_clean();
}

#[test]
fn a_cidfile_is_new_and_holds_the_id() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let id = machine.good(&["run", "-d", "--cidfile", "cid", IMAGE, "sleep", "1000"]);
    assert_eq!(std::fs::read_to_string(machine.path("cid")).unwrap(), id);
    let again = machine.run(&["run", "-d", "--cidfile", "cid", IMAGE, "true"]);
    assert!(
        again.code == 125 && again.err.contains("--cidfile"),
        "{}",
        again.err
    );
    machine.good(&["rm", "-f", &id]);
    machine.assert_clean();
}

#[test]
fn inspect_answers_what_scripts_ask() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&[
        "create",
        "--name",
        "asked",
        "-e",
        "A=1",
        "-v",
        "/usr:/u:ro",
        IMAGE,
        "sh",
        "-c",
        "x",
    ]);
    for (template, expected) in [
        ("{{.Name}}", "/asked"),
        ("{{.Path}} {{join .Args \" \"}}", "sh -c x"),
        ("{{json .Config.Labels}}", r#"{"made":"by test"}"#),
        (
            "{{range .Mounts}}{{.Source}}:{{.Destination}}:{{.RW}}{{end}}",
            "/usr:/u:false",
        ),
        ("{{index .HostConfig.Binds 0}}", "/usr:/u:ro"),
        ("{{.HostConfig.NetworkMode}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "down"),
    ] {
        assert_eq!(
            machine.good(&["inspect", "-f", template, "asked"]),
            expected,
            "{template}"
        );
    }
    let image = machine.good(&[
        "inspect",
        "--type",
        "image",
        "-f",
        "{{index .Config.Cmd 0}} {{.Os}}",
        IMAGE,
    ]);
    assert_eq!(image, "/bin/sh linux");
}
