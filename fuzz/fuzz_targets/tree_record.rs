// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a tree's or a layer's record, with the right digest behind: no panic, and a record has one form only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_image::tree::xattr;
use wolffia_image::{Digest, Layer, Tree};

fuzz_target!(|input: &[u8]| {
    for of in [b'T', b'L'] {
        let mut record = [b"WfTr\x01", &[of][..], input].concat();
        let digest = Digest::of(&record);
        record.extend_from_slice(digest.as_bytes());
        let (written, entries) = match of {
            b'T' => {
                let Ok(tree) = Tree::from_bytes(&record) else {
                    continue;
                };
                // Writing such a tree out needs directories first, and no name that steers the mount.
                assert!(tree.entries[0].path.is_root());
                (tree.to_bytes(), tree.entries)
            }
            _ => {
                let Ok(layer) = Layer::from_bytes(&record) else {
                    continue;
                };
                Tree::merge([&layer]).expect("small inputs reach no limit");
                (layer.to_bytes(), layer.entries)
            }
        };
        assert_eq!(written, record);
        assert!(
            entries
                .iter()
                .flat_map(|entry| entry.meta.xattrs.keys())
                .all(|name| xattr::is_inert(name))
        );
    }
});
