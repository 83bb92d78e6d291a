// SPDX-License-Identifier: Apache-2.0
//! As much of flatbuffers as a zTOC needs, read by hand: tables, strings, vectors, numbers; every step within bounds.
//!
//! Source: the flatbuffers documentation on internals. Offsets to objects are unsigned and count from where they stand; a table begins
//! with a signed offset *back* to its vtable, which has its own length, the table's, and for each field where it lies in the table, 0 if nowhere.

/// Bytes in which something is looked up; `None` everywhere for what is not there or not within them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffer<'bytes>(pub(super) &'bytes [u8]);

/// A table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'bytes> {
    buffer: Buffer<'bytes>,
    at: usize,
    vtable: usize,
    vtable_bytes: usize,
}

/// A vector of tables or strings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vector<'bytes> {
    buffer: Buffer<'bytes>,
    at: usize,
    length: usize,
}

impl<'bytes> Buffer<'bytes> {
    fn u16(self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..)?.first_chunk::<2>()?;
        Some(usize::from(u16::from_le_bytes(*bytes)))
    }

    fn u32(self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    }

    /// Follows an offset.
    fn follow(self, at: usize) -> Option<usize> {
        at.checked_add(self.u32(at)?)
    }

    /// Returns the outermost table.
    pub(super) fn root(self) -> Option<Table<'bytes>> {
        self.table(self.follow(0)?)
    }

    fn table(self, at: usize) -> Option<Table<'bytes>> {
        let back = i32::from_le_bytes(*self.0.get(at..)?.first_chunk::<4>()?);
        let vtable = i64::try_from(at).ok()?.checked_sub(i64::from(back))?;
        let vtable = usize::try_from(vtable).ok()?;
        Some(Table {
            buffer: self,
            at,
            vtable,
            vtable_bytes: self.u16(vtable)?,
        })
    }

    /// Returns the bytes of a string or of a vector of bytes.
    fn bytes(self, at: usize) -> Option<&'bytes [u8]> {
        let length = self.u32(at)?;
        self.0.get(at + 4..)?.get(..length)
    }
}

impl<'bytes> Table<'bytes> {
    /// Where a field lies.
    fn place(self, field: usize) -> Option<usize> {
        let slot = 4 + 2 * field;
        if slot + 2 > self.vtable_bytes {
            return None;
        }
        match self.buffer.u16(self.vtable.checked_add(slot)?)? {
            0 => None,
            place => self.at.checked_add(place),
        }
    }

    pub(super) fn table(self, field: usize) -> Option<Table<'bytes>> {
        self.buffer.table(self.buffer.follow(self.place(field)?)?)
    }

    /// Returns a string or a vector of bytes; one that is not there is empty.
    pub(super) fn bytes(self, field: usize) -> Option<&'bytes [u8]> {
        match self.place(field) {
            None => Some(&[]),
            Some(place) => self.buffer.bytes(self.buffer.follow(place)?),
        }
    }

    /// Returns a number of 64 bits; one that is not there is 0.
    pub(super) fn i64(self, field: usize) -> Option<i64> {
        let Some(place) = self.place(field) else {
            return Some(0);
        };
        let bytes = self.buffer.0.get(place..)?.first_chunk::<8>()?;
        Some(i64::from_le_bytes(*bytes))
    }

    /// Returns a number of 32 bits; one that is not there is 0.
    pub(super) fn u32(self, field: usize) -> Option<u32> {
        let Some(place) = self.place(field) else {
            return Some(0);
        };
        u32::try_from(self.buffer.u32(place)?).ok()
    }

    /// Returns a byte, or what stands for one that is not there.
    pub(super) fn byte(self, field: usize, absent: u8) -> Option<u8> {
        match self.place(field) {
            None => Some(absent),
            Some(place) => self.buffer.0.get(place).copied(),
        }
    }

    /// Returns a vector of offsets; one that is not there is empty.
    pub(super) fn vector(self, field: usize) -> Option<Vector<'bytes>> {
        let (at, length) = match self.place(field) {
            None => (0, 0),
            Some(place) => {
                let at = self.buffer.follow(place)?;
                (at.checked_add(4)?, self.buffer.u32(at)?)
            }
        };
        // All of it lies within the bytes.
        let end = length.checked_mul(4)?.checked_add(at)?;
        (end <= self.buffer.0.len()).then_some(Vector {
            buffer: self.buffer,
            at,
            length,
        })
    }
}

impl<'bytes> Vector<'bytes> {
    pub(super) fn tables(self) -> impl Iterator<Item = Option<Table<'bytes>>> {
        (0..self.length)
            .map(move |place| self.buffer.table(self.buffer.follow(self.at + 4 * place)?))
    }

    pub(super) fn strings(self) -> impl Iterator<Item = Option<&'bytes [u8]>> {
        (0..self.length)
            .map(move |place| self.buffer.bytes(self.buffer.follow(self.at + 4 * place)?))
    }
}
