// SPDX-License-Identifier: Apache-2.0
//! Which hardware address stands behind an address of a guest: learned from what guests send, asked for where unknown.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::keyed::Key;
use crate::time::Time;

/// Addresses remembered; the oldest makes room. A segment has a handful of guests, a liar as many as it likes.
const NEIGHBOURS_MAX: usize = 1024;
/// Between two questions for the same address.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Addresses that are being asked for.
const ASKED_MAX: usize = 64;

/// The table.
#[derive(Debug)]
pub(crate) struct Neighbours {
    known: HashMap<IpAddr, ([u8; 6], u64), Key>,
    asked: HashMap<IpAddr, Time, Key>,
    /// The last one seen: most frames come from the same guest as the one before.
    last: Option<(IpAddr, [u8; 6])>,
    turn: u64,
}

impl Neighbours {
    pub(crate) fn new(key: Key) -> Neighbours {
        Neighbours {
            known: HashMap::with_hasher(key.derive(3)),
            asked: HashMap::with_hasher(key.derive(4)),
            last: None,
            turn: 0,
        }
    }

    /// Learns an address; returns whether it was being asked for.
    pub(crate) fn learn(&mut self, address: IpAddr, mac: [u8; 6]) -> bool {
        if self.last == Some((address, mac)) {
            return false;
        }
        self.last = Some((address, mac));
        self.turn += 1;
        if self.known.len() >= NEIGHBOURS_MAX && !self.known.contains_key(&address) {
            let oldest = self
                .known
                .iter()
                .min_by_key(|(_, (_, turn))| *turn)
                .map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(address, (mac, self.turn));
        self.asked.remove(&address).is_some()
    }

    pub(crate) fn find(&self, address: IpAddr) -> Option<[u8; 6]> {
        if let Some((last, mac)) = self.last
            && last == address
        {
            return Some(mac);
        }
        self.known.get(&address).map(|(mac, _)| *mac)
    }

    /// Tells whether to ask for an address now, and remembers that.
    pub(crate) fn should_ask(&mut self, now: Time, address: IpAddr) -> bool {
        if let Some(asked_at) = self.asked.get(&address)
            && now.since(*asked_at) < ASK_AGAIN
        {
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert(address, now);
        true
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
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

    #[test]
    fn a_liar_pushes_out_the_oldest_and_the_table_stays_bounded() {
        let mut table = Neighbours::new(Key::new([1; 16]));
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
        for n in 0..10_000 {
            table.learn(address(n), [2, 0, 0, 0, 0, n as u8]);
            assert!(table.should_ask(Time::ZERO, address(100_000 + n)));
        }
        assert!(table.len() <= NEIGHBOURS_MAX && table.asked.len() <= ASKED_MAX);
        assert_eq!(table.find(address(0)), None);
        assert_eq!(table.find(address(9999)), Some([2, 0, 0, 0, 0, 15]));
        assert_eq!(table.find(address(9000)), Some([2, 0, 0, 0, 0, 40]));
    }

    #[test]
    fn an_address_is_asked_for_once_a_second() {
        let mut table = Neighbours::new(Key::new([1; 16]));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(table.should_ask(Time::ZERO, address));
        assert!(!table.should_ask(Time::from_millis(999), address));
        assert!(table.should_ask(Time::from_millis(1000), address));
        assert!(table.learn(address, [2; 6]));
        assert!(!table.learn(address, [2; 6]));
    }
}
