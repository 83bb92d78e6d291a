// SPDX-License-Identifier: Apache-2.0
//! What an idle container costs in memory, beside its payload.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;

use super::super::place::{Place, quietly};
use super::super::report::{Bar, Measured};
use super::{image, ours_pull, podman_pull};

/// The payload, by whose command line it is told from its keepers.
const PAYLOAD: [&str; 2] = ["sleep", "100000"];

/// The private pages of every process that is not the payload of a detached container.
pub(super) fn idle(place: &Place, _count: usize) -> anyhow::Result<Vec<Measured>> {
    let start = ["run", "-d", "--network", "none"];
    let before = place.meter.processes();
    let mine = ours_pull(place, image::SMALL)?;
    quietly(&mut place.ours(&[&start[..], &[&mine], &PAYLOAD].concat()))?;
    let ours = keepers(place, &before)?;
    let before = place.meter.processes();
    let its = podman_pull(place, image::SMALL)?;
    quietly(&mut place.podman(&[&start[..], &[&its], &PAYLOAD].concat()))?;
    let podmans = keepers(place, &before)?;
    let what = |name: &str| format!("idle detached container: {name}");
    let peer = place.version_of("podman");
    let line = |name: &str, unit: &str, bar, ours: f64, theirs: f64| {
        Measured::numbers(
            "idle",
            &what(name),
            (&peer, unit),
            bar,
            (vec![ours], vec![theirs]),
        )
    };
    Ok(vec![
        line(
            "private pages",
            "KiB",
            Bar::Absolute(1536.0),
            ours.private_kib,
            podmans.private_kib,
        ),
        line(
            "processes",
            "",
            Bar::Absolute(1.0),
            ours.processes,
            podmans.processes,
        ),
    ])
}

#[derive(Debug, Default)]
struct Keepers {
    processes: f64,
    private_kib: f64,
}

fn keepers(place: &Place, before: &BTreeSet<u32>) -> anyhow::Result<Keepers> {
    let mut found = Keepers::default();
    for pid in place.meter.processes().difference(before) {
        let folder = Path::new("/proc").join(pid.to_string());
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .collect();
        if words == PAYLOAD.map(str::as_bytes) {
            continue;
        }
        let Ok(rollup) = std::fs::read_to_string(folder.join("smaps_rollup")) else {
            continue;
        };
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number
                .context("smaps_rollup")?
                .parse()
                .context("smaps_rollup")
        };
        let private = field("Private_Clean:")? + field("Private_Dirty:")?;
        println!(
            "    {pid} {}: {private} KiB private",
            String::from_utf8_lossy(&words.join(&b' '))
        );
        found.private_kib += private;
        found.processes += 1.0;
    }
    Ok(found)
}
