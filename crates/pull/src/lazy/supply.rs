// SPDX-License-Identifier: Apache-2.0
//! The supply of a lazy image: what is asked for is fetched, checked, kept, and handed out.
//!
//! # Theory of operation
//! An object is *missing*, *active* (some of its chunks are queued, on their way, or here), or *present* in the store. Whoever wants
//! one puts its chunks into a queue: *demand*, for which a reader waits, or *ahead*, which somebody foresees. Workers take from
//! the queues, demand first, and make a [run](super::run) of what they took: everything wanted nearby goes with it.
//!
//! - **Once.** Before an object is fetched its claim is taken in the store; where another process has it, the object is looked
//!   for until it is there, or the claim is free.
//! - **Checked.** A chunk counts when its digest fits; an object gets its name in the store when its own fits. Where an index has no
//!   digests, the whole layer is compared elsewhere.
//! - **Whole by rename.** From then on new opens find the object without us; opens from before are served from the file.
//! - **Bounded.** A reader waits at most [`WAIT_MAX`]. What fails is told in the log with its path and place, and the reader gets
//!   `EIO`; the next reader tries again.
//!
//! One lock guards the state; it is never held while bytes are waited for. Lock order: state, files, session.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read, Write as _},
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::io::Errno;
use wolffia_image::{Digest, ObjectName, formats::Chunk};
use wolffia_mount::fuse::objects::{Answer, Object as Found, Objects, Replies, Ticket};
use wolffia_store::{BUFFERED_BYTES_MAX, ObjectClaim, PartialObject, Session, Store};

use super::table::{Object, Table};

/// How long a reader waits at most: longer than all tries of one request take where a registry is only slow.
pub const WAIT_MAX: Duration = Duration::from_mins(1);
/// How often an object is looked for that another process fetches.
const ELSEWHERE_PERIOD: Duration = Duration::from_millis(4);
/// How often is looked for readers that have waited too long.
const PATROL_PERIOD: Duration = Duration::from_millis(500);
/// Files of present objects that are kept open for readers from before.
const FILES_MAX: usize = 32;
/// How often a chunk whose bytes were not right is fetched again.
const TRIES_MAX: u8 = 3;
/// What a layer's bytes are called in messages when the table does not say.
const NOWHERE: &str = "?";

/// Where bytes of layers come from.
pub trait Bytes: Send + Sync {
    /// Opens a stretch of a layer, by its place in the table. Blocks until bytes begin to come; tries again by itself.
    ///
    /// # Errors
    /// Fails where they do not come, as does the reader.
    fn open(&self, layer: u16, range: Range<u64>) -> io::Result<Box<dyn Read + Send>>;

    /// Opens a stretch of the blob that holds a layer's windows, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_windows(&self, layer: u16, range: Range<u64>) -> io::Result<Box<dyn Read + Send>>;
}

/// How urgent something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Foreseen.
    Ahead,
    /// Somebody waits.
    Demand,
}

/// A chunk of an object, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) object: u32,
    pub(super) chunk: u32,
}

/// A chunk with what it is.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) item: Item,
    pub(super) chunk: Chunk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Missing,
    Active,
    Present,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Queued,
    Fetching,
    Done,
}

/// What is known of an object that is on its way.
struct Active {
    chunks: Vec<Chunk>,
    states: Vec<ChunkState>,
    left: usize,
    tries: u8,
    body: Option<Arc<Body>>,
    claim: Option<ObjectClaim<'static>>,
    waiters: Vec<Waiter>,
    urgency: Urgency,
}

struct Waiter {
    ticket: Ticket,
    offset: u64,
    len: usize,
    since: Instant,
}

/// Where an object's bytes are until it is whole.
pub(super) enum Body {
    /// A small one.
    Memory(Mutex<Vec<u8>>),
    /// A large one, and the session that holds its file.
    File(
        PartialObject,
        #[expect(dead_code, reason = "kept for its lock")] Arc<Session<'static>>,
    ),
}

impl Body {
    /// Keeps bytes where they belong.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(partial, _) => partial.write_at(bytes, offset),
            Self::Memory(memory) => {
                let mut memory = lock(memory);
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let place = start
                    .checked_add(bytes.len())
                    .and_then(|end| memory.get_mut(start..end));
                place
                    .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?
                    .copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(partial, _) => partial.read_at(buffer, offset),
            Self::Memory(memory) => {
                let memory = lock(memory);
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = memory.get(start..).unwrap_or_default();
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                Ok(count)
            }
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Packed bytes that were asked for.
    pub fetched_bytes: u64,
    /// Requests.
    pub requests: u64,
    /// Objects that came.
    pub objects: u64,
}

struct State {
    status: Vec<Status>,
    active: HashMap<u32, Active>,
    demand: VecDeque<Item>,
    ahead: VecDeque<Item>,
    /// Objects that another process fetches.
    elsewhere: Vec<u32>,
    /// Objects in the order of their first use.
    touched: Vec<u32>,
    /// When somebody last needed something.
    needed: Instant,
    /// Objects that are not in the store, as far as is known here.
    missing: u32,
    touched_set: Vec<bool>,
    working_ahead: usize,
    counts: Counts,
}

impl State {
    /// Makes an object active; nothing of it is in a queue yet.
    fn begin(&mut self, number: u32, chunks: Vec<Chunk>) {
        let active = Active {
            states: vec![ChunkState::Queued; chunks.len()],
            left: chunks.len(),
            chunks,
            tries: 0,
            body: None,
            claim: None,
            waiters: Vec::new(),
            urgency: Urgency::Ahead,
        };
        self.active.insert(number, active);
        self.status[number as usize] = Status::Active;
    }
}

/// See the [module](self).
pub struct Supply {
    pub(super) table: Table,
    store: &'static Store,
    pub(super) bytes: Box<dyn Bytes>,
    replies: Replies,
    state: Mutex<State>,
    wake: Condvar,
    patrol: Condvar,
    files: Mutex<VecDeque<(u32, Arc<File>)>>,
    session: Mutex<Option<Arc<Session<'static>>>>,
    complain: Box<dyn Fn(&str) + Send + Sync>,
    /// Where the numbers of objects go when they are first needed.
    notes: Option<File>,
}

impl std::fmt::Debug for Supply {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Supply").finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supply {
    /// Returns the supply of the objects of a table. `complain` takes what a person should know about a read that failed.
    pub fn new(
        table: Table,
        store: &'static Store,
        bytes: Box<dyn Bytes>,
        replies: Replies,
        complain: Box<dyn Fn(&str) + Send + Sync>,
        notes: Option<File>,
    ) -> Self {
        let count = table.len() as usize;
        Self {
            table,
            store,
            bytes,
            replies,
            state: Mutex::new(State {
                status: vec![Status::Missing; count],
                active: HashMap::new(),
                demand: VecDeque::new(),
                ahead: VecDeque::new(),
                elsewhere: Vec::new(),
                touched: Vec::new(),
                needed: Instant::now(),
                missing: u32::try_from(count).unwrap_or(u32::MAX),
                touched_set: vec![false; count],
                working_ahead: 0,
                counts: Counts::default(),
            }),
            wake: Condvar::new(),
            patrol: Condvar::new(),
            files: Mutex::default(),
            session: Mutex::new(None),
            complain,
            notes,
        }
    }

    /// Says what a person should know.
    pub(super) fn say(&self, text: &str) {
        (self.complain)(text);
    }

    /// Returns for how long nobody has needed anything.
    pub(super) fn idle_for(&self) -> Duration {
        lock(&self.state).needed.elapsed()
    }

    /// Returns how many objects are not here, as far as is known, and whether anything is on its way.
    pub(super) fn missing(&self) -> (u32, bool) {
        let state = lock(&self.state);
        (state.missing, !state.active.is_empty())
    }

    /// Asks for objects that are foreseen, in this order.
    pub fn foresee(&self, objects: impl IntoIterator<Item = u32>) {
        let mut state = lock(&self.state);
        for number in objects {
            self.want(&mut state, number, Urgency::Ahead, None);
        }
    }

    /// Returns the objects that were used, in the order of their first use.
    pub fn touched(&self) -> Vec<u32> {
        lock(&self.state).touched.clone()
    }

    /// Returns what was counted.
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// Has chunks of an object fetched: those that hold `part`, or all.
    fn want(&self, state: &mut State, number: u32, urgency: Urgency, part: Option<Range<u64>>) {
        let Some(object) = self.table.object(number) else {
            return;
        };
        if state.status[number as usize] == Status::Present {
            return;
        }
        if state.status[number as usize] == Status::Missing {
            match self.table.chunks(object) {
                Ok(chunks) => state.begin(number, chunks),
                Err(error) => {
                    (self.complain)(&format!("{}: {error}", self.table.path(object)));
                    return;
                }
            }
            if urgency == Urgency::Ahead {
                queue_all(state, number, urgency);
            }
        }
        if urgency == Urgency::Demand {
            let fresh = state
                .active
                .get_mut(&number)
                .is_some_and(|active| std::mem::replace(&mut active.urgency, urgency) != urgency);
            if fresh {
                queue_all(state, number, urgency);
            }
            if let Some(part) = part {
                queue_part(state, number, &part);
            }
        }
        self.wake.notify_all();
    }

    /// Waits for something to do, and takes it: the first chunk of a run, with what else is wanted of that object's neighbourhood left
    /// to the caller.
    pub(super) fn next(&self, ahead_max: usize) -> (Taken, Urgency) {
        let mut state = lock(&self.state);
        loop {
            while let Some(item) = state.demand.pop_front() {
                if let Some(taken) = self.take(&mut state, item) {
                    return (taken, Urgency::Demand);
                }
            }
            while state.working_ahead < ahead_max
                && let Some(item) = state.ahead.pop_front()
            {
                if let Some(taken) = self.take(&mut state, item) {
                    state.working_ahead += 1;
                    return (taken, Urgency::Ahead);
                }
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that what [`next`](Self::next) gave is done with.
    pub(super) fn done(&self, urgency: Urgency) {
        if urgency == Urgency::Ahead {
            lock(&self.state).working_ahead -= 1;
            self.wake.notify_all();
        }
    }

    /// Takes a chunk if it is queued; with `any`, also one that nobody wants yet.
    pub(super) fn take_neighbour(&self, item: Item, any: bool) -> Option<Taken> {
        let mut state = lock(&self.state);
        if state.status.get(item.object as usize)? == &Status::Missing && any {
            self.want_quietly(&mut state, item.object)?;
        }
        self.take(&mut state, item)
    }

    /// Tells whether a chunk is queued.
    pub(super) fn is_queued(&self, item: Item) -> bool {
        let state = lock(&self.state);
        state.active.get(&item.object).is_some_and(|active| {
            active.states.get(item.chunk as usize) == Some(&ChunkState::Queued)
        })
    }

    /// Makes an object active without queueing it: it comes with its neighbours. Only objects of one chunk.
    fn want_quietly(&self, state: &mut State, number: u32) -> Option<()> {
        let object = self.table.object(number)?;
        let chunks = self.table.chunks(object).ok()?;
        if chunks.len() != 1 {
            return None;
        }
        state.begin(number, chunks);
        Some(())
    }

    fn take(&self, state: &mut State, item: Item) -> Option<Taken> {
        let active = state.active.get_mut(&item.object)?;
        let at = item.chunk as usize;
        if active.states.get(at) != Some(&ChunkState::Queued) {
            return None;
        }
        if active.claim.is_none() {
            match self.claim(item.object) {
                Claimed::Ours(claim) => active.claim = Some(claim),
                Claimed::Present => {
                    self.complete(state, item.object);
                    return None;
                }
                Claimed::Elsewhere => {
                    if !state.elsewhere.contains(&item.object) {
                        state.elsewhere.push(item.object);
                        self.patrol.notify_all();
                    }
                    return None;
                }
            }
        }
        let active = state.active.get_mut(&item.object)?;
        active.states[at] = ChunkState::Fetching;
        Some(Taken {
            item,
            chunk: active.chunks[at].clone(),
        })
    }

    fn claim(&self, number: u32) -> Claimed {
        let Some(object) = self.table.object(number) else {
            return Claimed::Elsewhere;
        };
        if self.is_stored(object) {
            return Claimed::Present;
        }
        match self.store.claim_object(&object.digest) {
            Ok(Some(_claim)) if self.is_stored(object) => Claimed::Present,
            Ok(Some(claim)) => Claimed::Ours(claim),
            Ok(None) => Claimed::Elsewhere,
            Err(error) => {
                tracing::warn!(%error, "an object cannot be claimed");
                Claimed::Elsewhere
            }
        }
    }

    fn is_stored(&self, object: &Object) -> bool {
        matches!(self.store.locate(&object.digest), Ok(Some(_)))
    }

    /// Returns where an object's bytes go.
    pub(super) fn body(&self, number: u32) -> io::Result<Arc<Body>> {
        let object = self
            .table
            .object(number)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut state = lock(&self.state);
        let active = state
            .active
            .get_mut(&number)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if let Some(body) = &active.body {
            return Ok(Arc::clone(body));
        }
        let small = usize::try_from(object.size_bytes)
            .ok()
            .filter(|size| *size <= BUFFERED_BYTES_MAX);
        let body = Arc::new(if let Some(size) = small {
            Body::Memory(Mutex::new(vec![0; size]))
        } else {
            let session = self.session()?;
            let partial = session
                .begin_partial(object.size_bytes)
                .map_err(io::Error::other)?;
            Body::File(partial, session)
        });
        active.body = Some(Arc::clone(&body));
        Ok(body)
    }

    /// Returns the session that everything now on its way is written in.
    fn session(&self) -> io::Result<Arc<Session<'static>>> {
        let mut session = lock(&self.session);
        if let Some(session) = &*session {
            return Ok(Arc::clone(session));
        }
        let new = Arc::new(self.store.session().map_err(io::Error::other)?);
        *session = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Takes note that a chunk is here and right.
    pub(super) fn arrived(&self, item: Item) {
        let mut state = lock(&self.state);
        let Some(active) = state.active.get_mut(&item.object) else {
            return;
        };
        let at = item.chunk as usize;
        if active.states[at] == ChunkState::Done {
            return;
        }
        active.states[at] = ChunkState::Done;
        active.left -= 1;
        if active.left > 0 {
            self.answer_parts(active);
            return;
        }
        let body = active.body.clone();
        // The digest of a large object takes a while, during which others go on.
        drop(state);
        match self.keep(item.object, body) {
            Ok(true) => {
                let mut state = lock(&self.state);
                state.counts.objects += 1;
                self.complete(&mut state, item.object);
            }
            Ok(false) => self.failed(item.object, &Failure::Wrong),
            Err(error) => self.failed(item.object, &Failure::Other(error)),
        }
    }

    /// Gives an object its place in the store; says whether it was right.
    fn keep(&self, number: u32, body: Option<Arc<Body>>) -> io::Result<bool> {
        let (Some(object), Some(body)) = (self.table.object(number), body) else {
            return Ok(false);
        };
        let session = self.session()?;
        match &*body {
            Body::Memory(memory) => {
                let memory = lock(memory);
                if object.by_content {
                    if Digest::of(&memory) != object.digest {
                        return Ok(false);
                    }
                    session
                        .put(&object.digest, &memory)
                        .map_err(io::Error::other)?;
                    return Ok(true);
                }
                let partial = session
                    .begin_partial(object.size_bytes)
                    .map_err(io::Error::other)?;
                partial.write_at(&memory, 0)?;
                session
                    .finish_named(&partial, &object.digest)
                    .map_err(io::Error::other)?;
                Ok(true)
            }
            Body::File(partial, _) if object.by_content => session
                .finish_partial(partial, &object.digest)
                .map_err(io::Error::other),
            Body::File(partial, _) => {
                session
                    .finish_named(partial, &object.digest)
                    .map_err(io::Error::other)?;
                Ok(true)
            }
        }
    }

    /// Takes note that an object is in the store, and answers who waits for it.
    fn complete(&self, state: &mut State, number: u32) {
        if state.status[number as usize] != Status::Present {
            state.missing -= 1;
        }
        state.status[number as usize] = Status::Present;
        let Some(active) = state.active.remove(&number) else {
            return;
        };
        for waiter in active.waiters {
            self.replies.data(waiter.ticket, waiter.len, |buffer| {
                self.read_present(number, waiter.offset, buffer)
            });
        }
    }

    /// Answers who waits for a part of an object that is here and right.
    fn answer_parts(&self, active: &mut Active) {
        let Some(body) = active.body.clone() else {
            return;
        };
        let waiters = std::mem::take(&mut active.waiters);
        for waiter in waiters {
            let part = waiter.offset..waiter.offset + waiter.len as u64;
            if !is_here(active, &part) {
                active.waiters.push(waiter);
                continue;
            }
            self.replies.data(waiter.ticket, waiter.len, |buffer| {
                body.read_at(buffer, waiter.offset).map_err(|_| Errno::IO)
            });
        }
    }

    /// Takes note that chunks did not come.
    pub(super) fn lost(&self, items: &[Item], failure: &Failure) {
        let mut given_up = Vec::new();
        let mut state = lock(&self.state);
        for item in items {
            let Some(active) = state.active.get_mut(&item.object) else {
                continue;
            };
            if active.states[item.chunk as usize] != ChunkState::Fetching {
                continue;
            }
            active.states[item.chunk as usize] = ChunkState::Queued;
            active.tries += 1;
            let again = matches!(failure, Failure::Wrong) && active.tries < TRIES_MAX;
            if !again {
                given_up.push(item.object);
            } else if active.urgency == Urgency::Demand {
                state.demand.push_back(*item);
            } else {
                state.ahead.push_back(*item);
            }
        }
        drop(state);
        self.wake.notify_all();
        given_up.dedup();
        for number in given_up {
            self.failed(number, failure);
        }
    }

    /// Gives an object up, and tells who waits for it.
    fn failed(&self, number: u32, failure: &Failure) {
        let mut state = lock(&self.state);
        let Some(active) = state.active.remove(&number) else {
            return;
        };
        state.status[number as usize] = Status::Missing;
        drop(state);
        if active.waiters.is_empty() {
            return;
        }
        let path = self
            .table
            .object(number)
            .map(|object| self.table.path(object));
        (self.complain)(&format!(
            "reading /{} of {}: {failure}",
            path.as_deref().unwrap_or(NOWHERE),
            self.table.about.name
        ));
        for waiter in active.waiters {
            self.replies.failed(waiter.ticket, Errno::IO);
        }
    }

    /// Counts a request.
    pub(super) fn count(&self, bytes: u64) {
        let counts = &mut lock(&self.state).counts;
        counts.requests += 1;
        counts.fetched_bytes += bytes;
    }

    fn read_present(&self, number: u32, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let file = self.file(number).ok_or(Errno::IO)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(filled)
    }

    fn file(&self, number: u32) -> Option<Arc<File>> {
        let mut files = lock(&self.files);
        if let Some((_, file)) = files.iter().find(|(kept, _)| *kept == number) {
            return Some(Arc::clone(file));
        }
        let object = self.table.object(number)?;
        let file = Arc::new(self.store.open_object(&object.digest).ok()?);
        if files.len() >= FILES_MAX {
            files.pop_front();
        }
        files.push_back((number, Arc::clone(&file)));
        Some(file)
    }

    /// Looks after what others fetch and after readers that have waited too long; never returns.
    pub fn patrol(&self) -> ! {
        let mut state = lock(&self.state);
        loop {
            let period = if state.elsewhere.is_empty() {
                PATROL_PERIOD
            } else {
                ELSEWHERE_PERIOD
            };
            (state, _) = self
                .patrol
                .wait_timeout(state, period)
                .unwrap_or_else(PoisonError::into_inner);
            for number in std::mem::take(&mut state.elsewhere) {
                match self.claim(number) {
                    Claimed::Elsewhere => state.elsewhere.push(number),
                    Claimed::Present => self.complete(&mut state, number),
                    Claimed::Ours(claim) => {
                        let Some(active) = state.active.get_mut(&number) else {
                            continue;
                        };
                        active.claim = Some(claim);
                        let urgency = active.urgency;
                        queue_all(&mut state, number, urgency);
                        self.wake.notify_all();
                    }
                }
            }
            let late: Vec<u32> = state
                .active
                .iter()
                .filter(|(_, active)| {
                    active
                        .waiters
                        .iter()
                        .any(|waiter| waiter.since.elapsed() > WAIT_MAX)
                })
                .map(|(number, _)| *number)
                .collect();
            if state.active.is_empty() {
                // Garbage can be collected while nothing is on its way.
                drop(lock(&self.session).take());
            }
            drop(state);
            for number in late {
                self.failed(number, &Failure::Late);
            }
            state = lock(&self.state);
        }
    }
}

enum Claimed {
    Ours(ObjectClaim<'static>),
    Present,
    Elsewhere,
}

/// Why an object did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The bytes did not come.
    #[error("{0}")]
    Other(#[from] io::Error),
    /// They are not what they should be.
    #[error("what came has another digest than the image says")]
    Wrong,
    /// They took too long.
    #[error("nothing came for {} s", WAIT_MAX.as_secs())]
    Late,
}

/// Tells whether a part of an object can be shown: its chunks are here, and each was compared with a digest of its own.
fn is_here(active: &Active, part: &Range<u64>) -> bool {
    active
        .chunks
        .iter()
        .zip(&active.states)
        .all(|(chunk, state)| {
            let range = chunk.in_file();
            range.end <= part.start
                || range.start >= part.end
                || (*state == ChunkState::Done && (chunk.digest.is_some() || chunk.span.is_none()))
        })
}

fn queue_all(state: &mut State, number: u32, urgency: Urgency) {
    let count = state
        .active
        .get(&number)
        .map_or(0, |active| active.chunks.len());
    for chunk in 0..u32::try_from(count).unwrap_or(u32::MAX) {
        let item = Item {
            object: number,
            chunk,
        };
        match urgency {
            Urgency::Demand => state.demand.push_back(item),
            Urgency::Ahead => state.ahead.push_back(item),
        }
    }
}

/// Puts the chunks of a part of an object before all else.
fn queue_part(state: &mut State, number: u32, part: &Range<u64>) {
    let Some(active) = state.active.get(&number) else {
        return;
    };
    let first = active
        .chunks
        .partition_point(|chunk| chunk.in_file().end <= part.start);
    let last = active
        .chunks
        .partition_point(|chunk| chunk.file_offset < part.end);
    for chunk in (first..last).rev() {
        if active.states[chunk] == ChunkState::Queued && active.chunks.len() > 1 {
            state.demand.push_front(Item {
                object: number,
                chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
            });
        }
    }
}

impl Objects for Supply {
    fn find(&self, name: ObjectName) -> Option<Found> {
        let number = self.table.find(name)?;
        let object = self.table.object(number)?;
        let mut state = lock(&self.state);
        state.needed = Instant::now();
        if !std::mem::replace(&mut state.touched_set[number as usize], true) {
            state.touched.push(number);
            // A note that cannot be written costs the next start some time.
            let noted = self
                .notes
                .as_ref()
                .map(|mut notes| notes.write_all(&number.to_le_bytes()));
            drop(noted);
        }
        self.want(&mut state, number, Urgency::Demand, None);
        Some(Found {
            number: number.into(),
            size_bytes: object.size_bytes,
        })
    }

    fn size_bytes(&self, number: u64) -> Option<u64> {
        let number = u32::try_from(number).ok()?;
        self.table.object(number).map(|object| object.size_bytes)
    }

    fn read(&self, number: u64, offset: u64, buffer: &mut [u8], ticket: Ticket) -> Answer {
        let Ok(number) = u32::try_from(number) else {
            return Answer::Failed(Errno::STALE);
        };
        let now = |result: Result<usize, Errno>| match result {
            Ok(count) => Answer::Now(count),
            Err(errno) => Answer::Failed(errno),
        };
        let mut state = lock(&self.state);
        let part = offset..offset + buffer.len() as u64;
        match state.status.get(number as usize) {
            None => return Answer::Failed(Errno::STALE),
            Some(Status::Present) => {
                drop(state);
                return now(self.read_present(number, offset, buffer));
            }
            Some(_) => self.want(&mut state, number, Urgency::Demand, Some(part.clone())),
        }
        let Some(active) = state.active.get_mut(&number) else {
            return Answer::Failed(Errno::IO);
        };
        if let Some(body) = &active.body
            && is_here(active, &part)
        {
            return now(body.read_at(buffer, offset).map_err(|_| Errno::IO));
        }
        active.waiters.push(Waiter {
            ticket,
            offset,
            len: buffer.len(),
            since: Instant::now(),
        });
        Answer::Later
    }
}
