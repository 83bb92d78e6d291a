// SPDX-License-Identifier: Apache-2.0
//! The table of contents that stargz, eStargz and zstd:chunked share: JSON, one object for each entry of the archive.
//!
//! Entries are taken one by one as the JSON is read, so that a table that says little in many bytes costs little memory.
//! `docs/formats/estargz.md` describes the fields.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Chunk, Decoder, FormatError, Identity, LayerIndex, MapBuilder, Prefetch, Span, Trust,
    lazy_digest,
};
use crate::Digest;
use crate::manifest::Descriptor;
use crate::tar::{EntryKind, Header};
use crate::tree::{LayerBuilder, Time, Wants};

/// The name under which gzip layers have the table in their archive.
pub(super) const TOC_NAME: &str = "stargz.index.json";
/// The file whose place ends what is read first.
const LANDMARK: &str = ".prefetch.landmark";
/// The file that says that nothing is.
const NO_LANDMARK: &str = ".no.prefetch.landmark";

/// What the reader of a table is told about the layer.
#[derive(Debug)]
pub(super) struct About<'layer> {
    pub(super) format: &'static str,
    pub(super) layer: &'layer Descriptor,
    pub(super) decoder: Decoder,
    pub(super) trust: Trust,
    /// Where the last file's packed bytes end at the latest.
    pub(super) payload_end: u64,
}

/// A table on its way to an index.
#[derive(Debug)]
pub(super) struct Toc<'layer> {
    about: About<'layer>,
    builder: LayerBuilder,
    files: Vec<File>,
    pieces: Vec<Piece>,
    open: Option<File>,
    /// The packed offset behind which nothing is read first.
    landmark: Option<u64>,
    nothing_first: bool,
    /// Why reading stopped.
    error: Option<FormatError>,
}

#[derive(Debug)]
struct File {
    digest: Option<Digest>,
    size: u64,
    /// Its pieces, the first, and how many bytes they have so far.
    first: usize,
    position: u64,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    end: Option<u64>,
    inner: u64,
    length: u64,
    digest: Option<Digest>,
    hole: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    modtime: Option<String>,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    mode: i64,
    #[serde(default)]
    uid: i64,
    #[serde(default)]
    gid: i64,
    #[serde(default)]
    dev_major: i64,
    #[serde(default)]
    dev_minor: i64,
    #[serde(default)]
    xattrs: Option<BTreeMap<String, String>>,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
    #[serde(default)]
    inner_offset: u64,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    #[serde(default)]
    chunk_digest: String,
    #[serde(default)]
    chunk_type: String,
}

impl<'layer> Toc<'layer> {
    pub(super) fn new(about: About<'layer>) -> Self {
        Self {
            about,
            builder: LayerBuilder::new(),
            files: Vec::new(),
            pieces: Vec::new(),
            open: None,
            landmark: None,
            nothing_first: false,
            error: None,
        }
    }

    /// Reads the JSON.
    pub(super) fn read(&mut self, json: &[u8]) -> Result<(), FormatError> {
        let mut input = serde_json::Deserializer::from_slice(json);
        let read = Document(self).deserialize(&mut input);
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if read.is_err() || input.end().is_err() {
            return Err(self.malformed("its table of contents is no such JSON"));
        }
        self.close()
    }

    /// Adds a file that is in the archive but not in the table: the table itself.
    pub(super) fn add(
        &mut self,
        header: Header,
        digest: Digest,
        offset: u64,
        inner: u64,
    ) -> Result<(), FormatError> {
        let Wants::Content { size } = self.builder.begin(header)? else {
            return Ok(());
        };
        self.builder.content(digest);
        let first = self.pieces.len();
        self.pieces.push(Piece {
            offset,
            end: None,
            inner,
            length: size,
            digest: Some(digest),
            hole: false,
        });
        self.files.push(File {
            digest: Some(digest),
            size,
            first,
            position: size,
        });
        Ok(())
    }

    fn malformed(&self, what: &'static str) -> FormatError {
        FormatError::Malformed {
            format: self.about.format,
            what,
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), FormatError> {
        if entry.kind == "chunk" {
            return self.chunk(entry, None);
        }
        self.close()?;
        let path = entry.name.trim_end_matches('/');
        let is_root = path.trim_start_matches("./").trim_start_matches('/') == LANDMARK;
        if is_root {
            self.landmark = Some(entry.offset);
        } else if path == NO_LANDMARK {
            self.nothing_first = true;
        }
        let header = self.header(entry)?;
        if let Wants::Content { size } = self.builder.begin(header)? {
            if size == 0 {
                self.builder.content(Digest::of(&[]));
                return Ok(());
            }
            let digest = self.digest(&entry.digest)?;
            self.open = Some(File {
                digest,
                size,
                first: self.pieces.len(),
                position: 0,
            });
            return self.chunk(entry, digest);
        }
        Ok(())
    }

    fn header(&self, entry: &Entry) -> Result<Header, FormatError> {
        let number = |value: i64, what| u32::try_from(value).map_err(|_| self.malformed(what));
        let kind = match entry.kind.as_str() {
            "reg" => EntryKind::File,
            "dir" => EntryKind::Directory,
            "symlink" => EntryKind::Symlink,
            "hardlink" => EntryKind::HardLink,
            "char" => EntryKind::CharDevice,
            "block" => EntryKind::BlockDevice,
            "fifo" => EntryKind::Fifo,
            _ => return Err(self.malformed("an entry's type is none")),
        };
        let time = entry.modtime.as_deref().filter(|text| !text.is_empty());
        let mtime = match time {
            Some(text) => parse_time(text).ok_or_else(|| self.malformed("a time is none"))?,
            None => Time::default(),
        };
        let mut xattrs = BTreeMap::new();
        for (name, value) in entry.xattrs.iter().flatten() {
            let value = STANDARD
                .decode(value)
                .map_err(|_| self.malformed("an extended attribute is no base64"))?;
            xattrs.insert(name.clone().into_bytes(), value);
        }
        Ok(Header {
            path: entry.name.clone().into_bytes(),
            kind,
            link: entry.link_name.clone().into_bytes(),
            size: if kind == EntryKind::File {
                entry.size
            } else {
                0
            },
            mode: u32::try_from(entry.mode & 0o7777).unwrap_or(0),
            uid: number(entry.uid, "an owner is none")?,
            gid: number(entry.gid, "a group is none")?,
            mtime,
            device_major: number(entry.dev_major, "a device is none")?,
            device_minor: number(entry.dev_minor, "a device is none")?,
            xattrs,
        })
    }

    /// Takes where a piece of the open file is. `whole`: the file's digest, if this entry is the file's own.
    fn chunk(&mut self, entry: &Entry, whole: Option<Digest>) -> Result<(), FormatError> {
        let own_digest = self.digest(&entry.chunk_digest)?;
        let wrong = self.malformed("a file's chunks are not one behind another");
        // Those of a file that was left out.
        let Some(file) = &mut self.open else {
            return Ok(());
        };
        let rest = file.size - file.position;
        let length = match entry.chunk_size {
            0 => rest,
            length => length,
        };
        if entry.chunk_offset != file.position || length == 0 || length > rest {
            return Err(wrong);
        }
        file.position += length;
        let is_whole = length == file.size;
        self.pieces.push(Piece {
            offset: entry.offset,
            end: Some(entry.end_offset).filter(|end| *end > 0),
            inner: entry.inner_offset,
            length,
            digest: own_digest.or(whole.filter(|_| is_whole)),
            hole: entry.chunk_type == "zeros",
        });
        Ok(())
    }

    /// Ends the file that is open.
    fn close(&mut self) -> Result<(), FormatError> {
        let Some(file) = self.open.take() else {
            return Ok(());
        };
        if file.position != file.size {
            return Err(self.malformed("a file's chunks do not make it whole"));
        }
        let digest = file.digest.unwrap_or_else(|| self.place(&file));
        self.builder.content(digest);
        self.files.push(file);
        Ok(())
    }

    /// The name of a file that has no digest.
    fn place(&self, file: &File) -> Digest {
        let first = self.pieces.get(file.first);
        let (offset, inner) = first.map_or((0, 0), |piece| (piece.offset, piece.inner));
        lazy_digest(&self.about.layer.digest, offset, inner, file.size)
    }

    fn digest(&self, text: &str) -> Result<Option<Digest>, FormatError> {
        if text.is_empty() {
            return Ok(None);
        }
        Digest::parse(text)
            .map(Some)
            .map_err(|_| self.malformed("a digest is none"))
    }

    /// Puts the index together.
    pub(super) fn finish(self) -> Result<LayerIndex, FormatError> {
        let format = self.about.format;
        let wrong = |what| FormatError::Malformed { format, what };
        let layer = self.about.layer;
        let mut map = MapBuilder::new(layer.digest, layer.size, self.about.trust);
        // Where something begins: how far its output is wanted, and where it ends if that is said.
        let mut beginnings: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
        for piece in self.pieces.iter().filter(|piece| !piece.hole) {
            let output = piece.inner.checked_add(piece.length);
            let output = output.ok_or_else(|| wrong("a chunk is absurdly long"))?;
            let beginning = beginnings.entry(piece.offset).or_insert((0, None));
            beginning.0 = beginning.0.max(output);
            beginning.1 = beginning.1.max(piece.end);
        }
        let mut spans = BTreeMap::new();
        let mut following = beginnings.keys().copied().skip(1);
        for (offset, (output_bytes, end)) in &beginnings {
            let next = following.next().unwrap_or(self.about.payload_end);
            let end = end.map_or(next, |end| end.min(next));
            if end <= *offset {
                return Err(wrong("a chunk is not within the layer"));
            }
            let span = map.span(Span {
                packed: *offset..end,
                decoder: self.about.decoder.clone(),
                output_bytes: *output_bytes,
                digest: None,
                marks: Vec::new(),
            });
            spans.insert(*offset, span.map_err(wrong)?);
        }
        for (place, file) in self.files.iter().enumerate() {
            let end = self
                .files
                .get(place + 1)
                .map_or(self.pieces.len(), |next| next.first);
            let chunks = self.pieces[file.first..end].iter().map(|piece| Chunk {
                file_offset: 0,
                length: piece.length,
                span: (!piece.hole)
                    .then(|| spans.get(&piece.offset).copied())
                    .flatten(),
                skip: if piece.hole { 0 } else { piece.inner },
                digest: piece.digest,
            });
            let (digest, identity) = match file.digest {
                Some(digest) => (digest, Identity::Bytes),
                None => (self.place(file), Identity::Place),
            };
            map.content(digest, identity, chunks).map_err(wrong)?;
        }
        if self.nothing_first {
            map.prefetch(Prefetch::Nothing);
        } else if let Some(end) = self.landmark {
            let end = end.min(layer.size);
            map.prefetch(Prefetch::Ranges(std::iter::once(0..end).collect()));
        }
        Ok(LayerIndex {
            layer: self.builder.finish(),
            map: map.finish().map_err(wrong)?,
            windows: Vec::new(),
        })
    }
}

/// The outermost object.
struct Document<'toc, 'layer>(&'toc mut Toc<'layer>);

impl<'json> DeserializeSeed<'json> for Document<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'json> Visitor<'json> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a table of contents")
    }

    fn visit_map<M: MapAccess<'json>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    if map.next_value::<u64>()? != 1 {
                        self.0.error = Some(self.0.malformed("an unknown version"));
                        return Err(serde::de::Error::custom("version"));
                    }
                }
                "entries" => map.next_value_seed(Entries(&mut *self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The row of entries.
struct Entries<'toc, 'layer>(&'toc mut Toc<'layer>);

impl<'json> DeserializeSeed<'json> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'json> Visitor<'json> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("entries")
    }

    fn visit_seq<S: SeqAccess<'json>>(self, mut row: S) -> Result<(), S::Error> {
        while let Some(entry) = row.next_element::<Entry>()? {
            if let Err(error) = self.0.entry(&entry) {
                self.0.error = Some(error);
                return Err(serde::de::Error::custom("entry"));
            }
        }
        Ok(())
    }
}

/// Reads a time of RFC 3339.
pub(super) fn parse_time(text: &str) -> Option<Time> {
    let text = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to)?.iter().try_fold(0_i64, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let is = |place: usize, bytes: &[u8]| text.get(place).is_some_and(|byte| bytes.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 24
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut place = 19;
    let mut nanoseconds = 0_u32;
    if is(19, b".") {
        place = 20;
        let mut unit = 100_000_000_u32;
        while let Some(digit) = text.get(place).filter(|byte| byte.is_ascii_digit()) {
            nanoseconds += u32::from(digit - b'0') * unit;
            unit /= 10;
            place += 1;
        }
    }
    let offset_seconds = match text.get(place..)? {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let seconds = number(place + 1, place + 3)? * 3600 + number(place + 4, place + 6)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days since 1970 of a date in the Gregorian calendar, counted in years that begin in March.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = 365 * shifted_year + shifted_year.div_euclid(4) - shifted_year.div_euclid(100)
        + shifted_year.div_euclid(400)
        + day_of_year
        - 719_468;
    Some(Time {
        seconds: days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        for (text, seconds, nanoseconds) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000, 500_000_000),
            ("2024-02-29T00:00:00.123456789Z", 1_709_164_800, 123_456_789),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("2000-03-01T00:00:00-00:30", 951_870_600, 0),
        ] {
            assert_eq!(
                parse_time(text),
                Some(Time {
                    seconds,
                    nanoseconds
                }),
                "{text}"
            );
        }
        for text in [
            "",
            "2023",
            "2023-11-14T22:13:20",
            "2023-13-14T22:13:20Z",
            "2023-11-14T22:13:20.1",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
