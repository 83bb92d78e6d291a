// SPDX-License-Identifier: Apache-2.0
//! The rows of the table: each one a name, the roots it is measured in, and a function.

use std::process::Command;

use super::place::{Place, quietly};
use super::report::Measured;

mod images;
mod memory;
mod short;
mod work;

/// One row.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// The Debian releases whose peers it is measured against.
    pub(super) suites: &'static [&'static str],
    pub(super) measure: fn(&Place, usize) -> anyhow::Result<Vec<Measured>>,
}

const ROWS: &[Row] = &[
    Row {
        name: "run",
        suites: &["trixie", "sid"],
        measure: short::run,
    },
    Row {
        name: "exec",
        suites: &["trixie", "sid"],
        measure: short::exec,
    },
    Row {
        name: "runtime",
        suites: &["sid"],
        measure: short::runtime,
    },
    Row {
        name: "layers",
        suites: &["sid"],
        measure: short::layers,
    },
    Row {
        name: "idle",
        suites: &["sid"],
        measure: memory::idle,
    },
    Row {
        name: "host",
        suites: &["sid"],
        measure: work::host,
    },
    Row {
        name: "inside",
        suites: &["sid"],
        measure: work::inside,
    },
    Row {
        name: "pull",
        suites: &["trixie", "sid"],
        measure: images::pull,
    },
    Row {
        name: "pull-ctr",
        suites: &["sid"],
        measure: images::pull_ctr,
    },
    Row {
        name: "rebuilt",
        suites: &["sid"],
        measure: images::rebuilt,
    },
];

/// Returns the row of this name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// Returns all names.
pub(super) fn names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Takes away what a row may have left running; the next one starts on an empty machine.
pub(super) fn clean(place: &Place) {
    quietly(&mut place.ours(&["rm", "-f", "-a"])).ok();
    quietly(&mut place.podman(&["rm", "-f", "-a", "-t", "0"])).ok();
}

/// The images, as both sides name them.
mod image {
    /// One layer: a static busybox.
    pub(super) const SMALL: &str = "oci:/opt/images/layout:small";
    /// The same and 99 files, in one layer.
    pub(super) const ONE: &str = "oci:/opt/images/layout:one";
    /// The same file system as `ONE`, in a hundred layers.
    pub(super) const HUNDRED: &str = "oci:/opt/images/layout:hundred";
    /// Debian with python3 and numpy.
    pub(super) const DEBIAN: &str = "oci:/opt/debian:debian";
    /// The same, rebuilt, with one package more.
    pub(super) const REBUILT: &str = "oci:/opt/debian:rebuilt";
}

/// Brings an image into our store, and returns its id.
fn ours_pull(place: &Place, image: &str) -> anyhow::Result<String> {
    quietly(&mut place.ours(&["pull", "-q", image]))
}

/// Brings the same image into podman's store, and returns its id.
fn podman_pull(place: &Place, image: &str) -> anyhow::Result<String> {
    quietly(&mut place.podman(&["pull", "-q", image]))
}

/// Runs a command some times without measuring, so that caches are as warm as they will be.
fn warm(mut command: impl FnMut() -> Command) -> anyhow::Result<()> {
    for _ in 0..3 {
        quietly(&mut command())?;
    }
    Ok(())
}
