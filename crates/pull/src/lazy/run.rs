// SPDX-License-Identifier: Apache-2.0
//! A run: one request, and everything that is wanted of what it brings.
//!
//! # Theory of operation
//! A worker takes one chunk from the supply and looks along the layer for more: chunks in the same span cost nothing, and a chunk
//! that is wanted and begins at most [`GAP_BYTES`] behind what is fetched anyway costs less than a request of its own. What lies in
//! such a gap is fetched, so it is unpacked and kept as well. A run ends at [`RUN_BYTES_MAX`]: several connections are
//! busy at once, and what is urgent waits for no more than that.
//!
//! The bytes are unpacked as they come, span by span, by [`SpanDecoder`], into the objects' bodies. What was not right is asked for again by
//! the supply; what did not come at all fails.

use std::{
    collections::HashMap,
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use wolffia_image::formats::{Chunk, DecodeError, Piece, Span, SpanDecoder};

use super::supply::{Body, Failure, Item, Supply, Taken};

/// Bytes between two wanted stretches that are fetched with them: at 50 Mbit/s they take 5 ms, a quarter of a round trip.
const GAP_BYTES: u64 = 32 << 10;
/// Bytes after which a run takes nothing more.
const RUN_BYTES_MAX: u64 = 1 << 20;
/// Objects after which a run takes nothing more.
const RUN_OBJECTS_MAX: usize = 1024;
/// Longest window as it is kept: what deflate can look back upon, and some.
const WINDOW_BYTES_MAX: u64 = 64 << 10;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;
/// Requests at once.
pub(super) const WORKERS: usize = 8;
/// Of these, for what is only foreseen.
const AHEAD_MAX: usize = 6;

/// One span of a run, with what is wanted of it.
struct Part {
    span: Span,
    wanted: Vec<Taken>,
}

/// Works until the process ends.
pub(super) fn work(supply: &Supply) -> ! {
    loop {
        let (first, urgency) = supply.next(AHEAD_MAX);
        carry_out(supply, first);
        supply.done(urgency);
    }
}

/// Fetches a chunk and what is wanted around it.
fn carry_out(supply: &Supply, first: Taken) {
    let item = first.item;
    let Some(span) = first.chunk.span else {
        // A hole needs no bytes, only a file that has it.
        match supply.body(item.object) {
            Ok(_) => supply.arrived(item),
            Err(error) => supply.lost(&[item], &Failure::Other(error)),
        }
        return;
    };
    let mut run = match Run::begin(supply, span, first) {
        Ok(run) => run,
        Err(error) => return supply.lost(&[item], &Failure::Other(error)),
    };
    run.widen();
    run.fetch();
}

struct Run<'supply> {
    supply: &'supply Supply,
    layer: u16,
    parts: Vec<Part>,
    /// Places of spans in `parts`.
    places: HashMap<u32, usize>,
    objects: usize,
}

impl<'supply> Run<'supply> {
    fn begin(supply: &'supply Supply, span: u32, first: Taken) -> io::Result<Self> {
        let (layer, found) = supply.table.span(span)?;
        Ok(Self {
            supply,
            layer,
            parts: vec![Part {
                span: found,
                wanted: vec![first],
            }],
            places: HashMap::from([(span, 0)]),
            objects: 1,
        })
    }

    fn range(&self) -> Range<u64> {
        let start = self.parts.iter().map(|part| part.span.packed.start).min();
        let end = self.parts.iter().map(|part| part.span.packed.end).max();
        start.unwrap_or(0)..end.unwrap_or(0)
    }

    /// Takes what else is worth it.
    fn widen(&mut self) {
        let Some(first) = self.parts.first().and_then(|part| part.wanted.first()) else {
            return;
        };
        let Item { object, chunk } = first.item;
        // Further chunks of the same object.
        let mut next = chunk + 1;
        while let Some(taken) = self.try_chunk(Item {
            object,
            chunk: next,
        }) {
            self.add(taken);
            next += 1;
        }
        // Neighbours before, in the same span.
        let mut before = object;
        while let Some(number) = before.checked_sub(1)
            && self.room()
            && self.is_inside(number)
        {
            before = number;
            self.take_free(number);
        }
        self.widen_onwards(object);
    }

    /// Takes objects behind, as long as the next wanted one is not far.
    fn widen_onwards(&mut self, object: u32) {
        let mut gap: Vec<u32> = Vec::new();
        let mut number = object;
        loop {
            number = number.saturating_add(1);
            let Some(first) = self.first_chunk(number) else {
                return;
            };
            let Some((layer, span)) = first
                .span
                .and_then(|span| self.supply.table.span(span).ok())
            else {
                return;
            };
            let range = self.range();
            let far = span.packed.start > range.end + GAP_BYTES;
            if layer != self.layer || far || !self.room() {
                return;
            }
            if span.packed.end <= range.end {
                self.take_free(number);
                continue;
            }
            let item = Item {
                object: number,
                chunk: 0,
            };
            if span.packed.end - range.start > RUN_BYTES_MAX {
                return;
            }
            if !self.supply.is_queued(item) {
                gap.push(number);
                continue;
            }
            for number in gap.drain(..) {
                self.take_free(number);
            }
            let mut next = 0;
            while let Some(taken) = self.try_chunk(Item {
                object: number,
                chunk: next,
            }) {
                self.add(taken);
                next += 1;
            }
        }
    }

    fn room(&self) -> bool {
        let range = self.range();
        self.objects < RUN_OBJECTS_MAX && range.end - range.start < RUN_BYTES_MAX
    }

    fn first_chunk(&self, number: u32) -> Option<Chunk> {
        let object = self.supply.table.object(number)?;
        self.supply.table.chunks(object).ok()?.into_iter().next()
    }

    /// Tells whether an object's first chunk lies in a span that is fetched anyway.
    fn is_inside(&self, number: u32) -> bool {
        self.first_chunk(number)
            .and_then(|chunk| chunk.span)
            .is_some_and(|span| self.places.contains_key(&span))
    }

    /// Takes an object whose bytes come anyway, whether somebody wants it or not.
    fn take_free(&mut self, number: u32) {
        let item = Item {
            object: number,
            chunk: 0,
        };
        if let Some(taken) = self.supply.take_neighbour(item, true) {
            self.add(taken);
        }
    }

    /// Takes a chunk if it is wanted and near.
    fn try_chunk(&self, item: Item) -> Option<Taken> {
        let object = self.supply.table.object(item.object)?;
        let chunks = self.supply.table.chunks(object).ok()?;
        let chunk = chunks.get(item.chunk as usize)?;
        let (layer, span) = self.supply.table.span(chunk.span?).ok()?;
        let range = self.range();
        let near = span.packed.start <= range.end + GAP_BYTES && span.packed.start >= range.start;
        let room = span.packed.end.max(range.end) - range.start <= RUN_BYTES_MAX;
        if layer != self.layer || !near || !room {
            return None;
        }
        self.supply.take_neighbour(item, false)
    }

    fn add(&mut self, taken: Taken) {
        let Some(number) = taken.chunk.span else {
            self.supply.lost(&[taken.item], &Failure::Wrong);
            return;
        };
        self.objects += 1;
        if let Some(place) = self.places.get(&number) {
            self.parts[*place].wanted.push(taken);
            return;
        }
        match self.supply.table.span(number) {
            Ok((_, span)) => {
                self.places.insert(number, self.parts.len());
                self.parts.push(Part {
                    span,
                    wanted: vec![taken],
                });
            }
            Err(error) => self.supply.lost(&[taken.item], &Failure::Other(error)),
        }
    }

    /// Fetches it all, and unpacks it as it comes.
    fn fetch(mut self) {
        self.parts.sort_by_key(|part| part.span.packed.start);
        let range = self.range();
        self.supply.count(range.end - range.start);
        let opened = self.supply.bytes.open(self.layer, range.clone());
        let mut input = match opened {
            Ok(reader) => Input {
                reader,
                position: range.start,
                last: 0,
                buffer: vec![0; READ_BYTES],
            },
            Err(error) => return self.give_up(0, error),
        };
        for place in 0..self.parts.len() {
            match self.unpack(place, &mut input) {
                Ok(()) => {}
                // What is wrong with one span says nothing about the next; its bytes are passed over.
                Err(Trouble::Wrong(error)) => {
                    tracing::debug!(%error, "a span is not right");
                    let part = &self.parts[place];
                    let items: Vec<Item> = part.wanted.iter().map(|taken| taken.item).collect();
                    self.supply.lost(&items, &Failure::Wrong);
                }
                Err(Trouble::Gone(error)) => return self.give_up(place, error),
            }
        }
        input.finish(range.end);
    }

    /// Fails everything from a part on.
    fn give_up(self, from: usize, error: io::Error) {
        let items: Vec<Item> = self.parts[from..]
            .iter()
            .flat_map(|part| part.wanted.iter().map(|taken| taken.item))
            .collect();
        self.supply.lost(&items, &Failure::Other(error));
    }

    fn unpack(&mut self, place: usize, input: &mut Input) -> Result<(), Trouble> {
        let part = &mut self.parts[place];
        part.wanted.sort_by_key(|taken| taken.chunk.skip);
        let wanted = &part.wanted;
        let bodies = wanted
            .iter()
            .map(|taken| self.supply.body(taken.item.object))
            .collect::<io::Result<Vec<Arc<Body>>>>()
            .map_err(Trouble::Gone)?;
        let chunks = wanted.iter().map(|taken| &taken.chunk);
        let window = window(self.supply, self.layer, &part.span)?;
        let mut decoder = SpanDecoder::new(&part.span, &window, chunks)?;
        let whole = decoder.verify_span(&part.span);
        let mut written: Vec<u64> = vec![0; wanted.len()];
        let mut complete: Vec<usize> = Vec::new();
        let mut broken = None;
        let supply = self.supply;
        let mut sink = |piece: Piece<'_>| match piece {
            Piece::Bytes { chunk, bytes } => {
                let offset = wanted[chunk].chunk.file_offset + written[chunk];
                written[chunk] += bytes.len() as u64;
                if let Err(error) = bodies[chunk].write_at(bytes, offset) {
                    broken = Some(error);
                }
            }
            // Where the span's digest is what counts, a chunk counts when that fits.
            Piece::End { chunk } if whole => complete.push(chunk),
            Piece::End { chunk } => supply.arrived(wanted[chunk].item),
        };
        let packed = part.span.packed.clone();
        input.skip_to(packed.start)?;
        let mut more = true;
        if input.position == packed.start + 1 {
            more = decoder.feed(&[input.last], &mut sink)?;
        }
        while more && input.position < packed.end {
            let bytes = input.next(packed.end)?;
            more = decoder.feed(bytes, &mut sink)?;
        }
        decoder.finish(&mut sink)?;
        for chunk in complete {
            supply.arrived(wanted[chunk].item);
        }
        broken.map_or(Ok(()), |error| Err(Trouble::Gone(error)))
    }
}

/// Returns the window of a span, fetched where the table has not got it.
fn window(supply: &Supply, layer: u16, span: &Span) -> io::Result<Vec<u8>> {
    let range = span.fetch(0).window;
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(window) = supply.table.window(layer, &range)? {
        return Ok(window);
    }
    let length = range.end - range.start;
    supply.count(length);
    let mut window = Vec::new();
    supply
        .bytes
        .open_windows(layer, range)?
        .take(length.min(WINDOW_BYTES_MAX))
        .read_to_end(&mut window)?;
    Ok(window)
}

/// What goes wrong with a span.
enum Trouble {
    /// Its bytes are not what they should be.
    Wrong(DecodeError),
    /// Its bytes do not come, or cannot be kept.
    Gone(io::Error),
}

impl From<DecodeError> for Trouble {
    fn from(error: DecodeError) -> Self {
        Self::Wrong(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// The bytes of a run.
struct Input {
    reader: Box<dyn Read + Send>,
    position: u64,
    /// The byte before the position: checkpoints lie between bits, so that two spans may share one.
    last: u8,
    buffer: Vec<u8>,
}

impl Input {
    /// Passes over what nobody wants; stays where it is if that is one byte further.
    fn skip_to(&mut self, start: u64) -> io::Result<()> {
        while self.position < start {
            let wanted = usize::try_from(start - self.position).unwrap_or(READ_BYTES);
            self.read(wanted)?;
        }
        Ok(())
    }

    /// Returns the next bytes before `end`, at least one of them.
    fn next(&mut self, end: u64) -> io::Result<&[u8]> {
        let wanted = usize::try_from(end - self.position).unwrap_or(READ_BYTES);
        let count = self.read(wanted)?;
        Ok(&self.buffer[..count])
    }

    fn read(&mut self, wanted: usize) -> io::Result<usize> {
        let end = READ_BYTES.min(wanted);
        loop {
            match self.reader.read(&mut self.buffer[..end]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.position += count as u64;
                    self.last = self.buffer[count - 1];
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what is left, so that the connection can be used again.
    fn finish(&mut self, end: u64) {
        while self.position < end {
            let wanted = usize::try_from(end - self.position).unwrap_or(READ_BYTES);
            if self.read(wanted).is_err() {
                return;
            }
        }
        drop(self.reader.read(&mut [0]));
    }
}
