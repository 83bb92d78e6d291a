// SPDX-License-Identifier: Apache-2.0
//! An image in another layer format, brought to a registry or a layout.
//!
//! # Theory of operation
//! One layer after the other, each by a row of threads joined by bounded pipes:
//!
//! ```text
//! fetch ──► unpack ──► cut (tar, digests of files) ──► pack, one thread a core ──► put in order, digest, scratch file
//! ```
//!
//! A layer's digest is known when all of it is packed, and a registry wants it first or last but always whole; so a layer is written to a
//! scratch file of the store and sent from there. Memory holds a few pieces for each core, whatever the layer's size.
//!
//! The same image gives the same bytes: pieces are cut by what is in the tar alone, and each is packed by itself. zstd:chunked keeps the
//! tars, so the configuration stays the same, byte for byte; eStargz adds a file to each, so the configuration names other diffIDs.
//!
//! What formats these are stands in [`wolffia_image::formats::write`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::write::GzEncoder;
use flate2::{Compression as Level, GzBuilder};
use serde::{Deserialize, Serialize};
use wolffia_fetch::{
    Credential, Download, Environment, Limits, Resolved, Source, Target, sources, targets,
};
use wolffia_image::formats::write::{Cutter, Form, Piece, WriteError};
use wolffia_image::manifest::{ManifestError, media_type};
use wolffia_image::{Descriptor, Digest, Hasher, ImageConfig, Manifest, Platform, Reference};
use wolffia_store::{Session, Store};

use crate::error::PullError;
use crate::job::{Progress, Stage};
use crate::pipe::{self, Drain};
use crate::pull::Watch;
use crate::unpack::{Unpacked, unpack};

/// Pieces that wait for each packing thread.
const WAITING_PIECES: usize = 4;

/// The level of deflate: its best; the next would need another library.
const DEFLATE_LEVEL: u32 = 9;
/// The level of zstd: what takes about as long as deflate's best, and gives less.
const ZSTD_LEVEL: i32 = 9;

/// Which image to bring where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertRequest {
    /// The image, as for a pull.
    pub from: String,
    /// Where it shall be: a reference, or `oci:DIRECTORY[:TAG]`.
    pub to: String,
    /// What its layers shall become; `None` leaves them as they are.
    pub form: Option<LayerForm>,
    /// For which machine.
    pub platform: Platform,
    /// What credential helpers know, asked outside: of where it comes from, and of where it goes.
    #[serde(default)]
    pub credentials: (Option<Credential>, Option<Credential>),
}

/// What layers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerForm {
    /// eStargz.
    Estargz,
    /// zstd:chunked.
    ZstdChunked,
}

impl LayerForm {
    fn form(self) -> Form {
        match self {
            Self::Estargz => Form::Estargz,
            Self::ZstdChunked => Form::ZstdChunked,
        }
    }
}

/// What was brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// Where.
    pub name: String,
    /// The manifest there.
    pub manifest: Digest,
    /// Bytes of the layers as they were.
    pub bytes_before: u64,
    /// Bytes of the layers as they are there.
    pub bytes_after: u64,
}

/// Brings an image somewhere, perhaps in another format. Blocks; must run in a process that never forks afterwards.
pub fn convert(
    store: &Store,
    request: &ConvertRequest,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Brought, PullError> {
    let (from, to) = &request.credentials;
    let source = sources::open_with(&request.from, environment, Limits::default(), from.as_ref())?;
    let source: Arc<dyn Source> = Arc::from(source);
    let target = targets::open(&request.to, environment, Limits::default(), to.as_ref())?;
    let resolved = source.resolve(&request.platform)?;
    let work = Work {
        source: &source,
        target: &*target,
        resolved: &resolved,
        watch,
    };
    match request.form {
        None => work.copy(),
        Some(form) => work.convert(&store.session()?, form),
    }
}

struct Work<'a> {
    source: &'a Arc<dyn Source>,
    target: &'a dyn Target,
    resolved: &'a Resolved,
    watch: &'a dyn Watch,
}

impl Work<'_> {
    fn copy(&self) -> Result<Brought, PullError> {
        let origin = self.source.reference();
        let total: u64 = self.resolved.layers.iter().map(|layer| layer.size).sum();
        let mut done = 0;
        for (number, blob) in self.resolved.layers.iter().enumerate() {
            self.tell(done, total, number)?;
            self.relay(blob, origin.as_ref())?;
            done += blob.size;
        }
        self.relay(&self.resolved.config, origin.as_ref())?;
        let manifest = self.target.put_manifest(
            &media_type_of(&self.resolved.manifest),
            &self.resolved.manifest_bytes,
            true,
        )?;
        Ok(self.brought(manifest.digest, total))
    }

    fn relay(&self, blob: &Descriptor, origin: Option<&Reference>) -> Result<(), PullError> {
        let relay = targets::Relay {
            source: &**self.source,
            blob,
        };
        let _arrival = self.target.put_blob(blob, &relay, origin)?;
        Ok(())
    }

    fn convert(&self, session: &Session<'_>, form: LayerForm) -> Result<Brought, PullError> {
        let name = self.source.name();
        let config =
            ImageConfig::parse(self.resolved.config_bytes.as_slice()).map_err(|source| {
                PullError::Config {
                    name: name.clone(),
                    source,
                }
            })?;
        if config.diff_ids().len() != self.resolved.layers.len() {
            return Err(PullError::LayerCount {
                name,
                layers: self.resolved.layers.len(),
                diff_ids: config.diff_ids().len(),
            });
        }
        let total: u64 = self.resolved.layers.iter().map(|layer| layer.size).sum();
        let (mut done, mut after) = (0, 0);
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (number, layer) in self.resolved.layers.iter().enumerate() {
            self.tell(done, total, number)?;
            let written =
                write_layer(session, self.source, layer, config.diff_ids()[number], form)?;
            let _arrival = self
                .target
                .put_blob(&written.descriptor, &written.file, None)?;
            drop(std::fs::remove_file(&written.file));
            done += layer.size;
            after += written.descriptor.size;
            layers.push(written.descriptor);
            diff_ids.push(written.diff_id);
        }
        let config_bytes = if diff_ids == config.diff_ids() {
            self.resolved.config_bytes.clone()
        } else {
            with_diff_ids(&self.resolved.config_bytes, &diff_ids)?
        };
        let size = u64::try_from(config_bytes.len()).unwrap_or(u64::MAX);
        let descriptor = Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config_bytes), size);
        let content: Arc<[u8]> = config_bytes.into();
        let _arrival = self.target.put_blob(&descriptor, &content, None)?;
        let before: Manifest =
            serde_json::from_slice(&self.resolved.manifest_bytes).map_err(ManifestError::from)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: descriptor,
            layers,
            subject: None,
            annotations: before.annotations,
        };
        let bytes = serde_json::to_vec(&manifest).map_err(ManifestError::from)?;
        let put = self
            .target
            .put_manifest(media_type::OCI_MANIFEST, &bytes, true)?;
        Ok(self.brought(put.digest, after))
    }

    fn brought(&self, manifest: Digest, bytes_after: u64) -> Brought {
        Brought {
            name: self.target.name(),
            manifest,
            bytes_before: self.resolved.layers.iter().map(|layer| layer.size).sum(),
            bytes_after,
        }
    }

    fn tell(&self, done: u64, total: u64, layers_done: usize) -> Result<(), PullError> {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let progress = Progress {
            bytes_total: total,
            bytes_done: done,
            layers_total: count(self.resolved.layers.len()),
            layers_done: count(layers_done),
            stage: Stage::Fetching,
        };
        if self.watch.progress(progress) {
            return Ok(());
        }
        Err(PullError::Unwatched)
    }
}

/// A layer in its new form, in a scratch file.
struct Written {
    descriptor: Descriptor,
    diff_id: Digest,
    file: PathBuf,
}

/// Writes a layer in another form.
#[expect(
    clippy::too_many_lines,
    reason = "three threads and the pipes between them, told in one place"
)]
fn write_layer(
    session: &Session<'_>,
    source: &Arc<dyn Source>,
    layer: &Descriptor,
    diff_id: Digest,
    form: LayerForm,
) -> Result<Written, PullError> {
    let name = layer.digest.to_string();
    let failed = |source: WriteError| PullError::Write {
        layer: name.clone(),
        source,
    };
    let (file, path) = session.scratch()?;
    let (packed_in, packed_out) = pipe::pipe();
    let (tar_in, tar_out) = pipe::pipe();
    let bytes = layer.size;
    let mut download = Download::new(Arc::clone(source), layer);
    let start = |stage: &str| thread::Builder::new().name(stage.to_owned());
    start("fetch")
        .spawn(move || crate::layer::forward(&mut download, packed_in))
        .map_err(PullError::Thread)?;
    let unpacking = start("unpack")
        .spawn(move || unpack(packed_out, bytes, tar_in))
        .map_err(PullError::Thread)?;
    let packed = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (to_pack, waiting) = sync_channel::<Piece>(cores * WAITING_PIECES);
        let (packed, arrived) = sync_channel::<(usize, Vec<u8>)>(cores * WAITING_PIECES);
        let waiting = Arc::new(Mutex::new(waiting));
        for _core in 0..cores {
            let (waiting, packed) = (Arc::clone(&waiting), packed.clone());
            scope.spawn(move || pack_all(form, &waiting, &packed));
        }
        drop((packed, waiting));
        let order = scope.spawn(move || put_in_order(&arrived, file));
        let cut = cut(form, tar_out, &to_pack);
        drop(to_pack);
        let ordered = order
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        (cut, ordered)
    });
    let unpacked = unpacking.join().unwrap_or(Unpacked::Unwanted);
    let (cut, ordered) = packed;
    let tar_digest = match unpacked {
        Unpacked::Failed(compression, source) => {
            return Err(crate::layer::failed_unpacking(name, compression, source));
        }
        Unpacked::Bomb(unpacked_bytes) => {
            return Err(PullError::Bomb {
                layer: name,
                packed_bytes: bytes,
                unpacked_bytes,
            });
        }
        Unpacked::Unwanted => None,
        Unpacked::Whole(digest, ..) => Some(digest),
    };
    let (contents, mut hasher) = match cut {
        Ok(cut) => cut,
        Err(CutError::Write(error)) => return Err(failed(error)),
        Err(CutError::Stopped) => {
            return Err(ordered
                .err()
                .map_or(PullError::Stopped, |source| PullError::File {
                    path,
                    source,
                }));
        }
    };
    match tar_digest {
        Some(found) if found != diff_id => {
            return Err(PullError::DiffId {
                layer: name,
                expected: diff_id,
                found,
            });
        }
        Some(_) => {}
        None => return Err(PullError::Stopped),
    }
    let file_error = |source| PullError::File {
        path: path.clone(),
        source,
    };
    let mut out = ordered.map_err(file_error)?;
    if out.sizes.len() != contents.pieces() || out.sizes.contains(&0) {
        return Err(PullError::Stopped);
    }
    let tail = contents
        .close(&out.sizes, &|bytes| pack(form, bytes))
        .map_err(failed)?;
    hasher.update(&tail.unpacked);
    out.write(&tail.packed).map_err(file_error)?;
    let (digest, size) = out.finish().map_err(file_error)?;
    let kept = match form {
        LayerForm::Estargz => hasher.finish(),
        LayerForm::ZstdChunked => diff_id,
    };
    let mut descriptor = Descriptor::new(
        match form {
            LayerForm::Estargz => format!("{}+gzip", media_type::OCI_LAYER),
            LayerForm::ZstdChunked => format!("{}+zstd", media_type::OCI_LAYER),
        },
        digest,
        size,
    );
    descriptor.annotations = tail.annotations;
    Ok(Written {
        descriptor,
        diff_id: kept,
        file: path,
    })
}

enum CutError {
    Write(WriteError),
    /// A stage above or below ended; it says why.
    Stopped,
}

/// Cuts the tar and hands the pieces on; returns what the table will say, and the digest of all pieces, still open.
fn cut(
    form: LayerForm,
    mut tar: Drain,
    to_pack: &SyncSender<Piece>,
) -> Result<(wolffia_image::formats::write::Contents, Hasher), CutError> {
    let mut cutter = Cutter::new(form.form());
    let mut hasher = Hasher::new();
    let mut pieces = Vec::new();
    loop {
        let piece = tar.fill_buf().map_err(|_| CutError::Stopped)?;
        if piece.is_empty() {
            break;
        }
        let length = piece.len();
        cutter.feed(piece, &mut pieces).map_err(CutError::Write)?;
        tar.consume(length);
        send(form, &mut pieces, &mut hasher, to_pack)?;
    }
    let contents = cutter.finish(&mut pieces).map_err(CutError::Write)?;
    send(form, &mut pieces, &mut hasher, to_pack)?;
    Ok((contents, hasher))
}

fn send(
    form: LayerForm,
    pieces: &mut Vec<Piece>,
    hasher: &mut Hasher,
    to_pack: &SyncSender<Piece>,
) -> Result<(), CutError> {
    for piece in pieces.drain(..) {
        if form == LayerForm::Estargz {
            hasher.update(&piece.bytes);
        }
        to_pack.send(piece).map_err(|_| CutError::Stopped)?;
    }
    Ok(())
}

fn pack_all(
    form: LayerForm,
    waiting: &Mutex<Receiver<Piece>>,
    packed: &SyncSender<(usize, Vec<u8>)>,
) {
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(piece) = next else { return };
        if packed
            .send((piece.number, pack(form, &piece.bytes)))
            .is_err()
        {
            return;
        }
    }
}

/// Packs a piece by itself.
fn pack(form: LayerForm, bytes: &[u8]) -> Vec<u8> {
    match form {
        LayerForm::Estargz => {
            let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new()
                .operating_system(255)
                .write(Vec::new(), Level::new(DEFLATE_LEVEL));
            // A vector takes all that is written.
            drop(encoder.write_all(bytes));
            encoder.finish().unwrap_or_default()
        }
        LayerForm::ZstdChunked => zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap_or_default(),
    }
}

/// A layer's file in the making.
struct Output {
    file: BufWriter<File>,
    hasher: Hasher,
    sizes: Vec<u64>,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.file.flush()?;
        let bytes = self.hasher.fed_bytes();
        Ok((self.hasher.finish(), bytes))
    }
}

/// Writes pieces in their order, however they come.
fn put_in_order(arrived: &Receiver<(usize, Vec<u8>)>, file: File) -> io::Result<Output> {
    let mut output = Output {
        file: BufWriter::new(file),
        hasher: Hasher::new(),
        sizes: Vec::new(),
    };
    let mut early = BTreeMap::new();
    for (number, bytes) in arrived {
        let _none = early.insert(number, bytes);
        while let Some(bytes) = early.remove(&output.sizes.len()) {
            output.write(&bytes)?;
            output
                .sizes
                .push(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
    }
    Ok(output)
}

/// Returns a configuration with other diffIDs, and everything else as it was.
fn with_diff_ids(config: &[u8], diff_ids: &[Digest]) -> Result<Vec<u8>, PullError> {
    let mut value: serde_json::Value =
        serde_json::from_slice(config).map_err(ManifestError::from)?;
    let texts: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
    value["rootfs"]["diff_ids"] = texts.into();
    Ok(serde_json::to_vec(&value).map_err(ManifestError::from)?)
}

fn media_type_of(manifest: &Descriptor) -> String {
    if manifest.media_type.is_empty() {
        media_type::OCI_MANIFEST.to_owned()
    } else {
        manifest.media_type.clone()
    }
}
