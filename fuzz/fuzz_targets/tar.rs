// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a layer: no panic, the same whatever the pieces, and what comes out is a tree that its record keeps.
//!
//! A checksum guards each header, which a fuzzer would have to guess: every block that looks like one gets a right one first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_image::tar::{Event, Reader, TarError};
use wolffia_image::tree::{LayerBuilder, Wants};
use wolffia_image::{Digest, Layer, Tree};

/// Holes are told but not made: content stands for what was told.
fn read(archive: &[u8], step: usize) -> Result<Layer, TarError> {
    let mut reader = Reader::new();
    let mut builder = LayerBuilder::new();
    let mut told = Vec::new();
    let mut wanted = false;
    let mut position = 0;
    let mut size = 0;
    for mut piece in archive.chunks(step) {
        while let Some(event) = reader.next(&mut piece)? {
            match event {
                Event::Entry(header) => {
                    size = header.size;
                    position = 0;
                    told.clear();
                    wanted = builder.begin(header).expect("small inputs reach no limit")
                        != Wants::Nothing;
                }
                Event::Data { offset, bytes } => {
                    assert_eq!(offset, position);
                    position += bytes.len() as u64;
                    told.extend_from_slice(bytes);
                }
                Event::Hole { offset, length } => {
                    assert_eq!(offset, position);
                    position += length;
                    told.extend_from_slice(&length.to_le_bytes());
                }
                Event::EntryEnd => {
                    assert_eq!(position, size);
                    if wanted {
                        builder.content(Digest::of(&told));
                    }
                }
            }
        }
        assert!(piece.is_empty());
    }
    reader.finish()?;
    Ok(builder.finish())
}

fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut archive = input.to_vec();
    seal(&mut archive);
    let whole = read(&archive, usize::MAX >> 1);
    assert_eq!(whole, read(&archive, 513));
    let Ok(layer) = whole else { return };
    assert_eq!(Layer::from_bytes(&layer.to_bytes()).as_ref(), Ok(&layer));
    let tree = Tree::merge([&layer, &layer]).expect("small inputs reach no limit");
    assert_eq!(Tree::from_bytes(&tree.to_bytes()), Ok(tree));
});
