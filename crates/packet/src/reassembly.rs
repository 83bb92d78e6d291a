// SPDX-License-Identifier: Apache-2.0
//! Datagrams put together from fragments, of both versions of IP: bounded, timed, and without overlaps.
//!
//! A fragment that overlaps another, or that does not fit what is known of the whole, throws the whole datagram away (RFC 5722;
//! for IPv4 too, where no honest sender does it). Nothing is ever written outside of what a fragment has itself
//! brought: the buffer grows to the end of the furthest fragment, and 65,535 bytes are the end of every datagram.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::keyed::Key;
use crate::time::Time;
use crate::wire::ipv4::Fragment;

/// How long fragments wait for the others. RFC 8200 says 60 s; on this wire they come together or not at all.
const WAIT: Duration = Duration::from_secs(10);
/// Parts of one datagram: 65,535 bytes in pieces of an MTU of 576.
const PARTS_MAX: usize = 128;
/// The largest payload of an IP packet.
const PAYLOAD_BYTES_MAX: usize = 65_535;

/// Which datagram a fragment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) identification: u32,
}

#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the parts are what it is about")]
struct Parts {
    bytes: Vec<u8>,
    /// From and to, sorted, apart.
    parts: Vec<(usize, usize)>,
    /// Length of the whole, once the last part came.
    length: Option<usize>,
    until: Time,
    /// An overlap was seen: what still comes of it is thrown away too.
    is_spoilt: bool,
}

/// Datagrams being put together.
#[derive(Debug)]
pub(crate) struct Reassembly {
    wholes: HashMap<Whole, Parts, Key>,
    bytes: usize,
    datagrams_max: usize,
    bytes_max: usize,
}

impl Reassembly {
    pub(crate) fn new(key: Key, datagrams_max: usize, bytes_max: usize) -> Reassembly {
        Reassembly {
            wholes: HashMap::with_hasher(key.derive(5)),
            bytes: 0,
            datagrams_max,
            bytes_max,
        }
    }

    /// Takes a fragment; returns the payload of the whole if that was the last one missing.
    pub(crate) fn take(
        &mut self,
        now: Time,
        whole: Whole,
        fragment: Fragment,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let end = fragment.offset + payload.len();
        // Every part but the last one is of eights, and none is empty.
        let is_crooked = fragment.more && !payload.len().is_multiple_of(8);
        if payload.is_empty() || is_crooked || end > PAYLOAD_BYTES_MAX {
            return None;
        }
        if !self.wholes.contains_key(&whole) {
            self.make_room();
            let parts = Parts {
                bytes: Vec::new(),
                parts: Vec::new(),
                length: None,
                until: now.after(WAIT),
                is_spoilt: false,
            };
            self.wholes.insert(whole, parts);
        }
        let parts = self.wholes.get_mut(&whole)?;
        if parts.is_spoilt {
            return None;
        }
        let place = parts
            .parts
            .partition_point(|part| part.1 <= fragment.offset);
        let is_overlap = parts.parts.get(place).is_some_and(|part| part.0 < end);
        if is_overlap
            && parts.parts.get(place) == Some(&(fragment.offset, end))
            && parts.bytes[fragment.offset..end] == *payload
        {
            // The very same one again: the wire repeats itself.
            return None;
        }
        let is_beyond = parts
            .length
            .is_some_and(|length| end > length || (!fragment.more && end != length));
        let is_before = !fragment.more && parts.parts.last().is_some_and(|part| part.1 > end);
        let growth = end.saturating_sub(parts.bytes.len());
        if is_overlap
            || is_beyond
            || is_before
            || parts.parts.len() >= PARTS_MAX
            || self.bytes + growth > self.bytes_max
        {
            self.bytes -= parts.bytes.len();
            parts.bytes = Vec::new();
            parts.parts = Vec::new();
            parts.is_spoilt = true;
            return None;
        }
        if growth > 0 {
            parts.bytes.resize(end, 0);
            self.bytes += growth;
        }
        parts.bytes[fragment.offset..end].copy_from_slice(payload);
        parts.parts.insert(place, (fragment.offset, end));
        if !fragment.more {
            parts.length = Some(end);
        }
        let mut reached = 0;
        let is_contiguous = parts
            .parts
            .iter()
            .all(|part| std::mem::replace(&mut reached, part.1) == part.0);
        if !is_contiguous || parts.length != Some(reached) {
            return None;
        }
        let parts = self.wholes.remove(&whole)?;
        self.bytes -= parts.bytes.len();
        Some(parts.bytes)
    }

    /// Lets the oldest go if there are as many as may be.
    fn make_room(&mut self) {
        while self.wholes.len() >= self.datagrams_max.max(1) {
            let oldest = self
                .wholes
                .iter()
                .min_by_key(|(_, parts)| parts.until)
                .map(|(whole, _)| *whole);
            if let Some(parts) = oldest.and_then(|oldest| self.wholes.remove(&oldest)) {
                self.bytes -= parts.bytes.len();
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.wholes.values().map(|parts| parts.until).min()
    }

    pub(crate) fn advance(&mut self, now: Time) {
        let bytes = &mut self.bytes;
        self.wholes.retain(|_, parts| {
            let is_young = parts.until > now;
            if !is_young {
                *bytes -= parts.bytes.len();
            }
            is_young
        });
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers that make up content"
)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn whole(identification: u32) -> Whole {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Whole {
            from: address,
            to: address,
            protocol: 17,
            identification,
        }
    }

    fn part(offset: usize, more: bool) -> Fragment {
        Fragment {
            identification: 1,
            offset,
            more,
        }
    }

    fn table() -> Reassembly {
        Reassembly::new(Key::new([3; 16]), 4, 200_000)
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let content: Vec<u8> = (0..4001_u32).map(|n| (n / 3) as u8).collect();
        let pieces: Vec<_> = content.chunks(1000).enumerate().collect();
        for turn in 0..24 {
            let mut table = table();
            let mut order: Vec<usize> = (0..pieces.len()).collect();
            order.rotate_left(turn % 5);
            order.swap(0, turn / 5);
            let mut done = None;
            for n in order {
                assert_eq!(done, None);
                let fragment = part(n * 1000, n + 1 < pieces.len());
                done = table.take(Time::ZERO, whole(1), fragment, pieces[n].1);
            }
            assert_eq!(done.as_ref(), Some(&content));
            assert_eq!((table.bytes(), table.wholes.len()), (0, 0));
        }
    }

    #[test]
    fn whatever_overlaps_or_does_not_fit_spoils_the_whole() {
        type Pieces<'a> = &'a [(usize, usize, bool)];
        let cases: &[(&str, Pieces<'_>)] = &[
            (
                "overlap from behind",
                &[(0, 16, true), (8, 16, true), (24, 8, false)],
            ),
            (
                "overlap from before",
                &[(8, 16, true), (0, 16, true), (24, 8, false)],
            ),
            (
                "one inside another",
                &[(0, 32, true), (8, 8, true), (32, 8, false)],
            ),
            (
                "one around another",
                &[(8, 8, true), (0, 32, true), (32, 8, false)],
            ),
            ("two ends", &[(16, 8, false), (24, 8, false), (0, 16, true)]),
            (
                "an end before what came",
                &[(0, 16, true), (24, 8, true), (16, 8, false)],
            ),
            (
                "more behind the end",
                &[(16, 8, false), (24, 8, true), (0, 16, true)],
            ),
            ("no multiple of eight", &[(0, 12, true), (8, 8, false)]),
            ("nothing in it", &[(0, 0, true), (0, 0, false)]),
            (
                "beyond the largest packet",
                &[(0, 8, true), (65_528, 16, false)],
            ),
        ];
        for (what, pieces) in cases {
            let mut table = table();
            for (offset, length, more) in *pieces {
                // Overlapping parts say different things.
                let content = vec![*offset as u8; *length];
                assert_eq!(
                    table.take(Time::ZERO, whole(1), part(*offset, *more), &content),
                    None,
                    "{what}"
                );
            }
        }
    }

    #[test]
    fn a_repeated_part_does_no_harm() {
        let mut table = table();
        assert_eq!(
            table.take(Time::ZERO, whole(1), part(0, true), &[1; 8]),
            None
        );
        assert_eq!(
            table.take(Time::ZERO, whole(1), part(0, true), &[1; 8]),
            None
        );
        assert_eq!(
            table
                .take(Time::ZERO, whole(1), part(8, false), &[2; 3])
                .map(|whole| whole.len()),
            Some(11)
        );
    }

    #[test]
    fn a_flood_is_bounded_and_passes_with_time() {
        let mut table = table();
        for n in 0..1000 {
            table.take(
                Time::from_millis(n.into()),
                whole(n),
                part(65_000, true),
                &[0; 8],
            );
            assert!(table.wholes.len() <= 4 && table.bytes() <= 200_000);
        }
        let due = table.next_timeout().unwrap();
        assert!(due <= Time::from_millis(11_000));
        table.advance(Time::from_millis(20_000));
        assert_eq!((table.bytes(), table.next_timeout()), (0, None));
    }
}
