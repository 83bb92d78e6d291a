// SPDX-License-Identifier: Apache-2.0
//! `lazyd`: the process that serves the objects of one container's lazy image.
//!
//! Started again by the conductor, from this program's own file under the name [`NAME`], with the FUSE connection as standard input.
//! Its arguments are the store, the table, and whether it is the connection's first server. It has threads and never
//! forks; it ends with its connection, or with the conductor.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    ops::Range,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use wolffia_fetch::{Environment, Limits, Source, Stretch, sources};
use wolffia_image::Descriptor;
use wolffia_mount::fuse::{
    Turn,
    objects::{self, Replies},
};
use wolffia_store::Store;

use super::{
    run,
    supply::{Bytes, Supply},
    table::Table,
};

/// The name that it is started by.
pub const NAME: &str = "wolffia-lazyd";

/// Stands in the arguments for a server that takes over.
pub const SUCCESSOR: &str = "successor";
/// Stands there for the first server.
pub const FIRST: &str = "first";
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

fn begin(words: &[OsString]) -> io::Result<()> {
    let [store, table, turn] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let turn = if turn == SUCCESSOR {
        Turn::Successor
    } else {
        Turn::First
    };
    rustix::process::umask(rustix::fs::Mode::empty());
    let device = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // It lives as long as the process.
    let store: &'static Store = Box::leak(Box::new(
        Store::open_existing(Path::new(&PathBuf::from(store))).map_err(io::Error::other)?,
    ));
    let table = Table::open(Path::new(table))?;
    let bytes = Remote::open(&table)?;
    let first = table.about.first.clone();
    let supply: &'static Supply = Box::leak(Box::new(Supply::new(
        table,
        store,
        Box::new(bytes),
        Replies::over(device.as_fd())?,
        Box::new(complain),
    )));
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
    Ok(objects::serve(device.as_fd(), supply, turn, SERVERS)?)
}

/// Layers in the place where the image came from.
struct Remote {
    source: Arc<dyn Source>,
    layers: Vec<Descriptor>,
}

impl Remote {
    fn open(table: &Table) -> io::Result<Self> {
        let environment = Environment::of_process();
        let source = sources::open(&table.about.name, &environment, Limits::default())
            .map_err(io::Error::other)?;
        let layers = &table.about.layers;
        Ok(Self {
            source: Arc::from(source),
            layers: layers
                .iter()
                .map(|layer| layer.descriptor.clone())
                .collect(),
        })
    }
}

impl Bytes for Remote {
    fn open(&self, layer: u16, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let layer = self
            .layers
            .get(usize::from(layer))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(Stretch::new(
            Arc::clone(&self.source),
            layer,
            range,
        )))
    }
}
