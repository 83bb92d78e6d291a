// SPDX-License-Identifier: Apache-2.0
//! Packed bytes in, a tar out, and the tar's digest: gzip of one or more members, zstd of one or more frames, or plain.
//!
//! How a layer is packed is told by its first bytes; the media type is not believed (builders err, and Docker itself
//! goes by the bytes). A layer that becomes more than [`RATIO_MAX`] times its packed size is refused once it is larger
//! than [`FREE_BYTES`].

use std::io::{self, BufRead, Read};

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
    /// All is handed on; the tar has this digest and size.
    Whole(Digest, u64),
    /// The packed bytes cannot be unpacked, or did not arrive.
    Failed(Compression, io::Error),
    /// It becomes too much.
    Bomb(u64),
    /// The reader did not want more: it says why.
    Unwanted,
}

/// Unpacks everything from `packed` to `tar`.
pub(crate) fn unpack(packed: Drain, packed_bytes: u64, mut tar: Feeder) -> Unpacked {
    let mut packed = packed;
    let compression = match packed.fill_buf() {
        Ok(first) => Compression::sniff(first),
        Err(error) => return Unpacked::Failed(Compression::None, error),
    };
    let mut unpacked: Box<dyn Read> = match compression {
        Compression::None => Box::new(packed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Compression::Zstd => match zstd_reader(packed) {
            Ok(reader) => reader,
            Err(error) => return Unpacked::Failed(compression, error),
        },
    };
    let limit = FREE_BYTES.max(packed_bytes.saturating_mul(RATIO_MAX));
    let mut hasher = Hasher::new();
    loop {
        let Ok(mut buffer) = tar.buffer() else {
            return Unpacked::Unwanted;
        };
        let filled = match fill(&mut unpacked, &mut buffer) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) => return Unpacked::Failed(compression, error),
        };
        buffer.truncate(filled);
        hasher.update(&buffer);
        if hasher.fed_bytes() > limit {
            return Unpacked::Bomb(hasher.fed_bytes());
        }
        if tar.send(buffer).is_err() {
            return Unpacked::Unwanted;
        }
    }
    let bytes = hasher.fed_bytes();
    match tar.end() {
        Ok(()) => Unpacked::Whole(hasher.finish(), bytes),
        Err(_) => Unpacked::Unwanted,
    }
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
