// SPDX-License-Identifier: Apache-2.0
//! `kill -9` of a pull, a run and a stop, at random moments: nothing is left running, nothing is broken, the next command
//! works. So it is with the signals that people send.
//!
//! Method: the undisturbed command is timed; then, round by round, it is started and killed at a moment drawn from a little
//! more than that time. Mostly the command itself is killed, sometimes another process of ours that it has started. A
//! hundred rounds in all; a failure names the seed of its round, and `WOLFFIA_FAULT_SEED=N` runs that round alone.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use house::{House, Moment};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use wolffia_testkit::image_builder::{ImageBuilder, Packing, noise};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::registry::{Fault, On, Registry};

mod house;

/// How many rounds each command gets.
const PULL_ROUNDS: u64 = 34;
const RUN_ROUNDS: u64 = 33;
const STOP_ROUNDS: u64 = 33;

/// Processes are looked for by the user's sub-ids too, so only one of these tests may run at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The seeds to run: all, or the one that was asked for.
fn seeds(rounds: u64) -> Vec<u64> {
    match std::env::var("WOLFFIA_FAULT_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Some(seed) => vec![seed],
        None => (0..rounds).collect(),
    }
}

/// Times a command three times and returns the longest.
fn longest(mut run: impl FnMut()) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let started = Instant::now();
        run();
        longest = longest.max(started.elapsed());
    }
    longest
}

#[test]
fn a_killed_pull_leaves_nothing_and_the_next_one_works() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    let pull = ["pull", "-q", house.image()];
    let mut id = String::new();
    let usual = longest(|| {
        if !id.is_empty() {
            house.good(&["rmi", &id]);
        }
        id = house.good(&pull);
    });
    house.good(&["rmi", &id]);
    for seed in seeds(PULL_ROUNDS) {
        house.kill_at(&pull, &mut Moment::new(seed, usual));
        house.expect_nothing_runs(seed);
        house.expect_sound(seed);
        let id = house.good(&pull);
        let said = house.good(&["run", "--rm", "--network", "none", &id, "echo", "hello"]);
        assert_eq!(said, "hello", "seed {seed}");
        house.good(&["rmi", &id]);
    }
}

#[test]
fn a_killed_run_leaves_nothing_and_the_next_one_works() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    let id = house.good(&["pull", "-q", house.image()]);
    let start = ["run", "--rm", "--network", "none", "-e", house.mark(), &id];
    let echo = [&start[..], &["echo", "hello"]].concat();
    // The payload changes its ids and leaves orphans in sessions of their own: no signal reaches those by itself.
    let scatter = [&start[..], &["scatter", "0"]].concat();
    let usual = longest(|| assert_eq!(house.good(&echo), "hello"));
    for seed in seeds(RUN_ROUNDS) {
        let words = if seed % 2 == 0 { &echo } else { &scatter };
        house.kill_at(words, &mut Moment::new(seed, usual * 2));
        house.expect_nothing_runs(seed);
        house.expect_sound(seed);
        assert_eq!(
            house.good(&["ps", "-a", "-q"]),
            "",
            "--rm was forgotten, seed {seed}"
        );
        assert_eq!(house.good(&echo), "hello", "seed {seed}");
    }
}

#[test]
fn a_killed_stop_leaves_a_container_that_can_be_removed() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    let id = house.good(&["pull", "-q", house.image()]);
    let start = [
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "kept",
        "-e",
        house.mark(),
        &id,
    ];
    let start = [&start[..], &["hold"]].concat();
    let usual = longest(|| {
        house.good(&start);
        house.good(&["stop", "kept"]);
        house.good(&["rm", "kept"]);
    });
    for seed in seeds(STOP_ROUNDS) {
        house.good(&start);
        assert!(house.is_busy(), "seed {seed}");
        house.kill_at(&["stop", "-t", "5", "kept"], &mut Moment::new(seed, usual));
        house.expect_sound(seed);
        assert_eq!(
            house.good(&["ps", "-a", "-q"]).lines().count(),
            1,
            "seed {seed}"
        );
        house.good(&["rm", "-f", "kept"]);
        house.expect_nothing_runs(seed);
        assert_eq!(house.good(&["ps", "-a", "-q"]), "", "seed {seed}");
    }
}

/// A terminal sends its signals to the command and to what it started; others, to the command alone.
#[test]
fn an_interrupted_pull_leaves_nothing_and_the_next_one_works() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    let large = Tar::new().file("large", Meta::mode(0o644), &noise(7, 3_000_000));
    let image = ImageBuilder::tiny(Packing::Gzip)
        .layer(large.bytes(), Packing::Gzip)
        .build();
    let left = |folder: &str| -> Vec<_> {
        let files = std::fs::read_dir(house.state().join(folder)).unwrap();
        // The empty file of a claim is taken over by the next pull, and goes with the next collection.
        let is_claim = |name: &str| name.strip_suffix(".claim").is_some();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !is_claim(name)).collect()
    };
    for (signal, whole_group, verb) in [
        (Signal::INT, true, &["pull"][..]),
        (Signal::INT, false, &["pull", "-q"]),
        (Signal::TERM, false, &["run", "--rm", "--network", "none"]),
        (Signal::HUP, true, &["create"]),
    ] {
        let registry = Registry::start();
        let name = registry.put("slow", "1", &image);
        registry.fault(On::Blob, 9, Fault::Stall { after_bytes: 10 });
        let words = [verb, &[&name]].concat();
        let mut child = house
            .command(&words)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        registry.await_request(|served| served.path.contains("/blobs/"));
        assert!(house.is_busy(), "{words:?}");
        let pid = Pid::from_child(&child);
        if whole_group {
            kill_process_group(pid, signal).unwrap();
        } else {
            kill_process(pid, signal).unwrap();
        }
        let ended = child.wait().unwrap();
        let code = ended
            .signal()
            .map_or(ended.code(), |signal| Some(128 + signal));
        assert_eq!(code, Some(128 + signal.as_raw()), "{words:?}");
        house.expect_nothing_runs(0);
        house.expect_sound(0);
        assert_eq!(house.good(&["images", "-q"]), "", "{words:?}");
        assert_eq!(house.good(&["ps", "-aq"]), "", "{words:?}");
        for folder in [
            "store/ingest",
            "store/images",
            "store/layers",
            "store/trees",
            "containers",
        ] {
            assert_eq!(left(folder), [""; 0], "{folder}: {words:?}");
        }
        // The same again from one that answers.
        let registry = Registry::start();
        let name = registry.put("slow", "1", &image);
        house.good(&["pull", "-q", &name]);
        house.good(&["system", "reset", "--force"]);
    }
}

/// Everything alive hangs on the conductor, also what changed its ids and left its session; and nobody says otherwise afterwards.
#[test]
fn a_killed_conductor_takes_its_container_along_and_the_truth_is_told() {
    wolffia_testkit::need!(UserNamespace, SubIds, Cc);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    let id = house.good(&["pull", "-q", house.image()]);
    let start = [
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "kept",
        "-e",
        house.mark(),
    ];
    house.good(&[&start[..], &[&id, "scatter", "1000"]].concat());
    assert_eq!(
        house.programs(),
        1,
        "one process of ours stays with a container"
    );
    let mut log = house
        .command(&["logs", "-f", "kept"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(log.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready", "orphans are there");
    log.kill().unwrap();
    log.wait().unwrap();
    let conductor = house.good(&["inspect", "-f", "{{.State.ConductorPid}}", "kept"]);
    let conductor = Pid::from_raw(conductor.parse().unwrap()).unwrap();
    kill_process(conductor, Signal::KILL).unwrap();
    house.expect_nothing_runs(0);
    let told = house.good(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(told, "kept exited");
    let told = house.good(&[
        "inspect",
        "-f",
        "{{.State.ExitCode}} {{.State.Pid}} {{.State.Error}}",
        "kept",
    ]);
    assert!(
        told.starts_with("137 0 ") && told.contains("was killed"),
        "{told}"
    );
    assert_eq!(house.good(&["logs", "kept"]), "ready");
    assert_eq!(house.good(&["wait", "kept"]), "137");
    house.good(&["rm", "kept"]);
    assert_eq!(house.good(&["ps", "-aq"]), "");
    house.expect_sound(0);
}
