// SPDX-License-Identifier: Apache-2.0
//! The choice of a mapping, from what the machine and the user have.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rustix::process::{getegid, geteuid};

use super::{CONTAINER_IDS, IdMap, IdMapError, IdMaps, IdRange, Mapping, SubIds, WhySingle, Wish};

/// As root: where a free range is looked for. Below lie users and the usual sub-ids (adduser gives them from 100,000 on),
/// above ids that programs take for negative.
const FREE_FIRST: u32 = 0x5000_0000;
const FREE_LAST: u32 = 0x6fff_ffff;

pub(super) fn choose(wish: Wish) -> Result<(Mapping, Option<WhySingle>), IdMapError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid == 0 {
        return as_root(wish);
    }
    let single = |why| (single(uid, gid), Some(why));
    if wish == Wish::SingleId {
        return Ok(single(WhySingle::Asked));
    }
    if visible("/proc/self/uid_map")?.count() == 1 {
        return Ok(single(WhySingle::Nested));
    }
    let ids = SubIds::for_user(uid)?;
    if ids.uid.is_empty() || ids.gid.is_empty() {
        return Ok(single(WhySingle::NoSubIds { user: ids.user }));
    }
    if let Some(program) = ["newuidmap", "newgidmap"]
        .into_iter()
        .find(|name| !can_start(name))
    {
        return Ok(single(WhySingle::NoHelper { program }));
    }
    let maps = IdMaps {
        uid: user_and_sub_ids(uid, &ids.uid)?,
        gid: user_and_sub_ids(gid, &ids.gid)?,
    };
    Ok((Mapping::SubIds(maps), None))
}

fn single(uid: u32, gid: u32) -> Mapping {
    Mapping::SingleId(IdMaps {
        uid: IdMap::single(0, uid),
        gid: IdMap::single(0, gid),
    })
}

/// Root is the user, ids from 1 on are sub-ids in the order in which they were given, at most 65,536 of them.
fn user_and_sub_ids(user: u32, sub_ids: &[(u32, u32)]) -> Result<IdMap, IdMapError> {
    let mut ranges = vec![IdRange {
        inside: 0,
        outside: user,
        count: 1,
    }];
    let mut inside = 1;
    for (outside, count) in sub_ids.iter().copied() {
        let count = count.min(CONTAINER_IDS + 1 - inside);
        let covers_user = (outside..outside + count).contains(&user);
        if count > 0 && !covers_user {
            ranges.push(IdRange {
                inside,
                outside,
                count,
            });
            inside += count;
        }
    }
    IdMap::new(ranges)
}

fn as_root(wish: Wish) -> Result<(Mapping, Option<WhySingle>), IdMapError> {
    let (uid, gid) = (
        visible("/proc/self/uid_map")?,
        visible("/proc/self/gid_map")?,
    );
    let is_first = uid.count() == u64::from(u32::MAX);
    if is_first {
        let base = free_range()?;
        let map = IdMap::new(vec![IdRange {
            inside: 0,
            outside: base,
            count: if wish == Wish::SingleId {
                1
            } else {
                CONTAINER_IDS
            },
        }])?;
        let why = (wish == Wish::SingleId).then_some(WhySingle::Asked);
        return Ok((
            Mapping::RootRange(IdMaps {
                uid: map.clone(),
                gid: map,
            }),
            why,
        ));
    }
    if wish == Wish::SingleId {
        return Ok((single(0, 0), Some(WhySingle::Asked)));
    }
    if uid.count() == 1 || gid.count() == 1 {
        return Ok((single(0, 0), Some(WhySingle::Nested)));
    }
    // Root of a user namespace: every id that exists here goes on as it is.
    Ok((
        Mapping::RootRange(IdMaps {
            uid: onward(&uid)?,
            gid: onward(&gid)?,
        }),
        None,
    ))
}

fn onward(map: &IdMap) -> Result<IdMap, IdMapError> {
    let same = |range: &IdRange| IdRange {
        inside: range.inside,
        outside: range.inside,
        count: range.count,
    };
    IdMap::new(map.ranges().iter().map(same).collect())
}

/// Returns the map of the namespace we are in.
fn visible(path: &'static str) -> Result<IdMap, IdMapError> {
    let text = fs::read_to_string(path).map_err(|source| IdMapError::Read {
        path: path.into(),
        source,
    })?;
    let row = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        Some(IdRange {
            inside: numbers.next()?.ok()?,
            outside: numbers.next()?.ok()?,
            count: numbers.next()?.ok()?,
        })
    };
    IdMap::new(text.lines().filter_map(row).collect())
}

/// Finds a range that no user and no sub-id range has.
fn free_range() -> Result<u32, IdMapError> {
    let mut taken = Vec::new();
    for path in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        taken.extend(text.lines().filter_map(|line| {
            let mut fields = line.split(':').skip(1);
            Some((
                fields.next()?.parse().ok()?,
                fields.next()?.trim().parse().ok()?,
            ))
        }));
    }
    for path in ["/etc/passwd", "/etc/group"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let id = |line: &str| Some((line.split(':').nth(2)?.parse().ok()?, 1));
        taken.extend(text.lines().filter_map(id));
    }
    first_free(&taken).ok_or(IdMapError::NoFreeRange {
        first: FREE_FIRST,
        last: FREE_LAST,
    })
}

fn first_free(taken: &[(u32, u32)]) -> Option<u32> {
    let step = usize::try_from(CONTAINER_IDS).ok()?;
    (FREE_FIRST..=FREE_LAST - CONTAINER_IDS + 1)
        .step_by(step)
        .find(|base| {
            let apart = |(first, count): &(u32, u32)| {
                first.saturating_add(*count) <= *base || *first >= base + CONTAINER_IDS
            };
            taken.iter().all(apart)
        })
}

fn can_start(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).any(|directory| is_executable(&directory.join(program)))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_the_user_and_the_rest_are_sub_ids() {
        let map = user_and_sub_ids(1000, &[(200_000, 40_000), (300_000, 65_536)]).expect("a map");
        assert_eq!(map.to_outside(0), Some(1000));
        assert_eq!(map.to_outside(40_001), Some(300_000));
        assert_eq!(map.count(), 65_537);
    }

    #[test]
    fn a_range_that_someone_has_is_passed_over() {
        assert_eq!(first_free(&[]), Some(FREE_FIRST));
        let taken = [(FREE_FIRST + 5, 1), (FREE_FIRST + CONTAINER_IDS, 10)];
        assert_eq!(first_free(&taken), Some(FREE_FIRST + 2 * CONTAINER_IDS));
        assert_eq!(first_free(&[(0, u32::MAX)]), None);
    }
}
