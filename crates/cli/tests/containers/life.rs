// SPDX-License-Identifier: Apache-2.0
//! A container's life: made, started, listed, stopped, started again, waited for, removed.

use std::time::{Duration, Instant};

use crate::machine::{IMAGE, Machine};

/// Says "up" and waits for SIGTERM.
const POLITE: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";

/// Far below docker's ten seconds, far above a loaded machine's stop.
const SOON: Duration = Duration::from_secs(8);

#[test]
fn made_started_stopped_started_again_and_removed() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let id = machine.good(&[
        "create", "--name", "web", "-l", "a=b", IMAGE, "sh", "-c", POLITE,
    ]);
    assert_eq!(id.len(), 64);
    let state = |wanted: &str| {
        let state = machine.good(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "web",
        ]);
        assert_eq!(state, wanted);
    };
    state("created 0");
    assert_eq!(machine.good(&["ps", "-q"]), "");
    assert_eq!(machine.good(&["ps", "-aq", "--no-trunc"]), id);
    assert_eq!(machine.good(&["start", "web"]), "web");
    state("running 0");
    assert_eq!(
        machine.good(&["ps", "--format", "{{.Names}}|{{.State}}|{{.Labels}}"]),
        "web|running|a=b,made=by test"
    );
    let refused = machine.run(&["rm", "web"]);
    assert!(
        refused.code == 1 && refused.err.contains("is running"),
        "{}",
        refused.err
    );
    wait_for_line(&machine, "web", "up");
    machine.good(&["stop", &id[..12]]);
    state("exited 3");
    assert_eq!(machine.good(&["logs", "web"]), "up\nbye");
    assert_eq!(machine.good(&["wait", "web"]), "3");
    machine.good(&["start", "web"]);
    machine.good(&["kill", "web"]);
    state("exited 137");
    for (filter, found) in [
        ("status=exited", true),
        ("exited=137", true),
        ("name=we", true),
        ("label=a=b", true),
        ("label=a=c", false),
        ("ancestor=busy", true),
    ] {
        let listed = machine.good(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
        assert_eq!(listed == "web", found, "{filter}: {listed}");
    }
    let taken = machine.run(&["create", "--name", "web", IMAGE]);
    assert!(
        taken.code == 125 && taken.err.contains("the name web is in use"),
        "{}",
        taken.err
    );
    machine.good(&["rm", "web"]);
    machine.assert_clean();
}

/// What a container wrote is there when it is started again, also by another user of it.
#[test]
fn files_outlive_a_stop_and_are_gone_with_rm() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox);
    let machine = Machine::new();
    let line = "[ -e /tmp/x ] && cat /tmp/x; echo again >/tmp/x; chown 1000 /tmp/x; mkdir -p /tmp/d; chown 1000 /tmp/d";
    machine.good(&["run", "--name", "keeper", IMAGE, "sh", "-c", line]);
    let again = machine.run(&["start", "-a", "keeper"]);
    assert_eq!(
        (again.code, again.out.as_str()),
        (0, "again"),
        "{}",
        again.err
    );
    machine.good(&["rm", "keeper"]);
    machine.assert_clean();
}

/// A program that is process 1 and does not handle SIGTERM would not even get it; we end it as the signal would end any other.
#[test]
fn a_stop_does_not_wait_for_a_program_that_does_not_listen() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&["run", "-d", "--name", "deaf", IMAGE, "sleep", "1000"]);
    let began = Instant::now();
    machine.good(&["stop", "deaf"]);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        machine.good(&["inspect", "-f", "{{.State.ExitCode}}", "deaf"]),
        "143"
    );
}

#[test]
fn a_stubborn_program_is_killed_after_its_time() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&[
        "run",
        "-d",
        "--name",
        "stubborn",
        IMAGE,
        "sh",
        "-c",
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    wait_for_line(&machine, "stubborn", "up");
    machine.good(&["stop", "-t", "1", "stubborn"]);
    assert_eq!(
        machine.good(&["inspect", "-f", "{{.State.ExitCode}}", "stubborn"]),
        "137"
    );
}

/// The stop signal is the one that was asked for, and a container stops by it.
#[test]
fn a_container_stops_by_its_own_signal() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let line = "trap 'exit 9' USR1; trap 'exit 8' TERM; echo up; while :; do sleep 0.05; done";
    for (flags, code) in [(&["--stop-signal", "USR1"][..], "9"), (&[], "8")] {
        let words = [
            &["run", "-d", "--name", "own"],
            flags,
            &[IMAGE, "sh", "-c", line],
        ]
        .concat();
        machine.good(&words);
        wait_for_line(&machine, "own", "up");
        machine.good(&["stop", "own"]);
        assert_eq!(machine.good(&["wait", "own"]), code, "{flags:?}");
        machine.good(&["rm", "own"]);
    }
    machine.assert_clean();
}

#[test]
fn another_program_joins_and_ends_with_its_own_code() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox);
    let machine = Machine::new();
    for flags in [&[][..], &["--init"]] {
        machine.good(
            &[
                &["run", "-d", "--name", "host", "-e", "A=1"],
                flags,
                &[IMAGE, "sleep", "1000"],
            ]
            .concat(),
        );
        let cases: &[(&[&str], i32, &str)] = &[
            (&["host", "sh", "-c", "exit 9"], 9, ""),
            (&["host", "id", "-u"], 0, "0"),
            (
                &["-u", "app", "host", "sh", "-c", "id -u; id -G; echo $HOME"],
                0,
                "1000\n1000 2000\n/home/app",
            ),
            (
                &[
                    "-e",
                    "B=2",
                    "-w",
                    "/tmp",
                    "host",
                    "sh",
                    "-c",
                    "echo $A$B$FROM; pwd",
                ],
                0,
                "12image\n/tmp",
            ),
            (&["host", "no-such-program"], 127, ""),
        ];
        for (words, code, out) in cases {
            let said = machine.run(&[&["exec"], *words].concat());
            assert_eq!(
                (said.code, said.out.as_str()),
                (*code, *out),
                "{words:?}: {}",
                said.err
            );
        }
        assert_eq!(
            machine.told(&["exec", "-i", "host", "cat"], b"through").out,
            "through"
        );
        machine.good(&[
            "exec",
            "-d",
            "host",
            "sh",
            "-c",
            "echo made >/tmp/by-exec; sleep 1000",
        ]);
        let listed = machine.good(&["exec", "host", "ps", "-o", "args"]);
        assert!(
            listed
                .lines()
                .filter(|line| line.starts_with("sleep 1000"))
                .count()
                >= 1,
            "{listed}"
        );
        machine.good(&["rm", "-f", "host"]);
    }
    machine.assert_clean();
}

/// With our init as process 1, orphans are reaped; the fork of a fork has no other parent left.
#[test]
fn init_reaps_orphans() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let line = "for i in 1 2 3 4 5; do (sleep 0 & ); done; sleep 0.5; ps -o stat,args | grep -c '^Z' ; true";
    let said = machine.shell(&["--init"], line);
    assert_eq!((said.code, said.out.as_str()), (0, "0"), "{}", said.err);
    // What was typed on the machine is not told inside.
    let line = "cat /proc/1/comm; ps -o pid,args | grep '^ *1 '";
    let said = machine.shell(&["--init", "-e", "SECRET=typed"], line);
    let shown: Vec<&str> = said.out.split_whitespace().collect();
    assert_eq!(shown, ["wolffia-init", "1", "wolffia-init"]);
}

/// Waits until a container has said a line; its log's end is followed, nothing is slept for.
fn wait_for_line(machine: &Machine, name: &str, line: &str) {
    let mut follow = machine.piped(&["logs", "-f", name]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert!(
        lines.any(|got| got.unwrap() == line),
        "{name} ended without saying {line}"
    );
    follow.kill().unwrap();
    follow.wait().unwrap();
}
