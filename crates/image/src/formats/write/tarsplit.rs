// SPDX-License-Identifier: Apache-2.0
//! Everything of a tar but its files' contents, so that who has the files can put the tar together again, byte for byte.
//!
//! A row of JSON objects, one a line. Type 2 is a stretch of the tar as it is (headers, padding, the end), base64 in `payload`; type 1
//! stands for a file's content, with its name, its size, and the CRC-64 (ISO) of the content in `payload`. A reader of zstd:chunked
//! computes the layer's diffID from it when it fetched only some of the files.
//!
//! Source: tar-split `tar/storage/entry.go`, `tar/asm/disassemble.go`.

use serde::Serialize;

use crate::tar::Header;

/// The rows so far. Does nothing where nobody wants them.
#[derive(Debug)]
pub(super) struct TarSplit {
    wanted: bool,
    rows: Vec<u8>,
    position: u64,
    /// Bytes of the tar that are not in a row yet, and where the next one is.
    segment: Vec<u8>,
    at: u64,
    sum: u64,
    content_bytes: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TarSplit {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            rows: Vec::new(),
            position: 0,
            segment: Vec::new(),
            at: 0,
            sum: !0,
            content_bytes: 0,
        }
    }

    /// Takes what stands between the last content and a place in the tar. `pending` begins at `from`.
    pub(super) fn headers_until(&mut self, at: u64, pending: &[u8], from: u64) {
        if !self.wanted || at <= self.at {
            return;
        }
        let place = |at: u64| usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX);
        let bytes = pending.get(place(self.at)..place(at).min(pending.len()));
        self.segment.extend_from_slice(bytes.unwrap_or_default());
        self.at = at;
    }

    /// Takes the next bytes of a content, which stand at the place that was reached.
    pub(super) fn content(&mut self, bytes: &[u8]) {
        if !self.wanted {
            return;
        }
        for byte in bytes {
            let index = (self.sum ^ u64::from(*byte)) & 0xff;
            self.sum = TABLE[usize::try_from(index).unwrap_or(0)] ^ (self.sum >> 8);
        }
        let length = super::length(bytes);
        self.content_bytes += length;
        self.at += length;
    }

    /// Says that an entry's content is complete.
    pub(super) fn entry_end(&mut self, header: &Header, at: u64, pending: &[u8], from: u64) {
        if !self.wanted {
            return;
        }
        if self.content_bytes == 0 {
            self.headers_until(at, pending, from);
        }
        self.put_segment();
        let name = String::from_utf8_lossy(&header.path);
        let payload = (self.content_bytes > 0).then(|| base64(&(!self.sum).to_be_bytes()));
        let row = Row {
            r#type: 1,
            name: Some(&name),
            size: self.content_bytes,
            payload,
            position: self.position,
        };
        Self::write(&mut self.rows, &row);
        self.position += 1;
        (self.sum, self.content_bytes) = (!0, 0);
    }

    /// Takes all that is left of the tar.
    pub(super) fn rest(&mut self, pending: &[u8], from: u64) {
        self.headers_until(from + super::length(pending), pending, from);
        self.put_segment();
    }

    /// Returns the rows.
    pub(super) fn into_rows(self) -> Vec<u8> {
        self.rows
    }

    fn put_segment(&mut self) {
        if self.segment.is_empty() {
            return;
        }
        let row = Row {
            r#type: 2,
            name: None,
            size: 0,
            payload: Some(base64(&std::mem::take(&mut self.segment))),
            position: self.position,
        };
        Self::write(&mut self.rows, &row);
        self.position += 1;
    }

    fn write(rows: &mut Vec<u8>, row: &Row<'_>) {
        if let Ok(line) = serde_json::to_vec(row) {
            rows.extend_from_slice(&line);
            rows.push(b'\n');
        }
    }
}

/// CRC-64 of ISO 3309, reflected: as Go's `crc64.ISO` has it.
const TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut index: u64 = 0;
    while index < 256 {
        let mut sum = index;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0xd800_0000_0000_0000
            } else {
                sum >> 1
            };
            bit += 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        {
            table[index as usize] = sum;
        }
        index += 1;
    }
    table
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 4, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let number = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            if place > group.len() {
                text.push('=');
                continue;
            }
            let shift = 18 - 6 * place;
            let digit = usize::try_from(number >> shift & 63).unwrap_or(0);
            text.push(char::from(DIGITS[digit]));
        }
    }
    text
}
