// SPDX-License-Identifier: Apache-2.0
//! Profiles: which objects of an image its programs needed, in the order in which they first did.
//!
//! A profile belongs to a manifest and outlives its image: who pulls it again has the objects fetched before they are asked for. Runs are merged:
//! what an earlier run needed keeps its place, what is new comes behind. The form is text, so that it can be kept
//! anywhere: `docs/formats/profile.md`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use wolffia_image::Digest;

use crate::error::{Doing, Result};
use crate::images::absent_is_none;
use crate::layout::Store;
use crate::record;

/// Where profiles lie.
const PROFILES: &str = "profiles";
/// First line of a profile.
const HEAD: &str = "wolffia-profile 1";
/// Most objects of a profile: more than this many files are not what a start needs.
pub const PROFILE_OBJECTS_MAX: usize = 65_536;
/// Longest profile that is read.
const BYTES_MAX: usize = PROFILE_OBJECTS_MAX * 72 + 64;

/// Reads a profile's text; lines that are no digests are left out.
#[must_use]
pub fn parse_profile(text: &str) -> Vec<Digest> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Vec::new();
    }
    lines
        .filter_map(|line| Digest::parse(line).ok())
        .take(PROFILE_OBJECTS_MAX)
        .collect()
}

/// Returns a profile's text.
#[must_use]
pub fn write_profile(objects: &[Digest]) -> String {
    let mut text = format!("{HEAD}\n");
    for object in objects {
        text.push_str(&object.to_string());
        text.push('\n');
    }
    text
}

impl Store {
    /// Returns what programs of the image with this manifest needed, the first first.
    pub fn profile(&self, manifest: &Digest) -> Result<Vec<Digest>> {
        let path = profile_path(manifest);
        let read = record::read_limited(self.at(), &path, BYTES_MAX)
            .doing("reading", self.path().join(&path));
        let bytes = absent_is_none(read)?.unwrap_or_default();
        Ok(parse_profile(&String::from_utf8_lossy(&bytes)))
    }

    /// Adds what a program needed, the first first.
    pub fn learn(&self, manifest: &Digest, objects: &[Digest]) -> Result<()> {
        let mut known = self.profile(manifest)?;
        let mut seen: HashSet<Digest> = known.iter().copied().collect();
        let before = known.len();
        known.extend(objects.iter().filter(|object| seen.insert(**object)));
        known.truncate(PROFILE_OBJECTS_MAX);
        if known.len() == before {
            return Ok(());
        }
        match rustix::fs::mkdirat(self.at(), PROFILES, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing("making", self.path().join(PROFILES)),
        }
        let session = self.session()?;
        session.replace(&profile_path(manifest), write_profile(&known).as_bytes())
    }
}

fn profile_path(manifest: &Digest) -> PathBuf {
    Path::new(PROFILES).join(manifest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_merged_in_the_order_of_first_use() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Store::open(place.path().join("store")).expect("a store");
        let manifest = Digest::of(b"manifest");
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        assert_eq!(store.profile(&manifest).expect("none yet"), []);
        store.learn(&manifest, &[b, a, b]).expect("learnt");
        store.learn(&manifest, &[c, a]).expect("learnt");
        assert_eq!(store.profile(&manifest).expect("a profile"), [b, a, c]);
        assert_eq!(parse_profile(&write_profile(&[a, c])), [a, c]);
        assert_eq!(parse_profile("something else\n"), []);
    }
}
