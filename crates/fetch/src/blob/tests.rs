// SPDX-License-Identifier: Apache-2.0
//! Downloads from a source in memory; those over a wire are tested with registries.

use std::ops::Range;

use wolffia_image::{Digest, Platform, Reference};

use super::*;
use crate::limits::Limits;
use crate::sources::{Resolved, Stream};

/// One blob in memory.
#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    limits: Limits,
    spans: bool,
}

impl Memory {
    fn source(length: usize, spans: bool) -> (Arc<dyn Source>, Descriptor) {
        let bytes: Vec<u8> = (0..length)
            .map(|number| number.to_le_bytes()[number % 3])
            .collect();
        let size = u64::try_from(length).unwrap();
        let blob = Descriptor::new("", Digest::of(&bytes), size);
        let limits = Limits::default();
        (
            Arc::new(Self {
                bytes,
                limits,
                spans,
            }),
            blob,
        )
    }
}

impl Source for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn reference(&self) -> Option<Reference> {
        None
    }

    fn resolve(&self, _platform: &Platform) -> Result<Resolved, Error> {
        unreachable!("only blobs are asked for")
    }

    fn open(&self, _: &Descriptor, span: Range<u64>, _failures: u32) -> Result<Stream, Error> {
        let end = u64::try_from(self.bytes.len()).unwrap();
        let span = if self.spans { span } else { 0..end };
        let index = |offset| usize::try_from(offset).unwrap();
        let bytes = self.bytes[index(span.start)..index(span.end)].to_vec();
        Ok(Stream {
            start: span.start,
            end: span.end,
            reader: Box::new(io::Cursor::new(bytes)),
        })
    }

    fn parallel_hint(&self) -> usize {
        4
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[test]
fn an_empty_blob_is_verified_too() {
    let (source, blob) = Memory::source(0, true);
    let mut download = Download::new(Arc::clone(&source), &blob);
    assert_eq!(download.read(&mut [0; 9]).unwrap(), 0);
    let other = Descriptor::new("", Digest::of(b"x"), 0);
    assert!(Download::new(source, &other).read(&mut [0; 9]).is_err());
}

#[test]
fn the_last_byte_is_not_handed_on_unless_all_are_right() {
    let (source, mut blob) = Memory::source(1000, true);
    blob.digest = Digest::of(b"another");
    let mut download = Download::new(source, &blob);
    assert_eq!(download.read(&mut [0; 999]).unwrap(), 999);
    let error = Error::of_io(download.read(&mut [0; 9]).unwrap_err()).unwrap();
    assert!(matches!(error, Error::Digest { .. }), "{error:?}");
    assert!(download.read(&mut [0; 9]).is_err(), "it is dead");
}

/// The number of spans in memory is the process's: this is the only test here that starts lanes.
#[test]
fn lanes_keep_the_order_and_their_memory_is_bounded() {
    let (source, blob) = Memory::source(9_500_000, true);
    let rest = || 100..blob.size;
    let start = || Lanes::start(&source, &blob, rest());
    let (first, second) = (start(), start());
    assert!(first.is_some() && second.is_some());
    assert!(start().is_none(), "no memory is left for a third");
    drop(second);
    let mut lanes = first.unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 70_001];
    loop {
        match lanes.take(&mut buffer).unwrap() {
            Taken::Bytes(0) => break,
            Taken::Bytes(length) => bytes.extend_from_slice(&buffer[..length]),
            Taken::Refused => panic!("it serves spans"),
        }
    }
    let mut whole = Vec::new();
    let mut stream = source.open(&blob, rest(), 0).unwrap();
    stream.reader.read_to_end(&mut whole).unwrap();
    assert!(bytes == whole);
    drop(lanes);
    assert!(start().is_some(), "the memory came back");

    let (source, blob) = Memory::source(9_500_000, false);
    let mut lanes = Lanes::start(&source, &blob, 100..blob.size).unwrap();
    assert!(matches!(lanes.take(&mut buffer), Ok(Taken::Refused)));
}
