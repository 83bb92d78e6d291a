// SPDX-License-Identifier: Apache-2.0
//! A bounded set of ranges of stream positions: what has arrived out of order, or what the other side says it has.

/// Ranges that a set keeps. A receiver that has more holes than this does not accept what would make another one.
pub(crate) const RANGES_MAX: usize = 64;

/// Ranges in order, apart from each other; each from its first position to the one behind its last.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Returns the position behind the last range.
    pub(crate) fn end(&self) -> Option<u64> {
        self.0.last().map(|range| range.1)
    }

    /// Adds a range; returns `false`, with nothing changed, if that would be one too many.
    pub(crate) fn insert(&mut self, from: u64, to: u64) -> bool {
        if from >= to {
            return true;
        }
        let first = self.0.partition_point(|range| range.1 < from);
        let last = self.0.partition_point(|range| range.0 <= to);
        if first == last {
            if self.0.len() >= RANGES_MAX {
                return false;
            }
            self.0.insert(first, (from, to));
        } else {
            let merged = (from.min(self.0[first].0), to.max(self.0[last - 1].1));
            self.0[first] = merged;
            self.0.drain(first + 1..last);
        }
        true
    }

    /// Forgets everything before a position.
    pub(crate) fn trim(&mut self, position: u64) {
        let gone = self.0.partition_point(|range| range.1 <= position);
        self.0.drain(..gone);
        if let Some(range) = self.0.first_mut() {
            range.0 = range.0.max(position);
        }
    }

    /// Returns the range that a position lies in.
    pub(crate) fn around(&self, position: u64) -> Option<(u64, u64)> {
        let index = self.0.partition_point(|range| range.1 <= position);
        self.0
            .get(index)
            .copied()
            .filter(|range| range.0 <= position)
    }

    /// Returns the first hole at or behind a position and before the bound.
    pub(crate) fn hole(&self, mut position: u64, bound: u64) -> Option<(u64, u64)> {
        if let Some((_, to)) = self.around(position) {
            position = to;
        }
        if position >= bound {
            return None;
        }
        let index = self.0.partition_point(|range| range.1 <= position);
        let end = self.0.get(index).map_or(bound, |range| range.0.min(bound));
        Some((position, end))
    }

    /// Returns how many positions at or behind this one are in the set.
    pub(crate) fn count_from(&self, position: u64) -> u64 {
        let beyond = self.0.iter().rev().take_while(|range| range.1 > position);
        beyond.map(|range| range.1 - range.0.max(position)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set_of_positions(
            steps in prop::collection::vec((0..300_u64, 0..20_u64, any::<bool>()), 1..120),
            probe in 0..320_u64,
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (from, length, is_trim) in steps {
                if is_trim && length == 0 {
                    ranges.trim(from);
                    model.retain(|position| *position >= from);
                } else if ranges.insert(from, from + length) {
                    model.extend(from..from + length);
                }
                let flat: Vec<u64> = ranges.iter().flat_map(|(from, to)| from..to).collect();
                prop_assert_eq!(&flat, &model.iter().copied().collect::<Vec<_>>());
                prop_assert!(ranges.iter().count() <= RANGES_MAX);
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
            let hole = ranges.hole(probe, 310);
            let first = (probe..310).find(|position| !model.contains(position));
            prop_assert_eq!(hole.map(|hole| hole.0), first);
            if let Some((from, to)) = hole {
                prop_assert!((from..to).all(|position| !model.contains(&position)));
                prop_assert!(to == 310 || model.contains(&to));
            }
            prop_assert_eq!(ranges.around(probe).is_some(), model.contains(&probe));
            prop_assert_eq!(ranges.count_from(probe), model.range(probe..).count() as u64);
        }
    }

    #[test]
    fn one_range_too_many_is_refused_and_changes_nothing() {
        let mut ranges = Ranges::default();
        for n in 0..RANGES_MAX as u64 {
            assert!(ranges.insert(n * 10, n * 10 + 5));
        }
        assert!(!ranges.insert(100_000, 100_001));
        assert!(ranges.insert(5, 10), "closing a hole is no new range");
        assert_eq!(ranges.iter().count(), RANGES_MAX - 1);
    }
}
