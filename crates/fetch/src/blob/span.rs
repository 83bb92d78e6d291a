// SPDX-License-Identifier: Apache-2.0
//! One span of a blob, read to its end whatever happens on the way, within bounds.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wolffia_image::Descriptor;

use crate::error::Error;
use crate::http::Fault;
use crate::retry::Tries;
use crate::sources::{Source, Stream};

/// What is skipped at a time, where a source sends again what was already handed on.
const SKIP_BYTES: usize = 64 << 10;

/// Fewer bytes are no progress: neither after a failure, nor in the time of [`Limits::trickle`](crate::Limits). A server that
/// sends a byte now and then would else never end.
const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// Reads a span of a blob, resuming where the stream broke.
pub(super) struct SpanReader {
    source: Arc<dyn Source>,
    blob: Descriptor,
    doing: String,
    position: u64,
    end: u64,
    stream: Option<Stream>,
    failures: u32,
    /// Where the first of these failures was.
    failed_at: u64,
    resumes_left: u32,
    window: (Instant, u64),
    strict: bool,
}

impl SpanReader {
    pub(super) fn new(source: Arc<dyn Source>, blob: Descriptor, span: Range<u64>) -> Self {
        let doing = format!("fetching {}", blob.digest.short());
        let resumes_left = source.limits().resumes;
        Self {
            source,
            blob,
            doing,
            position: span.start,
            end: span.end,
            stream: None,
            failures: 0,
            failed_at: span.start,
            resumes_left,
            window: (Instant::now(), span.start),
            strict: false,
        }
    }

    /// Fails with [`Error::NoSpans`] where the source begins elsewhere than at the span.
    pub(super) fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// Ends the span earlier, or later again; a stream that is open goes on.
    pub(super) fn end_at(&mut self, end: u64) {
        self.end = end.max(self.position);
    }

    /// Closes the stream, which would be in the way of nobody but costs a connection.
    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// Returns how much is still to come.
    pub(super) fn left(&self) -> u64 {
        self.end - self.position
    }

    /// Reads some bytes; none only at the end of the span.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = usize::try_from(self.left())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            match self.try_read(&mut buffer[..wanted]) {
                Ok(length) => {
                    self.position += u64::try_from(length).unwrap_or(0);
                    if self.position - self.failed_at >= PROGRESS_BYTES_MIN {
                        self.failures = 0;
                    }
                    if self.position == self.end {
                        self.finish();
                    }
                    return Ok(length);
                }
                Err(error) => {
                    self.stream = None;
                    if self.failures == 0 {
                        self.failed_at = self.position;
                    }
                    std::thread::sleep(self.pause_after(error)?);
                }
            }
        }
    }

    /// Reads the end of a stream that has one here: its connection can then be used again.
    fn finish(&mut self) {
        if let Some(stream) = self.stream.take_if(|stream| stream.end == self.end) {
            let mut reader = stream.reader;
            let _end = reader.read(&mut [0]);
        }
    }

    fn pause_after(&mut self, error: Error) -> Result<Duration, Error> {
        let source = Arc::clone(&self.source);
        let tries = Tries::new(source.limits(), &mut self.failures);
        let pause = tries.failed(&self.doing, error)?;
        if self.resumes_left == 0 {
            return Err(Error::Restless {
                doing: self.doing.clone(),
                resumes: source.limits().resumes,
            });
        }
        self.resumes_left -= 1;
        Ok(pause)
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.stream.is_none() {
            let stream = self.open()?;
            self.window = (Instant::now(), self.position);
            self.stream = Some(stream);
        }
        let Some(stream) = &mut self.stream else {
            return Ok(0);
        };
        let length = read_once(&mut *stream.reader, buffer, &self.doing)?;
        if length == 0 {
            // Shorter than asked for, without a broken connection: ask on from here.
            return Err(self.cut());
        }
        self.check_trickle(length)?;
        Ok(length)
    }

    /// Opens the source at the current position, or before it and skips.
    fn open(&mut self) -> Result<Stream, Error> {
        let span = self.position..self.end;
        let mut stream = self.source.open(&self.blob, span, self.failures)?;
        if self.strict && stream.start != self.position {
            return Err(Error::NoSpans);
        }
        let mut to_skip = self.position.saturating_sub(stream.start);
        let mut buffer = vec![0; if to_skip == 0 { 0 } else { SKIP_BYTES }];
        while to_skip > 0 {
            let wanted = usize::try_from(to_skip)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            match read_once(&mut *stream.reader, &mut buffer[..wanted], &self.doing)? {
                0 => return Err(self.cut()),
                length => to_skip -= u64::try_from(length).unwrap_or(0),
            }
        }
        Ok(stream)
    }

    fn check_trickle(&mut self, length: usize) -> Result<(), Error> {
        let (since, from) = self.window;
        if since.elapsed() < self.source.limits().trickle {
            return Ok(());
        }
        let now_at = self.position + u64::try_from(length).unwrap_or(0);
        self.window = (Instant::now(), now_at);
        if now_at - from >= PROGRESS_BYTES_MIN {
            return Ok(());
        }
        Err(Error::Exchange {
            doing: self.doing.clone(),
            host: self.source.name(),
            source: Fault::Timeout {
                phase: "waiting for more bytes",
            },
        })
    }

    fn cut(&self) -> Error {
        Error::Exchange {
            doing: self.doing.clone(),
            host: self.source.name(),
            source: Fault::Cut(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn read_once(reader: &mut dyn Read, buffer: &mut [u8], doing: &str) -> Result<usize, Error> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Error::of_io(error).unwrap_or_else(|source| Error::Read {
                    doing: doing.to_owned(),
                    source,
                }));
            }
            Ok(length) => return Ok(length),
        }
    }
}
