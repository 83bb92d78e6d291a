// SPDX-License-Identifier: Apache-2.0
//! A pipe of byte buffers between two threads, with a bound and without copies.
//!
//! The writer fills buffers of [`BUFFER_BYTES`] and sends them; the reader sends them back empty. At most [`BUFFERS`] exist, so
//! a slow reader holds the writer back. The end is said, never guessed: a writer that vanishes is an error for the
//! reader, and a reader that vanishes is one for the writer.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes of one buffer: large enough that passing it on costs nothing, small enough for a core's cache.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Buffers of one pipe.
pub(crate) const BUFFERS: usize = 4;

enum Message {
    Bytes(Vec<u8>),
    Fail(io::Error),
    End,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Feeder {
    full: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
    made: usize,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Drain {
    full: Receiver<Message>,
    empty: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    taken: usize,
    ended: bool,
}

/// The other end of a pipe is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Returns a new pipe.
pub(crate) fn pipe() -> (Feeder, Drain) {
    let (full, full_out) = sync_channel(BUFFERS);
    let (empty, empty_out) = channel();
    let feeder = Feeder {
        full,
        empty: empty_out,
        made: 0,
    };
    let drain = Drain {
        full: full_out,
        empty,
        buffer: Vec::new(),
        taken: 0,
        ended: false,
    };
    (feeder, drain)
}

impl Feeder {
    /// Returns a buffer of [`BUFFER_BYTES`] to fill; waits for the reader where all are under way.
    pub(crate) fn buffer(&mut self) -> Result<Vec<u8>, Gone> {
        if let Ok(buffer) = self.empty.try_recv() {
            return Ok(buffer);
        }
        if self.made < BUFFERS {
            self.made += 1;
            return Ok(vec![0; BUFFER_BYTES]);
        }
        self.empty.recv().map_err(|_| Gone)
    }

    /// Hands a buffer on; what is in it counts up to its length.
    pub(crate) fn send(&self, buffer: Vec<u8>) -> Result<(), Gone> {
        self.full.send(Message::Bytes(buffer)).map_err(|_| Gone)
    }

    /// Says that all went well up to here, and nothing follows.
    pub(crate) fn end(self) -> Result<(), Gone> {
        self.full.send(Message::End).map_err(|_| Gone)
    }

    /// Says that the rest cannot be had.
    pub(crate) fn fail(self, error: io::Error) -> Result<(), Gone> {
        self.full.send(Message::Fail(error)).map_err(|_| Gone)
    }
}

impl BufRead for Drain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.buffer.len() && !self.ended {
            match self.full.recv() {
                Ok(Message::Bytes(bytes)) => {
                    let mut old = std::mem::replace(&mut self.buffer, bytes);
                    self.taken = 0;
                    if old.capacity() >= BUFFER_BYTES {
                        old.resize(BUFFER_BYTES, 0);
                        // A writer that has ended wants no buffers back.
                        self.empty.send(old).ok();
                    }
                }
                Ok(Message::Fail(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, count: usize) {
        self.taken = self.buffer.len().min(self.taken + count);
    }
}

impl Read for Drain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (mut feeder, mut drain) = pipe();
        let writer = std::thread::spawn(move || {
            for round in 0..3 * BUFFERS {
                let mut buffer = feeder.buffer().unwrap();
                assert_eq!(buffer.len(), BUFFER_BYTES);
                buffer.truncate(round + 1);
                buffer.fill(u8::try_from(round).unwrap());
                feeder.send(buffer).unwrap();
            }
            feeder.end().unwrap();
        });
        let mut all = Vec::new();
        drain.read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        let expected: Vec<u8> = (0..3 * BUFFERS)
            .flat_map(|round| vec![u8::try_from(round).unwrap(); round + 1])
            .collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_writer_that_vanishes_is_an_error() {
        let (mut feeder, mut drain) = pipe();
        let buffer = feeder.buffer().unwrap();
        feeder.send(buffer).unwrap();
        drop(feeder);
        let error = drain.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_failure_is_handed_on() {
        let (feeder, mut drain) = pipe();
        feeder.fail(io::ErrorKind::TimedOut.into()).unwrap();
        let error = drain.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_reader_that_vanishes_stops_the_writer() {
        let (mut feeder, drain) = pipe();
        drop(drain);
        let buffer = feeder.buffer().unwrap();
        assert_eq!(feeder.send(buffer), Err(Gone));
    }
}
