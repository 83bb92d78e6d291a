// SPDX-License-Identifier: Apache-2.0
//! Which ids of the machine the ids of a container are: maps, where they come from, how they are written.
//!
//! # Theory of operation
//! A user namespace shows only mapped ids; everything else appears as 65534 and cannot be given to a file. There are three
//! ways to a [`Mapping`], best first:
//!
//! 1. **Sub-ids** (`/etc/subuid`, `/etc/subgid`, or `getsubids` where nsswitch.conf names a source): container root is the
//!    user, ids from 1 on are the user's sub-ids. The set-uid programs newuidmap and newgidmap write the maps; they are
//!    started side by side, their exit status is checked, and the maps are read back.
//! 2. **One id**: container root is the user, nothing else exists. Needs `deny` in /proc/PID/setgroups, or a user
//!    could drop a group that is there to keep him out (CVE-2014-8989).
//! 3. **As root**: 65,536 ids of the machine from a range that nobody has, never id 0.
//!
//! Inside an existing user namespace its own map bounds what can be given on.
//!
//! Sources: `user_namespaces(7)`, subuid(5), newuidmap(1), getsubids(1).

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

pub use subid::SubIds;
pub use write::write_maps;

mod choose;
mod subid;
mod write;

/// How many ids a container gets where there is a choice: what images are made for.
pub const CONTAINER_IDS: u32 = 65536;

/// The kernel's own bound on the lines of one map.
const RANGES_MAX: usize = 340;

/// Why no mapping can be had.
#[derive(Debug, Error)]
pub enum IdMapError {
    /// A file could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A map file of /proc refused the map.
    #[error("writing {map:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The lines.
        map: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A helper could not be started.
    #[error("starting {program}")]
    Start {
        /// newuidmap, newgidmap or getsubids.
        program: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A helper refused.
    #[error("{program} refused: {said}")]
    Refused {
        /// newuidmap or newgidmap.
        program: &'static str,
        /// Its standard error.
        said: String,
    },
    /// The map that was read back is not the one that was written.
    #[error("{path} says {found:?} after {wanted:?} was written")]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should say.
        wanted: String,
    },
    /// Ranges of one map overlap, are empty or pass the end of the ids.
    #[error("the id map {0:?} has empty or overlapping ranges, or too many")]
    Malformed(Vec<IdRange>),
    /// As root: no free range was found.
    #[error("no range of {CONTAINER_IDS} ids is free between {first} and {last}")]
    NoFreeRange {
        /// Where the search began.
        first: u32,
        /// Where it ended.
        last: u32,
    },
}

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id as the container sees it.
    pub inside: u32,
    /// The first id as the one who writes the map sees it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// One map, of users or of groups: ranges that do not overlap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// Checks the ranges; an empty map is refused too.
    pub fn new(ranges: Vec<IdRange>) -> Result<IdMap, IdMapError> {
        let fits = |range: &IdRange| {
            range.count > 0
                && range.inside.checked_add(range.count).is_some()
                && range.outside.checked_add(range.count).is_some()
        };
        let apart = |start: fn(&IdRange) -> u32| {
            let mut spans: Vec<(u32, u32)> = ranges
                .iter()
                .map(|range| (start(range), range.count))
                .collect();
            spans.sort_unstable();
            spans
                .windows(2)
                .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
        };
        let good = (1..=RANGES_MAX).contains(&ranges.len())
            && ranges.iter().all(fits)
            && apart(|range| range.inside)
            && apart(|range| range.outside);
        if good {
            Ok(IdMap(ranges))
        } else {
            Err(IdMapError::Malformed(ranges))
        }
    }

    /// Returns the map of one id.
    pub fn single(inside: u32, outside: u32) -> IdMap {
        IdMap(vec![IdRange {
            inside,
            outside,
            count: 1,
        }])
    }

    /// Returns the ranges.
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// Returns the machine's id for a container's.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = inside.checked_sub(range.inside)?;
            (offset < range.count).then(|| range.outside + offset)
        })
    }

    /// Returns the container's id for one of the machine's.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = outside.checked_sub(range.outside)?;
            (offset < range.count).then(|| range.inside + offset)
        })
    }

    /// Returns how many ids are mapped.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }
}

/// The lines that the kernel takes.
impl fmt::Display for IdMap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|range| {
            writeln!(
                formatter,
                "{} {} {}",
                range.inside, range.outside, range.count
            )
        })
    }
}

/// The maps of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdMaps {
    /// Of users.
    pub uid: IdMap,
    /// Of groups.
    pub gid: IdMap,
}

/// Where a container's ids come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The user and his sub-ids, written by newuidmap and newgidmap.
    SubIds(IdMaps),
    /// The user alone, written directly with setgroups denied.
    SingleId(IdMaps),
    /// Any ranges, written directly: the writer holds `CAP_SETUID` and `CAP_SETGID` over them.
    RootRange(IdMaps),
}

/// Why the chosen mapping has one id only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhySingle {
    /// It was asked for.
    Asked,
    /// The user has no sub-ids; `user` is the name or number to give some to.
    NoSubIds {
        /// Name or number.
        user: String,
    },
    /// newuidmap or newgidmap is missing.
    NoHelper {
        /// Which.
        program: &'static str,
    },
    /// We are in a user namespace that has one id.
    Nested,
}

/// Which mapping is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// The best that can be had.
    #[default]
    Best,
    /// The user alone.
    SingleId,
}

impl Mapping {
    /// Chooses the best mapping that the caller can have, and says why where it is of one id.
    ///
    /// Reads a few files of /etc and /proc; starts `getsubids` only where nsswitch.conf names a source of sub-ids.
    pub fn choose(wish: Wish) -> Result<(Mapping, Option<WhySingle>), IdMapError> {
        choose::choose(wish)
    }

    /// Returns the maps.
    pub fn maps(&self) -> &IdMaps {
        match self {
            Mapping::SubIds(maps) | Mapping::SingleId(maps) | Mapping::RootRange(maps) => maps,
        }
    }

    /// Returns a short name that is the same for equal maps: `one`, `s200000`, or a hash for ranges of another shape.
    ///
    /// It names directories whose owners were made for this mapping by this user.
    pub fn key(&self) -> String {
        match self {
            Mapping::SingleId(_) => "one".to_owned(),
            Mapping::SubIds(maps) => {
                regular_base(maps, 1).map_or_else(|| irregular_key(maps), |base| format!("s{base}"))
            }
            Mapping::RootRange(maps) => {
                regular_base(maps, 0).map_or_else(|| irregular_key(maps), |base| format!("r{base}"))
            }
        }
    }
}

/// Returns the first outside id where both maps are the usual ones: 65,536 ids in one run, from `first` on inside.
fn regular_base(maps: &IdMaps, first: u32) -> Option<u32> {
    let run = |map: &IdMap| {
        let run = map.0.iter().find(|range| range.inside == first)?;
        let whole = map.0.len() == if first == 0 { 1 } else { 2 };
        (whole && run.count == CONTAINER_IDS).then_some(run.outside)
    };
    run(&maps.uid).filter(|base| run(&maps.gid) == Some(*base))
}

/// FNV-1a: not against malice (the maps are the user's own), only short.
fn irregular_key(maps: &IdMaps) -> String {
    let text = format!("{}/{}", maps.uid, maps.gid);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("x{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn maps_that_overlap_or_overflow_are_refused() {
        let bad = [
            vec![],
            vec![range(0, 5, 0)],
            vec![range(0, u32::MAX, 2)],
            vec![range(0, 5, 2), range(1, 10, 1)],
            vec![range(0, 5, 2), range(10, 6, 1)],
        ];
        for ranges in bad {
            assert!(IdMap::new(ranges.clone()).is_err(), "{ranges:?}");
        }
    }

    #[test]
    fn ids_are_found_both_ways() {
        let map = IdMap::new(vec![range(0, 1000, 1), range(1, 200_000, 65536)]).expect("a map");
        for (inside, outside) in [(0, 1000), (1, 200_000), (65536, 265_535)] {
            assert_eq!(map.to_outside(inside), Some(outside));
            assert_eq!(map.to_inside(outside), Some(inside));
        }
        assert_eq!(map.to_outside(65537), None);
        assert_eq!(map.to_inside(0), None);
        assert_eq!(map.count(), 65537);
    }

    #[test]
    fn keys_tell_mappings_apart() {
        let map = |base, count| {
            IdMap::new(vec![range(0, 1000, 1), range(1, base, count)]).expect("a map")
        };
        let key = |uid: IdMap, gid: IdMap| Mapping::SubIds(IdMaps { uid, gid }).key();
        assert_eq!(key(map(200_000, 65536), map(200_000, 65536)), "s200000");
        let odd = key(map(200_000, 65536), map(300_000, 65536));
        assert!(odd.starts_with('x') && odd.len() == 17, "{odd}");
        assert_ne!(odd, key(map(200_000, 1000), map(200_000, 1000)));
    }
}
