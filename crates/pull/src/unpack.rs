// SPDX-License-Identifier: Apache-2.0
//! Packed bytes in, a tar out, and the tar's digest: gzip of one or more members, zstd of one or more frames, or plain.
//!
//! How a layer is packed is told by its first bytes; the media type is not believed (builders err, and Docker itself
//! goes by the bytes). A layer that becomes more than [`RATIO_MAX`] times its packed size is refused once it is larger
//! than [`FREE_BYTES`].

use std::io::{self, BufRead, Read};

use wolffia_image::formats::gzip_index::{Checkpoints, Inflating};
use wolffia_image::inflate::InflateError;
use wolffia_image::{Compression, Digest, Hasher};

use crate::pipe::{Drain, Feeder};

/// Times its packed size that a layer may become: deflate's own limit is 1,032, and no real layer comes near.
pub const RATIO_MAX: u64 = 1000;

/// Bytes that a layer may become without the ratio being looked at: a file of zeros is not an attack.
pub const FREE_BYTES: u64 = 1 << 30;

/// Largest window of a zstd frame, as a power of two: zstd's own limit without `--long`. This much memory per layer is
/// used only if a frame asks for it; the usual levels ask for 8 MiB at most.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How unpacking ended.
#[derive(Debug)]
pub(crate) enum Unpacked {
    /// All is handed on; the tar has this digest and size, and a gzip layer can be begun at these places.
    Whole(Digest, u64, Begun),
    /// The packed bytes cannot be unpacked, or did not arrive.
    Failed(Compression, io::Error),
    /// It becomes too much.
    Bomb(u64),
    /// The reader did not want more: it says why.
    Unwanted,
}

/// Where a layer can be begun, for its index.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Nowhere but at its beginning.
    Nowhere,
    /// Anywhere: it is the tar.
    Anywhere,
    /// At checkpoints.
    At(Checkpoints),
}

/// Unpacks everything from `packed` to `tar`.
pub(crate) fn unpack(packed: Drain, packed_bytes: u64, tar: Feeder) -> Unpacked {
    let mut packed = packed;
    let compression = match packed.fill_buf() {
        Ok(first) => Compression::sniff(first),
        Err(error) => return Unpacked::Failed(Compression::None, error),
    };
    let limit = FREE_BYTES.max(packed_bytes.saturating_mul(RATIO_MAX));
    let mut tar = Tar {
        feeder: tar,
        hasher: Hasher::new(),
        limit,
    };
    let done = match compression {
        Compression::None => copy(&mut packed, &mut tar).map(|()| Begun::Anywhere),
        Compression::Gzip => inflate(&mut packed, &mut tar).map(Begun::At),
        Compression::Zstd => zstd_reader(packed)
            .map_err(Stop::Input)
            .and_then(|mut reader| copy(&mut reader, &mut tar))
            .map(|()| Begun::Nowhere),
    };
    let begun = match done {
        Ok(begun) => begun,
        Err(Stop::Input(error)) => return Unpacked::Failed(compression, error),
        Err(Stop::Bomb(bytes)) => return Unpacked::Bomb(bytes),
        Err(Stop::Unwanted) => return Unpacked::Unwanted,
    };
    let bytes = tar.hasher.fed_bytes();
    match tar.feeder.end() {
        Ok(()) => Unpacked::Whole(tar.hasher.finish(), bytes, begun),
        Err(_) => Unpacked::Unwanted,
    }
}

/// Why unpacking stopped.
enum Stop {
    Input(io::Error),
    Bomb(u64),
    Unwanted,
}

/// The way out: hashed, and bounded.
struct Tar {
    feeder: Feeder,
    hasher: Hasher,
    limit: u64,
}

impl Tar {
    fn buffer(&mut self) -> Result<Vec<u8>, Stop> {
        self.feeder.buffer().map_err(|_| Stop::Unwanted)
    }

    /// Hands on what is in a buffer, up to its length.
    fn send(&mut self, buffer: Vec<u8>) -> Result<(), Stop> {
        self.hasher.update(&buffer);
        if self.hasher.fed_bytes() > self.limit {
            return Err(Stop::Bomb(self.hasher.fed_bytes()));
        }
        self.feeder.send(buffer).map_err(|_| Stop::Unwanted)
    }
}

fn copy(reader: &mut dyn Read, tar: &mut Tar) -> Result<(), Stop> {
    loop {
        let mut buffer = tar.buffer()?;
        match fill(reader, &mut buffer).map_err(Stop::Input)? {
            0 => return Ok(()),
            filled => {
                buffer.truncate(filled);
                tar.send(buffer)?;
            }
        }
    }
}

/// Inflates, and notes where the layer can be begun.
fn inflate(packed: &mut Drain, tar: &mut Tar) -> Result<Checkpoints, Stop> {
    let mut inflating = Inflating::new();
    let mut buffer = tar.buffer()?;
    let (mut filled, mut last) = (0, false);
    loop {
        let mut output = match inflating.next(last).map_err(inflate_error)? {
            Some(output) => output,
            None if last => break,
            None => {
                let piece = packed.fill_buf().map_err(Stop::Input)?;
                last = piece.is_empty();
                inflating.push(piece);
                let length = piece.len();
                packed.consume(length);
                continue;
            }
        };
        while !output.is_empty() {
            let step = output.len().min(buffer.len() - filled);
            let (now, later) = output.split_at(step);
            buffer[filled..filled + step].copy_from_slice(now);
            filled += step;
            output = later;
            if filled == buffer.len() {
                tar.send(buffer)?;
                buffer = tar.buffer()?;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        buffer.truncate(filled);
        tar.send(buffer)?;
    }
    Ok(inflating.finish())
}

fn inflate_error(error: InflateError) -> Stop {
    let kind = match error {
        InflateError::Truncated => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::InvalidData,
    };
    Stop::Input(io::Error::new(kind, error))
}

fn zstd_reader(packed: Drain) -> io::Result<Box<dyn Read>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

/// Reads until the buffer is full or there is no more.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
