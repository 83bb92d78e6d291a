// SPDX-License-Identifier: Apache-2.0
//! A tar of a root file system becomes an image of one layer.
//!
//! Nobody says what its digests should be, so they are only recorded. The image gets a configuration with nothing in it but the
//! platform and the history, as `docker import` makes it; its manifest describes the layer as a plain tar, which is what
//! the store can always put together again.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wolffia_image::config::{ConfigDocument, History, RootFs};
use wolffia_image::manifest::{Manifest, media_type};
use wolffia_image::{Descriptor, ImageConfig, Reference};
use wolffia_store::{Owners, Store};

use crate::error::PullError;
use crate::job::{ImageOutcome, ImportRequest};
use crate::layer::{self, Counters, Packed};
use crate::pull::{Arrived, Finished, Watch, seconds_now};

/// Makes an image of a tar, packed by gzip, zstd or not at all. Blocks.
///
/// Must run inside the user namespace that `owners` describes, in a process that never forks afterwards.
pub fn import(
    store: &Store,
    owners: &Owners,
    request: &ImportRequest,
    watch: &dyn Watch,
) -> Result<ImageOutcome, PullError> {
    let name = request.name.as_deref().map(Reference::parse).transpose()?;
    let unreadable = |source| PullError::File {
        path: request.file.clone(),
        source,
    };
    let file = if request.reads_input() {
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .map(File::from)
            .map_err(|error| unreadable(error.into()))?
    } else {
        File::open(&request.file).map_err(unreadable)?
    };
    // A pipe has no size: what it may unpack to is bounded by the free bytes then.
    let bytes = file.metadata().map_err(unreadable)?.len();
    let counters = Arc::new(Counters::default());
    let session = store.session()?;
    let packed = Packed {
        name: request.file.display().to_string(),
        reader: Box::new(file),
        bytes,
    };
    let stored = layer::store(&session, packed, &counters)?;
    session.put_layer(&stored.diff_id, &stored.layer)?;

    let created = rfc_3339(seconds_now());
    let config = ImageConfig::from_document(ConfigDocument {
        created: Some(created.clone()),
        architecture: request.platform.architecture.clone(),
        variant: request.platform.variant.clone(),
        os: request.platform.os.clone(),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![stored.diff_id],
        },
        history: vec![History {
            created: Some(created),
            comment: request.message.clone(),
            created_by: Some("wolffia import".to_owned()),
            ..History::default()
        }],
        ..ConfigDocument::default()
    })
    .map_err(|source| PullError::Config {
        name: request.file.display().to_string(),
        source,
    })?;
    let descriptor = Descriptor::new(media_type::OCI_LAYER, stored.diff_id, stored.tar_bytes);
    let manifest = manifest(&config, &descriptor)?;
    let arrived = Arrived {
        layers: vec![stored.layer],
        present: 0,
        fetched_bytes: counters.packed_bytes.load(Ordering::Relaxed),
        stored_bytes: counters.stored_bytes.load(Ordering::Relaxed),
        sites: vec![None],
        not_used: Vec::new(),
        left: Vec::new(),
    };
    Finished {
        session: &session,
        owners,
        config,
        manifest: &manifest,
        descriptors: vec![Some(descriptor)],
        name,
    }
    .write(&arrived, watch)
}

fn manifest(config: &ImageConfig, layer: &Descriptor) -> Result<Vec<u8>, PullError> {
    let size = u64::try_from(config.raw().len()).unwrap_or(u64::MAX);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, config.digest(), size),
        layers: vec![layer.clone()],
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    Ok(serde_json::to_vec(&manifest).map_err(wolffia_image::manifest::ManifestError::from)?)
}

/// Writes seconds since 1970 as RFC 3339 text in UTC.
fn rfc_3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's "days to civil": years begin in March, so leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_reads_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc_3339(seconds), text);
        }
    }
}
