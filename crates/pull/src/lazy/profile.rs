// SPDX-License-Identifier: Apache-2.0
//! What a run needed becomes a profile.
//!
//! `lazyd` notes the number of each object when it is first opened, four bytes behind each other in a file of the container's own. When
//! the container has ended, the conductor reads them, looks the digests up, and adds them to the profile of the image's manifest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use wolffia_image::Digest;
use wolffia_store::{PROFILE_OBJECTS_MAX, Store};

use super::table::Table;

/// Adds the objects noted in a file to the profile of a table's image.
///
/// # Errors
/// Fails where something cannot be read or written; then nothing is learnt.
pub fn learn(store: &Path, table: &Path, notes: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(notes)?
        .take(PROFILE_OBJECTS_MAX as u64 * 4)
        .read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let table = Table::open(table)?;
    let needed: Vec<Digest> = bytes
        .chunks_exact(4)
        .filter_map(|number| {
            let number = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
            table.object(number).map(|object| object.digest)
        })
        .collect();
    let store = Store::open_existing(store).map_err(io::Error::other)?;
    store
        .learn(&table.about.manifest, &needed)
        .map_err(io::Error::other)
}
