// SPDX-License-Identifier: Apache-2.0
//! What is done while nobody waits: the rest of an image is fetched, and layers that nobody answers for are compared.
//!
//! Both wait until nothing was needed for [`IDLE`]. The fill goes along the layers in their order, within its bounds, and says when everything is here.
//! The comparison reads a whole layer, whose digest must be the one in the manifest: an index that is not named there may say
//! anything, and only the whole layer tells. Where it lies, the container must not go on: [`compare`] says so.

use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use wolffia_image::Hasher;
use wolffia_store::{Fill, Store};

use super::supply::Supply;

/// How long nothing must have been needed.
const IDLE: Duration = Duration::from_secs(2);
/// How often is looked.
const PERIOD: Duration = Duration::from_millis(50);
/// Objects that are asked for at a time.
const BATCH: u32 = 32;
/// Bytes that are compared at a time.
const COMPARE_BYTES: usize = 64 << 10;

fn wait_until_idle(supply: &Supply) {
    while supply.idle_for() < IDLE {
        thread::sleep(PERIOD);
    }
}

/// Fetches what is missing, within bounds.
pub(super) fn fill(supply: &Supply, table: &Path, bounds: Fill) {
    let began = Instant::now();
    let before = supply.counts().fetched_bytes;
    let mut next = 0;
    while next < supply.table.len() {
        wait_until_idle(supply);
        let end = supply.table.len().min(next + BATCH);
        supply.foresee(next..end);
        next = end;
        while supply.missing().1 {
            thread::sleep(PERIOD);
        }
        let fetched = supply.counts().fetched_bytes - before;
        if bounds.bytes_max.is_some_and(|most| fetched >= most) {
            return;
        }
        if let Some(rate) = bounds.bytes_per_second {
            let due = Duration::from_millis(fetched.saturating_mul(1000) / rate.max(1));
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    if supply.missing() == (0, false)
        && let Err(error) = Store::set_whole(table)
    {
        tracing::warn!(%error, "a whole image is still taken for a lazy one");
    }
}

/// Compares the layers that nobody answers for; says which one is not what its digest says.
pub(super) fn compare(supply: &Supply, table: &Path) -> Option<String> {
    for (number, source) in (0_u16..).zip(&supply.table.about.layers) {
        if source.trusted || Store::is_compared(table, number) {
            continue;
        }
        wait_until_idle(supply);
        let layer = &source.descriptor;
        let Ok(mut reader) = supply.bytes.open(number, 0..layer.size) else {
            continue;
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; COMPARE_BYTES];
        // What does not come is asked for at the next start.
        let whole = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(_) => break false,
            }
        };
        if !whole {
            continue;
        }
        if hasher.finish() != layer.digest {
            return Some(layer.digest.to_string());
        }
        if let Err(error) = Store::set_compared(table, number) {
            tracing::warn!(%error, "a layer is compared again at the next start");
        }
    }
    None
}
