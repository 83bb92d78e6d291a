// SPDX-License-Identifier: Apache-2.0
//! One header block: 512 bytes with fields at fixed places.
//!
//! Numbers are octal text, padded by spaces or NULs in many ways, or binary (GNU's base-256: the first bit set, then a
//! big-endian two's complement number). An empty field is 0. Only fields that are used are judged: writers leave odd
//! things in the others.

use super::TarError;
use super::sparse::Extent;
use crate::tree::Time;

/// Size of a block.
pub(super) const BLOCK_BYTES: u64 = 512;
const BLOCK_LENGTH: usize = 512;

/// A header block as it stands in the archive.
#[derive(Debug)]
pub(super) struct Block(pub(super) [u8; BLOCK_LENGTH]);

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
/// Schilling's star keeps two times behind a shorter prefix, and says so at the end of the block.
const STAR_PREFIX: std::ops::Range<usize> = 345..476;
const STAR_MARK: std::ops::Range<usize> = 508..512;
const GNU_SPARSE: std::ops::Range<usize> = 386..482;
const GNU_SPARSE_MORE: usize = 482;
const GNU_REAL_SIZE: std::ops::Range<usize> = 483..495;
const EXTENSION_SPARSE: std::ops::Range<usize> = 0..504;
const EXTENSION_MORE: usize = 504;
/// One extent in a sparse table: two numbers of this many bytes.
const SPARSE_NUMBER_BYTES: usize = 12;

impl Block {
    pub(super) const fn zero() -> Self {
        Self([0; BLOCK_LENGTH])
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Compares the checksum with the sum of unsigned and of signed bytes: old writers on some machines had the latter.
    pub(super) fn checksum_fits(&self) -> bool {
        let Some(written) = number(&self.0[CHECKSUM]) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (place, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&place) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        written == unsigned || written == signed
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[TYPE]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = match &self.0[MAGIC] {
            b"ustar\0" if self.0[STAR_MARK] == *b"tar\0" => text(&self.0[STAR_PREFIX]),
            b"ustar\0" => text(&self.0[PREFIX]),
            _ => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    pub(super) fn size(&self, offset: u64) -> Result<u64, TarError> {
        unsigned(&self.0[SIZE], offset, "size")
    }

    pub(super) fn mode(&self, offset: u64) -> Result<u32, TarError> {
        let mode = number(&self.0[MODE]).ok_or(TarError::Number {
            offset,
            field: "mode",
        })?;
        // Some writers put the file's type above the twelve bits.
        Ok(u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self, offset: u64) -> Result<u32, TarError> {
        number(&self.0[UID])
            .and_then(owner)
            .ok_or(TarError::Number {
                offset,
                field: "uid",
            })
    }

    pub(super) fn gid(&self, offset: u64) -> Result<u32, TarError> {
        number(&self.0[GID])
            .and_then(owner)
            .ok_or(TarError::Number {
                offset,
                field: "gid",
            })
    }

    pub(super) fn mtime(&self, offset: u64) -> Result<Time, TarError> {
        let seconds = number(&self.0[MTIME]).ok_or(TarError::Number {
            offset,
            field: "mtime",
        })?;
        Ok(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    pub(super) fn device(&self, offset: u64) -> Result<(u32, u32), TarError> {
        let read = |field: &[u8], name| {
            number(field)
                .and_then(|value| u32::try_from(value).ok())
                .ok_or(TarError::Number {
                    offset,
                    field: name,
                })
        };
        Ok((
            read(&self.0[MAJOR], "devmajor")?,
            read(&self.0[MINOR], "devminor")?,
        ))
    }

    pub(super) fn real_size(&self, offset: u64) -> Result<u64, TarError> {
        unsigned(&self.0[GNU_REAL_SIZE], offset, "realsize")
    }

    pub(super) fn sparse_entries(&self) -> &[u8] {
        &self.0[GNU_SPARSE]
    }

    pub(super) fn sparse_is_extended(&self) -> bool {
        self.0[GNU_SPARSE_MORE] != 0
    }

    pub(super) fn sparse_extension_entries(&self) -> &[u8] {
        &self.0[EXTENSION_SPARSE]
    }

    pub(super) fn sparse_extension_is_extended(&self) -> bool {
        self.0[EXTENSION_MORE] != 0
    }
}

/// Reads the extents of a sparse table up to its first empty slot.
pub(super) fn sparse_table(table: &[u8]) -> impl Iterator<Item = Option<Extent>> {
    table
        .chunks_exact(2 * SPARSE_NUMBER_BYTES)
        .take_while(|slot| slot[0] != 0)
        .map(|slot| {
            let (offset, length) = slot.split_at(SPARSE_NUMBER_BYTES);
            Some(Extent {
                offset: u64::try_from(number(offset)?).ok()?,
                length: u64::try_from(number(length)?).ok()?,
            })
        })
}

/// Returns the bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Makes an owner of a number: negative ones (macOS has a -2) are what `chown` would take them for.
pub(super) fn owner(value: i64) -> Option<u32> {
    u32::try_from(value)
        .ok()
        .or_else(|| Some(i32::try_from(value).ok()?.cast_unsigned()))
}

fn unsigned(field: &[u8], offset: u64, name: &'static str) -> Result<u64, TarError> {
    number(field)
        .and_then(|value| u64::try_from(value).ok())
        .ok_or(TarError::Number {
            offset,
            field: name,
        })
}

/// Reads a number in octal or base 256.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field),
        _ => octal(field),
    }
}

/// Reads base 256: two's complement of all bits but the first, which only marks the form.
fn binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (place, byte) in field.iter().enumerate() {
        let byte = match (place, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        // Twelve bytes at most: 96 bits fit.
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).ok()
}

/// Reads octal digits between spaces and NULs.
fn octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let Some(start) = field.iter().position(|byte| !is_blank(byte)) else {
        return Some(0);
    };
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    // Behind the first NUL anything may stand; between spaces only blanks.
    let rest_fits = rest.first() == Some(&0) || rest.iter().all(is_blank);
    if !rest_fits {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_form() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"644\0junk", Some(0o644)),
            (b"64x4    ", None),
            (b"6 44    ", None),
            (b"-644    ", None),
            (b"8       ", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in cases {
            assert_eq!(
                number(field),
                *expected,
                "{:?}",
                field.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn owners_beyond_32_bits_are_no_owners() {
        for (value, expected) in [
            (0, Some(0)),
            (4_294_967_294, Some(4_294_967_294)),
            (-2, Some(4_294_967_294)),
            (4_294_967_296, None),
            (-2_147_483_649, None),
        ] {
            assert_eq!(owner(value), expected, "{value}");
        }
    }
}
