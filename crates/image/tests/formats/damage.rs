// SPDX-License-Identifier: Apache-2.0
//! Damage and lies: an index is refused, or what it says is right; nothing panics.

use proptest::prelude::*;
use wolffia_image::formats::{Blob, FormatError, Piece, claims, decode};

use crate::fixtures::{external, layer, soci, stargz};
use crate::suite::{Case, run};

fn cases() -> Vec<Case> {
    vec![
        layer("estargz"),
        external(),
        layer("zstd-chunked"),
        layer("zstd-chunked-stargz"),
    ]
}

#[test]
fn a_table_with_another_digest_is_refused() {
    for case in cases() {
        let claim = claims(&case.descriptor, &case.companions).remove(0);
        let mut lied = claim.clone();
        for value in lied.layer.annotations.values_mut() {
            if value.starts_with("sha256:") {
                *value = format!("sha256:{}", "0".repeat(64));
            }
        }
        let fetch = |of, range: std::ops::Range<u64>| {
            let blob = if of == Blob::Layer {
                &case.blob
            } else {
                &case.companion
            };
            blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
                .to_vec()
        };
        assert!(run(&claim, fetch).0.is_ok());
        assert!(
            matches!(run(&lied, fetch).0, Err(FormatError::Digest { .. })),
            "{}",
            case.name
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With a trusted digest no damage is taken for an index; without one, whatever comes out can be asked and decoded.
    #[test]
    fn damaged_answers_do_no_harm(
        which in 0_usize..6,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut case = match which {
            0..4 => cases().swap_remove(which),
            4 => stargz(true),
            _ => stargz(false),
        };
        let trusted = which < 4;
        if !trusted {
            let end = case.blob.len();
            for (place, value) in &flips {
                // The table and the footer are what is read.
                let place = end - 1 - place.index(4000);
                case.blob[place] = *value;
            }
        }
        let claim = claims(&case.descriptor, &case.companions).remove(0);
        let mut changed = false;
        let (index, _) = run(&claim, |of, range| {
            let blob = if of == Blob::Layer { &case.blob } else { &case.companion };
            let mut answer = blob
                [usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
                .to_vec();
            if trusted {
                let length = answer.len();
                // The end of the answer has the table, whatever else there is.
                for (place, value) in &flips {
                    let place = length - 1 - place.index(length.min(2900));
                    changed |= answer[place] != *value;
                    answer[place] = *value;
                }
                if let Some(cut) = &cut {
                    changed = true;
                    answer.truncate(cut.index(length));
                }
            }
            answer
        });
        if let Ok(index) = index {
            // Bytes behind the gzip stream of a table, and in its footer, may differ without harm.
            if trusted && changed && which >= 2 {
                prop_assert!(false, "{}: taken in spite of damage", case.name);
            }
            for chunk in index.map.all_chunks() {
                let Some(span) = index.map.span_of(chunk) else { continue };
                let fetch = span.fetch(chunk.skip + chunk.length);
                let range = usize::try_from(fetch.packed.start).unwrap()
                    ..usize::try_from(fetch.packed.end).unwrap();
                let mut given = 0;
                let result = decode(span, &[], &case.blob[range], [chunk], &mut |piece| {
                    if let Piece::Bytes { bytes, .. } = piece {
                        given += bytes.len() as u64;
                    }
                });
                prop_assert!(given <= chunk.length);
                prop_assert!(result.is_err() || given == chunk.length);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A zTOC with a right digest may say anything.
    #[test]
    fn a_lying_ztoc_does_no_harm(
        plain in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let name = if plain { ("tar", "soci-uncompressed.ztoc") } else { ("gzip", "soci.ztoc") };
        let mut case = soci(name.0, name.1, true);
        let length = case.companion.len();
        for (number, (place, value)) in flips.into_iter().enumerate() {
            // Half of them where tables and offsets are: at both ends.
            let place = match number % 3 {
                0 => place.index(length),
                1 => place.index(200),
                _ => length - 1 - place.index(10_000.min(length)),
            };
            case.companion[place] = value;
        }
        case.companions[0].manifest.layers[0].digest = wolffia_image::Digest::of(&case.companion);
        let (_, index, _) = crate::suite::index(&case);
        if let Ok(index) = index {
            for chunk in index.map.all_chunks() {
                let Some(span) = index.map.span_of(chunk) else { continue };
                let fetch = span.fetch(chunk.skip + chunk.length);
                let bounds = |range: std::ops::Range<u64>| {
                    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
                };
                let window = &index.windows[bounds(fetch.window)];
                decode(span, window, &case.blob[bounds(fetch.packed)], [chunk], &mut |_| {}).ok();
            }
        }
    }
}
