// SPDX-License-Identifier: Apache-2.0
//! Bytes from one descriptor to another and into the log, without ever waiting for either.
//!
//! Theory of operation. A relay holds at most [`CHUNK_BYTES`]; while it holds any it does not read. Descriptors of the caller are shared with other
//! processes, so they are never made non-blocking: poll says when a pipe takes [`PIPE_BUF`] bytes at once, and no more than that is written.
//! A sink that went away is forgotten: the container goes on, its log goes on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{event::PollFlags, io::Errno};

use crate::log::{Stream, Writer};

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What a pipe that poll calls writable takes without waiting (pipe(7)).
const PIPE_BUF: usize = 4096;

/// One direction of one stream.
#[derive(Debug)]
pub struct Relay {
    source: Option<OwnedFd>,
    sink: Option<OwnedFd>,
    log: Option<Stream>,
    pending: Vec<u8>,
    written: usize,
    /// The sink is told of the end by closing it.
    closes_sink: bool,
}

impl Relay {
    /// Makes a relay for what a container says; without a sink it goes to the log alone.
    pub fn output(source: OwnedFd, sink: Option<OwnedFd>, log: Option<Stream>) -> Relay {
        Relay {
            source: Some(source),
            sink,
            log,
            pending: Vec::new(),
            written: 0,
            closes_sink: true,
        }
    }

    /// Makes a relay for what a container is told; a terminal is not closed at the end of the input, a pipe is.
    pub fn input(source: OwnedFd, sink: OwnedFd, closes_sink: bool) -> Relay {
        Relay {
            source: Some(source),
            sink: Some(sink),
            log: None,
            pending: Vec::new(),
            written: 0,
            closes_sink,
        }
    }

    /// Returns the descriptors that it has.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.source.iter().chain(&self.sink).map(AsFd::as_fd)
    }

    /// Tells whether nothing can come any more.
    pub fn is_over(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Returns what to wait for next.
    pub fn wants(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        if !self.pending.is_empty() {
            return self
                .sink
                .as_ref()
                .map(|sink| (sink.as_fd(), PollFlags::OUT));
        }
        self.source
            .as_ref()
            .map(|source| (source.as_fd(), PollFlags::IN))
    }

    /// Does one step after the descriptor of [`Relay::wants`] became ready.
    pub fn step(&mut self, log: Option<&mut Writer>) {
        if self.pending.is_empty() {
            self.read(log);
        } else {
            self.write();
        }
    }

    /// Gives up the source: nothing more is read.
    pub fn end(&mut self) {
        self.source = None;
        self.finish();
    }

    fn read(&mut self, log: Option<&mut Writer>) {
        let Some(source) = &self.source else { return };
        let mut chunk = std::mem::take(&mut self.pending);
        chunk.resize(CHUNK_BYTES, 0);
        let count = match rustix::io::read(source, &mut chunk) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return,
            // A terminal whose last user is gone answers EIO: that is its end of file.
            Err(_) => 0,
        };
        if count == 0 {
            self.source = None;
            self.finish();
            return;
        }
        chunk.truncate(count);
        if let (Some(stream), Some(log)) = (self.log, log) {
            log.push(stream, &chunk);
        }
        if self.sink.is_some() {
            self.pending = chunk;
        }
    }

    fn write(&mut self) {
        let Some(sink) = &self.sink else {
            self.pending = Vec::new();
            return;
        };
        let rest = &self.pending[self.written..];
        match rustix::io::write(sink, &rest[..rest.len().min(PIPE_BUF)]) {
            Ok(count) => self.written += count,
            Err(Errno::INTR | Errno::AGAIN) => return,
            Err(_) => {
                self.sink = None;
                self.written = self.pending.len();
            }
        }
        if self.written >= self.pending.len() {
            // The room is given back: an idle conductor holds no buffers.
            self.pending = Vec::new();
            self.written = 0;
            self.finish();
        }
    }

    fn finish(&mut self) {
        if self.is_over() && self.closes_sink {
            self.sink = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::event::{PollFd, poll};

    use super::*;

    fn run(relay: &mut Relay) {
        while let Some((fd, flags)) = relay.wants() {
            let fd = fd.try_clone_to_owned().unwrap();
            poll(&mut [PollFd::new(&fd, flags)], None).unwrap();
            relay.step(None);
        }
    }

    #[test]
    fn bytes_arrive_and_the_end_does_too() {
        let (from, mut into) = std::io::pipe().unwrap();
        let (mut out, sink) = std::io::pipe().unwrap();
        into.write_all(b"hello").unwrap();
        drop(into);
        let mut relay = Relay::input(from.into(), sink.into(), true);
        run(&mut relay);
        assert!(relay.is_over());
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_reader_that_went_away_does_not_stop_the_source() {
        let (from, mut into) = std::io::pipe().unwrap();
        let (out, sink) = std::io::pipe().unwrap();
        drop(out);
        into.write_all(&[b'x'; 10_000]).unwrap();
        drop(into);
        let mut relay = Relay::output(from.into(), Some(sink.into()), None);
        run(&mut relay);
        assert!(relay.is_over());
    }
}
