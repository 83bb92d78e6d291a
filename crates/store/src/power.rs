// SPDX-License-Identifier: Apache-2.0
//! What a power failure does to a store that flushes nothing, and how the next command mends it.
//!
//! # Theory of operation
//! A killed process leaves everything it wrote; a machine that loses its power may keep the name of a file and lose its content,
//! since the kernel writes data some thirty seconds after it was written. Flushing would make every pull wait for the
//! disk. Instead the store remembers that it was written to: the file [`MARKER`] holds the identifier of the boot and the time
//! from which on files may be unflushed. It appears with the first session of a boot; a later session moves the time
//! forward to [`FLUSHED_AFTER_SECONDS`] ago.
//!
//! Who opens the store and finds the marker of another boot reads all objects written since that time, and all records, and takes
//! away what is damaged. A clean shutdown looks the same and costs the same: about a second for a gigabyte pulled in
//! the last hour before it, once.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::check::{Repair, Scope};
use crate::error::{Doing, Result};
use crate::images::absent_is_none;
use crate::layout::Store;
use crate::record;
use crate::session::{Session, random_name};

/// The file that says since when files may be unflushed.
const MARKER: &str = "unflushed";

/// After this time a file counts as flushed: the kernel's own delay is thirty seconds (`vm.dirty_expire_centisecs`), laptops
/// raise it to ten minutes.
pub const FLUSHED_AFTER_SECONDS: u64 = 3600;

/// Identifies the running boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    boot: String,
    since_seconds: u64,
}

impl Store {
    /// Verifies what was written shortly before the machine went down, if it did since.
    ///
    /// A store that cannot be written is left as it is.
    pub(crate) fn recover(&self) -> Result<()> {
        let Some(marker) = self.read_marker()? else {
            return Ok(());
        };
        let Some(boot) = boot_id().filter(|boot| *boot != marker.boot) else {
            return Ok(());
        };
        let since_seconds = now_seconds();
        tracing::info!("the machine was restarted: looking at what was written before");
        let report =
            self.check_within(Scope::WrittenSince(marker.since_seconds), None, Repair::Yes)?;
        if !report.is_clean() {
            tracing::warn!(
                problems = report.problem_count,
                "a restart damaged images: pull them again"
            );
        }
        let session = self.session()?;
        write_marker(
            &session,
            &Marker {
                boot,
                since_seconds,
            },
        )
    }

    /// An unreadable marker is of the moment before a power failure: everything is looked at.
    fn read_marker(&self) -> Result<Option<Marker>> {
        let bytes = record::read_limited(self.at(), MARKER, record::JSON_BYTES_MAX)
            .doing("reading", self.path().join(MARKER));
        Ok(absent_is_none(bytes)?.map(|bytes| {
            serde_json::from_slice(&bytes).unwrap_or(Marker {
                boot: String::new(),
                since_seconds: 0,
            })
        }))
    }
}

impl Session<'_> {
    /// Remembers that this session writes. The caller holds `ingest.lock`.
    pub(crate) fn mark_unflushed(&self) -> Result<()> {
        // Without a boot identifier no restart could be told: nothing is promised then.
        let Some(boot) = boot_id() else { return Ok(()) };
        let latest = now_seconds().saturating_sub(FLUSHED_AFTER_SECONDS);
        let since_seconds = match self.store().read_marker()? {
            None => now_seconds(),
            // Whoever recovers replaces it.
            Some(marker) if marker.boot != boot => return Ok(()),
            Some(marker) if marker.since_seconds >= latest => return Ok(()),
            Some(_) => latest,
        };
        write_marker(
            self,
            &Marker {
                boot,
                since_seconds,
            },
        )
    }
}

/// Writes the marker and flushes it: unlike all else, it must be there after a power failure.
fn write_marker(session: &Session<'_>, marker: &Marker) -> Result<()> {
    let name = random_name()?;
    let path = session.path_of(&name);
    let bytes = record::to_json(marker, &path)?;
    record::write_new_flushed(session.at(), &name, &bytes).doing("writing", &path)?;
    rustix::fs::renameat(session.at(), &name, session.store().at(), MARKER)
        .doing("writing", session.store().path().join(MARKER))
}

fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim_end().to_owned())
}

fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
