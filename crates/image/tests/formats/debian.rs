// SPDX-License-Identifier: Apache-2.0
//! Our own index of real layers: a Debian image, unpacked and indexed in one pass.

use wolffia_image::formats::gzip_index::{
    ARTIFACT_TYPE, Inflating, MEDIA_TYPE, Places, Whole, annotations, build, build_plain,
};
use wolffia_image::formats::{CompanionKind, LayerIndex, Trust, Wanted, wanted};
use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{LayerBuilder, Wants};
use wolffia_image::{Compression, Descriptor, Digest, Hasher};

use crate::fixtures::{companion, layer};
use crate::suite::{Case, check, index};

/// Unpacks a layer in steps as they arrive, and indexes it while it passes.
pub(crate) fn make_index(blob: &[u8], step: usize) -> LayerIndex {
    let plain = Compression::sniff(blob) == Compression::None;
    let (mut reader, mut builder) = (Reader::new(), LayerBuilder::new());
    let (mut places, mut hasher) = (Places::new(), Hasher::new());
    let (mut wanted, mut tar_bytes) = (false, 0);
    let mut take = |mut piece: &[u8]| {
        tar_bytes += piece.len() as u64;
        while let Some(event) = reader.next(&mut piece).unwrap() {
            match event {
                Event::Entry(header) => {
                    wanted = builder.begin(header).unwrap() != Wants::Nothing;
                    places.begin();
                    hasher = Hasher::new();
                }
                Event::Data { bytes, .. } if wanted => {
                    let length = bytes.len() as u64;
                    hasher.update(bytes);
                    places.data(reader.taken_bytes() - length, length);
                }
                Event::Hole { length, .. } if wanted => {
                    hasher.update(&vec![0; usize::try_from(length).unwrap()]);
                    places.hole(length);
                }
                Event::EntryEnd if wanted => {
                    let digest = std::mem::take(&mut hasher).finish();
                    builder.content(digest);
                    places.end(digest);
                }
                _ => {}
            }
        }
    };
    let mut inflating = Inflating::new();
    if plain {
        blob.chunks(step).for_each(&mut take);
    } else {
        let mut pieces = blob.chunks(step);
        let mut last = false;
        loop {
            match inflating.next(last).unwrap() {
                Some(output) => take(output),
                None if last => break,
                None => match pieces.next() {
                    Some(piece) => inflating.push(piece),
                    None => last = true,
                },
            }
        }
    }
    let layer = builder.finish();
    let whole = Whole {
        blob: Digest::of(blob),
        blob_bytes: blob.len() as u64,
        tar_bytes,
        layer: &layer,
    };
    if plain {
        build_plain(&whole, &places).unwrap()
    } else {
        build(&whole, inflating.finish(), &places).unwrap()
    }
}

/// A layer, and its published index beside it.
fn published(mut case: Case, index: &LayerIndex) -> Case {
    case.companion = index.to_bytes();
    let mut blob = Descriptor::new(
        MEDIA_TYPE,
        Digest::of(&case.companion),
        case.companion.len() as u64,
    );
    for (name, value) in annotations(&case.descriptor.digest, &case.companion).unwrap() {
        blob.annotations.insert(name.to_owned(), value);
    }
    case.companions = vec![companion(CompanionKind::Index, vec![blob])];
    case
}

/// Holds a layer's index, as it is kept and as it is published, to the full unpacking.
fn holds(case: Case, step: usize) -> LayerIndex {
    let made = make_index(&case.blob, step);
    assert_eq!(made.map.trust, Trust::Local);
    check(&case, &made);
    let size = case.blob.len();
    let case = published(case, &made);
    let (claim, read, asked) = index(&case);
    assert_eq!(claim.format.name(), "index");
    let read = read.unwrap();
    assert!(asked < case.companion.len() as u64 || made.windows.is_empty());
    assert_eq!(read.map.trust, Trust::Companion);
    assert_eq!(read.layer, made.layer);
    assert_eq!(read.map.spans(), made.map.spans());
    // A large layer once.
    if size < 1 << 20 {
        check(&case, &read);
    }
    made
}

#[test]
fn an_ordinary_layer_is_indexed_while_it_is_unpacked() {
    let wants = wanted(&companion(CompanionKind::Index, Vec::new()).manifest);
    assert!(wants.iter().any(
        |one| matches!(one, Wanted::Referrer { artifact_type, .. } if *artifact_type == ARTIFACT_TYPE)
    ));
    holds(layer("gzip"), 1000);
    holds(layer("tar"), 1000);
}

/// Each member ends amid a file.
#[test]
fn layers_of_many_members_are_indexed() {
    let tar = layer("tar").blob;
    for members in [tar.chunks(40_000).collect::<Vec<_>>(), vec![&tar[..], &[]]] {
        let blob: Vec<u8> = members
            .into_iter()
            .flat_map(|member| {
                use std::io::Write as _;
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                gzip.write_all(member).unwrap();
                gzip.finish().unwrap()
            })
            .collect();
        let mut case = layer("gzip");
        case.descriptor = Descriptor::new(
            case.descriptor.media_type,
            Digest::of(&blob),
            blob.len() as u64,
        );
        case.blob = blob;
        holds(case, 777);
    }
}

/// The smallest layer of the image is 17 MB packed, of 80 checkpoints and 2,000 files.
#[expect(clippy::disallowed_methods, reason = "a test reads files")]
#[test]
fn a_real_layer_is_indexed_within_two_percent() {
    wolffia_testkit::need!(Mmdebstrap, UserNamespace, SubIds);
    let layout = wolffia_testkit::debian_image::layout();
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let smallest = blobs
        .map(|blob| blob.unwrap().path())
        .filter(|path| path.metadata().unwrap().len() > 1 << 20)
        .min_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let blob = std::fs::read(smallest).unwrap();
    let mut case = layer("gzip");
    case.name = "debian";
    case.descriptor.digest = Digest::of(&blob);
    case.descriptor.size = blob.len() as u64;
    case.blob = blob;
    let made = holds(case.clone(), 256 << 10);
    assert!(made.map.spans().len() > 50);
    let bytes = made.to_bytes().len() as u64;
    assert!(
        bytes * 50 <= case.descriptor.size,
        "{bytes} bytes of index for {} of layer",
        case.descriptor.size
    );
}
