// SPDX-License-Identifier: Apache-2.0
//! PAX extended headers: records `length key=value` that refine the header which follows.
//!
//! The length is decimal and counts itself, so values may hold any byte, `=` and NUL included. A later record of one key
//! replaces an earlier one, but for `GNU.sparse.offset` and `numbytes`, which sparse format 0.0 repeats per extent.
//! An empty value withdraws what was said before (POSIX), but for extended attributes, where empty is a value: overlayfs'
//! own markers are empty. Extended attributes come as `SCHILY.xattr.NAME` in raw bytes (star, GNU tar, Go, docker) or as
//! `LIBARCHIVE.xattr.NAME` with the name percent-encoded and the value in base64; where both say one name, the raw one holds.

use std::collections::BTreeMap;

use super::TarError;
use super::block::owner;
use super::sparse::{Announced, Extent};
use super::{SPARSE_EXTENTS_MAX, SPECIAL_BYTES_MAX};
use crate::tree::Time;

const RAW_XATTR: &[u8] = b"SCHILY.xattr.";
const BASE64_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// The records of one extended header, or of all global ones so far.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The map of sparse format 0.0, which repeats its keys.
    extents: Vec<Extent>,
}

/// What the records say about an entry.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) device: Option<(u32, u32)>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Option<Announced>,
}

impl Records {
    /// Reads the records of one extended header; `offset` is where it ends.
    pub(super) fn parse(mut rest: &[u8], offset: u64) -> Result<Self, TarError> {
        let mut records = Self::default();
        let mut extent_offset = None;
        while !rest.is_empty() {
            let (key, value, later) = record(rest).ok_or(TarError::PaxRecord { offset })?;
            rest = later;
            let is_name = matches!(key, b"path" | b"linkpath" | b"GNU.sparse.name");
            if is_name && value.contains(&0) {
                return Err(TarError::PaxRecord { offset });
            }
            match key {
                b"GNU.sparse.offset" => extent_offset = Some(unsigned(value, offset)?),
                b"GNU.sparse.numbytes" => {
                    let start = extent_offset.take().ok_or(TarError::SparseMap { offset })?;
                    if records.extents.len() >= SPARSE_EXTENTS_MAX {
                        return Err(TarError::SparseExtents { offset });
                    }
                    records.extents.push(Extent {
                        offset: start,
                        length: unsigned(value, offset)?,
                    });
                }
                _ => {
                    records.values.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        Ok(records)
    }

    /// Adds the records of a further global header, bounded in sum.
    pub(super) fn update_globals(&mut self, records: Self, offset: u64) -> Result<(), TarError> {
        for (key, value) in records.values {
            // What belongs to one entry cannot be said for all.
            let belongs_to_one = matches!(key.as_slice(), b"path" | b"linkpath" | b"size")
                || key.starts_with(SPARSE);
            if belongs_to_one {
                continue;
            }
            if value.is_empty() && !is_xattr(&key) {
                self.values.remove(&key);
            } else {
                self.values.insert(key, value);
            }
        }
        let bytes: usize = self
            .values
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes as u64 > SPECIAL_BYTES_MAX {
            return Err(TarError::SpecialSize {
                offset,
                bytes: bytes as u64,
            });
        }
        Ok(())
    }

    /// Returns what these global records and the local ones say about an entry whose header begins at `offset`.
    pub(super) fn attributes(
        &self,
        local: Option<Self>,
        offset: u64,
    ) -> Result<Attributes, TarError> {
        let mut attributes = Attributes::default();
        if self.values.is_empty() && local.is_none() {
            return Ok(attributes);
        }
        let Self {
            values: mut local,
            extents,
        } = local.unwrap_or_default();
        for (key, value) in &self.values {
            local.entry(key.clone()).or_insert_with(|| value.clone());
        }
        attributes.sparse = announced(&mut local, extents, offset)?;
        let mut device = (None, None);
        let number = |value: &[u8], field| signed(value).ok_or(TarError::Number { offset, field });
        let id = |value: &[u8], field| {
            signed(value)
                .and_then(owner)
                .map(Some)
                .ok_or(TarError::Number { offset, field })
        };
        for (key, value) in local {
            if is_xattr(&key) {
                add_xattr(&mut attributes.xattrs, &key, value, offset)?;
                continue;
            }
            if value.is_empty() {
                continue;
            }
            match key.as_slice() {
                b"path" => attributes.path = Some(value),
                b"linkpath" => attributes.link = Some(value),
                b"size" => attributes.size = Some(unsigned(&value, offset)?),
                b"uid" => attributes.uid = id(&value, "uid")?,
                b"gid" => attributes.gid = id(&value, "gid")?,
                b"mtime" => {
                    let time = time(&value);
                    attributes.mtime = Some(time.ok_or(TarError::Number {
                        offset,
                        field: "mtime",
                    })?);
                }
                b"SCHILY.devmajor" => {
                    device.0 = u32::try_from(number(&value, "SCHILY.devmajor")?).ok();
                }
                b"SCHILY.devminor" => {
                    device.1 = u32::try_from(number(&value, "SCHILY.devminor")?).ok();
                }
                _ => {}
            }
        }
        attributes.device = device.0.zip(device.1);
        Ok(attributes)
    }
}

fn is_xattr(key: &[u8]) -> bool {
    key.starts_with(RAW_XATTR) || key.starts_with(BASE64_XATTR)
}

/// Adds an extended attribute. Keys come in order, so the base64 form of a name comes before its raw form.
fn add_xattr(
    xattrs: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    key: &[u8],
    value: Vec<u8>,
    offset: u64,
) -> Result<(), TarError> {
    if let Some(name) = key.strip_prefix(RAW_XATTR) {
        xattrs.insert(name.to_vec(), value);
    } else if let Some(name) = key.strip_prefix(BASE64_XATTR) {
        let malformed = || TarError::PaxRecord { offset };
        let name = percent_decode(name).ok_or_else(malformed)?;
        xattrs.insert(name, base64_decode(&value).ok_or_else(malformed)?);
    }
    Ok(())
}

/// Takes out what is said about a sparse file.
fn announced(
    values: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    extents: Vec<Extent>,
    offset: u64,
) -> Result<Option<Announced>, TarError> {
    let mut said = |key: &[u8]| values.remove(key);
    let (major, minor) = (said(b"GNU.sparse.major"), said(b"GNU.sparse.minor"));
    let name = said(b"GNU.sparse.name").filter(|name| !name.is_empty());
    let (size, real_size) = (said(b"GNU.sparse.size"), said(b"GNU.sparse.realsize"));
    let list = said(b"GNU.sparse.map");
    let has_text = major.as_deref() == Some(b"1") && minor.as_deref() == Some(b"0");
    if !has_text && list.is_none() && extents.is_empty() && size.is_none() {
        return Ok(None);
    }
    let size = real_size.or(size).ok_or(TarError::SparseMap { offset })?;
    let size = unsigned(&size, offset)?;
    let map = match (has_text, list) {
        (true, _) => None,
        (false, Some(list)) => Some(map_of(&list, offset)?),
        (false, None) => Some(extents),
    };
    Ok(Some(Announced { name, size, map }))
}

/// Reads the map of sparse format 0.1: `offset,length,offset,length`.
fn map_of(list: &[u8], offset: u64) -> Result<Vec<Extent>, TarError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<u64> = list
        .split(|byte| *byte == b',')
        .map(|text| unsigned(text, offset))
        .collect::<Result<_, _>>()?;
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::SparseMap { offset });
    }
    if numbers.len() / 2 > SPARSE_EXTENTS_MAX {
        return Err(TarError::SparseExtents { offset });
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Extent {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

/// Splits the first record off: key, value and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes
        .iter()
        .take(LENGTH_DIGITS_MAX + 1)
        .position(|byte| *byte == b' ')?;
    let length = usize::try_from(digits(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record
        .iter()
        .position(|byte| *byte == b'=')
        .filter(|place| *place > 0)?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Digits of the largest length that an extended header can have.
const LENGTH_DIGITS_MAX: usize = 7;

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads a size or an offset: below 2^63, as files are.
pub(super) fn unsigned(text: &[u8], offset: u64) -> Result<u64, TarError> {
    digits(text)
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or(TarError::Number {
            offset,
            field: "of an extended header",
        })
}

fn signed(text: &[u8]) -> Option<i64> {
    let (negative, text) = sign(text);
    let magnitude = i128::from(digits(text)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    text.strip_prefix(b"-")
        .map_or((false, text), |text| (true, text))
}

/// Reads seconds with an optional fraction; digits beyond nanoseconds are cut, as everybody does.
fn time(text: &[u8]) -> Option<Time> {
    const NANOSECONDS: i64 = 1_000_000_000;
    let (negative, magnitude) = sign(text);
    let (whole, fraction) = match magnitude.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&magnitude[..dot], &magnitude[dot + 1..]),
        None => (magnitude, &b""[..]),
    };
    let whole = i64::try_from(digits(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let shown = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let fraction = shown.fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
    let (seconds, nanoseconds) = match (negative, fraction) {
        (false, _) => (whole, fraction),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, NANOSECONDS - fraction),
    };
    Some(Time {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).ok()?,
    })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, later)) = rest.split_first() {
        rest = later;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (pair, later) = rest.split_at_checked(2)?;
        let pair = std::str::from_utf8(pair).ok()?;
        decoded.push(u8::from_str_radix(pair, 16).ok()?);
        rest = later;
    }
    (!decoded.is_empty() && !decoded.contains(&0)).then_some(decoded)
}

/// Reads base64 with or without padding.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.iter().take_while(|byte| **byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits & 0x3f_ffff) << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.123456789987", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("1.", Some((1, 0))),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            let expected = expected.map(|(seconds, nanoseconds)| Time {
                seconds,
                nanoseconds,
            });
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    /// Writes a record, whose length counts its own digits.
    fn record_of(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), &rest].concat()
    }

    #[test]
    fn values_hold_any_byte() {
        let text = [
            record_of("SCHILY.xattr.user.a", b"b=\0\n\xff"),
            record_of("SCHILY.xattr.user.empty", b""),
            record_of("path", b"a b"),
            record_of("linkpath", b""),
        ];
        let records = Records::parse(&text.concat(), 0).unwrap();
        let attributes = Records::default().attributes(Some(records), 0).unwrap();
        assert_eq!(attributes.xattrs[&b"user.a"[..]], b"b=\0\n\xff");
        assert_eq!(attributes.xattrs[&b"user.empty"[..]], b"");
        assert_eq!(attributes.path.as_deref(), Some(&b"a b"[..]));
        assert_eq!(attributes.link, None);
    }

    #[test]
    fn malformed_records_are_refused() {
        assert!(Records::parse(b"12 path=a b\n", 0).is_ok());
        for bytes in [
            &b"12 path=a b"[..],
            b"13 path=a b\n",
            b"11 path=a b\n",
            b"path=a\n",
            b" 9 path=a\n",
            b"+9 path=a\n",
            b"5 =a\n",
            b"4 a\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"11 path=a\0\n",
        ] {
            assert!(
                Records::parse(bytes, 0).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn global_records_hold_until_they_are_withdrawn_but_name_no_entry() {
        let mut globals = Records::default();
        let first = [
            record_of("uid", b"7"),
            record_of("gid", b"8"),
            record_of("path", b"evil"),
        ]
        .concat();
        globals
            .update_globals(Records::parse(&first, 0).unwrap(), 0)
            .unwrap();
        let attributes = globals.attributes(None, 0).unwrap();
        assert_eq!(
            (attributes.uid, attributes.gid, attributes.path),
            (Some(7), Some(8), None)
        );
        let local =
            Records::parse(&[record_of("uid", b"9"), record_of("gid", b"")].concat(), 0).unwrap();
        let attributes = globals.attributes(Some(local), 0).unwrap();
        assert_eq!((attributes.uid, attributes.gid), (Some(9), None));
        globals
            .update_globals(Records::parse(&record_of("uid", b""), 0).unwrap(), 0)
            .unwrap();
        assert_eq!(globals.attributes(None, 0).unwrap().uid, None);
    }

    #[test]
    fn libarchive_attributes_are_decoded_and_the_raw_form_holds() {
        let text = [
            record_of("LIBARCHIVE.xattr.user.a%3Db", b"AAEC"),
            record_of("SCHILY.xattr.user.c", b"1"),
            record_of("LIBARCHIVE.xattr.user.c", b"d3Jvbmc="),
        ];
        let records = Records::parse(&text.concat(), 0).unwrap();
        let attributes = Records::default().attributes(Some(records), 0).unwrap();
        assert_eq!(attributes.xattrs[&b"user.a=b"[..]], [0, 1, 2]);
        assert_eq!(attributes.xattrs[&b"user.c"[..]], b"1");
        for (text, bytes) in [
            ("", &b""[..]),
            ("QQ", b"A"),
            ("QQ==", b"A"),
            ("QUI", b"AB"),
            ("QUJD", b"ABC"),
        ] {
            assert_eq!(
                base64_decode(text.as_bytes()).as_deref(),
                Some(bytes),
                "{text}"
            );
        }
    }
}
