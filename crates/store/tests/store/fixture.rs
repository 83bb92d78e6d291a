// SPDX-License-Identifier: Apache-2.0
//! Images put into a store by hand: what `pull` does, without a source.

use std::path::Path;

use wolffia_image::tar::{Event, Reader};
use wolffia_image::tree::{Layer, LayerBuilder, Tree, Wants};
use wolffia_image::{Digest, ImageConfig, Reference};
use wolffia_store::{ImageRecord, Owners, Session, Store};

/// Puts a tar's files into the store and returns the layer.
pub(crate) fn layer(session: &Session<'_>, tar: &[u8]) -> (Digest, Layer) {
    let (mut reader, mut builder) = (Reader::new(), LayerBuilder::new());
    let (mut content, mut wanted) = (Vec::new(), false);
    let mut rest = tar;
    while let Some(event) = reader.next(&mut rest).unwrap() {
        match event {
            Event::Entry(header) => {
                content.clear();
                wanted = matches!(builder.begin(header).unwrap(), Wants::Content { .. });
            }
            Event::Data { bytes, .. } => content.extend_from_slice(bytes),
            Event::Hole { .. } => unreachable!("no holes in these tars"),
            Event::EntryEnd if wanted => {
                let digest = Digest::of(&content);
                if !content.is_empty() {
                    session.put(&digest, &content).unwrap();
                }
                builder.content(digest);
                wanted = false;
            }
            Event::EntryEnd => {}
        }
    }
    reader.finish().unwrap();
    let (diff_id, layer) = (Digest::of(tar), builder.finish());
    session.put_layer(&diff_id, &layer).unwrap();
    (diff_id, layer)
}

/// Makes an image of tars, with its stub tree.
pub(crate) fn image(store: &Store, name: &str, tars: &[Vec<u8>], owners: &Owners) -> ImageRecord {
    let session = store.session().unwrap();
    let layers: Vec<_> = tars.iter().map(|tar| layer(&session, tar)).collect();
    let tree = Tree::merge(layers.iter().map(|(_, layer)| layer)).unwrap();
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|(id, _)| format!("{:?}", id.to_string()))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = ImageConfig::parse(config).unwrap();
    let record = ImageRecord::new(config, b"a manifest".to_vec(), Vec::new(), 1, 1);
    session.put_tree(record.tree, &tree).unwrap();
    session.put_stubs(record.tree, &tree, owners).unwrap();
    let name = Reference::parse(name).unwrap();
    session.put_image(&record, Some(&name)).unwrap();
    drop(session);
    store.find(&name).unwrap().unwrap()
}

/// Returns the store's problems, as text.
pub(crate) fn problems(store: &Store, owners: &Owners) -> Vec<String> {
    let report = store
        .check(Some(owners), wolffia_store::Repair::No)
        .unwrap();
    report
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.path.display(), problem.problem))
        .collect()
}

/// Counts files below a directory.
pub(crate) fn files_below(directory: &Path) -> usize {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                files_below(&path)
            } else {
                1
            }
        })
        .sum()
}
