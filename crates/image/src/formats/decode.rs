// SPDX-License-Identifier: Apache-2.0
//! Packed bytes of one span in, verified chunks out: each span is decoded once for all that is wanted of it.
//!
//! # Theory of operation
//!
//! A [`SpanDecoder`] is fed what arrives and hands on pieces of the wanted chunks as they come out; it stops where the last
//! wanted byte is out, however much the span would give. Memory: one buffer of [`PIECE_BYTES_MAX`], and what the decoder keeps (32 KiB for
//! deflate; for zstd its window, at most [`ZSTD_WINDOW_LOG_MAX`]).
//!
//! **Pieces are not verified when they are handed on**: a chunk is right when its end was told ([`Piece::End`]), which is
//! after its digest was compared. Keep what you are given out of sight until then. A chunk without a digest of its own is
//! only as good as what the caller checks: the whole file's digest, or the span's ([`SpanDecoder::verify_span`]).

use super::{Chunk, Decoder, Span, window};
use crate::inflate::{GzipStream, InflateError, Step};
use crate::{Digest, Hasher};

/// Most bytes of one piece.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
/// Largest window of a zstd frame, as a power of two: zstd's own limit without `--long`, as for whole layers.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What comes out of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'bytes> {
    /// The next bytes of a chunk.
    Bytes {
        /// Which of the wanted chunks.
        chunk: usize,
        /// Its bytes, from where the last piece of it ended.
        bytes: &'bytes [u8],
    },
    /// A chunk is complete, and its digest fits where it has one.
    End {
        /// Which of the wanted chunks.
        chunk: usize,
    },
}

/// Why a span cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The packed bytes are not what the decoder takes.
    #[error("decoding a span: {0}")]
    Packed(&'static str),
    /// A chunk or the span has another digest.
    #[error("decoding a span: the bytes have another digest than the index says")]
    Digest,
    /// The bytes end before the last wanted one is out.
    #[error("decoding a span: its bytes end early")]
    Short,
    /// A wanted chunk lies beyond what the span may give, or the chunks are in no order.
    #[error("decoding a span: a chunk is not within it")]
    Chunk,
    /// The window is none.
    #[error("decoding a span: its window is malformed")]
    Window,
}

/// A span on its way from packed bytes to chunks.
#[derive(Debug)]
pub struct SpanDecoder {
    unpacker: Unpacker,
    wanted: Vec<Wanted>,
    /// The first of the wanted that is not complete.
    first: usize,
    /// Bytes of output so far.
    produced: u64,
    /// Bytes of output after which nothing is wanted.
    output_end: u64,
    verify: Option<(Hasher, Digest)>,
    packed_left: u64,
}

#[derive(Debug)]
struct Wanted {
    skip: u64,
    end: u64,
    check: Option<(Hasher, Digest)>,
}

impl SpanDecoder {
    /// Returns a decoder of some chunks of a span, which stand in the order of their `skip`.
    ///
    /// `window` is what [`Span::fetch`] said to fetch for it, empty if that was nothing.
    pub fn new<'chunk>(
        span: &Span,
        window: &[u8],
        wanted: impl IntoIterator<Item = &'chunk Chunk>,
    ) -> Result<Self, DecodeError> {
        let mut output_end = 0;
        let mut all: Vec<Wanted> = Vec::new();
        for chunk in wanted {
            let end = chunk.skip.checked_add(chunk.length);
            let end = end
                .filter(|end| *end <= span.output_bytes)
                .ok_or(DecodeError::Chunk)?;
            if all.last().is_some_and(|last| last.skip > chunk.skip) {
                return Err(DecodeError::Chunk);
            }
            output_end = output_end.max(end);
            all.push(Wanted {
                skip: chunk.skip,
                end,
                check: chunk.digest.map(|digest| (Hasher::new(), digest)),
            });
        }
        Ok(Self {
            unpacker: Unpacker::new(&span.decoder, window)?,
            wanted: all,
            first: 0,
            produced: 0,
            output_end,
            verify: None,
            packed_left: span.packed.end.saturating_sub(span.packed.start),
        })
    }

    /// Takes the next packed bytes; returns whether more are wanted.
    pub fn feed(
        &mut self,
        mut packed: &[u8],
        sink: &mut dyn FnMut(Piece<'_>),
    ) -> Result<bool, DecodeError> {
        let length = (packed.len() as u64).min(self.packed_left);
        self.packed_left -= length;
        packed = &packed[..usize::try_from(length).unwrap_or(packed.len())];
        if let Some((hasher, _)) = &mut self.verify {
            hasher.update(packed);
        }
        self.unpack(packed, false, sink)?;
        Ok(self.produced < self.output_end || (self.verify.is_some() && self.packed_left > 0))
    }

    fn unpack(
        &mut self,
        mut packed: &[u8],
        last: bool,
        sink: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), DecodeError> {
        while self.produced < self.output_end {
            let given = self.unpacker.next(&mut packed, last)?;
            if given == 0 {
                break;
            }
            let wanted = self.output_end - self.produced;
            let length = usize::try_from(wanted).map_or(given, |wanted| wanted.min(given));
            let piece = &self.unpacker.output()[..length];
            hand_on(
                &mut self.wanted,
                &mut self.first,
                self.produced,
                piece,
                sink,
            )?;
            self.produced += length as u64;
        }
        Ok(())
    }

    /// Ends the decoding: all that was asked for is out, and every digest fits.
    pub fn finish(mut self, sink: &mut dyn FnMut(Piece<'_>)) -> Result<(), DecodeError> {
        self.unpack(&[], true, sink)?;
        if self.produced < self.output_end {
            return Err(DecodeError::Short);
        }
        // Chunks without bytes end where nothing comes out.
        for (place, wanted) in self.wanted.into_iter().enumerate() {
            if wanted.skip == wanted.end {
                if wanted
                    .check
                    .is_some_and(|(hasher, digest)| hasher.finish() != digest)
                {
                    return Err(DecodeError::Digest);
                }
                sink(Piece::End { chunk: place });
            }
        }
        match self.verify {
            Some(_) if self.packed_left > 0 => Err(DecodeError::Short),
            Some((hasher, digest)) if hasher.clone().finish() != digest => Err(DecodeError::Digest),
            _ => Ok(()),
        }
    }
}

/// Gives a piece of output to the chunks that it is of.
fn hand_on(
    wanted: &mut [Wanted],
    first: &mut usize,
    at: u64,
    piece: &[u8],
    sink: &mut dyn FnMut(Piece<'_>),
) -> Result<(), DecodeError> {
    let piece_end = at + piece.len() as u64;
    for (place, chunk) in wanted.iter_mut().enumerate().skip(*first) {
        if chunk.skip >= piece_end {
            break;
        }
        let (from, to) = (chunk.skip.max(at), chunk.end.min(piece_end));
        if from >= to {
            continue;
        }
        let index = |offset: u64| usize::try_from(offset - at).unwrap_or(piece.len());
        let bytes = &piece[index(from)..index(to)];
        if let Some((hasher, _)) = &mut chunk.check {
            hasher.update(bytes);
        }
        sink(Piece::Bytes {
            chunk: place,
            bytes,
        });
        if to == chunk.end {
            if let Some((hasher, digest)) = chunk.check.take()
                && hasher.finish() != digest
            {
                return Err(DecodeError::Digest);
            }
            sink(Piece::End { chunk: place });
        }
    }
    while wanted
        .get(*first)
        .is_some_and(|chunk| chunk.end <= piece_end)
    {
        *first += 1;
    }
    Ok(())
}

/// Decodes chunks of a span whose packed bytes are all here: see [`SpanDecoder`].
pub fn decode<'chunk>(
    span: &Span,
    window: &[u8],
    packed: &[u8],
    wanted: impl IntoIterator<Item = &'chunk Chunk>,
    sink: &mut dyn FnMut(Piece<'_>),
) -> Result<(), DecodeError> {
    let mut decoder = SpanDecoder::new(span, window, wanted)?;
    decoder.feed(packed, sink)?;
    decoder.finish(sink)
}

impl SpanDecoder {
    /// Lets the whole span be compared with [`Span::digest`]: all of its packed bytes must be fed then. Returns whether it has
    /// one.
    pub fn verify_span(&mut self, span: &Span) -> bool {
        self.verify = span.digest.map(|digest| (Hasher::new(), digest));
        self.verify.is_some()
    }
}

/// What undoes the packing, and the output it gave last.
struct Unpacker {
    form: Form,
    /// Output of forms that keep none themselves.
    piece: Vec<u8>,
    given: usize,
}

enum Form {
    Raw,
    Zstd(zstd::stream::raw::Decoder<'static>),
    Gzip(Box<GzipStream>),
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self.form {
            Form::Raw => "Raw",
            Form::Zstd(_) => "Zstd",
            Form::Gzip(_) => "Gzip",
        })
    }
}

impl Unpacker {
    fn new(decoder: &Decoder, window: &[u8]) -> Result<Self, DecodeError> {
        let form = match decoder {
            Decoder::Raw => Form::Raw,
            Decoder::Zstd => {
                let wrong = |_| DecodeError::Packed("zstd cannot begin");
                let mut decoder = zstd::stream::raw::Decoder::new().map_err(wrong)?;
                let window = zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(wrong)?;
                Form::Zstd(decoder)
            }
            Decoder::Gzip => Form::Gzip(Box::default()),
            Decoder::Deflate { bits, .. } => {
                let window = window::unpack(window).ok_or(DecodeError::Window)?;
                Form::Gzip(Box::new(GzipStream::resume(*bits, &window)))
            }
        };
        let piece = match form {
            Form::Raw | Form::Zstd(_) => vec![0; PIECE_BYTES_MAX],
            Form::Gzip(_) => Vec::new(),
        };
        Ok(Self {
            form,
            piece,
            given: 0,
        })
    }

    /// Returns the output of the last [`Self::next`].
    fn output(&self) -> &[u8] {
        match &self.form {
            Form::Raw | Form::Zstd(_) => &self.piece[..self.given],
            Form::Gzip(stream) => stream.inflater().output(),
        }
    }

    /// Turns some of the given bytes into output, and returns how much there is: none when they are used up. `last`: no more will come.
    fn next(&mut self, packed: &mut &[u8], last: bool) -> Result<usize, DecodeError> {
        match &mut self.form {
            Form::Raw => {
                let now = take(packed);
                self.piece[..now.len()].copy_from_slice(now);
                self.given = now.len();
                Ok(self.given)
            }
            Form::Zstd(decoder) => {
                self.given = unpack_zstd(decoder, packed, &mut self.piece)?;
                Ok(self.given)
            }
            Form::Gzip(stream) => {
                stream.inflater_mut().take_output();
                loop {
                    let step = stream.step(last);
                    let given = stream.inflater().output().len();
                    if given > 0 {
                        return Ok(given);
                    }
                    match step {
                        Ok(Step::Hungry) if packed.is_empty() => return Ok(0),
                        Ok(Step::Hungry) => stream.push(take(packed)),
                        Ok(_) => {}
                        Err(error) => return inflate_error(error),
                    }
                }
            }
        }
    }
}

/// Takes a piece of what is there.
fn take<'bytes>(packed: &mut &'bytes [u8]) -> &'bytes [u8] {
    let (now, later) = packed.split_at(packed.len().min(PIECE_BYTES_MAX));
    *packed = later;
    now
}

fn inflate_error(error: InflateError) -> Result<usize, DecodeError> {
    match error {
        // Whether what is out by now is enough is for the caller to say.
        InflateError::Truncated => Ok(0),
        _ => Err(DecodeError::Packed("no deflated data, or damaged")),
    }
}

fn unpack_zstd(
    decoder: &mut zstd::stream::raw::Decoder<'static>,
    packed: &mut &[u8],
    piece: &mut [u8],
) -> Result<usize, DecodeError> {
    use zstd::stream::raw::{InBuffer, Operation as _, OutBuffer};
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(piece);
    loop {
        let before = input.pos();
        decoder
            .run(&mut input, &mut output)
            .map_err(|_| DecodeError::Packed("no zstd frame, or a damaged one"))?;
        if output.pos() > 0 || input.pos() == before {
            break;
        }
    }
    let (taken, given) = (input.pos(), output.pos());
    *packed = packed.get(taken..).unwrap_or_default();
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(decoder: Decoder, packed: &[u8], output: &[u8]) -> Span {
        Span {
            packed: 0..packed.len() as u64,
            decoder,
            output_bytes: output.len() as u64,
            digest: Some(Digest::of(packed)),
            marks: Vec::new(),
        }
    }

    fn chunk(output: &[u8], skip: usize, length: usize) -> Chunk {
        Chunk {
            file_offset: 0,
            length: length as u64,
            span: Some(0),
            skip: skip as u64,
            digest: Some(Digest::of(&output[skip..skip + length])),
        }
    }

    /// What was handed on, and the bytes of chunks that were told to be complete.
    fn run(
        span: &Span,
        packed: &[u8],
        step: usize,
        wanted: &[Chunk],
    ) -> Result<Vec<Option<Vec<u8>>>, DecodeError> {
        let mut out: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false); wanted.len()];
        let mut sink = |piece: Piece<'_>| match piece {
            Piece::Bytes { chunk, bytes } => out[chunk].0.extend_from_slice(bytes),
            Piece::End { chunk } => out[chunk].1 = true,
        };
        let mut decoder = SpanDecoder::new(span, &[], wanted)?;
        for piece in packed.chunks(step) {
            if !decoder.feed(piece, &mut sink)? {
                break;
            }
        }
        decoder.finish(&mut sink)?;
        Ok(out
            .into_iter()
            .map(|(bytes, whole)| whole.then_some(bytes))
            .collect())
    }

    /// Output that packs neither to nothing nor badly.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
                b"abcdefghijklmnop"[(state >> 24) as usize & 15]
            })
            .collect()
    }

    fn packings(output: &[u8]) -> Vec<(Decoder, Vec<u8>)> {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(output).unwrap();
        vec![
            (Decoder::Raw, output.to_vec()),
            (Decoder::Zstd, zstd::bulk::compress(output, 3).unwrap()),
            (Decoder::Gzip, gzip.finish().unwrap()),
        ]
    }

    #[test]
    fn chunks_come_out_of_every_packing_in_any_steps() {
        let output = sample(300_000);
        for (decoder, packed) in packings(&output) {
            let span = span(decoder, &packed, &output);
            let wanted = [
                chunk(&output, 0, 10),
                chunk(&output, 5, 100_000),
                chunk(&output, 200_000, 0),
                chunk(&output, 250_000, 50_000),
            ];
            for step in [1000, 65_536, packed.len()] {
                let out = run(&span, &packed, step, &wanted).unwrap();
                for (wanted, out) in wanted.iter().zip(out) {
                    let from = usize::try_from(wanted.skip).unwrap();
                    let to = from + usize::try_from(wanted.length).unwrap();
                    assert_eq!(out.as_deref(), Some(&output[from..to]), "{span:?}");
                }
            }
        }
    }

    #[test]
    fn damage_is_told() {
        let output = sample(100_000);
        for (decoder, packed) in packings(&output) {
            let mut span = span(decoder, &packed, &output);
            let wanted = [chunk(&output, 0, 100_000)];
            assert!(matches!(
                run(&span, &packed[..packed.len() / 2], 4096, &wanted),
                Err(DecodeError::Short)
            ));
            let mut damaged = packed.clone();
            damaged[packed.len() / 2] ^= 1;
            assert!(run(&span, &damaged, 4096, &wanted).is_err());
            span.output_bytes = 10;
            assert!(matches!(
                run(&span, &packed, 4096, &wanted),
                Err(DecodeError::Chunk)
            ));
        }
    }
}
