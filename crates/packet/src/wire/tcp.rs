// SPDX-License-Identifier: Apache-2.0
//! TCP segments and their options (RFC 9293, 3.1; RFC 7323, 2; RFC 2018).

/// Length of a header without options.
pub const HEADER_BYTES: usize = 20;
/// Length of a header with all options that fit.
pub const HEADER_BYTES_MAX: usize = 60;
/// The protocol's number.
pub const PROTOCOL: u8 = 6;
/// Where the checksum stands in the header.
pub const CHECKSUM_AT: usize = 16;
/// Blocks of a SACK option, at most (RFC 2018, 3).
pub const SACK_BLOCKS_MAX: usize = 4;

/// No more from the sender.
pub const FIN: u8 = 0x01;
/// A beginning.
pub const SYN: u8 = 0x02;
/// Broken off.
pub const RST: u8 = 0x04;
/// To be handed on at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement counts.
pub const ACK: u8 = 0x10;

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_SEGMENT: u8 = 2;
const OPTION_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;
/// The largest shift of a window (RFC 7323, 2.3).
const SCALE_MAX: u8 = 14;

/// A segment, taken apart. The urgent pointer is not read: urgent bytes stay where they are (RFC 6093, 3).
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Port of the sender.
    pub from: u16,
    /// Port of the receiver.
    pub to: u16,
    /// Number of the first byte.
    pub sequence: u32,
    /// Number of the next byte awaited.
    pub acknowledged: u32,
    /// [`FIN`] and so on.
    pub flags: u8,
    /// The window, not yet scaled.
    pub window: u16,
    /// The options, not yet read.
    pub options: &'a [u8],
    /// The content.
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Takes a segment apart; `None` if the header is not within it.
    pub fn parse(bytes: &'a [u8]) -> Option<Segment<'a>> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let header_bytes = usize::from(header[12] >> 4) * 4;
        if header_bytes < HEADER_BYTES {
            return None;
        }
        let (head, payload) = bytes.split_at_checked(header_bytes)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let long = |at: usize| u32::from(number(at)) << 16 | u32::from(number(at + 2));
        Some(Segment {
            from: number(0),
            to: number(2),
            sequence: long(4),
            acknowledged: long(8),
            flags: header[13],
            window: number(14),
            options: &head[HEADER_BYTES..],
            payload,
        })
    }

    /// Tells whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// The options that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The largest segment that the sender takes.
    pub segment_bytes: Option<u16>,
    /// The shift of its windows.
    pub scale: Option<u8>,
    /// Whether it understands SACK.
    pub sack_permitted: bool,
    /// What it has beyond the acknowledged.
    pub sack: [(u32, u32); SACK_BLOCKS_MAX],
    /// How many of `sack` are said.
    pub sack_count: usize,
}

impl Options {
    /// Reads options; whatever is malformed ends the list.
    pub fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                OPTION_END => break,
                OPTION_NOTHING => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(length) = rest.first().map(|length| usize::from(*length)) else {
                break;
            };
            if length < 2 || length > bytes.len() {
                break;
            }
            let value = &bytes[2..length];
            bytes = &bytes[length..];
            match (*kind, value) {
                (OPTION_SEGMENT, [high, low]) => {
                    options.segment_bytes = Some(u16::from_be_bytes([*high, *low]));
                }
                (OPTION_SCALE, [shift]) => options.scale = Some((*shift).min(SCALE_MAX)),
                (OPTION_SACK_PERMITTED, []) => options.sack_permitted = true,
                (OPTION_SACK, blocks) => {
                    options.sack_count = 0;
                    for block in blocks.chunks_exact(8).take(SACK_BLOCKS_MAX) {
                        let number = |at: usize| {
                            u32::from_be_bytes([
                                block[at],
                                block[at + 1],
                                block[at + 2],
                                block[at + 3],
                            ])
                        };
                        options.sack[options.sack_count] = (number(0), number(4));
                        options.sack_count += 1;
                    }
                }
                _ => {}
            }
        }
        options
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    /// Port of the sender.
    pub from: u16,
    /// Port of the receiver.
    pub to: u16,
    /// Number of the first byte.
    pub sequence: u32,
    /// Number of the next byte awaited.
    pub acknowledged: u32,
    /// [`FIN`] and so on.
    pub flags: u8,
    /// The window, scaled.
    pub window: u16,
    /// The options.
    pub options: Options,
}

impl Header {
    /// Writes the header, its checksum left empty, and returns its length.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "headers are at most 60 bytes"
    )]
    pub fn write(&self, bytes: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        let mut length = HEADER_BYTES;
        let mut put = |option: &[u8]| {
            bytes[length..length + option.len()].copy_from_slice(option);
            length += option.len();
        };
        if let Some(size) = self.options.segment_bytes {
            let [high, low] = size.to_be_bytes();
            put(&[OPTION_SEGMENT, 4, high, low]);
        }
        if self.options.sack_permitted {
            put(&[OPTION_NOTHING, OPTION_NOTHING, OPTION_SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.options.scale {
            put(&[OPTION_NOTHING, OPTION_SCALE, 3, shift]);
        }
        let blocks = self.options.sack_count.min(SACK_BLOCKS_MAX);
        if blocks > 0 {
            put(&[
                OPTION_NOTHING,
                OPTION_NOTHING,
                OPTION_SACK,
                2 + blocks as u8 * 8,
            ]);
            for (from, to) in &self.options.sack[..blocks] {
                put(&from.to_be_bytes());
                put(&to.to_be_bytes());
            }
        }
        bytes[0..2].copy_from_slice(&self.from.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.to.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        bytes[12] = (length as u8 / 4) << 4;
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[16..20].fill(0);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_options_come_back() {
        let header = Header {
            from: 80,
            to: 40_000,
            sequence: 0xfffe_0001,
            acknowledged: 0x8000_0001,
            flags: SYN | ACK,
            window: 65_535,
            options: Options {
                segment_bytes: Some(1460),
                scale: Some(8),
                sack_permitted: true,
                sack: [(1, 2), (3, 4), (0, 0), (0, 0)],
                sack_count: 2,
            },
        };
        let mut bytes = [0xaa; HEADER_BYTES_MAX];
        let length = header.write(&mut bytes);
        let whole = [&bytes[..length], b"hello"].concat();
        let read = Segment::parse(&whole).unwrap();
        assert_eq!(
            (read.from, read.to, read.sequence),
            (80, 40_000, 0xfffe_0001)
        );
        assert_eq!(
            (read.acknowledged, read.flags, read.window),
            (0x8000_0001, SYN | ACK, 65_535)
        );
        assert_eq!(
            (read.payload, Options::parse(read.options)),
            (b"hello".as_slice(), header.options)
        );
        for short in 0..length {
            assert!(Segment::parse(&whole[..short]).is_none(), "{short}");
        }
    }

    #[test]
    fn header_lengths_that_cannot_be_are_none() {
        let mut bytes = [0; 60];
        for (words, is_some) in [(0, false), (4, false), (5, true), (15, true)] {
            bytes[12] = words << 4;
            assert_eq!(Segment::parse(&bytes).is_some(), is_some, "{words}");
        }
        assert!(Segment::parse(&bytes[..59]).is_none());
    }

    #[test]
    fn malformed_options_end_the_list() {
        let none = Options::default();
        let one = Options {
            segment_bytes: Some(1460),
            ..none
        };
        for (bytes, expected) in [
            (&[][..], none),
            (&[2], none),
            (&[2, 0, 5, 180], none),
            (&[2, 1, 5, 180], none),
            (&[2, 4, 5], none),
            (&[2, 3, 5, 180], none),
            (&[2, 4, 5, 180, 5, 255], one),
            (&[2, 4, 5, 180, 0, 3, 3, 7], one),
            (&[1, 1, 2, 4, 5, 180, 99, 2], one),
            (&[5, 2], none),
            (&[5, 9, 1, 2, 3, 4, 5, 6, 7], none),
            (
                &[3, 3, 255],
                Options {
                    scale: Some(14),
                    ..none
                },
            ),
        ] {
            assert_eq!(Options::parse(bytes), expected, "{bytes:?}");
        }
    }
}
