// SPDX-License-Identifier: Apache-2.0
//! Many processes on one store, some of them killed at any moment.
//!
//! The processes are this very binary, called with a job in its environment: real processes with locks of their own.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wolffia_image::Reference;
use wolffia_pull::job::{Doomed, Job, Outcome, Task};
use wolffia_store::Repair;
use wolffia_testkit::image_builder::{ImageBuilder, Packing, noise};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::registry::Registry;

use crate::place::{Place, check_image, image, pull_task, serve};

/// Names the variable that holds the job of a process of ours.
const JOB: &str = "WOLFFIA_TEST_JOB";

/// Not a test of its own: what the processes do.
#[test]
#[expect(
    clippy::print_stdout,
    reason = "its starter reads how much memory it needed"
)]
fn process() {
    let Some(job) = std::env::var_os(JOB) else {
        return;
    };
    let job: Job = serde_json::from_slice(job.as_encoded_bytes()).unwrap();
    let outcome = serve(&job);
    assert!(outcome.is_ok(), "{outcome:?}");
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap());
}

fn start(job: &Job) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::process", "--nocapture"])
        .env(JOB, serde_json::to_string(job).unwrap())
        .env_remove("RUST_BACKTRACE")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end; returns what it said, which is an error where it failed.
fn finish(mut child: Child) -> Result<String, String> {
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    if child.wait().unwrap().success() {
        Ok(said)
    } else {
        Err(said)
    }
}

/// The next number of an xorshift generator.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Waits as long as drawn, without the scheduler's coarse slices deciding for us.
fn let_pass(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

#[test]
fn a_hundred_killed_pulls_leave_a_clean_store() {
    let registry = Registry::start();
    let place = Place::new();
    let seed = 0x1234_5678_9abc_def1_u64;
    let mut state = seed;
    registry.put("a/b", "whole", &image(0, Packing::Gzip));
    let whole = registry.name("a/b", "whole");
    // How long one takes here and now: kills are drawn over all of it.
    let began = Instant::now();
    finish(start(&place.job(pull_task(&whole)))).unwrap();
    let usual = u64::try_from(began.elapsed().as_micros()).unwrap();
    let mut finished = 0;
    for round in 1..=100_u64 {
        // Each round has an image that is not here yet; removals take the one before away.
        let tag = round.to_string();
        registry.put("a/b", &tag, &image(round, Packing::Gzip));
        let name = registry.name("a/b", &tag);
        let before = registry.name("a/b", &(round - 1).to_string());
        let task = match draw(&mut state) % 4 {
            0 => Task::Remove {
                images: vec![Doomed {
                    name: before,
                    users: Vec::new(),
                }],
                force: true,
            },
            1 => Task::Collect,
            _ => pull_task(&name),
        };
        let mut child = start(&place.job(task));
        let_pass(Duration::from_micros(draw(&mut state) % usual));
        child.kill().unwrap();
        finished += u32::from(child.wait().unwrap().success());
        if round % 10 == 0 {
            let report = place.store.check(Some(&place.owners), Repair::No).unwrap();
            assert!(
                report.is_clean(),
                "round {round} of seed {seed:#x}: {report:#?}"
            );
        }
    }
    assert!(
        (5..=95).contains(&finished),
        "{finished} of 100 were done before they were killed"
    );
    place.store.sweep();
    check_image(&place, &whole, 0);
    let last = registry.name("a/b", "100");
    finish(start(&place.job(pull_task(&last)))).unwrap();
    check_image(&place, &last, 100);
}

/// Most memory that a pull may need at once, whatever the image: the bar.
const PEAK_KIB_MAX: u64 = 60 << 10;

#[test]
fn a_pull_needs_little_memory() {
    let registry = Registry::start();
    let place = Place::new();
    let meta = Meta::mode(0o644);
    // Four layers side by side, each with a file far larger than what may be kept.
    let mut builder = ImageBuilder::new();
    for number in 0..4_u8 {
        let large = noise(number.into(), 24 << 20);
        let tar = Tar::new()
            .file(&format!("large{number}"), meta, &large)
            .bytes();
        builder = builder.layer(
            tar,
            if number % 2 == 0 {
                Packing::Gzip
            } else {
                Packing::Zstd
            },
        );
    }
    registry.put("a/b", "t", &builder.build());
    let said = finish(start(&place.job(pull_task(&registry.name("a/b", "t"))))).unwrap();
    let peak = said
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < PEAK_KIB_MAX, "{peak} KiB");
}

#[test]
fn two_pulls_of_one_image_help_each_other() {
    let registry = Registry::start();
    let place = Place::new();
    registry.put("a/b", "t", &image(1, Packing::Gzip));
    let name = registry.name("a/b", "t");
    let both = [
        start(&place.job(pull_task(&name))),
        start(&place.job(pull_task(&name))),
    ];
    for child in both {
        finish(child).unwrap();
    }
    check_image(&place, &name, 1);
}

#[test]
fn what_two_pulls_want_is_fetched_once() {
    let registry = Registry::start();
    let place = Place::new();
    let image = image(1, Packing::Gzip);
    registry.put("a/b", "t", &image);
    let name = registry.name("a/b", "t");
    let start = std::sync::Barrier::new(4);
    let fetched: u64 = std::thread::scope(|scope| {
        let pull = || {
            start.wait();
            place.pull(&name).unwrap().fetched_bytes
        };
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).sum()
    });
    let manifest: serde_json::Value = serde_json::from_slice(&image.top.bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let packed: u64 = layers
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap())
        .sum();
    assert_eq!(fetched, packed);
    check_image(&place, &name, 1);
    let files: Vec<_> = std::fs::read_dir(place.store.path().join("layers"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let is_claim = |file: &&std::path::PathBuf| file.extension().is_some_and(|end| end == "claim");
    assert_eq!(files.iter().filter(is_claim).count(), 0, "a claim stayed");
    // A record and an index for each.
    assert_eq!(files.len(), 2 * layers.len());
}

/// Pulls, names, removals, collections and checks, fifty processes at once.
#[test]
fn fifty_commands_at_once_do_not_harm_each_other() {
    let registry = Registry::start();
    let place = Place::new();
    for seed in 0..4_u64 {
        registry.put("a/b", &seed.to_string(), &image(seed, Packing::Gzip));
    }
    let kept = registry.name("a/b", "0");
    place.pull(&kept).unwrap();
    let kept_image = place.store.resolve(&kept).unwrap();
    let children: Vec<_> = (0..50_u64)
        .map(|number| {
            let name = registry.name("a/b", &(number % 4).to_string());
            let task = match number % 5 {
                0 | 1 => pull_task(&name),
                2 if number % 4 != 0 => Task::Remove {
                    images: vec![Doomed {
                        name,
                        users: Vec::new(),
                    }],
                    force: true,
                },
                2 => Task::Stubs {
                    image: kept_image.id,
                },
                3 => Task::Collect,
                _ => Task::Check { repair: Repair::No },
            };
            (task.clone(), start(&place.job(task)))
        })
        .collect();
    for round in 0..50 {
        let alias = Reference::parse(&format!("alias:{round}")).unwrap();
        place.store.tag(&kept_image.id, &alias).unwrap();
        assert_eq!(place.store.find(&alias).unwrap().unwrap().id, kept_image.id);
    }
    for (task, child) in children {
        finish(child).unwrap_or_else(|said| panic!("{task:?}: {said}"));
    }
    check_image(&place, &kept, 0);
    let Ok(Outcome::Checked(report)) = serve(&place.job(Task::Check { repair: Repair::No })) else {
        panic!("the check failed");
    };
    assert!(report.is_clean(), "{report:#?}");
}
