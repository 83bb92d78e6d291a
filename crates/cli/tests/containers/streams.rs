// SPDX-License-Identifier: Apache-2.0
//! What goes in and comes out.

use std::io::{BufRead, BufReader};

use crate::machine::{IMAGE, Machine};

#[test]
fn each_stream_comes_out_where_it_belongs() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    // Handed over directly, and relayed for the log.
    for flags in [&["--rm"][..], &["--name", "logged"]] {
        let words = [
            &["run", "-i"],
            flags,
            &[IMAGE, "sh", "-c", "cat; echo oops >&2; exit 5"],
        ]
        .concat();
        let said = machine.told(&words, b"hello");
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (5, "hello", "oops")
        );
    }
    let log = machine.run(&["logs", "logged"]);
    assert_eq!((log.out.as_str(), log.err.as_str()), ("hello", "oops"));
    let stamped = machine.good(&["logs", "-t", "--tail", "1", "logged"]);
    assert!(stamped.is_empty() || stamped.starts_with("20"), "{stamped}");
    assert_eq!(
        machine.good(&["run", "--rm", IMAGE, "cat"]),
        "",
        "without -i there is nothing to read"
    );
}

#[test]
fn much_output_arrives_whole() {
    const LINES: usize = 20_000;
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    for flags in [&["--rm"][..], &["--name", "much"]] {
        let count = LINES.to_string();
        let out = machine.good(&[&["run"], flags, &[IMAGE, "seq", &count]].concat());
        assert_eq!(out.lines().count(), LINES, "{flags:?}");
        assert!(out.ends_with(&count));
    }
    assert_eq!(machine.good(&["logs", "much"]).lines().count(), LINES);
    let last = machine.good(&["logs", "--tail", "2", "much"]);
    assert_eq!(last, format!("{}\n{LINES}", LINES - 1));
    let stamped = machine.good(&["logs", "-t", "--tail", "1", "much"]);
    let (time, line) = stamped.split_once(' ').unwrap();
    assert_eq!(line, LINES.to_string());
    assert_eq!(
        machine
            .good(&["logs", "--since", time, "much"])
            .lines()
            .last(),
        Some(line)
    );
    assert_eq!(
        machine.good(&["logs", "--since", "2100-01-01T00:00:00Z", "much"]),
        ""
    );
}

/// `logs -f` shows what is written while it looks, and ends with the container.
#[test]
fn a_followed_log_ends_with_its_container() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&[
        "run",
        "-d",
        "-t",
        "--name",
        "talker",
        IMAGE,
        "sh",
        "-c",
        "echo one; trap 'echo two; exit' TERM; while :; do sleep 0.05; done",
    ]);
    let mut follow = machine.piped(&["logs", "-f", "talker"]);
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap().trim_end(), "one");
    machine.good(&["stop", "talker"]);
    assert_eq!(lines.next().unwrap().unwrap().trim_end(), "two");
    assert!(lines.next().is_none());
    assert!(follow.wait().unwrap().success());
}

/// A reader that goes away ends neither the container nor its log.
#[test]
fn a_reader_that_goes_away_does_no_harm() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let mut child = machine.piped(&[
        "run",
        "--name",
        "patient",
        IMAGE,
        "sh",
        "-c",
        "seq 1 20000; exit 6",
    ]);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert_eq!(machine.good(&["logs", "patient"]).lines().count(), 20_000);
}
