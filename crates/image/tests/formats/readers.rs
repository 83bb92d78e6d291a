// SPDX-License-Identifier: Apache-2.0
//! One line for each format and dialect: what reads it, who answers for it, and the suite.

use wolffia_image::formats::{Identity, Prefetch, Trust};

use crate::fixtures::{external, layer, soci, stargz};
use crate::suite::{Case, check, index};

/// Runs the suite over a layer that a format claims.
fn holds(case: &Case, format: &str, certain: bool, trust: Trust) {
    let (claim, index, asked) = index(case);
    assert_eq!(claim.format.name(), format, "{}", case.name);
    assert_eq!(claim.certain, certain, "{}", case.name);
    let index = index.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    assert_eq!(index.map.trust, trust, "{}", case.name);
    let least = case.descriptor.size.max(case.companion.len() as u64);
    assert!(asked <= least, "{}: {asked} bytes", case.name);
    check(case, &index);
}

#[test]
fn estargz_is_read() {
    holds(&layer("estargz"), "estargz", true, Trust::Manifest);
}

#[test]
fn estargz_with_many_files_in_a_member_is_read() {
    let case = layer("estargz-grouped");
    holds(&case, "estargz", true, Trust::Manifest);
    let index = index(&case).1.unwrap();
    let most = index.map.by_span().iter().map(Vec::len).max();
    assert!(most > Some(10), "{most:?} chunks in one span");
}

#[test]
fn estargz_says_what_is_read_first() {
    let first = layer("estargz-landmark");
    holds(&first, "estargz", true, Trust::Manifest);
    let Prefetch::Ranges(ranges) = index(&first).1.unwrap().map.prefetch else {
        panic!("no landmark was seen");
    };
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].end > 1000 && ranges[0].end < first.descriptor.size / 2);
    let nothing = index(&layer("estargz")).1.unwrap().map.prefetch;
    assert_eq!(nothing, Prefetch::Nothing);
}

#[test]
fn estargz_with_its_table_elsewhere_is_read() {
    holds(&external(), "estargz", true, Trust::Manifest);
    let alone = Case {
        companions: Vec::new(),
        ..external()
    };
    assert!(index(&alone).1.is_err());
}

#[test]
fn the_original_stargz_is_read() {
    for digests in [true, false] {
        let case = stargz(digests);
        holds(&case, "estargz", false, Trust::Nobody);
        let map = index(&case).1.unwrap().map;
        let places = map
            .contents()
            .iter()
            .filter(|one| one.identity == Identity::Place);
        // The table's own is known.
        assert_eq!(places.count() > 5, !digests);
    }
}

#[test]
fn zstd_chunked_of_both_dialects_is_read() {
    for name in ["zstd-chunked", "zstd-chunked-stargz"] {
        let mut case = layer(name);
        holds(&case, "zstd-chunked", true, Trust::Manifest);
        // Without annotations, from the footer.
        case.descriptor.annotations.clear();
        holds(&case, "zstd-chunked", false, Trust::Nobody);
    }
    let index = index(&layer("zstd-chunked")).1.unwrap();
    let holes = index
        .map
        .all_chunks()
        .iter()
        .filter(|chunk| chunk.span.is_none());
    assert!(holes.count() > 0, "a file's zeros are no hole");
}

#[test]
fn a_layer_without_an_index_must_come_whole() {
    for name in ["gzip", "tar"] {
        let case = layer(name);
        let (_, index, asked) = index(&case);
        assert!(index.unwrap_err().to_string().contains("fetched whole"));
        assert!(asked <= 8 << 10, "{asked} bytes for nothing");
    }
}

#[test]
fn soci_of_both_versions_is_read() {
    for (named, trust) in [(true, Trust::Manifest), (false, Trust::Companion)] {
        let case = soci("gzip", "soci.ztoc", named);
        holds(&case, "soci", true, trust);
        let map = index(&case).1.unwrap().map;
        assert!(map.spans().len() > 1 && map.spans().iter().all(|span| span.digest.is_some()));
        holds(
            &soci("tar", "soci-uncompressed.ztoc", named),
            "soci",
            true,
            trust,
        );
    }
}
