// SPDX-License-Identifier: Apache-2.0
//! `lazyd`: the process that serves the objects of one container's lazy image.
//!
//! Started again by the conductor, from this program's own file under the name [`NAME`], with the FUSE connection as standard input.
//! Its one argument is its [`Settings`]. It has threads and never forks; it ends with its connection, or with the conductor.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use wolffia_fetch::{Environment, Limits, Source, Stretch, sources};
use wolffia_image::Descriptor;
use wolffia_mount::fuse::{
    Turn,
    objects::{self, Replies},
};
use wolffia_store::{Fill, Store};

use super::{
    background, run,
    supply::{Bytes, Supply},
    table::{Table, Windows},
};

/// The name that it is started by.
pub const NAME: &str = "wolffia-lazyd";

/// Exit code where the image is not what it says: its container must not go on.
pub const LIE: u8 = 3;
/// Threads that take requests; none of them waits for bytes.
const SERVERS: usize = 2;
/// Bytes of a thread's stack.
const STACK_BYTES: usize = 256 << 10;
/// Exit code where it could not begin or go on.
const FAILED: u8 = 1;

/// Serves until the connection ends; returns the exit code.
pub fn serve(words: &[OsString]) -> u8 {
    match begin(words) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("serving a lazy image: {error}"));
            FAILED
        }
    }
}

fn complain(text: &str) {
    // Nobody can be told that nobody can be told.
    drop(writeln!(io::stderr().lock(), "wolffia: {text}"));
}

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The store.
    pub store: PathBuf,
    /// The table.
    pub table: PathBuf,
    /// Where the numbers of objects go that are needed.
    pub notes: PathBuf,
    /// How the rest of the image is fetched, if it is.
    pub fill: Option<Fill>,
    /// Whether another server was there before.
    pub successor: bool,
}

fn begin(words: &[OsString]) -> io::Result<()> {
    let [settings] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let settings: Settings = serde_json::from_slice(settings.as_encoded_bytes())?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let device = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // It lives as long as the process.
    let store: &'static Store = Box::leak(Box::new(
        Store::open_existing(&settings.store).map_err(io::Error::other)?,
    ));
    let table = Table::open(&settings.table)?;
    let bytes = Remote::open(&table)?;
    let first = table.about.first.clone();
    let notes = File::options()
        .create(true)
        .append(true)
        .open(&settings.notes);
    let supply: &'static Supply = Box::leak(Box::new(Supply::new(
        table,
        store,
        Box::new(bytes),
        Replies::over(device.as_fd())?,
        Box::new(complain),
        notes.ok(),
    )));
    let turn = if settings.successor {
        Turn::Successor
    } else {
        Turn::First
    };
    supply.foresee(first);
    let start = |name: &str| {
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
    };
    for _ in 0..run::WORKERS {
        start("fetch").spawn(|| run::work(supply))?;
    }
    start("patrol").spawn(|| supply.patrol())?;
    start("background").spawn(move || {
        if let Some(layer) = background::compare(supply, &settings.table) {
            supply.say(&format!(
                "layer {layer} is not what its digest says: the container is stopped"
            ));
            wolffia_sys::process::exit_now(LIE);
        }
        if let Some(bounds) = settings.fill {
            background::fill(supply, &settings.table, bounds);
        }
    })?;
    Ok(objects::serve(device.as_fd(), supply, turn, SERVERS)?)
}

/// A program waits: what does not come soon is told, and the next read tries again.
fn limits() -> Limits {
    Limits {
        resolve: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(15),
        stall: Duration::from_secs(10),
        trickle: Duration::from_secs(20),
        tries: 3,
        retry_after_max: Duration::from_secs(10),
        ..Limits::default()
    }
}

/// Layers in the place where the image came from.
struct Remote {
    source: Arc<dyn Source>,
    layers: Vec<Descriptor>,
    windows: Vec<Option<(Descriptor, u64)>>,
}

impl Remote {
    fn open(table: &Table) -> io::Result<Self> {
        let environment = Environment::of_process();
        let source =
            sources::open(&table.about.name, &environment, limits()).map_err(io::Error::other)?;
        let layers = &table.about.layers;
        Ok(Self {
            source: Arc::from(source),
            layers: layers
                .iter()
                .map(|layer| layer.descriptor.clone())
                .collect(),
            windows: layers
                .iter()
                .map(|layer| match &layer.windows {
                    Windows::Blob(blob, offset) => Some(((**blob).clone(), *offset)),
                    _ => None,
                })
                .collect(),
        })
    }
}

impl Remote {
    fn stretch(
        &self,
        blob: Option<&Descriptor>,
        range: Range<u64>,
    ) -> io::Result<Box<dyn Read + Send>> {
        let blob = blob.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(Stretch::new(
            Arc::clone(&self.source),
            blob,
            range,
        )))
    }
}

impl Bytes for Remote {
    fn open(&self, layer: u16, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        self.stretch(self.layers.get(usize::from(layer)), range)
    }

    fn open_windows(&self, layer: u16, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let kept = self.windows.get(usize::from(layer));
        let (blob, offset) = kept
            .and_then(Option::as_ref)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let end = range.end.saturating_add(*offset);
        self.stretch(Some(blob), range.start.saturating_add(*offset)..end)
    }
}
