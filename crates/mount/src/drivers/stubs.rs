// SPDX-License-Identifier: Apache-2.0
//! The stub tree as it is: the kernel joins shape and contents, at native speed and with nothing copied.
//!
//! `lowerdir+=stubs datadir+=objects userxattr`: a stub's `user.overlay.redirect` names its object, which the kernel opens
//! when the file is opened. Objects may appear after the mount. Without `metacopy=on`, which a user namespace may not ask
//! for, this works from about kernel 6.16 on; it is tried, no version is compared.

use wolffia_store::ImageRoot;
use wolffia_sys::{facts::Overlays, mount::Plan};

use super::{DriverError, Score, SnapshotDriver, WhyNot, plan};
use crate::work::WorkDir;

/// See the [module](self).
#[derive(Debug)]
pub struct Stubs;

impl SnapshotDriver for Stubs {
    fn name(&self) -> &'static str {
        "stubs"
    }

    fn is_lazy(&self) -> bool {
        true
    }

    fn fitness(&self, facts: &Overlays) -> Result<Score, WhyNot> {
        match &facts.data_layers {
            Ok(()) => Ok(Score(100)),
            Err(lack) => Err(WhyNot {
                driver: self.name(),
                cause: format!("data-only overlay layers: {lack}"),
            }),
        }
    }

    fn prepare(&self, image: &ImageRoot, work: &WorkDir) -> Result<Plan, DriverError> {
        // What is in the store is never asked for elsewhere: the kernel takes the first layer that has the object.
        let mut data = vec![image.objects.clone()];
        data.extend(work.lazy.clone());
        // The last: whatever lies there, it answers for nothing that is ours.
        data.extend(image.elsewhere.iter().cloned());
        Ok(plan(image.stubs.clone(), data, work)?)
    }
}
