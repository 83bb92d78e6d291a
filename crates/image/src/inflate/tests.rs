// SPDX-License-Identifier: Apache-2.0
//! The inflater against another's deflater and inflater: every level, every cut of the input, every border, and damage.

use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;

/// Text-like bytes with repetitions near and far.
fn sample(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut out: Vec<u8> = Vec::with_capacity(length + 300);
    while out.len() < length {
        let choice = random();
        let far = (random() as usize % 40_000).min(out.len());
        match choice % 4 {
            0 => out.extend((0..choice >> 8 & 63).map(|_| (random() & 0xff) as u8)),
            1 => out.extend((0..choice >> 8 & 63).map(|_| b'a' + (random() & 7) as u8)),
            2 if far > 0 => {
                let from = out.len() - far;
                let length = (choice >> 8 & 0x1ff) as usize;
                for place in from..from + length {
                    out.push(out[place.min(out.len() - 1)]);
                }
            }
            _ => out.extend(std::iter::repeat_n(b'z', (choice >> 8 & 0x7f) as usize)),
        }
    }
    out.truncate(length);
    out
}

fn deflated(level: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzipped(level: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .filename("name")
        .extra(b"extra".as_slice())
        .comment("comment")
        .write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A border: bits of input, bytes of output, the window, and the marks as they are 32 KiB later.
struct Border {
    bits: u64,
    output: usize,
    window: Vec<u8>,
}

fn inflate(packed: &[u8], step: usize) -> Result<(Vec<u8>, Vec<Border>), InflateError> {
    let mut inflater = Inflater::new();
    let (mut out, mut borders) = (Vec::new(), Vec::new());
    let mut pieces = packed.chunks(step);
    let mut last = false;
    loop {
        let progress = inflater.run(last)?;
        out.extend_from_slice(inflater.output());
        inflater.take_output();
        assert_eq!(out.len() as u64, inflater.output_bytes());
        match progress {
            Progress::Full => {}
            Progress::Hungry => match pieces.next() {
                Some(piece) => inflater.push(piece),
                None => last = true,
            },
            Progress::Border => borders.push(Border {
                bits: inflater.used_bits(),
                output: out.len(),
                window: inflater.window().to_vec(),
            }),
            Progress::End => return Ok((out, borders)),
        }
    }
}

#[test]
fn everything_comes_out_at_any_level_and_cut() {
    for level in 0..=9 {
        for (seed, length) in [(1, 0), (2, 1), (3, 300), (4, 70_000), (5, 500_000)] {
            let bytes = sample(seed, length);
            let packed = deflated(level, &bytes);
            for step in [1, 7, 997, usize::MAX] {
                if step == 1 && length > 100_000 {
                    continue;
                }
                let what = format!("level {level}, {length} bytes by {step}");
                let (out, _) = inflate(&packed, step).expect(&what);
                assert!(out == bytes, "{what}");
            }
        }
    }
}

#[test]
fn every_border_is_a_beginning() {
    for level in [0, 3, 6, 9] {
        let bytes = sample(7, 900_000);
        let packed = deflated(level, &bytes);
        let (_, borders) = inflate(&packed, usize::MAX).unwrap();
        assert!(borders.len() > 3, "level {level}: {}", borders.len());
        for border in borders {
            let from = usize::try_from(border.bits / 8).unwrap();
            let mut inflater = Inflater::resume((border.bits % 8) as u8, &border.window);
            inflater.push(&packed[from..]);
            let mut out = Vec::new();
            while inflater.run(true).unwrap() != Progress::End {
                out.extend_from_slice(inflater.output());
                inflater.take_output();
            }
            out.extend_from_slice(inflater.output());
            assert!(out == bytes[border.output..], "at bit {}", border.bits);
        }
    }
}

/// What is not marked may be anything.
#[test]
fn marks_are_enough() {
    let bytes = sample(9, 600_000);
    let packed = deflated(6, &bytes);
    let (_, borders) = inflate(&packed, usize::MAX).unwrap();
    for wanted in borders.iter().skip(1) {
        let mut inflater = Inflater::new();
        inflater.push(&packed);
        while inflater.used_bits() != wanted.bits {
            inflater.take_output();
            inflater.run(true).unwrap();
        }
        inflater.begin_marks();
        while inflater.run(true).unwrap() != Progress::End {
            inflater.take_output();
        }
        let marks = inflater.marks();
        let missing = WINDOW_BYTES - wanted.window.len();
        let (mut window, mut marked) = (wanted.window.clone(), 0);
        for (place, byte) in window.iter_mut().enumerate() {
            let place = place + missing;
            if marks[place / 64] >> (place % 64) & 1 == 0 {
                *byte = !*byte;
            } else {
                marked += 1;
            }
        }
        assert!(marked > 0 && marked < WINDOW_BYTES);
        let from = usize::try_from(wanted.bits / 8).unwrap();
        let mut inflater = Inflater::resume((wanted.bits % 8) as u8, &window);
        inflater.push(&packed[from..]);
        let mut out = Vec::new();
        while inflater.run(true).unwrap() != Progress::End {
            out.extend_from_slice(inflater.output());
            inflater.take_output();
        }
        out.extend_from_slice(inflater.output());
        assert!(out == bytes[wanted.output..]);
    }
}

fn gunzip(packed: &[u8], step: usize) -> Result<Vec<u8>, InflateError> {
    let mut stream = GzipStream::new();
    let mut out = Vec::new();
    let mut pieces = packed.chunks(step);
    let mut last = false;
    loop {
        let done = stream.step(last)?;
        out.extend_from_slice(stream.inflater().output());
        stream.inflater_mut().take_output();
        if done == Step::Hungry {
            match pieces.next() {
                Some(piece) => stream.push(piece),
                None if last => return Ok(out),
                None => last = true,
            }
        }
    }
}

#[test]
fn members_follow_each_other() {
    let parts = [sample(1, 10_000), Vec::new(), sample(2, 200_000)];
    let packed: Vec<u8> = parts.iter().flat_map(|part| gzipped(6, part)).collect();
    let whole = parts.concat();
    for step in [1, 100, usize::MAX] {
        assert!(gunzip(&packed, step).unwrap() == whole);
        let padded = [&packed[..], &[0; 1000]].concat();
        assert!(gunzip(&padded, step).unwrap() == whole);
        let spoilt = [&packed[..], b"\0\0x"].concat();
        assert!(gunzip(&spoilt, step).is_err());
    }
    for cut in 1..packed.len() {
        let cut_at_border = gunzip(&packed[..cut], usize::MAX);
        match cut_at_border {
            Err(_) => {}
            Ok(out) => assert!(out.len() == 10_000, "cut at {cut}"),
        }
        if cut > 1000 && cut < packed.len() - 1000 {
            break;
        }
    }
    assert_eq!(
        gunzip(&packed[..packed.len() - 1], 4096),
        Err(InflateError::Truncated)
    );
    let mut wrong_length = packed.clone();
    *wrong_length.last_mut().unwrap() ^= 1;
    assert!(gunzip(&wrong_length, 4096).is_err());
    assert_eq!(gunzip(b"", 1), Err(InflateError::Truncated));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The other library says the same of damaged data: the same bytes, or both refuse.
    #[test]
    fn damage_is_judged_as_others_do(
        seed in any::<u32>(),
        level in 0_u32..10,
        length in 0_usize..60_000,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
        step in 1_usize..5000,
    ) {
        let mut packed = deflated(level, &sample(seed, length));
        for (place, bit) in flips {
            let place = place.index(packed.len());
            packed[place] ^= 1 << bit;
        }
        let mut theirs = Vec::new();
        let verdict = flate2::read::DeflateDecoder::new(&packed[..]).take(1 << 24).read_to_end(&mut theirs);
        match inflate(&packed, step) {
            Ok((ours, _)) => {
                prop_assert!(verdict.is_ok());
                prop_assert!(ours == theirs);
            }
            Err(_) => prop_assert!(verdict.is_err()),
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000), step in 1_usize..500) {
        if let Ok((ours, _)) = inflate(&bytes, step) {
            let mut theirs = Vec::new();
            flate2::read::DeflateDecoder::new(&bytes[..]).read_to_end(&mut theirs).unwrap();
            prop_assert!(ours == theirs);
        }
        gunzip(&bytes, step).ok();
    }
}
