// SPDX-License-Identifier: Apache-2.0
//! A registry for tests: a small Distribution v2 server in this process, which can misbehave on demand.
//!
//! # Theory of operation
//! [`Registry::start`] binds a port of 127.0.0.1 before it returns; a thread accepts, and each connection has a thread. Images
//! are held in memory ([`Registry::put`]). Manifests by tag and digest, blobs with ranges, redirects of blobs to a second port, a token
//! server; uploads whole and in parts, mounts, and referrers by the interface or without it.
//!
//! *Faults* are rules in a list: the first whose [`On`] fits a request and which is not used up yet is applied to it. Or they
//! are drawn by a seed, so that a failing test can be repeated. Every request is written down ([`Registry::requests`]), because half
//! of what a client must do can only be seen from this side.
//!
//! Dropping it closes all connections and waits for the threads.
//!
//! Sources: OCI distribution-spec 1.1; distribution's token.md and oauth.md.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wolffia_image::Digest;

use crate::image_builder::{Document, Image};

mod faults;
mod link;
mod real;
mod serve;
mod tokens;
mod uploads;
mod wire;

pub use faults::{Fault, On};
pub use link::Link;
pub use real::{PASSWORD, RealRegistry, USER};
pub use tokens::Auth;
pub use wire::{AUTHORITY, CLIENT, SELF_SIGNED, Tls};

/// How long a test waits for a request: much longer than any client needs on a busy machine.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);

/// How the server behaves when it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may read and write.
    pub auth: Auth,
    /// Whether blobs are redirected to a second port, to addresses that are good for so many requests.
    pub redirect: Option<u32>,
    /// Whether ranges are served; without, every blob comes whole with status 200.
    pub ranges: bool,
    /// Whether blobs belong to the repositories they were put into, as in real registries; else everybody finds everything.
    pub apart: bool,
    /// Whether it has the referrers interface.
    pub referrers: bool,
    /// Whether the first port speaks TLS, and with which certificate. The second never does.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: Auth::Open,
            redirect: None,
            ranges: true,
            apart: false,
            referrers: true,
            tls: None,
        }
    }
}

/// A request that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whether it came to the second port, where redirected blobs are.
    pub at_store: bool,
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The status that was answered.
    pub status: u16,
}

/// A running server.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    acceptors: Vec<JoinHandle<()>>,
}

/// What all connections see.
#[derive(Debug)]
struct Shared {
    options: Options,
    main: SocketAddr,
    store: SocketAddr,
    stopping: AtomicBool,
    state: Mutex<State>,
    /// Rung with every request that is served.
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `repository:tag`.
    tags: BTreeMap<String, Document>,
    documents: BTreeMap<Digest, Document>,
    blobs: BTreeMap<Digest, Arc<[u8]>>,
    /// Which repository has which blob.
    owned: BTreeSet<(String, Digest)>,
    uploads: BTreeMap<String, Vec<u8>>,
    uploads_begun: u32,
    faults: faults::Plan,
    tokens: tokens::Issued,
    /// Signed addresses, and how many requests each is still good for.
    signatures: BTreeMap<String, u32>,
    served: Vec<Served>,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
    connections_max: usize,
}

impl Registry {
    /// Starts a server that is open to all and serves ranges.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a server.
    ///
    /// # Panics
    /// Where no port of this machine can be had.
    pub fn start_with(options: Options) -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of 127.0.0.1");
        let (main, store) = (bind(), bind());
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            options,
            main: address(&main),
            store: address(&store),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            bell: Condvar::new(),
        });
        let acceptors = [(main, false), (store, true)]
            .into_iter()
            .map(|(listener, at_store)| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || accept(&shared, &listener, at_store))
            })
            .collect();
        Self { shared, acceptors }
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.shared.main.to_string()
    }

    /// Returns how a client names an image here: `127.0.0.1:PORT/REPOSITORY:TAG`.
    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.shared.main)
    }

    /// Adds an image under a name; returns what a client calls it.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) -> String {
        let mut state = self.shared.state();
        state
            .tags
            .insert(format!("{repository}:{tag}"), image.top.clone());
        state.documents.extend(image.documents.clone());
        state.blobs.extend(image.blobs.clone());
        let owned = image.blobs.keys();
        let owned: Vec<_> = owned
            .map(|digest| (repository.to_owned(), *digest))
            .collect();
        state.owned.extend(owned);
        drop(state);
        self.name(repository, tag)
    }

    /// Adds an image of an OCI layout under a name; returns what a client calls it.
    ///
    /// # Panics
    /// Where the layout cannot be read.
    pub fn put_layout(&self, repository: &str, tag: &str, layout: &Path) -> String {
        self.put(repository, tag, &Image::of_layout(layout, None))
    }

    /// Takes a blob away: it answers 404 from now on.
    pub fn forget(&self, digest: &Digest) {
        self.shared.state().blobs.remove(digest);
    }

    /// Returns the bytes of a document or blob that is here.
    pub fn content(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let state = self.shared.state();
        let document = state.documents.get(digest);
        document
            .map(|document| Arc::clone(&document.bytes))
            .or_else(|| state.blobs.get(digest).cloned())
    }

    /// Returns the document that a tag means.
    pub fn tagged(&self, repository: &str, tag: &str) -> Option<Document> {
        let state = self.shared.state();
        state.tags.get(&format!("{repository}:{tag}")).cloned()
    }

    /// Makes the registry forget all uploads that are under way.
    pub fn forget_uploads(&self) {
        self.shared.state().uploads.clear();
    }

    /// Applies a fault to the next `times` requests of a kind.
    pub fn fault(&self, on: On, times: u32, fault: Fault) {
        self.shared.state().faults.push(on, times, fault);
    }

    /// Applies faults drawn by a seed to one in `one_in` requests for blobs.
    pub fn faults_by_seed(&self, seed: u64, one_in: u64) {
        self.shared.state().faults.draw(seed, one_in);
    }

    /// Returns all requests so far, in the order in which they were answered.
    pub fn requests(&self) -> Vec<Served> {
        self.shared.state().served.clone()
    }

    /// Waits for a request like this to be answered, or to be about to be.
    ///
    /// # Panics
    /// Where none comes in half a minute.
    pub fn await_request(&self, wanted: impl Fn(&Served) -> bool) {
        let state = self.shared.state();
        let waited = self
            .shared
            .bell
            .wait_timeout_while(state, REQUEST_WAIT_MAX, |state| {
                !state.served.iter().any(&wanted)
            });
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "never asked so: {:#?}", state.served);
    }

    /// Returns the most connections that were open at once.
    pub fn connections_max(&self) -> usize {
        self.shared.state().connections_max
    }

    /// Makes all tokens worthless, as an expiry does.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.expire();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A connection to itself wakes each acceptor.
        for address in [self.shared.main, self.shared.store] {
            drop(TcpStream::connect(address));
        }
        for acceptor in self.acceptors.drain(..) {
            let _panicked = acceptor.join();
        }
        let connections = std::mem::take(&mut self.shared.state().connections);
        for (stream, thread) in connections {
            let _closed = stream.shutdown(Shutdown::Both);
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, at_store: bool) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let for_thread = Arc::clone(shared);
        let thread = std::thread::spawn(move || serve::connection(&for_thread, stream, at_store));
        let mut state = shared.state();
        state
            .connections
            .retain(|(_, thread)| !thread.is_finished());
        state.connections.push((handle, thread));
        state.connections_max = state.connections_max.max(state.connections.len());
    }
}

#[cfg(test)]
mod tests;
