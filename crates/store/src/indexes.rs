// SPDX-License-Identifier: Apache-2.0
//! Indexes of layers: kept beside a layer's record as `layers/HEX.index`, made while the layer was unpacked.
//!
//! Nothing here needs them: the layer's files are objects. They are for others, to whom they are published. An index comes and goes with its
//! layer's record, and one that is damaged is as good as none.

use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use wolffia_image::Digest;
use wolffia_image::formats::LayerIndex;

use crate::error::{Doing, Result};
use crate::images::absent_is_none;
use crate::layout::Store;
use crate::record;
use crate::session::Session;

/// Behind the layer's digest in the file's name.
const ENDING: &str = ".index";
/// Largest index that is read: 2 % of a layer of 50 GB.
const INDEX_BYTES_MAX: usize = 1 << 30;

impl Store {
    /// Returns the index of the layer whose tar has this digest, if one was made and is whole.
    pub fn layer_index(&self, diff_id: &Digest) -> Result<Option<LayerIndex>> {
        let file = index_path(diff_id);
        let path = self.path().join(&file);
        let read = record::read_limited(self.at(), &file, INDEX_BYTES_MAX).doing("reading", &path);
        let Some(bytes) = absent_is_none(read)? else {
            return Ok(None);
        };
        match LayerIndex::from_bytes(&bytes) {
            Ok(index) => Ok(Some(index)),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "an index is damaged");
                Ok(None)
            }
        }
    }

    /// Removes indexes whose layer has no record.
    pub(crate) fn collect_indexes(&self) -> Result<()> {
        for name in self.list("layers")? {
            let Some(layer) = layer_of(&name) else {
                continue;
            };
            if !crate::session::is_there(self, &crate::trees::layer_path(&layer))? {
                let path = Path::new("layers").join(&name);
                rustix::fs::unlinkat(self.at(), &path, AtFlags::empty())
                    .doing("removing", self.path().join(&path))?;
            }
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Keeps the index of a layer, to be told before the layer's own record.
    pub fn put_layer_index(&self, diff_id: &Digest, index: &LayerIndex) -> Result<()> {
        self.replace(&index_path(diff_id), &index.to_bytes())
    }
}

fn index_path(diff_id: &Digest) -> PathBuf {
    Path::new("layers").join(format!("{}{ENDING}", diff_id.hex()))
}

/// Returns which layer a file of `layers/` is the index of.
pub(crate) fn layer_of(name: &str) -> Option<Digest> {
    Digest::parse_hex(name.strip_suffix(ENDING)?)
}
