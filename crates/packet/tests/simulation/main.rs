// SPDX-License-Identifier: Apache-2.0
//! The stack against an independent TCP over a bad wire: hundreds of seeds, each byte right in both directions.
//!
//! A failure prints its seed and its plan; the same seed is the same run.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "numbers that make up content, and a clock that stays small"
)]
#![expect(
    clippy::unwrap_used,
    reason = "of what the simulation itself made, in what the tests share"
)]

mod segmentation;
mod world;

use wolffia_packet::Offload;
use world::{Faults, Plan, Random, World};

/// Seeds of each suite; together they take seconds without optimisation.
const SEEDS: u64 = 400;

#[test]
fn a_quiet_wire_carries_both_ways_whoever_opens() {
    for (is_v6, is_active, offload) in [
        (false, false, Offload::NONE),
        (false, true, Offload::NONE),
        (true, false, Offload::ALL),
        (true, true, Offload::ALL),
        (
            false,
            false,
            Offload {
                checksum: true,
                ..Offload::NONE
            },
        ),
    ] {
        let plan = Plan {
            is_v6,
            is_active,
            offload,
            ..Plan::quiet(1)
        };
        World::new(plan).run();
    }
}

/// Draws a plan: everything about it depends on the seed alone.
fn drawn(seed: u64) -> Plan {
    let mut random = Random::new(seed);
    let mut pick = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
    let offload = match pick(&[0, 1, 2]) {
        0 => Offload::NONE,
        1 => Offload {
            checksum: true,
            ..Offload::NONE
        },
        _ => Offload::ALL,
    };
    let guest_buffer = pick(&[300, 2000, 16_384, 65_535, 200_000]) as usize;
    // smoltcp repeats after a second at the soonest: through 300 bytes at a time, losses take virtual hours.
    let bytes_max = if guest_buffer < 1000 { 5000 } else { 200_000 };
    Plan {
        seed,
        is_v6: pick(&[0, 1]) == 1,
        is_active: pick(&[0, 0, 1]) == 1,
        mtu: pick(&[1280, 1500, 4000, 9000]) as u16,
        offload,
        faults: Faults {
            loss: pick(&[0, 10, 100, 500, 1500]),
            doubling: pick(&[0, 100, 1000]),
            delay: pick(&[0, 100, 2000]),
            late_max: pick(&[50_000, 500_000, 20_000_000]),
        },
        latency: pick(&[10_000, 100_000, 5_000_000]),
        rate: 0,
        up: pick(&[0, 1, 5000, 60_000, 200_000]).min(bytes_max) as usize,
        down: pick(&[0, 1, 5000, 60_000, 200_000]).min(bytes_max) as usize,
        guest_buffer,
        ring_first: pick(&[1000, 4096, 65_536]) as usize,
        ring_max: pick(&[4096, 65_536, 1 << 20]).max(4096) as usize,
        laziness: pick(&[0, 0, 2000, 8000]),
    }
}

#[test]
fn every_byte_arrives_over_a_bad_wire() {
    let seeds = std::option_env!("WOLFFIA_SEEDS")
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(SEEDS);
    for seed in 1..=seeds {
        World::new(drawn(seed)).run();
    }
}
