// SPDX-License-Identifier: Apache-2.0
//! A registry that cuts, stalls, lies or refuses: the right bytes or a typed error, within a time, and never a hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{environment, image, open, pull, read, story};
use wolffia_fetch::{Error, Source};
use wolffia_image::Platform;
use wolffia_testkit::image_builder::Image;
use wolffia_testkit::registry::{Auth, Fault, On, Options, Registry};

/// What should come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Right,
    NotFound,
    Denied,
    RateLimited,
    GivenUp,
    Restless,
    Digest,
    Size,
    Protocol,
}

fn outcome(result: &Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Right,
        Err(Error::NotFound { .. }) => Outcome::NotFound,
        Err(Error::Denied { .. }) => Outcome::Denied,
        Err(Error::RateLimited { .. }) => Outcome::RateLimited,
        Err(Error::GivenUp { .. }) => Outcome::GivenUp,
        Err(Error::Restless { .. }) => Outcome::Restless,
        Err(Error::Digest { .. }) => Outcome::Digest,
        Err(Error::Size { .. }) => Outcome::Size,
        Err(Error::Protocol { .. }) => Outcome::Protocol,
        Err(error) => panic!("{}", story(error)),
    }
}

fn status(status: u16, retry_after_seconds: Option<u64>) -> Fault {
    Fault::Status {
        status,
        retry_after_seconds,
    }
}

/// How long the worst row may take: its stalls, its tries, and a busy machine.
const TIME_MAX: Duration = Duration::from_secs(20);

#[test]
fn each_fault_ends_in_right_bytes_or_a_typed_error() {
    const ALWAYS: u32 = u32::MAX;
    let cut = |after_bytes| Fault::Cut { after_bytes };
    let stall = |after_bytes| Fault::Stall { after_bytes };
    let cases = [
        (On::Blob, 1, cut(0), Outcome::Right),
        (On::Blob, 3, cut(100_000), Outcome::Right),
        (On::Blob, ALWAYS, cut(100_000), Outcome::Right),
        (On::Blob, ALWAYS, cut(1_000), Outcome::GivenUp),
        (On::Blob, ALWAYS, cut(17_000), Outcome::Restless),
        (On::Blob, ALWAYS, cut(0), Outcome::GivenUp),
        (On::Blob, 2, stall(5_000), Outcome::Right),
        (On::Blob, ALWAYS, stall(0), Outcome::GivenUp),
        (On::Blob, 2, Fault::Hang, Outcome::Right),
        (On::Blob, ALWAYS, Fault::Hang, Outcome::GivenUp),
        (On::Blob, 1, Fault::Lie, Outcome::Digest),
        (On::Blob, 1, status(404, None), Outcome::NotFound),
        (On::Blob, 1, status(403, None), Outcome::Denied),
        (On::Blob, 2, status(429, Some(0)), Outcome::Right),
        (On::Blob, 1, status(429, Some(1)), Outcome::Right),
        (On::Blob, 1, status(429, Some(3600)), Outcome::RateLimited),
        (On::Blob, ALWAYS, status(429, None), Outcome::GivenUp),
        (On::Blob, 3, status(500, None), Outcome::Right),
        (On::Blob, 3, status(502, None), Outcome::Right),
        (On::Blob, 3, status(503, Some(0)), Outcome::Right),
        (On::Blob, 3, status(504, None), Outcome::Right),
        (On::Blob, ALWAYS, status(500, None), Outcome::GivenUp),
        (On::Blob, 1, Fault::WrongLength, Outcome::Size),
        (On::Blob, 1, Fault::Trickle { pause_ms: 30 }, Outcome::Right),
        (
            On::Blob,
            ALWAYS,
            Fault::Trickle { pause_ms: 30 },
            Outcome::GivenUp,
        ),
        (On::Blob, 1, Fault::Echo, Outcome::Denied),
        (On::Manifest, 1, cut(10), Outcome::Right),
        (On::Manifest, ALWAYS, cut(10), Outcome::GivenUp),
        (On::Manifest, ALWAYS, stall(10), Outcome::GivenUp),
        (On::Manifest, 1, Fault::Lie, Outcome::Digest),
        (On::Manifest, 1, status(404, None), Outcome::NotFound),
        (On::Manifest, 2, status(500, None), Outcome::Right),
        (
            On::Manifest,
            1,
            status(429, Some(3600)),
            Outcome::RateLimited,
        ),
        (On::Token, 2, status(503, None), Outcome::Right),
        (On::Token, ALWAYS, status(503, None), Outcome::GivenUp),
        (On::Token, ALWAYS, stall(5), Outcome::GivenUp),
        (On::Token, 1, status(401, None), Outcome::Denied),
    ];
    let original = image(&[400_000]);
    // From the start, where a blob's first fault meets the configuration; and from when only the layer is missing.
    let rows: Vec<_> = cases
        .iter()
        .flat_map(|case| {
            [
                (case, None, false),
                (case, Some(3), false),
                (case, Some(3), true),
            ]
        })
        .filter(|(case, _, late)| !late || case.0 == On::Blob)
        .collect();
    let next = AtomicUsize::new(0);
    // Most of a row is waiting.
    std::thread::scope(|scope| {
        for _worker in 0..12 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    try_row(&original, row.0, row.1, row.2);
                }
            });
        }
    });
}

fn try_row(original: &Image, case: &(On, u32, Fault, Outcome), redirect: Option<u32>, late: bool) {
    let (on, times, fault, expected) = *case;
    let registry = Registry::start_with(Options {
        auth: Auth::anonymous_token(),
        redirect,
        ..Options::default()
    });
    let name = registry.put("a/b", "c", original);
    let home = tempfile::tempdir().unwrap();
    let source = open(&name, &environment(home.path()));
    let begun = Instant::now();
    let result = if late {
        let layer = source.resolve(&Platform::host()).unwrap().layers[0].clone();
        registry.fault(on, times, fault);
        read(&source, &layer).map(|bytes| assert!(bytes == *original.blobs[&layer.digest]))
    } else {
        registry.fault(on, times, fault);
        pull(&source, original)
    };
    let what = format!("{on:?} {times} {fault:?} {redirect:?} {late}");
    let found = outcome(&result);
    let said = result.err().map(|error| story(&error)).unwrap_or_default();
    assert!(found == expected, "{what}: {found:?}: {said}");
    assert!(begun.elapsed() < TIME_MAX, "{what}: {:?}", begun.elapsed());
}

#[test]
fn a_resume_asks_for_what_is_missing_and_no_more() {
    let original = image(&[1_000_000]);
    let registry = Registry::start();
    let name = registry.put("a", "b", &original);
    let home = tempfile::tempdir().unwrap();
    let source = open(&name, &environment(home.path()));
    let layer = source.resolve(&Platform::host()).unwrap().layers[0].clone();
    registry.fault(
        On::Blob,
        1,
        Fault::Cut {
            after_bytes: 300_000,
        },
    );
    registry.fault(
        On::Blob,
        1,
        Fault::Cut {
            after_bytes: 200_000,
        },
    );
    registry.fault(On::Blob, 1, Fault::ShortRange);
    read(&source, &layer).unwrap();
    let path = format!("/v2/a/blobs/{}", layer.digest);
    let ranges: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|request| request.path == path)
        .map(|request| request.range)
        .collect();
    let expected = [None, Some(300_000), Some(500_000), Some(750_000)];
    assert_eq!(
        ranges,
        expected.map(|from: Option<u32>| from.map(|from| format!("bytes={from}-999999")))
    );
}

#[test]
fn ranges_that_are_not_served_or_are_wrong_do_no_harm() {
    let original = image(&[500_000]);
    let home = tempfile::tempdir().unwrap();
    let environment = environment(home.path());
    let cases = [
        (true, Fault::IgnoreRange, Outcome::Right),
        (true, Fault::WrongRange, Outcome::Protocol),
        (false, Fault::Hang, Outcome::Right),
    ];
    for (ranges, fault, expected) in cases {
        let registry = Registry::start_with(Options {
            ranges,
            ..Options::default()
        });
        let name = registry.put("a", "b", &original);
        let source = open(&name, &environment);
        let layer = source.resolve(&Platform::host()).unwrap().layers[0].clone();
        registry.fault(
            On::Blob,
            1,
            Fault::Cut {
                after_bytes: 123_456,
            },
        );
        registry.fault(On::Blob, 1, fault);
        let result =
            read(&source, &layer).map(|bytes| assert!(bytes == *original.blobs[&layer.digest]));
        assert_eq!(outcome(&result), expected, "{ranges} {fault:?}");
    }
}

/// Many layers at once from a registry that misbehaves by a seed: every byte right.
#[test]
fn seeded_misbehaviour_never_harms_a_byte() {
    let sizes = [1_500_000, 900_000, 70_000, 1, 3_000_000];
    let original = Arc::new(image(&sizes));
    for seed in 0..24 {
        let redirect = (seed % 2 == 0).then_some(4);
        let auth = if seed % 3 == 0 {
            Auth::anonymous_token()
        } else {
            Auth::Open
        };
        let registry = Registry::start_with(Options {
            auth,
            redirect,
            ranges: seed % 5 != 4,
            ..Options::default()
        });
        let name = registry.put("a/b", "c", &original);
        let home = tempfile::tempdir().unwrap();
        let mut limits = crate::common::limits();
        limits.tries = 40;
        limits.resumes = 400;
        let source =
            wolffia_fetch::sources::open(&name, &environment(home.path()), limits).unwrap();
        let source: Arc<dyn Source> = Arc::from(source);
        let resolved = source.resolve(&Platform::host()).unwrap();
        registry.faults_by_seed(seed, 2);
        let begun = Instant::now();
        let readers: Vec<_> = resolved
            .layers
            .into_iter()
            .map(|layer| {
                let (source, original) = (Arc::clone(&source), Arc::clone(&original));
                std::thread::spawn(move || match read(&source, &layer) {
                    Ok(bytes) => assert!(bytes == *original.blobs[&layer.digest], "seed {seed}"),
                    Err(error) => panic!("seed {seed}: {}", story(&error)),
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(
            begun.elapsed() < TIME_MAX,
            "seed {seed}: {:?}",
            begun.elapsed()
        );
    }
}
