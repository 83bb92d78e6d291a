// SPDX-License-Identifier: Apache-2.0
//! What comes behind the packed pieces: the table, its frame, and the footer that says where it is.

use serde::Serialize;

use super::tarsplit::base64;
use super::{Annotations, BLOCK_BYTES, Contents, FileEntry, Form, WriteError, length};
use crate::Digest;
use crate::tar::{EntryKind, Header};
use crate::tree::Time;

/// The table's name in an eStargz layer.
const TOC_NAME: &[u8] = b"stargz.index.json";
/// First bytes of a zstd frame that unpackers skip.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The last bytes of a zstd:chunked layer.
const MAGIC: &[u8; 8] = b"GNUlInUx";

/// The end of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The packed bytes behind the pieces.
    pub packed: Vec<u8>,
    /// What they unpack to: the tar's digest is that of all pieces and this.
    pub unpacked: Vec<u8>,
    /// What the layer's descriptor must say.
    pub annotations: Annotations,
}

#[derive(Serialize)]
struct Toc<'a> {
    version: u8,
    entries: Vec<Entry<'a>>,
    #[serde(rename = "tarSplitDigest", skip_serializing_if = "Option::is_none")]
    tar_split_digest: Option<String>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    r#type: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_default")]
    mode: u32,
    #[serde(skip_serializing_if = "is_default")]
    size: u64,
    #[serde(skip_serializing_if = "is_default")]
    uid: u32,
    #[serde(skip_serializing_if = "is_default")]
    gid: u32,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    modification: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_default")]
    dev_minor: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<std::collections::BTreeMap<&'a str, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn write(
    contents: Contents,
    packed: &[u64],
    pack: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Result<Tail, WriteError> {
    let mut starts = Vec::with_capacity(packed.len());
    let mut position = 0;
    for bytes in packed {
        starts.push(position..position + bytes);
        position += bytes;
    }
    let mut entries = Vec::new();
    for file in &contents.files {
        push_entries(contents.form, file, &starts, &mut entries)?;
    }
    let mut toc = Toc {
        version: 1,
        entries,
        tar_split_digest: None,
    };
    let json = |toc: &Toc<'_>| {
        serde_json::to_vec(toc).map_err(|error| WriteError::Table(error.to_string()))
    };
    match contents.form {
        Form::Estargz => Ok(estargz(&json(&toc)?, position, contents.tar_bytes, pack)),
        Form::ZstdChunked => {
            let rows = contents.split.into_rows();
            let split = pack(&rows);
            toc.tar_split_digest = Some(Digest::of(&split).to_string());
            Ok(zstd_chunked(
                &json(&toc)?,
                &split,
                length(&rows),
                position,
                pack,
            ))
        }
    }
}

fn push_entries<'file>(
    form: Form,
    file: &'file FileEntry,
    pieces: &[std::ops::Range<u64>],
    out: &mut Vec<Entry<'file>>,
) -> Result<(), WriteError> {
    let header = &file.header;
    let r#type = match header.kind {
        EntryKind::File => "reg",
        EntryKind::HardLink => "hardlink",
        EntryKind::Symlink => "symlink",
        EntryKind::CharDevice => "char",
        EntryKind::BlockDevice => "block",
        EntryKind::Directory => "dir",
        EntryKind::Fifo => "fifo",
        // Nobody unpacks it.
        EntryKind::Unknown(_) => return Ok(()),
    };
    let link = text(&header.link)?;
    let mut entry = Entry {
        r#type,
        name: text(&header.path)?,
        link_name: (!link.is_empty()).then_some(link),
        mode: header.mode,
        size: header.size,
        uid: header.uid,
        gid: header.gid,
        modification: Some(rfc_3339(header.mtime)),
        dev_major: header.device_major,
        dev_minor: header.device_minor,
        xattrs: xattrs(header)?,
        digest: file.digest.map(|digest| digest.to_string()),
        ..Entry::default()
    };
    let is_cut = file.chunks.len() > 1;
    for (number, chunk) in file.chunks.iter().enumerate() {
        if number > 0 {
            let next = Entry {
                r#type: "chunk",
                name: entry.name,
                ..Entry::default()
            };
            out.push(std::mem::replace(&mut entry, next));
        }
        let piece = pieces.get(chunk.piece).cloned().unwrap_or_default();
        entry.offset = piece.start;
        if form == Form::ZstdChunked {
            entry.end_offset = piece.end;
        }
        entry.chunk_offset = chunk.file_offset;
        entry.chunk_size = if is_cut { chunk.length } else { 0 };
        entry.chunk_digest = Some(chunk.digest.to_string());
    }
    out.push(entry);
    Ok(())
}

fn xattrs(header: &Header) -> Result<Option<std::collections::BTreeMap<&str, String>>, WriteError> {
    if header.xattrs.is_empty() {
        return Ok(None);
    }
    let pairs = header.xattrs.iter();
    pairs
        .map(|(name, value)| Ok((text(name)?, base64(value))))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn text(bytes: &[u8]) -> Result<&str, WriteError> {
    std::str::from_utf8(bytes).map_err(|_| WriteError::Text(bytes.to_vec()))
}

fn estargz(json: &[u8], position: u64, tar_bytes: u64, pack: &dyn Fn(&[u8]) -> Vec<u8>) -> Tail {
    let mut unpacked = toc_header(length(json));
    unpacked.extend_from_slice(json);
    let padding = length(json).next_multiple_of(BLOCK_BYTES) - length(json);
    // The padding, and the two empty blocks that end a tar.
    let zeros = usize::try_from(padding + 2 * BLOCK_BYTES).unwrap_or(0);
    unpacked.resize(unpacked.len() + zeros, 0);
    let mut packed = pack(&unpacked);
    packed.extend_from_slice(&estargz_footer(position));
    let size = tar_bytes + length(&unpacked);
    let annotations = Annotations::from([
        (
            "containerd.io/snapshot/stargz/toc.digest".to_owned(),
            Digest::of(json).to_string(),
        ),
        (
            "io.containers.estargz.uncompressed-size".to_owned(),
            size.to_string(),
        ),
    ]);
    Tail {
        packed,
        unpacked,
        annotations,
    }
}

/// A tar header as Go writes it for a file with a name and a size.
fn toc_header(size: u64) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, TOC_NAME);
    put(100, b"0000444\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// An empty gzip member whose extra field says where the table is.
fn estargz_footer(position: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    footer.extend_from_slice(&26_u16.to_le_bytes());
    footer.extend_from_slice(b"SG");
    footer.extend_from_slice(&22_u16.to_le_bytes());
    footer.extend_from_slice(format!("{position:016x}STARGZ").as_bytes());
    // A last stored block of no bytes, and the check of none.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}

fn zstd_chunked(
    json: &[u8],
    split: &[u8],
    split_bytes: u64,
    position: u64,
    pack: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Tail {
    let toc = pack(json);
    let mut packed = Vec::new();
    let mut frame = |content: &[u8]| {
        packed.extend_from_slice(&SKIPPABLE);
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        packed.extend_from_slice(&bytes.to_le_bytes());
        let at = position + length(&packed);
        packed.extend_from_slice(content);
        at
    };
    let split_at = frame(split);
    let toc_at = frame(&toc);
    let mut footer = Vec::new();
    for number in [
        toc_at,
        length(&toc),
        length(json),
        1,
        split_at,
        length(split),
        split_bytes,
    ] {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(MAGIC);
    frame(&footer);
    let annotations = Annotations::from([
        (
            "io.github.containers.zstd-chunked.manifest-checksum".to_owned(),
            Digest::of(&toc).to_string(),
        ),
        (
            "io.github.containers.zstd-chunked.manifest-position".to_owned(),
            format!("{toc_at}:{}:{}:1", length(&toc), length(json)),
        ),
        (
            "io.github.containers.zstd-chunked.tarsplit-position".to_owned(),
            format!("{split_at}:{}:{split_bytes}", length(split)),
        ),
    ]);
    Tail {
        packed,
        unpacked: Vec::new(),
        annotations,
    }
}

/// Writes a time as RFC 3339 text in UTC, with a fraction where there is one.
fn rfc_3339(time: Time) -> String {
    let (days, second) = (
        time.seconds.div_euclid(86_400),
        time.seconds.rem_euclid(86_400),
    );
    // Howard Hinnant's "days to civil": years begin in March, so leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if time.nanoseconds > 0 {
        let fraction = format!(".{:09}", time.nanoseconds);
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}
