// SPDX-License-Identifier: Apache-2.0
//! The ring in which the bytes of one direction of a connection stand.
//!
//! The ring has a *size*, which may be promised to the other side, and memory only while something stands in it: an idle
//! connection costs none. When it runs empty it starts over at the front, so that a flow which keeps up touches the same few
//! cache lines again and again. Bytes may be written beyond the contiguous ones (out-of-order arrivals); they become
//! part of it by [`Ring::extend`].

/// A ring of bytes.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    memory: Vec<u8>,
    /// What it may hold.
    size: usize,
    /// Where the first byte stands.
    head: usize,
    /// How many contiguous bytes there are.
    length: usize,
}

impl Ring {
    pub(crate) fn new(size: usize) -> Ring {
        Ring {
            memory: Vec::new(),
            size,
            head: 0,
            length: 0,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn free(&self) -> usize {
        self.size - self.length
    }

    /// Bytes of memory that it holds now.
    pub(crate) fn memory(&self) -> usize {
        self.memory.len()
    }

    fn need_memory(&mut self) {
        if self.memory.is_empty() {
            self.memory = vec![0; self.size];
            self.head = 0;
        }
    }

    /// Gives the memory back if nothing stands in it.
    pub(crate) fn release(&mut self) {
        if self.length == 0 {
            self.memory = Vec::new();
            self.head = 0;
        }
    }

    /// Makes it larger. What stands beyond the contiguous bytes is lost: only to be called when nothing does.
    pub(crate) fn grow(&mut self, size: usize) {
        if size <= self.size {
            return;
        }
        if self.length == 0 {
            self.memory = Vec::new();
        } else {
            let mut memory = vec![0; size];
            let [front, back] = self.slices(0, self.length);
            memory[..front.len()].copy_from_slice(front);
            memory[front.len()..self.length].copy_from_slice(back);
            self.memory = memory;
        }
        self.head = 0;
        self.size = size;
    }

    /// Makes an empty ring smaller; only where its size is promised to nobody.
    pub(crate) fn shrink(&mut self, size: usize) {
        if self.length == 0 && size < self.size {
            self.memory = Vec::new();
            self.head = 0;
            self.size = size;
        }
    }

    fn index(&self, offset: usize) -> usize {
        let index = self.head + offset;
        if index >= self.size {
            index - self.size
        } else {
            index
        }
    }

    /// Returns contiguous bytes, from the first one on.
    pub(crate) fn slices(&self, offset: usize, length: usize) -> [&[u8]; 2] {
        if length == 0 || offset >= self.length {
            return [&[], &[]];
        }
        let length = length.min(self.length - offset);
        let start = self.index(offset);
        let front = length.min(self.size - start);
        [
            &self.memory[start..start + front],
            &self.memory[..length - front],
        ]
    }

    /// Returns the room behind the contiguous bytes.
    pub(crate) fn space(&mut self) -> [&mut [u8]; 2] {
        let free = self.free();
        if free == 0 {
            return [&mut [], &mut []];
        }
        self.need_memory();
        let start = self.index(self.length);
        let front = free.min(self.size - start);
        let (low, high) = self.memory.split_at_mut(start);
        [&mut high[..front], &mut low[..free - front]]
    }

    /// Writes bytes at an offset from the first one; they must lie within the size.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.need_memory();
        let start = self.index(offset);
        let front = bytes.len().min(self.size - start);
        self.memory[start..start + front].copy_from_slice(&bytes[..front]);
        self.memory[..bytes.len() - front].copy_from_slice(&bytes[front..]);
    }

    /// Counts bytes that were written right behind as contiguous.
    pub(crate) fn extend(&mut self, bytes: usize) {
        self.length += bytes.min(self.free());
    }

    /// Drops the first bytes. `is_alone`: nothing stands beyond the contiguous ones, so that it may start over.
    pub(crate) fn consume(&mut self, bytes: usize, is_alone: bool) {
        let bytes = bytes.min(self.length);
        self.length -= bytes;
        self.head = if self.length == 0 && is_alone {
            0
        } else {
            self.index(bytes)
        };
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers that make up content"
)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Produce(usize),
        Consume(usize),
        Write(usize, usize),
        Grow(usize),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..80_usize).prop_map(Step::Produce),
            (0..80_usize).prop_map(Step::Consume),
            (0..40_usize, 0..40_usize).prop_map(|(gap, length)| Step::Write(gap, length)),
            (1..200_usize).prop_map(Step::Grow),
            Just(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_with_room_behind_it(steps in prop::collection::vec(step(), 1..200)) {
            let mut ring = Ring::new(64);
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for step in steps {
                match step {
                    Step::Produce(bytes) => {
                        let mut put = 0;
                        for slice in ring.space() {
                            for byte in slice {
                                if put == bytes { break; }
                                *byte = next;
                                model.push_back(next);
                                next = next.wrapping_add(1);
                                put += 1;
                            }
                        }
                        ring.extend(put);
                    }
                    Step::Consume(bytes) => {
                        ring.consume(bytes, true);
                        model.drain(..bytes.min(model.len()));
                    }
                    // Out of order: first the far part, then the gap before it.
                    Step::Write(gap, length) if gap + length <= ring.free() => {
                        let bytes: Vec<u8> = (0..gap + length).map(|n| next.wrapping_add(n as u8)).collect();
                        ring.write(ring.len() + gap, &bytes[gap..]);
                        ring.write(ring.len(), &bytes[..gap]);
                        ring.extend(gap + length);
                        next = next.wrapping_add((gap + length) as u8);
                        model.extend(bytes);
                    }
                    Step::Write(..) => {}
                    Step::Grow(size) => ring.grow(size),
                    Step::Release => ring.release(),
                }
                prop_assert_eq!(ring.slices(0, usize::MAX).concat(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ring.free(), ring.size() - model.len());
            }
        }
    }
}
