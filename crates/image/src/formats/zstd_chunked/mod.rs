// SPDX-License-Identifier: Apache-2.0
//! zstd:chunked: a zstd layer of many frames, with a table of contents in a skippable frame at its end; both dialects.
//!
//! The dialect of containers/storage (podman, skopeo, CRI-O) and that of stargz-snapshotter differ in the names of their annotations and in
//! their footers, not in what the table means. Annotations say where the table is and what its packed bytes hash to, so nothing else is
//! asked for; a layer without them is looked at from its end. `docs/formats/zstd-chunked.md` describes both.

use super::estargz::TOC_DIGEST_ANNOTATION;
use super::toc::{About, Toc};
use super::{
    Answer, Blob, Claim, Companion, Decoder, FormatError, Indexer, LayerFormat, Need, Step,
    TOC_BYTES_MAX, Trust,
};
use crate::Digest;
use crate::manifest::{Compression, Descriptor};

/// containers/storage: the digest of the packed table.
pub const CHECKSUM_ANNOTATION: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// containers/storage: where the table is.
pub const POSITION_ANNOTATION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// containers/storage: where what rebuilds the tar is.
pub const TAR_SPLIT_ANNOTATION: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// stargz-snapshotter: the digest of the packed table.
pub const STARGZ_CHECKSUM_ANNOTATION: &str = "io.containers.zstd-chunked.manifest-checksum";
/// stargz-snapshotter: where the table is.
pub const STARGZ_POSITION_ANNOTATION: &str = "io.containers.zstd-chunked.manifest-position";
/// Bytes of containers/storage's footer, without the skippable frame's header.
pub const FOOTER_BYTES: usize = 64;
/// Bytes of stargz-snapshotter's footer, without the skippable frame's header.
pub const STARGZ_FOOTER_BYTES: usize = 40;
/// The last bytes of containers/storage's footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"GNUlInUx";
/// The last bytes of stargz-snapshotter's footer.
pub const STARGZ_FOOTER_MAGIC: [u8; 8] = *b"GnUlInUx";
/// The only kind of table.
pub const TOC_KIND: u64 = 1;
/// Bytes of a skippable frame's header; tables' places point behind it.
pub const FRAME_HEADER_BYTES: u64 = 8;

/// What is fetched of the end of a layer that may be none of these.
const LOOK_BYTES: u64 = 8 << 10;
/// Largest packed table.
const PACKED_TOC_BYTES_MAX: u64 = 64 << 20;
const NAME: &str = "zstd-chunked";

/// zstd:chunked.
#[derive(Debug)]
pub struct ZstdChunked;

/// Where a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where its packed bytes begin.
    pub offset: u64,
    /// How many there are.
    pub packed_bytes: u64,
    /// How many bytes the JSON has.
    pub json_bytes: u64,
}

impl Position {
    /// Reads an annotation: `offset:packed:unpacked:1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| number.parse::<u64>().ok());
        let position = Self {
            offset: numbers.next()??,
            packed_bytes: numbers.next()??,
            json_bytes: numbers.next()??,
        };
        let kind = numbers.next()??;
        (kind == TOC_KIND && numbers.next().is_none()).then_some(position)
    }

    /// Reads the footer that ends these bytes, of either dialect.
    #[must_use]
    pub fn read_footer(tail: &[u8]) -> Option<Self> {
        let magic = tail.last_chunk::<8>()?;
        let footer_bytes = if *magic == FOOTER_MAGIC {
            FOOTER_BYTES
        } else if *magic == STARGZ_FOOTER_MAGIC {
            STARGZ_FOOTER_BYTES
        } else {
            return None;
        };
        let footer = &tail[tail.len().checked_sub(footer_bytes)?..];
        let number = |place: usize| -> Option<u64> {
            let bytes = footer.get(8 * place..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let position = Self {
            offset: number(0)?,
            packed_bytes: number(1)?,
            json_bytes: number(2)?,
        };
        (number(3)? == TOC_KIND).then_some(position)
    }
}

/// What the layer's annotations say: where the table is, and its packed digest.
fn annotated(layer: &Descriptor) -> Option<(Position, Digest)> {
    let dialects = [
        (POSITION_ANNOTATION, CHECKSUM_ANNOTATION),
        (STARGZ_POSITION_ANNOTATION, STARGZ_CHECKSUM_ANNOTATION),
    ];
    dialects.iter().find_map(|(position, checksum)| {
        let position = Position::parse(layer.annotations.get(*position)?)?;
        let checksum = Digest::parse(layer.annotations.get(*checksum)?).ok()?;
        Some((position, checksum))
    })
}

impl LayerFormat for ZstdChunked {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claim(&self, layer: &Descriptor, _: &[Companion]) -> Option<Claim> {
        let annotated = annotated(layer).is_some();
        // Builders keep `+gzip` now and then; annotations say more.
        if !annotated && layer.layer_compression() != Some(Compression::Zstd) {
            return None;
        }
        Some(Claim {
            format: &ZstdChunked,
            certain: annotated,
            layer: layer.clone(),
            companion: None,
            companion_is_named: false,
        })
    }

    fn indexer(&self, claim: &Claim) -> Box<dyn Indexer> {
        Box::new(Reading {
            layer: claim.layer.clone(),
            state: State::Begin,
        })
    }
}

#[derive(Debug)]
struct Reading {
    layer: Descriptor,
    state: State,
}

#[derive(Debug)]
enum State {
    Begin,
    /// The layer's end comes.
    Tail,
    /// The table comes.
    Table(Position),
}

impl Indexer for Reading {
    fn step(&mut self, answers: Vec<Answer>) -> Result<Step, FormatError> {
        let answer = answers.into_iter().next().unwrap_or_default();
        match std::mem::replace(&mut self.state, State::Begin) {
            State::Begin => {
                if let Some((position, _)) = annotated(&self.layer) {
                    return self.need(position);
                }
                self.state = State::Tail;
                let from = self.layer.size.saturating_sub(LOOK_BYTES);
                Ok(Step::Need(vec![Need {
                    of: Blob::Layer,
                    range: from..self.layer.size,
                }]))
            }
            State::Tail => match Position::read_footer(&answer) {
                Some(position) => self.need(position),
                None => Err(FormatError::NeedsWhole("it has no table of contents")),
            },
            State::Table(position) => self.table(position, &answer),
        }
    }
}

impl Reading {
    fn need(&mut self, position: Position) -> Result<Step, FormatError> {
        let end = position.offset.checked_add(position.packed_bytes);
        let end =
            end.filter(|end| *end <= self.layer.size && position.offset >= FRAME_HEADER_BYTES);
        let end = end.ok_or_else(|| malformed("its table of contents is not within it"))?;
        if position.packed_bytes > PACKED_TOC_BYTES_MAX || position.json_bytes > TOC_BYTES_MAX {
            return Err(FormatError::Limit {
                format: NAME,
                what: "its table of contents",
            });
        }
        self.state = State::Table(position);
        Ok(Step::Need(vec![Need {
            of: Blob::Layer,
            range: position.offset..end,
        }]))
    }

    fn table(&self, position: Position, packed: &[u8]) -> Result<Step, FormatError> {
        if packed.len() as u64 != position.packed_bytes {
            return Err(FormatError::Short { format: NAME });
        }
        let wrong_digest = FormatError::Digest {
            format: NAME,
            what: "table of contents",
        };
        let mut trust = Trust::Nobody;
        if let Some((_, checksum)) = annotated(&self.layer) {
            if Digest::of(packed) != checksum {
                return Err(wrong_digest);
            }
            trust = Trust::Manifest;
        }
        let room = position
            .json_bytes
            .min(packed.len() as u64 * super::RATIO_MAX);
        let json = zstd::bulk::decompress(packed, usize::try_from(room).unwrap_or(0));
        let json = json.map_err(|_| malformed("its table of contents cannot be unpacked"))?;
        if json.len() as u64 != position.json_bytes {
            return Err(malformed("its table of contents has another length"));
        }
        if let Some(digest) = self.layer.annotations.get(TOC_DIGEST_ANNOTATION) {
            if Digest::parse(digest).ok() != Some(Digest::of(&json)) {
                return Err(wrong_digest);
            }
            trust = Trust::Manifest;
        }
        let mut toc = Toc::new(About {
            format: NAME,
            layer: &self.layer,
            decoder: Decoder::Zstd,
            trust,
            payload_end: position.offset - FRAME_HEADER_BYTES,
        });
        toc.read(&json)?;
        Ok(Step::Done(Box::new(toc.finish()?)))
    }
}

fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: NAME, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        let position = Position {
            offset: 10,
            packed_bytes: 20,
            json_bytes: 30,
        };
        assert_eq!(Position::parse("10:20:30:1"), Some(position));
        for wrong in [
            "",
            "10:20:30",
            "10:20:30:2",
            "10:20:30:1:0",
            "-1:2:3:1",
            "a:b:c:1",
        ] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
        let footer = |numbers: &[u64], magic: [u8; 8]| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|one| one.to_le_bytes()).collect();
            bytes.extend_from_slice(&magic);
            bytes
        };
        let stargz = footer(&[10, 20, 30, 1], STARGZ_FOOTER_MAGIC);
        let storage = footer(&[10, 20, 30, 1, 40, 50, 60], FOOTER_MAGIC);
        assert_eq!((stargz.len(), storage.len()), (40, 64));
        for bytes in [&stargz, &storage] {
            assert_eq!(Position::read_footer(bytes), Some(position));
            assert_eq!(
                Position::read_footer(&[b"before", &bytes[..]].concat()),
                Some(position)
            );
            assert_eq!(Position::read_footer(&bytes[1..]), None);
        }
        assert_eq!(
            Position::read_footer(&footer(&[1, 2, 3, 4], STARGZ_FOOTER_MAGIC)),
            None
        );
    }
}
