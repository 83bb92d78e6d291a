// SPDX-License-Identifier: Apache-2.0
//! Images that nobody would make on purpose, made by seed: every form that layers have, and every way they meet.
//!
//! Each image has a catalogue that is always there (so that no seed can miss a form) and a random part in which layers write,
//! replace, link and hide each other's names. Names of [`Danger::Hostile`] entries begin with `hostile`, so that a test can tell what
//! a reader that resolves instead of refusing would make of them.

mod catalogue;
mod random;

pub use self::random::Random;
use crate::archive::{End, Form, Item, ItemKind, Spelling, Writer};

/// How far an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// Only what umoci 0.4.7 (Go's archive/tar) takes without an error.
    Readable,
    /// Everything that an honest writer may write.
    Honest,
    /// And what only a dishonest one would.
    Hostile,
}

/// Returns the archives of the layers of an image, the lowest first.
pub fn layers(seed: u64, danger: Danger) -> Vec<Vec<u8>> {
    let mut maker = Maker {
        random: Random(seed),
        danger,
        known: Vec::new(),
    };
    let mut archives = vec![maker.base(), maker.upper()];
    for _ in 0..3 {
        archives.push(maker.random_layer());
    }
    archives
}

/// What is known under a name, as far as the maker must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Directory,
    Other,
}

struct Maker {
    random: Random,
    danger: Danger,
    /// What was made so far by the random part.
    known: Vec<(String, Known)>,
}

impl Maker {
    /// Twenty to sixty entries that meet by chance.
    fn random_layer(&mut self) -> Vec<u8> {
        let mut writer = Writer::new();
        for _ in 0..20 + self.random.below(40) {
            if self.known.len() > 5 && self.random.chance(15) {
                self.random_whiteout(&mut writer);
            } else {
                self.random_item(&mut writer);
            }
        }
        // What a later layer may write through, link to or hide must be there in this one: forget what was hidden.
        self.finish(writer)
    }

    fn random_whiteout(&mut self, writer: &mut Writer) {
        let place = self.random.below(self.known.len());
        let (path, kind) = self.known[place].clone();
        if kind == Known::Directory && self.random.chance(30) {
            self.put(writer, Item::file(format!("{path}/.wh..wh..opq"), ""));
            self.known
                .retain(|(other, _)| !other.starts_with(&format!("{path}/")));
        } else {
            let (parent, name) = path
                .rsplit_once('/')
                .expect("names of this part have a directory");
            self.put(writer, Item::file(format!("{parent}/.wh.{name}"), ""));
            self.forget(&path);
        }
    }

    fn random_item(&mut self, writer: &mut Writer) {
        let directories: Vec<String> = self
            .known
            .iter()
            .filter(|(_, kind)| *kind == Known::Directory)
            .map(|(path, _)| path.clone())
            .collect();
        let parent = if directories.is_empty() || self.random.chance(20) {
            "random".to_owned()
        } else {
            self.random.one(&directories).clone()
        };
        let path = format!(
            "{parent}/{}",
            self.random.one(&["a", "b", "c", "d", "e", "f", "g", "h"])
        );
        let others: Vec<String> = self
            .known
            .iter()
            .filter(|(_, kind)| *kind == Known::Other)
            .map(|(path, _)| path.clone())
            .collect();
        let kind = match self.random.below(10) {
            0..=2 => ItemKind::Directory,
            3 => ItemKind::Symlink(
                format!("../{}", self.random.one(&["a", "b", "c", "nowhere"])).into(),
            ),
            4 => ItemKind::Fifo,
            5 | 6 if !others.is_empty() => {
                let target = self.random.one(&others).clone();
                if target == path || target.starts_with(&format!("{path}/")) {
                    return;
                }
                ItemKind::HardLink(target.into())
            }
            _ => {
                let length = self.random.below(3000);
                Item::file("", self.random.bytes(length)).kind
            }
        };
        let mut item = Item::new(path.as_str(), kind);
        item.mode = u32::try_from(self.random.below(0o10000)).expect("twelve bits");
        item.uid = u32::try_from(self.random.below(65_536)).expect("sixteen bits");
        item.gid = u32::try_from(self.random.below(65_536)).expect("sixteen bits");
        item.mtime = (
            i64::try_from(self.random.below(2_000_000_000)).expect("31 bits"),
            0,
        );
        if self.random.chance(30) {
            item.mtime.1 = u32::try_from(self.random.below(1_000_000_000)).expect("30 bits");
        }
        let may_have_attributes = matches!(item.kind, ItemKind::Directory | ItemKind::File { .. });
        if may_have_attributes && self.random.chance(20) {
            let length = 1 + self.random.below(60);
            item.xattrs
                .insert(b"user.random".to_vec(), self.random.bytes(length));
        }
        let known = if item.kind == ItemKind::Directory {
            Known::Directory
        } else {
            Known::Other
        };
        let stays = known == Known::Directory && self.known.contains(&(path.clone(), known));
        if !stays {
            self.forget(&path);
            self.known.push((path, known));
        }
        self.put(writer, item);
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.known
            .retain(|(other, _)| other != path && !other.starts_with(&below));
    }

    /// Writes an item in some spelling.
    #[expect(clippy::needless_pass_by_value, reason = "items are made in the call")]
    fn put(&mut self, writer: &mut Writer, item: Item) {
        let form = *self.random.one(&[Form::Ustar, Form::Gnu, Form::Pax]);
        let spelling = Spelling {
            form,
            spaced_numbers: self.random.chance(20),
            old_type: self.random.chance(20),
            signed_checksum: self.random.chance(10),
            ..Spelling::default()
        };
        writer.add(&item, spelling);
    }

    fn finish(&mut self, writer: Writer) -> Vec<u8> {
        let end = *self.random.one(&[
            End::Blocks,
            End::Record,
            End::OneBlock,
            End::Missing,
            End::Garbage,
        ]);
        writer.finish(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_image() {
        for danger in [Danger::Readable, Danger::Honest, Danger::Hostile] {
            assert_eq!(layers(7, danger), layers(7, danger));
            assert_ne!(layers(7, danger), layers(8, danger));
        }
    }
}
