// SPDX-License-Identifier: Apache-2.0
//! Which owners a mapping can show: the store's view of a user namespace.
//!
//! A stub gets the owner that the image names, as an id *inside* the namespace; the kernel turns it into the host's. An id that
//! the namespace does not have becomes [`OVERFLOW_ID`], as the kernel itself shows such owners, and is counted. Where the
//! namespace has one id only, everything belongs to that one and nothing is changed.

use serde::{Deserialize, Serialize};

/// The id that stands for one that cannot be shown, as the kernel has it by default.
pub const OVERFLOW_ID: u32 = 65_534;

/// Ids inside a user namespace, from `first`, `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSpan {
    /// The first id inside.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// The owners that a user namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Names the stub trees made for this mapping: short, and the same for the same mapping.
    pub key: String,
    /// User ids inside.
    pub users: Vec<IdSpan>,
    /// Group ids inside.
    pub groups: Vec<IdSpan>,
}

impl Owners {
    /// Returns the owners of a namespace with the one id 0.
    pub fn single(key: impl Into<String>) -> Self {
        let one = vec![IdSpan { first: 0, count: 1 }];
        Self {
            key: key.into(),
            users: one.clone(),
            groups: one,
        }
    }

    /// Returns whether there is one user and one group.
    pub fn is_single(&self) -> bool {
        let one =
            |spans: &[IdSpan]| spans.iter().map(|span| u64::from(span.count)).sum::<u64>() <= 1;
        one(&self.users) && one(&self.groups)
    }

    /// Returns how `uid` and `gid` can be shown, and whether that is the truth.
    pub fn shown(&self, uid: u32, gid: u32) -> (u32, u32, bool) {
        let (user, group) = (shown(&self.users, uid), shown(&self.groups, gid));
        (user, group, (user, group) == (uid, gid))
    }
}

fn shown(spans: &[IdSpan], id: u32) -> u32 {
    let has = |id: u32| {
        spans.iter().any(|span| {
            id.checked_sub(span.first)
                .is_some_and(|offset| offset < span.count)
        })
    };
    match (has(id), has(OVERFLOW_ID)) {
        (true, _) => id,
        (false, true) => OVERFLOW_ID,
        (false, false) => spans.first().map_or(0, |span| span.first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_beyond_the_mapping_is_shown_as_the_overflow_id() {
        let spans = |count| vec![IdSpan { first: 0, count: 1 }, IdSpan { first: 1, count }];
        let owners = |count| Owners {
            key: "k".into(),
            users: spans(count),
            groups: spans(count),
        };
        let cases = [
            (owners(65_536), 0, 0, (0, 0, true)),
            (owners(65_536), 65_536, 5, (65_536, 5, true)),
            (owners(65_536), 65_537, 5, (OVERFLOW_ID, 5, false)),
            (owners(65_536), u32::MAX - 1, 0, (OVERFLOW_ID, 0, false)),
            (owners(1000), 1000, 1001, (1000, 0, false)),
            (Owners::single("one"), 0, 0, (0, 0, true)),
            (Owners::single("one"), 33, 0, (0, 0, false)),
        ];
        for (owners, uid, gid, expected) in cases {
            assert_eq!(
                owners.shown(uid, gid),
                expected,
                "{uid}:{gid} in {owners:?}"
            );
        }
        assert!(Owners::single("one").is_single());
        assert!(!owners(2).is_single());
    }
}
