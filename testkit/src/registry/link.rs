// SPDX-License-Identifier: Apache-2.0
//! A wire between a client and any server of this machine, with a speed, a delay and faults of its own.
//!
//! It forwards bytes without reading them, so it stands before a real registry as well. The speed is *per connection*, as it
//! is with the stores behind big registries: parallel ranges gain there, and only there. A cut ends a connection after so
//! many bytes from the server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is forwarded at a time: small enough that a speed is even.
const PIECE_BYTES: usize = 16 << 10;

/// A running wire.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    to: SocketAddr,
    bytes_per_second: Option<u64>,
    delay: Duration,
    cut_after_bytes: Option<usize>,
    stopping: AtomicBool,
    connections: AtomicUsize,
    open: Mutex<Vec<Open>>,
}

/// Both ends of a connection, and the threads that forward between them.
type Open = (TcpStream, TcpStream, Vec<JoinHandle<()>>);

impl Link {
    /// Lays a wire to `to`. `delay` is added before the first byte of each answer: one round trip.
    ///
    /// # Panics
    /// Where no port of this machine can be had.
    pub fn to(
        to: SocketAddr,
        bytes_per_second: Option<u64>,
        delay: Duration,
        cut_after_bytes: Option<usize>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of 127.0.0.1");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("an address"),
            to,
            bytes_per_second,
            delay,
            cut_after_bytes,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let for_thread = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&for_thread, &listener));
        Self {
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// Returns how many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.shared.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _panicked = acceptor.join();
        }
        let mut open = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (client, server, threads) in open.drain(..) {
            let _closed = client.shutdown(Shutdown::Both);
            let _closed = server.shutdown(Shutdown::Both);
            for thread in threads {
                let _panicked = thread.join();
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for client in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let Ok(server) = TcpStream::connect(shared.to) else {
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let ends = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
        let (Some(up), Some(down)) = (ends(), ends()) else {
            continue;
        };
        let pacing = Arc::clone(shared);
        let asked = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&asked);
        let threads = vec![
            std::thread::spawn(move || forward(&asked, up.0, up.1)),
            std::thread::spawn(move || pace(&pacing, &answered, down.1, down.0)),
        ];
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, _, threads)| !threads.iter().all(JoinHandle::is_finished));
        open.push((client, server, threads));
    }
}

/// Forwards what the client sends, and notes that something was asked.
fn forward(asked: &AtomicBool, mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        asked.store(true, Ordering::SeqCst);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(Shutdown::Write);
}

/// Forwards what the server sends, as slowly as was asked for.
fn pace(shared: &Shared, asked: &AtomicBool, mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    let mut due = Instant::now();
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if asked.swap(false, Ordering::SeqCst) {
            due = Instant::now() + shared.delay;
        }
        if let Some(speed) = shared.bytes_per_second {
            let bytes = u32::try_from(length).unwrap_or(u32::MAX);
            due += Duration::from_secs_f64(f64::from(bytes) / speed_of(speed));
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let left = shared
            .cut_after_bytes
            .map_or(length, |limit| limit.saturating_sub(total));
        if to.write_all(&piece[..length.min(left)]).is_err() || left < length {
            break;
        }
        total += length;
    }
    let _closed = to.shutdown(Shutdown::Both);
    let _closed = from.shutdown(Shutdown::Both);
}

fn speed_of(bytes_per_second: u64) -> f64 {
    f64::from(u32::try_from(bytes_per_second).unwrap_or(u32::MAX)).max(1.0)
}
