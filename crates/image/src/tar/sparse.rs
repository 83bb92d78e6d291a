// SPDX-License-Identifier: Apache-2.0
//! The map of a sparse file: which stretches of it are in the archive.
//!
//! Four forms lead to one list of extents: a table in the header and extension blocks (old GNU), repeated PAX records (0.0), one
//! PAX record (0.1), or lines of decimal text before the data (1.0). A map is taken only if its extents ascend without
//! overlap, lie inside the file, and add up to exactly the data that the archive holds.

use super::block::sparse_table;
use super::{SPARSE_EXTENTS_MAX, TarError};

/// A stretch of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What PAX records say about a sparse file.
#[derive(Debug)]
pub(super) struct Announced {
    /// Its name: the header's has the writer's process number in it.
    pub(super) name: Option<Vec<u8>>,
    /// Its size, holes included.
    pub(super) size: u64,
    /// Its map, unless it stands before the data.
    pub(super) map: Option<Vec<Extent>>,
}

/// A map under construction.
#[derive(Debug)]
pub(super) struct SparseMap {
    extents: Vec<Extent>,
    /// Where the last extent ends.
    end: u64,
    /// What all extents have.
    data_bytes: u64,
    /// The file's size, holes included.
    pub(super) size: u64,
    /// What the archive holds.
    pub(super) stored_bytes: u64,
}

impl SparseMap {
    pub(super) fn new(size: u64, stored_bytes: u64) -> Self {
        Self {
            extents: Vec::new(),
            end: 0,
            data_bytes: 0,
            size,
            stored_bytes,
        }
    }

    /// Adds an extent; `offset` is how far the archive was read.
    pub(super) fn push(&mut self, extent: Extent, offset: u64) -> Result<(), TarError> {
        let end = extent
            .offset
            .checked_add(extent.length)
            .ok_or(TarError::SparseMap { offset })?;
        if extent.offset < self.end || end > self.size {
            return Err(TarError::SparseMap { offset });
        }
        if self.extents.len() >= SPARSE_EXTENTS_MAX {
            return Err(TarError::SparseExtents { offset });
        }
        self.end = end;
        self.data_bytes += extent.length;
        // GNU tar closes a map by an empty extent at the end.
        if extent.length > 0 {
            self.extents.push(extent);
        }
        Ok(())
    }

    /// Adds the extents of a table.
    pub(super) fn push_block(&mut self, table: &[u8], offset: u64) -> Result<(), TarError> {
        sparse_table(table)
            .try_for_each(|extent| self.push(extent.ok_or(TarError::SparseMap { offset })?, offset))
    }

    /// Returns the extents if they fit the data.
    pub(super) fn finish(self, offset: u64) -> Result<Vec<Extent>, TarError> {
        if self.data_bytes == self.stored_bytes {
            Ok(self.extents)
        } else {
            Err(TarError::SparseMap { offset })
        }
    }
}

/// The text of a 1.0 map under construction: a count, then an offset and a length per extent, one number a line.
#[derive(Debug, Default)]
pub(super) struct MapText {
    /// How many extents there will be, once known.
    count: Option<usize>,
    extents: Vec<Extent>,
    start: Option<u64>,
    /// The number that is being read, and its digits so far.
    number: u64,
    digits: usize,
}

/// Digits of the largest number below 2^63.
const NUMBER_DIGITS_MAX: usize = 19;

impl MapText {
    /// Takes a block; tells whether the map is complete.
    pub(super) fn push(&mut self, block: &[u8], offset: u64) -> Result<bool, TarError> {
        for byte in block {
            match byte {
                b'0'..=b'9' if self.digits < NUMBER_DIGITS_MAX => {
                    self.number = self.number * 10 + u64::from(byte - b'0');
                    self.digits += 1;
                }
                b'\n' if self.digits > 0 => {
                    let number = std::mem::take(&mut self.number);
                    self.digits = 0;
                    self.line(number, offset)?;
                    // What follows in this block is padding.
                    if self.count == Some(self.extents.len()) {
                        return Ok(true);
                    }
                }
                _ => return Err(TarError::SparseMap { offset }),
            }
        }
        Ok(false)
    }

    fn line(&mut self, number: u64, offset: u64) -> Result<(), TarError> {
        if self.count.is_none() {
            let count = usize::try_from(number)
                .ok()
                .filter(|count| *count <= SPARSE_EXTENTS_MAX);
            self.count = Some(count.ok_or(TarError::SparseExtents { offset })?);
        } else if let Some(start) = self.start.take() {
            self.extents.push(Extent {
                offset: start,
                length: number,
            });
        } else {
            self.start = Some(number);
        }
        Ok(())
    }

    pub(super) fn into_extents(self) -> Vec<Extent> {
        self.extents
    }
}
