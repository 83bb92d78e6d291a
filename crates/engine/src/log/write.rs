// SPDX-License-Identifier: Apache-2.0
//! The writing end of a log, in the conductor.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{CURRENT, FILE_BYTES_MAX, FILES, LINE_BYTES_MAX, Stream, file_name};
use crate::time::Timestamp;

/// Appends to the log of one container.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    file: fs::File,
    file_bytes: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    record: Vec<u8>,
    /// Records that the disk did not take.
    lost: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    log: &'a str,
    stream: Stream,
    time: String,
}

impl Writer {
    /// Opens the log in `folder`, going on where it ended.
    pub fn open(folder: &Path) -> io::Result<Writer> {
        let file = open(folder)?;
        let file_bytes = file.metadata()?.len();
        Ok(Writer {
            folder: folder.to_owned(),
            file,
            file_bytes,
            stdout: Vec::new(),
            stderr: Vec::new(),
            record: Vec::new(),
            lost: 0,
        })
    }

    /// Takes what a stream said; writes the lines that are complete. Never fails and never waits: what a full disk does not take is lost,
    /// because the container's program must not stop for its log.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let mut pending = std::mem::take(self.pending(stream));
        pending.extend_from_slice(bytes);
        let mut start = 0;
        while start < pending.len() {
            let window = &pending[start..(start + LINE_BYTES_MAX).min(pending.len())];
            let end = match window.iter().position(|byte| *byte == b'\n') {
                Some(newline) => start + newline + 1,
                None if window.len() == LINE_BYTES_MAX => start + whole_letters(window),
                None => break,
            };
            self.append(stream, &pending[start..end]);
            start = end;
        }
        pending.drain(..start);
        *self.pending(stream) = pending;
    }

    /// Writes what is left without a newline, and tells how many records were lost.
    pub fn finish(mut self) -> u64 {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(self.pending(stream));
            if !pending.is_empty() {
                self.append(stream, &pending);
            }
        }
        self.lost
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn append(&mut self, stream: Stream, line: &[u8]) {
        let text = text_within(line);
        let record = Line {
            log: &text,
            stream,
            time: Timestamp::now().to_string(),
        };
        self.record.clear();
        if serde_json::to_writer(&mut self.record, &record).is_err() {
            self.lost += 1;
            return;
        }
        self.record.push(b'\n');
        if self.file_bytes > FILE_BYTES_MAX {
            self.turn();
        }
        match self.file.write_all(&self.record) {
            Ok(()) => self.file_bytes += self.record.len() as u64,
            Err(_) => self.lost += 1,
        }
    }

    /// Turns the files; where that fails the current one is kept and emptied, so that the bound holds.
    fn turn(&mut self) {
        for turns in (0..FILES - 1).rev() {
            let older = self.folder.join(file_name(turns + 1));
            drop(fs::rename(self.folder.join(file_name(turns)), older));
        }
        match open(&self.folder) {
            Ok(file) => self.file = file,
            Err(_) => drop(self.file.set_len(0)),
        }
        self.file_bytes = self.file.metadata().map_or(0, |found| found.len());
    }
}

fn open(folder: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(folder.join(CURRENT))
}

/// Returns the length of `window` without a UTF-8 sequence that its end cuts.
fn whole_letters(window: &[u8]) -> usize {
    match std::str::from_utf8(window) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => window.len(),
    }
}

/// Returns `line` as text no longer than the bound, also when replacement characters made it longer.
fn text_within(line: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    if text.len() > LINE_BYTES_MAX * 3 {
        let cut = (0..=LINE_BYTES_MAX * 3)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
    }
    text
}
