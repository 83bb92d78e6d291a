// SPDX-License-Identifier: Apache-2.0
//! stargz and eStargz: a gzip layer of many members, a table of contents as its last file, and a footer that says where that is.
//!
//! Three footers end such a layer: eStargz's of 51 bytes, that of eStargz whose table is elsewhere (46), and that of the original stargz (47). The
//! table's digest stands in the layer's annotations; where it does not, the layer may still have one, at the price of a look at its end.
//!
//! One round trip as a rule: the end of the layer is guessed large enough for footer and table together.
//! `docs/formats/estargz.md` and `docs/formats/stargz.md` describe the formats.

use super::toc::{About, TOC_NAME, Toc};
use super::{
    Answer, Blob, Claim, Companion, CompanionKind, Decoder, FormatError, Indexer, LayerFormat,
    Need, Step, TOC_BYTES_MAX, Trust, Wanted,
};
use crate::Digest;
use crate::inflate::{GzipStream, Header as GzipHeader, Step as GzipStep};
use crate::manifest::{Compression, Descriptor, Manifest};
use crate::tar::{Event, Header, Reader};

/// On a layer: the digest of its table of contents, as JSON.
pub const TOC_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// On a layer: how many bytes its tar has.
pub const UNCOMPRESSED_SIZE_ANNOTATION: &str = "io.containers.estargz.uncompressed-size";
/// On a table's blob: which layer it is of.
pub const LAYER_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/layer.digest";
/// Behind an image's tag: where its tables are, if they are not in the layers.
pub const EXTERNAL_TOC_SUFFIX: &str = "-esgztoc";
/// Bytes of the footer.
pub const FOOTER_BYTES: u64 = 51;
/// Bytes of the footer of layers whose table is elsewhere.
pub const EXTERNAL_FOOTER_BYTES: u64 = 46;
/// Bytes of the original stargz' footer.
pub const STARGZ_FOOTER_BYTES: u64 = 47;

/// The part of a layer that its table is guessed to be: they are 0.4 to 0.9 % of real ones.
const TAIL_PART: u64 = 100;
/// The least that is fetched of a layer's end.
const TAIL_BYTES_MIN: u64 = 64 << 10;
/// The most that is fetched without knowing.
const TAIL_BYTES_MAX: u64 = 1 << 20;
/// What is fetched of the end of a layer that may be none of these.
const LOOK_BYTES: u64 = 8 << 10;
/// Largest packed table.
const PACKED_TOC_BYTES_MAX: u64 = 64 << 20;
const NAME: &str = "estargz";

/// stargz and eStargz.
#[derive(Debug)]
pub struct EStargz;

/// The digest that the layer's annotation names.
fn annotated(layer: &Descriptor) -> Option<Digest> {
    let text = layer.annotations.get(TOC_DIGEST_ANNOTATION)?;
    Digest::parse(text).ok()
}

impl LayerFormat for EStargz {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, manifest: &Manifest) -> Vec<Wanted> {
        let is_ours = |layer: &Descriptor| {
            annotated(layer).is_some() && layer.layer_compression() == Some(Compression::Gzip)
        };
        if !manifest.layers.iter().any(is_ours) {
            return Vec::new();
        }
        vec![Wanted::TagSuffix {
            suffix: EXTERNAL_TOC_SUFFIX,
            kind: CompanionKind::ExternalToc,
        }]
    }

    fn claim(&self, layer: &Descriptor, companions: &[Companion]) -> Option<Claim> {
        if layer.layer_compression() != Some(Compression::Gzip) {
            return None;
        }
        let digest = layer.digest.to_string();
        let table = companions
            .iter()
            .filter(|companion| companion.kind == CompanionKind::ExternalToc)
            .flat_map(|companion| &companion.manifest.layers)
            .find(|table| table.annotations.get(LAYER_DIGEST_ANNOTATION) == Some(&digest));
        Some(Claim {
            format: &EStargz,
            certain: annotated(layer).is_some() || table.is_some(),
            layer: layer.clone(),
            companion: table.cloned(),
            companion_is_named: false,
        })
    }

    fn indexer(&self, claim: &Claim) -> Box<dyn Indexer> {
        Box::new(Reading {
            claim: claim.clone(),
            state: State::Begin,
        })
    }
}

/// What a footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footer {
    /// The table's member begins here; the footer has so many bytes.
    Toc {
        /// Where.
        offset: u64,
        /// Bytes of the footer.
        footer_bytes: u64,
    },
    /// The table is elsewhere.
    External,
}

impl Footer {
    /// Reads the footer that ends these bytes.
    #[must_use]
    pub fn read(tail: &[u8]) -> Option<Self> {
        let last = |bytes: u64| {
            let from = tail.len().checked_sub(usize::try_from(bytes).ok()?)?;
            // Its header, and nothing but an empty stored block and the trailer behind it.
            let header = GzipHeader::read(&tail[from..]).ok()??;
            (tail.len() - from - header.length == 13).then_some(header.extra)
        };
        let offset = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let subfield = |extra: &'_ [u8]| match extra {
            [b'S', b'G', low, high, field @ ..]
                if usize::from(u16::from_le_bytes([*low, *high])) == field.len() =>
            {
                Some(field.to_vec())
            }
            _ => None,
        };
        if let Some(field) = last(FOOTER_BYTES).and_then(subfield)
            && let Some(digits) = field.strip_suffix(b"STARGZ")
        {
            return Some(Self::Toc {
                offset: offset(digits)?,
                footer_bytes: FOOTER_BYTES,
            });
        }
        if let Some(extra) = last(STARGZ_FOOTER_BYTES)
            && let Some(digits) = extra.strip_suffix(b"STARGZ")
        {
            return Some(Self::Toc {
                offset: offset(digits)?,
                footer_bytes: STARGZ_FOOTER_BYTES,
            });
        }
        let external = last(EXTERNAL_FOOTER_BYTES).and_then(subfield)?;
        (external == b"STARGZEXTERNALTOC").then_some(Self::External)
    }
}

#[derive(Debug)]
struct Reading {
    claim: Claim,
    state: State,
}

#[derive(Debug)]
enum State {
    Begin,
    /// The end of the layer comes, from here on.
    Tail(u64),
    /// What the guess left out comes; then the rest is there, up to the footer.
    Missing {
        offset: u64,
        rest: Vec<u8>,
    },
    /// The table comes from elsewhere.
    External,
}

impl Indexer for Reading {
    fn step(&mut self, answers: Vec<Answer>) -> Result<Step, FormatError> {
        let answer = answers.into_iter().next().unwrap_or_default();
        match std::mem::replace(&mut self.state, State::Begin) {
            State::Begin => Ok(Step::Need(vec![self.begin()?])),
            State::Tail(from) => self.tail(from, &answer),
            State::Missing { offset, mut rest } => {
                let mut toc = answer;
                let wanted = self.claim.layer.size.saturating_sub(offset);
                toc.append(&mut rest);
                if (toc.len() as u64) > wanted {
                    return Err(FormatError::Short { format: NAME });
                }
                self.internal(offset, &toc)
            }
            State::External => self.external(&answer),
        }
    }
}

impl Reading {
    fn begin(&mut self) -> Result<Need, FormatError> {
        if let Some(companion) = &self.claim.companion {
            if companion.size > PACKED_TOC_BYTES_MAX {
                return Err(limit());
            }
            self.state = State::External;
            return Ok(Need {
                of: Blob::Companion,
                range: 0..companion.size,
            });
        }
        let size = self.claim.layer.size;
        let guess = if self.claim.certain {
            (size / TAIL_PART).clamp(TAIL_BYTES_MIN, TAIL_BYTES_MAX)
        } else {
            LOOK_BYTES
        };
        let from = size.saturating_sub(guess);
        self.state = State::Tail(from);
        Ok(Need {
            of: Blob::Layer,
            range: from..size,
        })
    }

    fn tail(&mut self, from: u64, tail: &[u8]) -> Result<Step, FormatError> {
        if tail.len() as u64 != self.claim.layer.size - from {
            return Err(FormatError::Short { format: NAME });
        }
        match Footer::read(tail) {
            None => Err(FormatError::NeedsWhole("it has no table of contents")),
            Some(Footer::External) => Err(FormatError::NeedsWhole(
                "its table of contents is elsewhere, and was not found",
            )),
            Some(Footer::Toc {
                offset,
                footer_bytes,
            }) => {
                let end = self.claim.layer.size.saturating_sub(footer_bytes);
                if offset >= end {
                    return Err(malformed("its footer points behind its end"));
                }
                if end - offset > PACKED_TOC_BYTES_MAX {
                    return Err(limit());
                }
                let there = tail.len() - usize::try_from(footer_bytes).unwrap_or(0).min(tail.len());
                if let Some(skip) = offset.checked_sub(from) {
                    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                    return self.internal(offset, tail.get(skip..there).unwrap_or_default());
                }
                self.state = State::Missing {
                    offset,
                    rest: tail[..there].to_vec(),
                };
                Ok(Step::Need(vec![Need {
                    of: Blob::Layer,
                    range: offset..from,
                }]))
            }
        }
    }

    fn internal(&self, offset: u64, packed: &[u8]) -> Result<Step, FormatError> {
        let table = Table::unpack(packed)?;
        let trust = self.check(&table)?;
        let mut toc = Toc::new(About {
            format: NAME,
            layer: &self.claim.layer,
            decoder: Decoder::Gzip,
            trust,
            payload_end: offset.saturating_add(packed.len() as u64),
        });
        toc.read(&table.json)?;
        // The table is the archive's last file, and whoever unpacks it whole has it.
        toc.add(table.header, table.digest, offset, table.json_offset)?;
        Ok(Step::Done(Box::new(toc.finish()?)))
    }

    fn external(&self, packed: &[u8]) -> Result<Step, FormatError> {
        let companion = self.claim.companion.as_ref();
        if companion.is_none_or(|companion| companion.digest != Digest::of(packed)) {
            return Err(FormatError::Digest {
                format: NAME,
                what: "table of contents",
            });
        }
        let table = Table::unpack(packed)?;
        let trust = match self.check(&table)? {
            Trust::Nobody => Trust::Companion,
            trust => trust,
        };
        let mut toc = Toc::new(About {
            format: NAME,
            layer: &self.claim.layer,
            decoder: Decoder::Gzip,
            trust,
            payload_end: self.claim.layer.size,
        });
        toc.read(&table.json)?;
        Ok(Step::Done(Box::new(toc.finish()?)))
    }

    /// Compares the table with what the layer's annotation says.
    fn check(&self, table: &Table) -> Result<Trust, FormatError> {
        match annotated(&self.claim.layer) {
            Some(digest) if digest == table.digest => Ok(Trust::Manifest),
            Some(_) => Err(FormatError::Digest {
                format: NAME,
                what: "table of contents",
            }),
            None => Ok(Trust::Nobody),
        }
    }
}

fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: NAME, what }
}

fn limit() -> FormatError {
    FormatError::Limit {
        format: NAME,
        what: "its table of contents",
    }
}

/// The table as it lies in its gzip member: a tar of one file.
#[derive(Debug)]
struct Table {
    json: Vec<u8>,
    digest: Digest,
    header: Header,
    /// Where in the unpacked member the JSON begins.
    json_offset: u64,
}

impl Table {
    fn unpack(packed: &[u8]) -> Result<Self, FormatError> {
        let tar = gunzip(packed)?;
        let mut reader = Reader::new();
        let (mut json, mut header, mut json_offset) = (Vec::new(), None, 0);
        let mut input = &tar[..];
        loop {
            let event = reader.next(&mut input);
            match event.map_err(|_| malformed("its table of contents is in no tar"))? {
                Some(Event::Entry(entry)) => {
                    if entry.path != TOC_NAME.as_bytes() {
                        return Err(malformed("its table of contents has another name"));
                    }
                    header = Some(entry);
                }
                Some(Event::Data { bytes, .. }) => {
                    if json.is_empty() {
                        json_offset = reader.taken_bytes() - bytes.len() as u64;
                    }
                    json.extend_from_slice(bytes);
                }
                Some(Event::EntryEnd) => break,
                Some(Event::Hole { .. }) | None => {
                    return Err(malformed("its table of contents is not whole"));
                }
            }
        }
        Ok(Self {
            digest: Digest::of(&json),
            json,
            header: header.ok_or_else(|| malformed("its table of contents is not there"))?,
            json_offset,
        })
    }
}

/// Unpacks one gzip member, within bounds.
fn gunzip(packed: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut stream = GzipStream::new();
    stream.push(packed);
    let mut out = Vec::new();
    loop {
        let step = stream.step(true);
        out.extend_from_slice(stream.inflater().output());
        stream.inflater_mut().take_output();
        if out.len() as u64 > TOC_BYTES_MAX {
            return Err(limit());
        }
        match step {
            Ok(GzipStep::End | GzipStep::Hungry) => return Ok(out),
            Ok(_) => {}
            Err(_) => return Err(malformed("its table of contents cannot be unpacked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer(extra: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
        bytes.extend_from_slice(&u16::try_from(extra.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(extra);
        bytes.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn footers_are_told_apart() {
        let toc = |offset, footer_bytes| {
            Some(Footer::Toc {
                offset,
                footer_bytes,
            })
        };
        let table: [(&[u8], u64, Option<Footer>); 6] = [
            (b"SG\x16\x0000000000000012abSTARGZ", 51, toc(0x12ab, 51)),
            (b"000000000000ffffSTARGZ", 47, toc(0xffff, 47)),
            (b"SG\x11\x00STARGZEXTERNALTOC", 46, Some(Footer::External)),
            (b"SG\x16\x00000000000000xxxxSTARGZ", 51, None),
            (b"SG\x15\x0000000000000012abSTARGZ", 51, None),
            (b"TG\x16\x0000000000000012abSTARGZ", 51, None),
        ];
        for (extra, bytes, expected) in table {
            let footer = footer(extra);
            assert_eq!(footer.len() as u64, bytes);
            assert_eq!(Footer::read(&footer), expected, "{}", extra.escape_ascii());
            let tail = [b"what comes before", &footer[..]].concat();
            assert_eq!(Footer::read(&tail), expected);
            assert_eq!(Footer::read(&footer[1..]), None);
            assert_eq!(Footer::read(&footer[..footer.len() - 1]), None);
        }
        assert_eq!(Footer::read(b""), None);
    }
}
