// SPDX-License-Identifier: Apache-2.0
//! Which driver, and why: a decision over probed facts, remembered for a kernel.
//!
//! Probing costs some milliseconds and its answer changes only with the kernel, so the first container on a kernel probes and the
//! name of the driver is kept in a small file beside the store. Reading it is all that later ones do. Where a
//! remembered driver's mount fails all the same, [`forget`] and ask again.
//!
//! The file is two lines: the kernel's release, the driver's name. One that cannot be read or means nothing is as none.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wolffia_sys::facts::{self, Overlays, overlay::Standing};

use crate::drivers::{ALL, SnapshotDriver, WhyNot};

/// The file's name in the state root.
const MEMORY: &str = "driver";
/// Longest such file that is read: a release has at most 64 bytes.
const MEMORY_BYTES_MAX: u64 = 256;

/// A driver, and why it and not another.
#[derive(Clone)]
pub struct Choice {
    /// The driver.
    pub driver: &'static dyn SnapshotDriver,
    /// Whether the answer was remembered; then nothing is known of the others.
    pub remembered: bool,
    /// Why others, better ones among them, cannot be taken.
    pub refused: Vec<WhyNot>,
}

impl std::fmt::Debug for Choice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Choice")
            .field("driver", &self.driver.name())
            .field("remembered", &self.remembered)
            .field("refused", &self.refused)
            .finish()
    }
}

/// No driver works here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no way to mount an image works here: {}", list(.refused))]
pub struct NoDriver {
    /// Why each does not.
    pub refused: Vec<WhyNot>,
}

fn list(refused: &[WhyNot]) -> String {
    let words: Vec<String> = refused.iter().map(ToString::to_string).collect();
    words.join("; ")
}

/// Chooses the fittest driver.
pub fn choose(facts: &Overlays) -> Result<Choice, NoDriver> {
    let mut refused = Vec::new();
    let mut best = None;
    for driver in ALL {
        match driver.fitness(facts) {
            Ok(score) if best.is_none_or(|(other, _)| score > other) => {
                best = Some((score, *driver));
            }
            Ok(_) => {}
            Err(why_not) => refused.push(why_not),
        }
    }
    match best {
        Some((_, driver)) => Ok(Choice {
            driver,
            remembered: false,
            refused,
        }),
        None => Err(NoDriver { refused }),
    }
}

/// Returns the driver for a state root: the remembered one, else what probing on the file system of `scratch` finds.
///
/// Must run inside the user namespace, as its root. Blocks for some milliseconds where it probes.
pub fn driver(state: &Path, scratch: &Path) -> Result<Choice, NoDriver> {
    let kernel = facts::kernel_release();
    if let Some(driver) = recall(state, &kernel) {
        return Ok(Choice {
            driver,
            remembered: true,
            refused: Vec::new(),
        });
    }
    let choice = choose(&facts::overlay::probe(scratch, Standing::Inside))?;
    tracing::debug!(?choice, "probed the ways to mount an image");
    remember(state, &kernel, choice.driver);
    Ok(choice)
}

/// Makes the next [`driver`] probe again.
pub fn forget(state: &Path) {
    if let Err(error) = fs::remove_file(memory(state)) {
        tracing::debug!(%error, "no driver was remembered");
    }
}

/// Returns the driver that is remembered for this kernel, if any.
pub fn recall(state: &Path, kernel: &str) -> Option<&'static dyn SnapshotDriver> {
    let path = memory(state);
    if fs::metadata(&path).ok()?.len() > MEMORY_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let (release, name) = (lines.next()?, lines.next()?);
    let known = ALL.iter().find(|driver| driver.name() == name)?;
    (release == kernel).then_some(*known)
}

/// A memory that cannot be written costs the next container a probe, and is no reason to fail.
fn remember(state: &Path, kernel: &str, driver: &dyn SnapshotDriver) {
    let path = memory(state);
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::write(&draft, format!("{kernel}\n{}\n", driver.name()))
        .and_then(|()| fs::rename(&draft, &path));
    if let Err(error) = written {
        tracing::debug!(%error, path = %path.display(), "the driver is not remembered");
    }
}

fn memory(state: &Path) -> PathBuf {
    state.join(MEMORY)
}

#[cfg(test)]
mod tests {
    use wolffia_sys::{Errno, facts::Lack};

    use super::*;

    fn lacks(doing: &str) -> Result<(), Lack> {
        Err(Lack::new(doing, Errno::INVAL))
    }

    #[test]
    fn the_best_driver_that_works_is_taken_and_the_others_say_why_not() {
        let cases = [
            (Ok(()), Ok(()), Some("stubs"), vec![]),
            (
                Ok(()),
                lacks("reading a file"),
                Some("overlay"),
                vec!["stubs"],
            ),
            (lacks("mounting"), Ok(()), Some("stubs"), vec!["overlay"]),
            (
                lacks("mounting"),
                lacks("mounting"),
                None,
                vec!["stubs", "overlay"],
            ),
        ];
        for (plain, data_layers, expected, refusing) in cases {
            let facts = Overlays { plain, data_layers };
            let choice = choose(&facts);
            let (name, refused) = match &choice {
                Ok(choice) => (Some(choice.driver.name()), &choice.refused),
                Err(none) => (None, &none.refused),
            };
            assert_eq!(name, expected, "{facts:?}");
            let names: Vec<&str> = refused.iter().map(|why_not| why_not.driver).collect();
            assert_eq!(names, refusing, "{facts:?}");
            assert!(
                refused
                    .iter()
                    .all(|why_not| why_not.cause.contains("nvalid argument"))
            );
        }
    }

    #[test]
    fn a_driver_is_remembered_for_its_kernel_only() {
        let state = tempfile::tempdir().expect("a directory");
        let recalled = |kernel| recall(state.path(), kernel).map(SnapshotDriver::name);
        assert_eq!(recalled("6.1"), None);
        remember(state.path(), "6.1", ALL[1]);
        assert_eq!(recalled("6.1"), Some("overlay"));
        assert_eq!(recalled("6.2"), None);
        for nonsense in ["", "6.1", "6.1\nnothing\n", &"x".repeat(1000)] {
            fs::write(memory(state.path()), nonsense).expect("written");
            assert_eq!(recalled("6.1"), None, "{nonsense:?}");
        }
        forget(state.path());
        forget(state.path());
    }
}
