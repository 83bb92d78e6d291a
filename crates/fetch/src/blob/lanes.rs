// SPDX-License-Identifier: Apache-2.0
//! Spans of one blob fetched side by side, and handed on in order.
//!
//! # Theory of operation
//! The rest of the blob is cut into spans of [`SPAN_BYTES`]. Each lane is a thread that takes the next span nobody has
//! taken, fetches it into memory and lays it down; then the next, as long as it is less than a *window* ahead of the reader.
//! The reader takes the spans in order, and gives their memory back. One mutex and one condition variable hold all of it; it is
//! taken a few times per span.
//!
//! The window is the memory: its spans are taken from a number that the whole process shares, and given back when the lanes
//! are dropped. A lane that fails lays its error down where its span would be; a lane that is answered with the whole blob ends
//! them all ([`Lanes::are_refused`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use wolffia_image::Descriptor;

use super::span::SpanReader;
use crate::error::Error;
use crate::sources::Source;

/// One span: at 20 ms of round trip and 50 Mbit/s per connection, the wait for its answer is a tenth of it.
pub(super) const SPAN_BYTES: u64 = 1 << 20;

/// Spans in memory, in the whole process.
pub(super) const SPANS_MAX: usize = 12;

/// Spans in memory for one blob: one more than lanes is being read from.
const WINDOW_MAX: usize = 6;

/// With fewer there is no gain.
const WINDOW_MIN: usize = 3;

/// The spans that are not given to any blob.
static SPANS_FREE: AtomicUsize = AtomicUsize::new(SPANS_MAX);

/// What the reader got.
#[derive(Debug)]
pub(super) enum Taken {
    /// So many bytes; none at the end.
    Bytes(usize),
    /// The source serves no spans.
    Refused,
}

/// The lanes of one blob.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    window: Window,
    current: Vec<u8>,
    read: usize,
}

struct Shared {
    source: Arc<dyn Source>,
    blob: Descriptor,
    rest: Range<u64>,
    window: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next span that nobody has taken.
    next: u64,
    /// The span that the reader wants.
    wanted: u64,
    done: BTreeMap<u64, Result<Vec<u8>, Error>>,
    spare: Vec<Vec<u8>>,
    refused: bool,
    /// A span failed: those before it are still fetched, none behind it.
    failed: bool,
    /// Nobody wants anything any more.
    stopping: bool,
}

/// Spans taken from the process's number; they go back by themselves.
struct Window(usize);

impl Window {
    fn take() -> Option<Self> {
        let mut got = 0;
        let taken = SPANS_FREE.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| {
            got = free.min(WINDOW_MAX);
            (got >= WINDOW_MIN).then(|| free - got)
        });
        taken.is_ok().then_some(Self(got))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        SPANS_FREE.fetch_add(self.0, Ordering::AcqRel);
    }
}

impl Lanes {
    /// Starts lanes over `rest`; `None` where the process has no memory for them left, or no threads.
    pub(super) fn start(
        source: &Arc<dyn Source>,
        blob: &Descriptor,
        rest: Range<u64>,
    ) -> Option<Self> {
        let window = Window::take()?;
        let shared = Arc::new(Shared {
            source: Arc::clone(source),
            blob: blob.clone(),
            rest,
            window: u64::try_from(window.0).unwrap_or(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let lanes = Self {
            shared,
            window,
            current: Vec::new(),
            read: 0,
        };
        let count = source.parallel_hint().min(lanes.window.0 - 1).max(1);
        for number in 0..count {
            let shared = Arc::clone(&lanes.shared);
            let thread = std::thread::Builder::new().name(format!("lane-{number}"));
            if thread.spawn(move || shared.run()).is_err() {
                // One is enough; without any, the one stream goes on.
                return (number > 0).then_some(lanes);
            }
        }
        Some(lanes)
    }

    /// Tells whether the source turned out to serve no spans.
    pub(super) fn are_refused(&self) -> bool {
        self.shared.lock().refused
    }

    /// Hands on bytes of the next span; waits for it.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> Result<Taken, Error> {
        if self.read == self.current.len() {
            match self.shared.next_span(std::mem::take(&mut self.current))? {
                Some(span) => self.current = span,
                None => return Ok(Taken::Refused),
            }
            self.read = 0;
        }
        let length = buffer.len().min(self.current.len() - self.read);
        buffer[..length].copy_from_slice(&self.current[self.read..self.read + length]);
        self.read += length;
        Ok(Taken::Bytes(length))
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes of a span, if there is one.
    fn span(&self, number: u64) -> Option<Range<u64>> {
        let start = self
            .rest
            .start
            .checked_add(number.checked_mul(SPAN_BYTES)?)?;
        let end = self.rest.end.min(start.saturating_add(SPAN_BYTES));
        (start < end).then_some(start..end)
    }

    /// Waits for the span that the reader wants next; an empty one is the end, `None` a refusal.
    fn next_span(&self, used: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let mut state = self.lock();
        if used.capacity() > 0 {
            state.spare.push(used);
        }
        let wanted = state.wanted;
        if self.span(wanted).is_none() {
            return Ok(Some(Vec::new()));
        }
        loop {
            if let Some(result) = state.done.remove(&wanted) {
                state.wanted += 1;
                self.changed.notify_all();
                return result.map(Some);
            }
            if state.refused {
                return Ok(None);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One lane's life.
    fn run(&self) {
        let _ending = Ending(self);
        while let Some((number, span, mut bytes)) = self.claim() {
            let fetched = self.fetch(span, &mut bytes);
            let mut state = self.lock();
            match fetched {
                Ok(true) => drop(state.done.insert(number, Ok(bytes))),
                Ok(false) => {}
                Err(Error::NoSpans) => {
                    state.refused = true;
                    state.stopping = true;
                }
                Err(error) => {
                    state.failed = true;
                    drop(state.done.insert(number, Err(error)));
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits until there is a span to fetch; `None` where there will be none.
    fn claim(&self) -> Option<(u64, Range<u64>, Vec<u8>)> {
        let mut state = self.lock();
        loop {
            let number = state.next;
            let span = self.span(number)?;
            if state.stopping || state.failed {
                return None;
            }
            // One of the window's spans is with the reader.
            if number + 1 < state.wanted + self.window {
                state.next += 1;
                let bytes = state.spare.pop().unwrap_or_default();
                return Some((number, span, bytes));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fetches a span; `Ok(false)` where nobody wants it any more.
    fn fetch(&self, span: Range<u64>, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let length = usize::try_from(span.end - span.start).unwrap_or(0);
        bytes.resize(length, 0);
        let source = Arc::clone(&self.source);
        let mut reader = SpanReader::new(source, self.blob.clone(), span).strict();
        let mut filled = 0;
        while filled < length {
            if self.lock().stopping {
                return Ok(false);
            }
            filled += reader.read(&mut bytes[filled..])?;
        }
        Ok(true)
    }
}

/// Lets the reader go back to its one stream should a lane ever end by a panic: it would wait for ever.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().refused = true;
            self.0.changed.notify_all();
        }
    }
}
