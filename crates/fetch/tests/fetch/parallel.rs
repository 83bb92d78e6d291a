// SPDX-License-Identifier: Apache-2.0
//! Parallel spans: used where the wire is slow, not used where it is not, and right in both.

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{environment, image, open, read, story};
use wolffia_fetch::{Download, Source};
use wolffia_image::{Descriptor, Platform};
use wolffia_testkit::registry::{Fault, Link, On, Options, Registry, Served};

const BLOB_BYTES: usize = 24 << 20;
const WIRE_BYTES_PER_SECOND: u64 = 8 << 20;

/// The image's name as seen through a wire, and its one layer.
fn over(link: &Link, home: &std::path::Path) -> (Arc<dyn Source>, Descriptor) {
    let source = open(&format!("{}/a:b", link.address()), &environment(home));
    let layer = source.resolve(&Platform::host()).unwrap().layers[0].clone();
    (source, layer)
}

fn slow(registry: &Registry, cut_after_bytes: Option<usize>) -> Link {
    let address = registry.address().parse().unwrap();
    Link::to(
        address,
        Some(WIRE_BYTES_PER_SECOND),
        Duration::from_millis(20),
        cut_after_bytes,
    )
}

#[test]
fn a_slow_wire_is_used_several_times_at_once() {
    let original = image(&[BLOB_BYTES]);
    let registry = Registry::start();
    registry.put("a", "b", &original);
    let link = slow(&registry, None);
    let home = tempfile::tempdir().unwrap();
    let (source, layer) = over(&link, home.path());
    let begun = Instant::now();
    let bytes = read(&source, &layer).unwrap();
    let took = begun.elapsed();
    assert!(bytes == *original.blobs[&layer.digest]);
    // One connection takes three seconds.
    assert!(took < Duration::from_millis(2800), "{took:?}");
    assert!(
        (3..=8).contains(&link.connections()),
        "{}",
        link.connections()
    );
}

#[test]
fn a_reader_who_is_slow_gets_one_stream() {
    let original = image(&[BLOB_BYTES]);
    let registry = Registry::start();
    let name = registry.put("a", "b", &original);
    let home = tempfile::tempdir().unwrap();
    let source = open(&name, &environment(home.path()));
    let layer = source.resolve(&Platform::host()).unwrap().layers[0].clone();
    let mut download = Download::new(source, &layer);
    let mut buffer = vec![0; 256 << 10];
    // Works on each piece for as long as an inflater would.
    while download.read(&mut buffer).unwrap() > 0 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        assert!(!download.is_parallel());
    }
    let path = format!("/v2/a/blobs/{}", layer.digest);
    let requests = registry.requests();
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.path == path)
            .count(),
        1
    );
}

#[test]
fn a_slow_registry_without_spans_is_read_once() {
    let original = image(&[BLOB_BYTES / 2]);
    let registry = Registry::start_with(Options {
        ranges: false,
        ..Options::default()
    });
    registry.put("a", "b", &original);
    let link = slow(&registry, None);
    let home = tempfile::tempdir().unwrap();
    let (source, layer) = over(&link, home.path());
    assert!(read(&source, &layer).unwrap() == *original.blobs[&layer.digest]);
    // The one stream goes on: it is not begun again from the start.
    let path = format!("/v2/a/blobs/{}", layer.digest);
    let requests = registry.requests();
    let whole = |request: &&Served| request.path == path && request.range.is_none();
    assert_eq!(requests.iter().filter(whole).count(), 1);
    assert!(
        requests
            .iter()
            .filter(|request| request.path == path)
            .count()
            > 1,
        "spans were tried"
    );
}

#[test]
fn lanes_survive_faults_and_report_the_first_error_in_order() {
    let original = image(&[BLOB_BYTES / 2]);
    let home = tempfile::tempdir().unwrap();
    // Every connection breaks after some spans.
    let registry = Registry::start();
    registry.put("a", "b", &original);
    let link = slow(&registry, Some(2_500_000));
    let (source, layer) = over(&link, home.path());
    let bytes = read(&source, &layer).unwrap_or_else(|error| panic!("{}", story(&error)));
    assert!(bytes == *original.blobs[&layer.digest]);
    // The blob goes away in the middle: what came before the first lost span is handed on, then the error.
    let link = slow(&registry, None);
    let (source, layer) = over(&link, home.path());
    let mut download = Download::new(source, &layer);
    let mut buffer = vec![0; 64 << 10];
    while !download.is_parallel() {
        assert!(download.read(&mut buffer).unwrap() > 0);
    }
    registry.fault(
        On::Blob,
        u32::MAX,
        Fault::Status {
            status: 404,
            retry_after_seconds: None,
        },
    );
    let error = loop {
        match download.read(&mut buffer) {
            Ok(length) => assert!(length > 0, "the end was reached"),
            Err(error) => break wolffia_fetch::Error::of_io(error).unwrap(),
        }
    };
    assert!(error.is_not_found(), "{error:?}");
}
