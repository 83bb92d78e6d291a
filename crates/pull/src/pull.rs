// SPDX-License-Identifier: Apache-2.0
//! A reference becomes an image in the store: the plan of a pull.
//!
//! # Theory of operation
//! 1. The source resolves the reference to a manifest and a configuration, both verified.
//! 2. Layers whose records are here are taken from the store, and those that a site unpacked from there ([`crate::unpacked`]); the others arrive side by side, at most
//!    [`LAYERS_AT_ONCE`], the largest first: the time of a pull is the time of its largest layer.
//! 3. A layer that is complete gets its record at once. A pull that is killed later does not fetch it again.
//! 4. The layers are merged, and the tree's record, its stub tree for this mapping, the image's record and its name appear, in this
//!    order: whoever finds the name finds all the rest.
//!
//! Two pulls of one image at once share the work: a layer is fetched by whoever claims it first, and the other takes it
//! from the store; what both write is the same under the same name. Where one layer fails the others stop, and the first failure is the pull's.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use wolffia_fetch::{Download, Environment, Limits, Resolved, Source, sources};
use wolffia_image::tree::{Kind, Layer, Tree};
use wolffia_image::{Descriptor, Digest, ImageConfig, Reference};
use wolffia_mount::{SnapshotDriver, choice};
use wolffia_store::{
    Claim, ImageLayer, ImageRecord, Owners, Places, Session, Site, Store, StoreError, TreeId,
    UnusedLayers,
};

use crate::error::PullError;
use crate::job::{ImageOutcome, Lazy, Policy, Progress, PullRequest, Stage};
use crate::layer::{self, Counters, Packed};
use crate::lazy::index::{self, Found, Indexed};
use crate::unpacked;

/// Layers that arrive side by side: more do not help two cores, and each costs some megabytes.
const LAYERS_AT_ONCE: usize = 4;

/// Layers smaller than this come whole: they are here before it is known what they hold.
const LAZY_BYTES_MIN: u64 = 1 << 20;

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// How often a layer is asked for that another process fetches.
const CLAIM_PERIOD: Duration = Duration::from_millis(20);

/// Where progress goes.
pub trait Watch: Send + Sync {
    /// Takes how far it is, a few times a second at most. Returns whether to go on.
    fn progress(&self, progress: Progress) -> bool;

    /// Has layers walked that sites unpacked, in a process that sees true owners; returns what cannot be used, and why.
    fn walk(&self, store: &Store, sites: &[Site]) -> Vec<String> {
        let walked = sites.iter().map(|site| unpacked::walk(store, site));
        walked
            .filter_map(|result| result.err().map(|error| causes(&error)))
            .collect()
    }
}

/// Writes an error with its causes in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Nobody watches.
impl Watch for () {
    fn progress(&self, _progress: Progress) -> bool {
        true
    }
}

/// Tells how far it is; fails where nobody wants it any more.
fn go_on(watch: &dyn Watch, progress: Progress) -> Result<(), PullError> {
    if watch.progress(progress) {
        return Ok(());
    }
    Err(PullError::Unwatched)
}

/// Brings the image that `request` names into the store, with its stub tree for `owners`. Blocks.
///
/// Must run inside the user namespace that `owners` describes, in a process that never forks afterwards: it has threads.
pub fn pull(
    store: &Store,
    owners: &Owners,
    request: &PullRequest,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<ImageOutcome, PullError> {
    go_on(watch, Progress::default())?;
    if request.policy == Policy::Missing
        && let Some(image) = present(store, &request.name)?
    {
        return outcome_of_present(store, owners, &image);
    }
    let lazy = request.lazy;
    let credential = request.credential.as_ref();
    let source = sources::open_with(&request.name, environment, Limits::default(), credential)?;
    pull_with(
        store,
        owners,
        &Arc::from(source),
        &request.platform,
        &Wishes {
            unpacked: &request.unpacked,
            lazy,
            strict: request.strict,
        },
        watch,
    )
}

/// Brings the image of a source into the store, with its stub tree for `owners`. Blocks.
pub fn pull_from(
    store: &Store,
    owners: &Owners,
    source: &Arc<dyn Source>,
    platform: &wolffia_image::Platform,
    watch: &dyn Watch,
) -> Result<ImageOutcome, PullError> {
    pull_with(store, owners, source, platform, &Wishes::default(), watch)
}

/// How layers may be used that are not here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// Directories in which layers may lie unpacked.
    pub unpacked: &'a [PathBuf],
    /// Whether layers may stay where they are.
    pub lazy: Lazy,
    /// Refuse a layer that stays where it is if nobody answers for its index.
    pub strict: bool,
}

/// As [`pull_from`], as one wishes.
pub fn pull_with(
    store: &Store,
    owners: &Owners,
    source: &Arc<dyn Source>,
    platform: &wolffia_image::Platform,
    wishes: &Wishes<'_>,
    watch: &dyn Watch,
) -> Result<ImageOutcome, PullError> {
    let resolved = source.resolve(platform)?;
    let name = source.name();
    let config = ImageConfig::parse(resolved.config_bytes.as_slice()).map_err(|error| {
        PullError::Config {
            name: name.clone(),
            source: error,
        }
    })?;
    let before = match source.reference() {
        Some(reference) => store.find(&reference)?.map(|image| image.id),
        None => None,
    };
    let result = in_session(store, owners, source, &resolved, config, wishes, watch);
    if let Err(PullError::Store(StoreError::Full { .. })) = &result {
        // What this pull wrote would keep the disk full.
        if let Err(error) = store.collect(UnusedLayers::Drop) {
            tracing::warn!(%error, "cannot collect what an unfinished pull wrote");
        }
    }
    let mut outcome = result?;
    outcome.up_to_date = before == Some(outcome.image);
    Ok(outcome)
}

/// Does everything between the first look at what is here and the image's name, with garbage held back.
fn in_session(
    store: &Store,
    owners: &Owners,
    source: &Arc<dyn Source>,
    resolved: &Resolved,
    config: ImageConfig,
    wishes: &Wishes<'_>,
    watch: &dyn Watch,
) -> Result<ImageOutcome, PullError> {
    let session = store.session()?;
    let mut plan = Plan::of(store, &source.name(), resolved, &config)?;
    let not_used = plan.look_at_sites(store, wishes.unpacked, &resolved.config.digest, watch)?;
    if wishes.lazy != Lazy::Never && plan.flat.is_none() && may_be_lazy(store) {
        let known = store.image(&config.digest())?;
        match known {
            Some(image)
                if store.is_lazy(image.tree)?
                    && image.manifest_digest == resolved.manifest.digest =>
            {
                session.put_image(&image, source.reference().as_ref())?;
                drop(session);
                return outcome_of_present(store, owners, &image);
            }
            // Nobody has compared an index with the digests in the configuration: it must not replace what other names stand for.
            Some(_) => {}
            None => plan.leave(source, wishes.lazy, wishes.strict)?,
        }
    }
    let mut arrived = plan.carry_out(&session, source, watch)?;
    arrived.not_used = not_used;
    let finished = Finished {
        session: &session,
        owners,
        config,
        manifest: &resolved.manifest_bytes,
        descriptors: resolved.layers.iter().cloned().map(Some).collect(),
        name: source.reference(),
    };
    finished.write(&arrived, watch)
}

/// Returns the image of that name, if the store has it.
fn present(store: &Store, name: &str) -> Result<Option<ImageRecord>, PullError> {
    match store.resolve(name) {
        Ok(image) => Ok(Some(image)),
        Err(StoreError::NoImage(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn outcome_of_present(
    store: &Store,
    owners: &Owners,
    image: &ImageRecord,
) -> Result<ImageOutcome, PullError> {
    let facts = put_stubs(store, owners, image)?;
    let layers = u32::try_from(image.layers.len()).unwrap_or(u32::MAX);
    Ok(ImageOutcome {
        image: image.id,
        manifest: image.manifest_digest,
        name: image.names.first().map(Reference::to_string),
        up_to_date: true,
        fetched_bytes: 0,
        stored_bytes: 0,
        layers,
        layers_present: layers,
        refused: Vec::new(),
        refused_count: 0,
        facts,
        not_used: Vec::new(),
        lazy_bytes: 0,
    })
}

/// Makes the stub tree of an image that is here, where it is missing for this mapping.
pub fn put_stubs(
    store: &Store,
    owners: &Owners,
    image: &ImageRecord,
) -> Result<wolffia_store::StubFacts, PullError> {
    if let Ok(root) = store.rootfs(image, &owners.key) {
        return Ok(root.facts);
    }
    let session = store.session()?;
    let tree = if store.has_tree(image.tree)? {
        store.tree(image.tree)?
    } else {
        merge_again(&session, image)?
    };
    if store.lazy_table(image.tree)?.is_some() {
        return Ok(session.put_lazy_stubs(image.tree, &tree, owners)?);
    }
    Ok(session.put_stubs(image.tree, &tree, owners)?)
}

/// Makes the tree of an image that lost it (a check took a damaged one away) from its layers, if those are here.
fn merge_again(session: &Session<'_>, image: &ImageRecord) -> Result<Tree, PullError> {
    let mut layers = Vec::new();
    for diff_id in image.config.diff_ids() {
        let layer = session.store().layer(diff_id)?;
        layers.push(layer.ok_or_else(|| StoreError::NoImage(image.display_name()))?);
    }
    let tree = Tree::merge(&layers).map_err(|source| PullError::Tree {
        name: image.display_name(),
        source,
    })?;
    session.put_tree(image.tree, &tree)?;
    Ok(tree)
}

/// What must be done for an image.
#[derive(Debug)]
struct Plan {
    /// Packed bytes of indexes that were fetched.
    index_bytes: u64,
    /// The layers, the lowest first.
    layers: Vec<Planned>,
    /// All layers in one, unpacked elsewhere.
    flat: Option<(Site, Layer)>,
}

#[derive(Debug)]
struct Planned {
    descriptor: Descriptor,
    diff_id: Digest,
    /// What the store knows already, or a site has.
    present: Option<Layer>,
    /// Where the layer lies unpacked, if it is used from there.
    site: Option<Site>,
    /// Its index, where it stays where it is.
    index: Option<Box<Found>>,
}

/// All layers of an image.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) layers: Vec<Layer>,
    pub(crate) present: usize,
    pub(crate) fetched_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// Where each layer lies, if it was unpacked elsewhere. All layers in one, if it is one for many.
    pub(crate) sites: Vec<Option<Site>>,
    /// Why what lies unpacked elsewhere is not used.
    pub(crate) not_used: Vec<String>,
    /// Layers that stayed where they are, by their places.
    pub(crate) left: Vec<(usize, Indexed)>,
}

impl Plan {
    fn of(
        store: &Store,
        name: &str,
        resolved: &Resolved,
        config: &ImageConfig,
    ) -> Result<Self, PullError> {
        if resolved.layers.len() != config.diff_ids().len() {
            return Err(PullError::LayerCount {
                name: name.to_owned(),
                layers: resolved.layers.len(),
                diff_ids: config.diff_ids().len(),
            });
        }
        let layers = resolved.layers.iter().zip(config.diff_ids());
        let layers = layers.map(|(descriptor, diff_id)| {
            if descriptor.layer_compression().is_none() {
                return Err(PullError::NotALayer {
                    digest: descriptor.digest,
                    media_type: descriptor.media_type.clone(),
                });
            }
            Ok(Planned {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                present: usable_layer(store, diff_id),
                site: None,
                index: None,
            })
        });
        Ok(Self {
            index_bytes: 0,
            layers: layers.collect::<Result<_, _>>()?,
            flat: None,
        })
    }

    /// Takes layers that are not here from where they lie unpacked; returns why some cannot be used.
    fn look_at_sites(
        &mut self,
        store: &Store,
        unpacked: &[PathBuf],
        config: &Digest,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, PullError> {
        if unpacked.is_empty() || self.layers.iter().all(|layer| layer.present.is_some()) {
            return Ok(Vec::new());
        }
        for layer in self
            .layers
            .iter_mut()
            .filter(|layer| layer.present.is_none())
        {
            layer.site = unpacked::find(unpacked, &layer.descriptor.digest, &layer.diff_id);
        }
        let is_missing = |layer: &Planned| layer.present.is_none() && layer.site.is_none();
        let flat = self.layers.iter().any(is_missing);
        let flat = flat
            .then(|| unpacked::find_flat(unpacked, config))
            .flatten();
        let mut sites: Vec<Site> = match &flat {
            Some(flat) => vec![flat.clone()],
            None => self
                .layers
                .iter()
                .filter_map(|layer| layer.site.clone())
                .collect(),
        };
        sites.sort();
        sites.dedup();
        let unknown: Vec<Site> = sites
            .into_iter()
            .filter(|site| !matches!(store.unpacked_layer(site), Ok(Some(_))))
            .collect();
        let not_used = if unknown.is_empty() {
            Vec::new()
        } else {
            watch.walk(store, &unknown)
        };
        if let Some(flat) = flat
            && let Some(layer) = store.unpacked_layer(&flat)?
        {
            self.flat = Some((flat, layer));
            return Ok(not_used);
        }
        for layer in &mut self.layers {
            let Some(site) = &layer.site else { continue };
            layer.present = store.unpacked_layer(site)?;
            if layer.present.is_none() {
                layer.site = None;
            }
        }
        Ok(not_used)
    }

    /// Fetches the indexes of missing layers that may stay where they are.
    fn leave(
        &mut self,
        source: &Arc<dyn Source>,
        lazy: Lazy,
        strict: bool,
    ) -> Result<(), PullError> {
        let bytes_min = if lazy == Lazy::Always {
            0
        } else {
            LAZY_BYTES_MIN
        };
        let candidates: Vec<usize> = (0..self.layers.len())
            .filter(|place| {
                let layer = &self.layers[*place];
                layer.present.is_none() && layer.descriptor.size >= bytes_min
            })
            .collect();
        let descriptors: Vec<&Descriptor> = candidates
            .iter()
            .map(|place| &self.layers[*place].descriptor)
            .collect();
        let fetched = AtomicU64::new(0);
        let indexes = index::fetch(source, &descriptors, &[], &fetched)?;
        self.index_bytes = fetched.into_inner();
        for (place, found) in candidates.into_iter().zip(indexes) {
            let doubtful = found
                .as_ref()
                .is_some_and(|found| found.index.map.trust.needs_whole_layer());
            if strict && doubtful {
                return Err(PullError::Doubtful {
                    layer: self.layers[place].descriptor.digest,
                });
            }
            self.layers[place].index = found.map(Box::new);
        }
        Ok(())
    }

    /// Fetches what is missing.
    fn carry_out(
        self,
        session: &Session<'_>,
        source: &Arc<dyn Source>,
        watch: &dyn Watch,
    ) -> Result<Arrived, PullError> {
        if let Some((site, layer)) = self.flat {
            return Ok(Arrived {
                layers: vec![layer],
                present: self.layers.len(),
                fetched_bytes: 0,
                stored_bytes: 0,
                sites: vec![Some(site)],
                not_used: Vec::new(),
                left: Vec::new(),
            });
        }
        let counters = Arc::new(Counters::default());
        let mut missing: Vec<usize> = Vec::new();
        for (place, planned) in self.layers.iter().enumerate() {
            let twin = self.layers[..place]
                .iter()
                .any(|earlier| earlier.diff_id == planned.diff_id);
            if planned.present.is_none() && planned.index.is_none() && !twin {
                missing.push(place);
            }
        }
        let indexed = self.layers.iter().filter(|one| one.index.is_some()).count();
        let present = self.layers.len() - missing.len() - indexed;
        let total = Progress {
            bytes_total: missing
                .iter()
                .map(|place| self.layers[*place].descriptor.size)
                .sum(),
            bytes_done: 0,
            layers_total: u32::try_from(self.layers.len()).unwrap_or(u32::MAX),
            layers_done: u32::try_from(present).unwrap_or(u32::MAX),
            stage: Stage::Fetching,
        };
        // Taken from the end: the largest first.
        missing.sort_by_key(|place| self.layers[*place].descriptor.size);
        let fetched = fetch_all(
            session,
            source,
            &self.layers,
            missing,
            &counters,
            total,
            watch,
        )?;
        let sites = self.layers.iter().map(|layer| layer.site.clone()).collect();
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut left = Vec::new();
        for (place, planned) in self.layers.into_iter().enumerate() {
            let fetched = fetched
                .iter()
                .find(|(diff_id, _)| *diff_id == planned.diff_id);
            match (planned.present, fetched, planned.index) {
                (Some(layer), _, _) => layers.push(layer),
                (None, Some((_, layer)), _) => layers.push(layer.clone()),
                (None, None, Some(index)) => {
                    layers.push(index.index.layer.clone());
                    left.push((
                        place,
                        Indexed {
                            descriptor: planned.descriptor,
                            found: *index,
                        },
                    ));
                }
                (None, None, None) => return Err(PullError::Stopped),
            }
        }
        Ok(Arrived {
            layers,
            present,
            fetched_bytes: counters.packed_bytes.load(Ordering::Relaxed) + self.index_bytes,
            stored_bytes: counters.stored_bytes.load(Ordering::Relaxed),
            sites,
            not_used: Vec::new(),
            left,
        })
    }
}

/// Returns a layer's record where it and all it needs are here.
fn usable_layer(store: &Store, diff_id: &Digest) -> Option<Layer> {
    match store.layer(diff_id) {
        Ok(layer) => layer,
        Err(error) => {
            tracing::warn!(%diff_id, %error, "a layer's record cannot be read: it is fetched again");
            None
        }
    }
}

/// Fetches layers side by side and tells how far it is.
fn fetch_all(
    session: &Session<'_>,
    source: &Arc<dyn Source>,
    layers: &[Planned],
    missing: Vec<usize>,
    counters: &Arc<Counters>,
    total: Progress,
    watch: &dyn Watch,
) -> Result<Vec<(Digest, Layer)>, PullError> {
    let workers = missing.len().min(LAYERS_AT_ONCE);
    let queue = Mutex::new(missing);
    let (done, results) = channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (done, queue) = (done.clone(), &queue);
            scope.spawn(move || {
                while let Some(place) = next(queue) {
                    let planned = &layers[place];
                    let result = fetch_one(session, source, planned, counters);
                    if result.is_err() {
                        counters.stop.store(true, Ordering::Relaxed);
                    }
                    let told = done.send(result.map(|layer| (planned.diff_id, layer)));
                    if told.is_err() || counters.stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut fetched = Vec::new();
        let mut failure = None;
        loop {
            match results.recv_timeout(PROGRESS_PERIOD) {
                Ok(Ok(layer)) => fetched.push(layer),
                Ok(Err(PullError::Stopped)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Err(error)) => failure = failure.or(Some(error)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let wanted = watch.progress(Progress {
                bytes_done: counters.packed_bytes.load(Ordering::Relaxed)
                    + counters.spared_bytes.load(Ordering::Relaxed),
                layers_done: total.layers_done + u32::try_from(fetched.len()).unwrap_or(0),
                ..total
            });
            if !wanted {
                counters.stop.store(true, Ordering::Relaxed);
                failure = failure.or(Some(PullError::Unwatched));
            }
        }
        failure.map_or(Ok(fetched), Err)
    })
}

fn next(queue: &Mutex<Vec<usize>>) -> Option<usize> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Waits until no other process fetches the layer. Its own bounds on waiting for the network are the bound here.
fn claim<'run>(
    session: &'run Session<'_>,
    diff_id: &Digest,
    counters: &Counters,
) -> Result<Claim<'run>, PullError> {
    loop {
        if let Some(claim) = session.claim_layer(diff_id)? {
            return Ok(claim);
        }
        if counters.stop.load(Ordering::Relaxed) {
            return Err(PullError::Stopped);
        }
        thread::sleep(CLAIM_PERIOD);
    }
}

fn fetch_one(
    session: &Session<'_>,
    source: &Arc<dyn Source>,
    planned: &Planned,
    counters: &Arc<Counters>,
) -> Result<Layer, PullError> {
    let descriptor = &planned.descriptor;
    let span = tracing::debug_span!("layer", digest = %descriptor.digest);
    let _entered = span.enter();
    let _claim = claim(session, &planned.diff_id, counters)?;
    if let Some(layer) = usable_layer(session.store(), &planned.diff_id) {
        let spared = &counters.spared_bytes;
        spared.fetch_add(descriptor.size, Ordering::Relaxed);
        return Ok(layer);
    }
    let packed = Packed {
        name: descriptor.digest.to_string(),
        reader: Box::new(Download::new(Arc::clone(source), descriptor)),
        bytes: descriptor.size,
    };
    let mut stored = layer::store(session, packed, counters)?;
    if stored.diff_id != planned.diff_id {
        return Err(PullError::DiffId {
            layer: descriptor.digest.to_string(),
            expected: planned.diff_id,
            found: stored.diff_id,
        });
    }
    if let Some(index) = stored.index(descriptor.digest, descriptor.size) {
        session.put_layer_index(&stored.diff_id, &index)?;
    }
    session.put_layer(&stored.diff_id, &stored.layer)?;
    counters.layers.fetch_add(1, Ordering::Relaxed);
    Ok(stored.layer)
}

/// An image whose layers are all here.
pub(crate) struct Finished<'run> {
    pub(crate) session: &'run Session<'run>,
    pub(crate) owners: &'run Owners,
    pub(crate) config: ImageConfig,
    pub(crate) manifest: &'run [u8],
    pub(crate) descriptors: Vec<Option<Descriptor>>,
    pub(crate) name: Option<Reference>,
}

impl Finished<'_> {
    /// Merges the layers and makes everything appear.
    pub(crate) fn write(
        self,
        arrived: &Arrived,
        watch: &dyn Watch,
    ) -> Result<ImageOutcome, PullError> {
        let count = u32::try_from(arrived.layers.len()).unwrap_or(u32::MAX);
        let progress = Progress {
            bytes_total: arrived.fetched_bytes,
            bytes_done: arrived.fetched_bytes,
            layers_total: count,
            layers_done: count,
            stage: Stage::Writing,
        };
        go_on(watch, progress)?;
        let session = self.session;
        let tree = Tree::merge(&arrived.layers).map_err(|source| PullError::Tree {
            name: self
                .name
                .as_ref()
                .map_or_else(String::new, Reference::familiar),
            source,
        })?;
        let layers =
            self.config
                .diff_ids()
                .iter()
                .zip(self.descriptors)
                .map(|(diff_id, descriptor)| ImageLayer {
                    diff_id: *diff_id,
                    descriptor,
                });
        let layers = layers.collect();
        let mut image = ImageRecord::new(
            self.config,
            self.manifest.to_vec(),
            layers,
            size_bytes(&tree),
            seconds_now(),
        );
        let mut places = Places::new();
        let mut parts = Vec::new();
        for (place, site) in arrived.sites.iter().enumerate() {
            if let Some(site) = site {
                places.add(site, &arrived.layers[place]);
            }
            let diff_id = image.config.diff_ids().get(place).copied();
            parts.push((diff_id.unwrap_or(image.id), site.clone()));
        }
        let facts = if arrived.left.is_empty() {
            if !places.sites.is_empty() {
                image.tree = Places::tree_id(&parts);
            }
            session.put_tree_of_sites(image.tree, &tree, places)?;
            session.put_stubs(image.tree, &tree, self.owners)?
        } else {
            // The tree's name says of each layer what its entries were taken from.
            for (place, layer) in &arrived.left {
                parts[*place].0 = Digest::of(&layer.found.index.to_bytes());
            }
            image.tree = TreeId::of_indexes(Places::tree_id(&parts));
            session.put_tree_of_sites(image.tree, &tree, places)?;
            let name = self.name.as_ref().map(Reference::to_string);
            let name = name.unwrap_or_else(|| image.id.to_string());
            put_table(session, &image, &tree, arrived, name)?;
            session.put_lazy_stubs(image.tree, &tree, self.owners)?
        };
        session.put_image(&image, self.name.as_ref())?;
        Ok(ImageOutcome {
            lazy_bytes: arrived
                .left
                .iter()
                .map(|(_, layer)| layer.descriptor.size)
                .sum(),
            image: image.id,
            manifest: image.manifest_digest,
            name: self.name.map(|name| name.to_string()),
            up_to_date: false,
            fetched_bytes: arrived.fetched_bytes,
            stored_bytes: arrived.stored_bytes,
            layers: count,
            layers_present: u32::try_from(arrived.present).unwrap_or(u32::MAX),
            refused: tree
                .refused
                .listed
                .iter()
                .map(ToString::to_string)
                .collect(),
            refused_count: tree.refused.count,
            facts,
            not_used: arrived.not_used.clone(),
        })
    }
}

/// Writes down where the objects of a tree are that stay where they are.
fn put_table(
    session: &Session<'_>,
    image: &ImageRecord,
    tree: &Tree,
    arrived: &Arrived,
    name: String,
) -> Result<(), PullError> {
    let layers: Vec<&Indexed> = arrived.left.iter().map(|(_, layer)| layer).collect();
    let packed_bytes = layers.iter().map(|layer| layer.descriptor.size).sum();
    let profile = session.store().profile(&image.manifest_digest)?;
    let table = index::table(
        name,
        image.manifest_digest,
        packed_bytes,
        &layers,
        tree,
        &profile,
    )
    .map_err(PullError::Table)?;
    Ok(session.put_lazy_table(image.tree, &table)?)
}

/// Tells whether mounts of this store can have files that are still to come.
fn may_be_lazy(store: &Store) -> bool {
    let state = store.path().parent().unwrap_or(store.path());
    let known = choice::recall(state, &wolffia_sys::facts::kernel_release());
    // Nobody has tried yet: the first container does, and says so if it cannot.
    known.is_none_or(SnapshotDriver::is_lazy)
}

fn size_bytes(tree: &Tree) -> u64 {
    tree.entries
        .iter()
        .map(|entry| match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        })
        .sum()
}

/// Returns the time in seconds since 1970.
pub(crate) fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
