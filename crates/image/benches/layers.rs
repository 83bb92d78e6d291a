// SPDX-License-Identifier: Apache-2.0
//! What a pull spends in this room, hashing aside: reading tars, merging layers, keeping and reading the record.
//!
//! The archive is as large as the image of the pull benchmark: 12,800 entries, 270 MB. Each line is the best of several
//! rounds; the bar is 0.1 s for reading it. `cargo bench -p wolffia-image`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "its purpose")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads a clock"
)]

use std::time::{Duration, Instant};

use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{LayerBuilder, Wants};
use wolffia_image::{Digest, Layer, Tree};
use wolffia_testkit::archive::{End, Form, Item, Spelling, Writer};

const FILES: usize = 12_000;
const FILE_BYTES: usize = 22_500;
const FOLDERS: usize = 800;
/// What an inflater hands over at a time.
const PIECE_BYTES: usize = 64 << 10;
const ROUNDS: usize = 7;

fn archive(form: Form) -> Vec<u8> {
    let mut writer = Writer::new();
    let spelling = Spelling {
        form,
        ..Spelling::default()
    };
    let content = vec![b'x'; FILE_BYTES];
    for folder in 0..FOLDERS {
        let mut item = Item::directory(format!("usr/lib/python3/dist-packages/package{folder}"));
        item.mtime = (
            1_700_000_000,
            if form == Form::Pax { 123_456_789 } else { 0 },
        );
        writer.add(&item, spelling);
        for file in 0..FILES / FOLDERS {
            let path = format!("usr/lib/python3/dist-packages/package{folder}/module{file}.py");
            writer.add(
                &Item {
                    mtime: item.mtime,
                    ..Item::file(path, content.clone())
                },
                spelling,
            );
        }
    }
    writer.finish(End::Record)
}

fn read(archive: &[u8]) -> Layer {
    let mut reader = Reader::new();
    let mut builder = LayerBuilder::new();
    let digest = Digest::of(b"the same for all: hashing is not what is measured");
    let mut bytes_seen = 0;
    let mut wanted = false;
    for mut piece in archive.chunks(PIECE_BYTES) {
        while let Some(event) = reader.next(&mut piece).unwrap() {
            match event {
                Event::Entry(header) => wanted = builder.begin(header).unwrap() != Wants::Nothing,
                Event::Data { bytes, .. } => bytes_seen += bytes.len(),
                Event::EntryEnd if wanted => builder.content(digest),
                Event::Hole { .. } | Event::EntryEnd => {}
            }
        }
    }
    assert_eq!(bytes_seen, FILES * FILE_BYTES);
    builder.finish()
}

fn best<T>(what: &str, mut round: impl FnMut() -> T) -> T {
    let mut best = Duration::MAX;
    let mut result = None;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        result = Some(round());
        best = best.min(began.elapsed());
    }
    println!("{what:<44} {:>8.2} ms", best.as_secs_f64() * 1e3);
    result.unwrap()
}

fn main() {
    let mut layers = Vec::new();
    for form in [Form::Ustar, Form::Pax] {
        let archive = archive(form);
        let what = format!(
            "read {form:?}: {} entries, {} MB",
            FILES + FOLDERS,
            archive.len() / 1_000_000
        );
        layers.push(best(&what, || read(&archive)));
    }
    let tree = best("merge one layer", || Tree::merge(&layers[..1]).unwrap());
    best("merge it upon itself, 8 times", || {
        Tree::merge([&layers[0]; 8]).unwrap()
    });
    let record = best("write the record", || tree.to_bytes());
    println!(
        "{:<44} {:>8} bytes per entry",
        "",
        record.len() / tree.entries.len()
    );
    best("read the record", || Tree::from_bytes(&record).unwrap());
    let content = vec![b'x'; 64 << 20];
    best("for comparison: hash 64 MB", || Digest::of(&content));
}
