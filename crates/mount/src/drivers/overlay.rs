// SPDX-License-Identifier: Apache-2.0
//! Plain overlay over a directory that was unpacked once: for kernels without data-only layers in user namespaces.
//!
//! The directory lies beside the stub tree it was made from (`trees/HEX/KEY/unpacked`), so that it is kept, checked and
//! collected together with it, and is shared by all containers of that image and mapping.

use wolffia_store::ImageRoot;
use wolffia_sys::{facts::Overlays, mount::Plan};

use super::{DriverError, Score, SnapshotDriver, WhyNot, plan, unpack};
use crate::work::WorkDir;

/// See the [module](self).
#[derive(Debug)]
pub struct Unpacked;

impl SnapshotDriver for Unpacked {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn fitness(&self, facts: &Overlays) -> Result<Score, WhyNot> {
        match &facts.plain {
            Ok(()) => Ok(Score(50)),
            Err(lack) => Err(WhyNot {
                driver: self.name(),
                cause: format!("overlay mounts in a user namespace: {lack}"),
            }),
        }
    }

    fn prepare(&self, image: &ImageRoot, work: &WorkDir) -> Result<Plan, DriverError> {
        let directory = unpack::ensure(image)?;
        Ok(plan(directory, Vec::new(), work)?)
    }
}
