// SPDX-License-Identifier: Apache-2.0
//! Gzip around deflated data: one member or many, one after another.
//!
//! The CRC at a member's end is not computed: whoever reads layers compares SHA-256 digests of the packed bytes, of the tar, or of each
//! chunk, which say more. The length is compared.
//!
//! Source: RFC 1952.

use super::{InflateError, Inflater, Progress};

/// Longest header: an extra field is at most 64 KiB; a name of more than the rest is nobody's.
const HEADER_BYTES_MAX: usize = 128 << 10;
const TRAILER_BYTES: usize = 8;
const FLAG_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_UNKNOWN: u8 = 0xe0;

/// Gzip members on their way out.
#[derive(Debug)]
pub struct GzipStream {
    inflater: Inflater,
    place: Place,
    /// Bytes of output before the current member; `None` if it was begun in the middle.
    before_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A member's header comes; the first must be there.
    Header {
        first: bool,
    },
    Body,
    Trailer,
    /// Zeros to the end, as tapes have them.
    Zeros,
}

/// Why a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is as much output as fits.
    Full,
    /// More input is needed, or, if there is no more: all is out.
    Hungry,
    /// A member's header was read: its deflated data begins here.
    Begin,
    /// A block ended, and another follows.
    Border,
    /// A member's last block ended.
    End,
}

impl Default for GzipStream {
    fn default() -> Self {
        Self::new()
    }
}

impl GzipStream {
    /// Returns a reader at the beginning of a member.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inflater: Inflater::new(),
            place: Place::Header { first: true },
            before_bytes: None,
        }
    }

    /// Returns a reader in the middle of a member, at a block's border: see [`Inflater::resume`]. Its length is not compared.
    #[must_use]
    pub fn resume(skip_bits: u8, window: &[u8]) -> Self {
        Self {
            inflater: Inflater::resume(skip_bits, window),
            place: Place::Body,
            before_bytes: None,
        }
    }

    /// Returns what inflates: its output, its places and its marks.
    #[must_use]
    pub fn inflater(&self) -> &Inflater {
        &self.inflater
    }

    /// Returns what inflates, to take output and to mark.
    pub fn inflater_mut(&mut self) -> &mut Inflater {
        &mut self.inflater
    }

    /// Adds input.
    pub fn push(&mut self, input: &[u8]) {
        self.inflater.push(input);
    }

    /// Decodes on. `last`: no more input will come.
    pub fn step(&mut self, last: bool) -> Result<Step, InflateError> {
        loop {
            match self.place {
                Place::Header { first } => {
                    let rest = self.inflater.rest();
                    if rest.is_empty() && (!last || !first) {
                        return Ok(Step::Hungry);
                    }
                    if rest.first() == Some(&0) && !first {
                        self.place = Place::Zeros;
                        continue;
                    }
                    let Some(length) = header_bytes(rest)? else {
                        return if last || rest.len() > HEADER_BYTES_MAX {
                            Err(InflateError::Truncated)
                        } else {
                            Ok(Step::Hungry)
                        };
                    };
                    self.inflater.skip(length);
                    self.inflater.restart();
                    self.before_bytes = Some(self.inflater.output_bytes());
                    self.place = Place::Body;
                    return Ok(Step::Begin);
                }
                Place::Body => {
                    return Ok(match self.inflater.run(last)? {
                        Progress::Full => Step::Full,
                        Progress::Hungry => Step::Hungry,
                        Progress::Border => Step::Border,
                        Progress::End => {
                            self.place = Place::Trailer;
                            Step::End
                        }
                    });
                }
                Place::Trailer => {
                    let rest = self.inflater.rest();
                    let Some([_, _, _, _, length @ ..]) = rest.first_chunk::<TRAILER_BYTES>()
                    else {
                        return if last {
                            Err(InflateError::Truncated)
                        } else {
                            Ok(Step::Hungry)
                        };
                    };
                    let length = u64::from(u32::from_le_bytes(*length));
                    let output_bytes = self.inflater.output_bytes();
                    if self.before_bytes.is_some_and(|before| {
                        length != (output_bytes - before) & u64::from(u32::MAX)
                    }) {
                        return Err(InflateError::Gzip("a member's length is wrong"));
                    }
                    self.inflater.skip(TRAILER_BYTES);
                    self.place = Place::Header { first: false };
                }
                Place::Zeros => {
                    let rest = self.inflater.rest();
                    if rest.iter().any(|byte| *byte != 0) {
                        return Err(InflateError::Gzip("something follows the last member"));
                    }
                    let length = rest.len();
                    self.inflater.skip(length);
                    return Ok(Step::Hungry);
                }
            }
        }
    }
}

/// What a member's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'bytes> {
    /// Bytes of the header.
    pub length: usize,
    /// The extra field.
    pub extra: &'bytes [u8],
}

impl<'bytes> Header<'bytes> {
    /// Reads a member's header; `None` if it goes on behind these bytes.
    pub fn read(bytes: &'bytes [u8]) -> Result<Option<Self>, InflateError> {
        let wrong = InflateError::Gzip("no member begins here");
        let magic = [0x1f, 0x8b, 8];
        if bytes.iter().zip(&magic).any(|(byte, magic)| byte != magic) {
            return Err(wrong);
        }
        let Some(flags) = bytes.get(3) else {
            return Ok(None);
        };
        if flags & FLAGS_UNKNOWN != 0 {
            return Err(wrong);
        }
        let mut length = 10;
        let mut extra: &[u8] = &[];
        if flags & FLAG_EXTRA != 0 {
            let Some(&[low, high]) = bytes.get(length..length + 2) else {
                return Ok(None);
            };
            let extra_bytes = usize::from(u16::from_le_bytes([low, high]));
            length += 2;
            let Some(there) = bytes.get(length..length + extra_bytes) else {
                return Ok(None);
            };
            extra = there;
            length += extra_bytes;
        }
        for flag in [FLAG_NAME, FLAG_COMMENT] {
            if flags & flag != 0 {
                let text = bytes.get(length..).unwrap_or_default();
                let Some(end) = text.iter().position(|byte| *byte == 0) else {
                    return Ok(None);
                };
                length += end + 1;
            }
        }
        if flags & FLAG_CRC != 0 {
            length += 2;
        }
        Ok((bytes.len() >= length).then_some(Self { length, extra }))
    }
}

fn header_bytes(bytes: &[u8]) -> Result<Option<usize>, InflateError> {
    Ok(Header::read(bytes)?.map(|header| header.length))
}
