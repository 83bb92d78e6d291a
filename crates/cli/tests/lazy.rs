// SPDX-License-Identifier: Apache-2.0
//! Lazy images: the program starts before its image has come, and never sees a difference.
//!
//! The images are eStargz of our own making, at `testkit`'s registry, which writes down every request: what was fetched, and what
//! was not, is seen from its side.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use wolffia_testkit::image_builder::{Image, ImageBuilder, noise};
use wolffia_testkit::registry::{Auth, Fault, Link, On, Options, Registry};
use wolffia_testkit::stargz::Stargz;
use wolffia_testkit::walk;

/// Files of the image besides the payload.
const FILES: u64 = 12;
/// Bytes of each: more than lies in a gap that is fetched along.
const FILE_BYTES: usize = 150_000;
/// Bytes of a chunk, so that a file has three.
const CHUNK_BYTES: usize = 64 << 10;

fn content(number: u64) -> Vec<u8> {
    noise(number + 1, FILE_BYTES)
}

fn image() -> Image {
    let mut layer = Stargz::new(CHUNK_BYTES).payload().directory("data/", 0o755);
    for number in 0..FILES {
        layer = layer.file(&format!("data/{number}"), 0o644, &content(number));
    }
    ImageBuilder::new()
        .stargz(layer.build())
        .config(serde_json::json!({ "Env": ["PATH=/bin"] }))
        .build()
}

fn wolffia(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wolffia"));
    command
        .args(words)
        .env("HOME", home)
        .env_remove("WOLFFIA_ROOT")
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    wolffia(home, words).output().unwrap()
}

fn good(home: &Path, words: &[&str]) -> Vec<u8> {
    let output = run(home, words);
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn container<'a>(image: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    let start = [
        "run",
        "--rm",
        "-q",
        "--network",
        "none",
        "--lazy=always",
        image,
    ];
    [&start[..], program].concat()
}

/// Returns the stretches of blobs that were asked for.
fn ranges(registry: &Registry) -> Vec<Range<u64>> {
    let requests = registry.requests();
    let asked = requests.iter().filter_map(|one| one.range.as_deref());
    asked
        .map(|range| {
            let (from, to) = range
                .strip_prefix("bytes=")
                .unwrap()
                .split_once('-')
                .unwrap();
            from.parse().unwrap()..to.parse::<u64>().unwrap() + 1
        })
        .collect()
}

fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Waits for something, not without end.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happened() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn only_what_is_needed_is_fetched_and_a_second_start_needs_no_registry() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("lazy", "1", &image());
    let name = registry.name("lazy", "1");
    let read = container(&name, &["cat", "/data/3"]);
    assert!(good(home.path(), &read) == content(3), "other bytes");
    let whole = FILES * FILE_BYTES as u64;
    let fetched = bytes(&ranges(&registry));
    assert!(
        fetched < whole,
        "{fetched} of {whole}: {:#?}",
        registry.requests()
    );
    let before = registry.requests().len();
    assert!(good(home.path(), &read) == content(3), "other bytes");
    assert_eq!(registry.requests().len(), before, "all of it was here");
    let heat = String::from_utf8(good(home.path(), &["image", "heat", &name])).unwrap();
    assert!(
        heat.contains("/bin/payload") && heat.contains("/data/3"),
        "{heat}"
    );
    assert!(!heat.contains("/data/4"), "{heat}");
    // What was learnt outlives the image, and is fetched before anybody asks.
    good(home.path(), &["rmi", &name]);
    assert!(good(home.path(), &container(&name, &["true"])).is_empty());
    drop(registry);
}

#[test]
fn a_lazy_walk_is_that_of_a_full_pull() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let place = tempfile::tempdir().unwrap();
    let walker = fs::read(walk::compile(place.path())).unwrap();
    let layer = Stargz::new(CHUNK_BYTES)
        .payload()
        .file("bin/walk", 0o755, &walker)
        .directory("d/", 0o751)
        .file("d/empty", 0o600, b"")
        .file("d/set-id", 0o4755, b"no program")
        .file("d/large", 0o644, &noise(7, 300_000))
        .file("d/same", 0o640, &noise(7, 300_000))
        .symlink("d/link", "../nowhere")
        .build();
    let registry = Registry::start();
    registry.put("walked", "1", &ImageBuilder::new().stargz(layer).build());
    let name = registry.name("walked", "1");
    let walked = |home: &str, lazy: &str| {
        let home = place.path().join(home);
        fs::create_dir(&home).unwrap();
        let lazy = format!("--lazy={lazy}");
        let words = [
            "run",
            "--rm",
            "-q",
            "--network",
            "none",
            &lazy,
            &name,
            "/bin/walk",
            "/",
        ];
        let mut walk = walk::parse(&String::from_utf8(good(&home, &words)).unwrap());
        // What a container has of its own, and the table, which is in the archive like any file.
        let own = ["dev", "proc", "sys", "etc", "stargz.index.json"];
        walk.retain(|path, _| {
            let path = String::from_utf8_lossy(path).into_owned();
            let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
            !own.contains(&first) && !first.is_empty()
        });
        walk
    };
    let (lazy, full) = (walked("lazy", "always"), walked("full", "never"));
    assert!(lazy.len() > 20, "{}", lazy.len());
    assert_eq!(lazy, full);
}

#[test]
fn without_the_registry_a_read_fails_and_says_of_what_and_where() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("lazy", "1", &image());
    let name = registry.name("lazy", "1");
    assert!(good(home.path(), &container(&name, &["cat", "/data/3"])) == content(3));
    drop(registry);
    let began = Instant::now();
    let output = run(
        home.path(),
        &container(&name, &["cat", "/data/3", "/data/5"]),
    );
    assert!(!output.status.success(), "what is not here cannot be read");
    assert!(output.stdout == content(3), "what is here can");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let host = name.split('/').next().unwrap();
    assert!(said.contains("/data/5") && said.contains(host), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "{said}");
}

#[test]
fn twenty_containers_fetch_every_byte_once() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("lazy", "1", &image());
    let name = registry.name("lazy", "1");
    good(home.path(), &["pull", "-q", "--lazy", &name]);
    let before = ranges(&registry).len();
    let words = container(&name, &["cat", "/data/1", "/data/7", "/data/8"]);
    let children: Vec<Child> = (0..20)
        .map(|_| wolffia(home.path(), &words).spawn().unwrap())
        .collect();
    let expected = [content(1), content(7), content(8)].concat();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stdout == expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let mut fetched = ranges(&registry).split_off(before);
    fetched.sort_by_key(|range| range.start);
    for pair in fetched.windows(2) {
        assert!(pair[0].end <= pair[1].start, "fetched twice: {fetched:?}");
    }
}

/// Returns the servers of lazy images of this home, by their numbers.
fn servers(home: &Path) -> Vec<i32> {
    let of_ours = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.starts_with("wolffia-lazyd") && text.contains(&*home.to_string_lossy())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| {
            fs::read(format!("/proc/{number}/cmdline")).is_ok_and(|text| of_ours(&text))
        })
        .collect()
}

#[test]
fn a_killed_server_is_replaced_and_the_program_sees_nothing() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("lazy", "1", &image());
    // Slow enough that it is killed in the middle.
    let link = Link::to(
        registry.address().parse().unwrap(),
        Some(400_000),
        Duration::ZERO,
        None,
    );
    let name = format!("{}/lazy:1", link.address());
    let files: Vec<String> = (0..FILES).map(|number| format!("/data/{number}")).collect();
    let mut program = vec!["cat"];
    program.extend(files.iter().map(String::as_str));
    let words = container(&name, &program);
    // A pipe that nobody empties yet would hold the program up.
    let said = home.path().join("said");
    let child = wolffia(home.path(), &words)
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let mut killed = Vec::new();
    for files_before in [2, 6] {
        until("requests", || ranges(&registry).len() > 2 + files_before);
        until("a server", || {
            servers(home.path()).iter().any(|it| !killed.contains(it))
        });
        let server = *servers(home.path()).last().unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(server).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        killed.push(server);
    }
    let output = child.wait_with_output().unwrap();
    let expected: Vec<u8> = (0..FILES).flat_map(content).collect();
    let said = fs::read(&said).unwrap();
    assert!(
        output.status.success() && said == expected,
        "{} bytes: {}",
        said.len(),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn whatever_a_registry_does_once_the_bytes_are_right() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let faults = [
        Fault::Cut { after_bytes: 1000 },
        Fault::Hang,
        Fault::Lie,
        Fault::Status {
            status: 429,
            retry_after_seconds: Some(1),
        },
        Fault::IgnoreRange,
        Fault::WrongRange,
        Fault::ShortRange,
        Fault::WrongLength,
    ];
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("lazy", "1", &image());
    let name = registry.name("lazy", "1");
    good(home.path(), &container(&name, &["true"]));
    for (number, fault) in (0_u64..).zip(faults) {
        let path = format!("/data/{number}");
        registry.fault(On::Blob, 1, fault);
        let began = Instant::now();
        let words = container(&name, &["cat", &path]);
        let mut output = run(home.path(), &words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() && said.contains(&path) && said.contains(&name) {
            // An error that names the file and the place is an answer too; the next read is right.
            output = run(home.path(), &words);
        }
        assert!(
            output.status.success() && output.stdout == content(number),
            "{fault:?}: {said}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{fault:?}");
    }
    // A registry that always lies is found out, and the reader is told.
    registry.fault(On::Blob, 1000, Fault::Lie);
    let output = run(home.path(), &container(&name, &["cat", "/data/11"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("digest"),
        "{said}"
    );
}

#[test]
fn tokens_that_expire_between_two_reads_are_renewed() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start_with(Options {
        auth: Auth::anonymous_token(),
        ..Options::default()
    });
    registry.put("lazy", "1", &image());
    let name = registry.name("lazy", "1");
    let words = container(&name, &["cat", "/data/1", "/data/9"]);
    let child = wolffia(home.path(), &words).spawn().unwrap();
    until("a table", || ranges(&registry).len() > 1);
    registry.expire_tokens();
    let output = child.wait_with_output().unwrap();
    let expected = [content(1), content(9)].concat();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && output.stdout == expected,
        "{said}"
    );
}
