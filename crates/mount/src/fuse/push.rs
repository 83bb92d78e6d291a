// SPDX-License-Identifier: Apache-2.0
//! Content that is put into the kernel's cache before it is asked for.
//!
//! Source: `fuse_notify_store` in fs/fuse/dev.c.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, pread, writev};

use super::protocol::{STORE_HEADER_BYTES, store_notification};

/// Bytes of one notification: as much as one READ can have.
const CHUNK_BYTES: usize = 256 * 1024;
/// Of a file, this much is put at most: compilers and interpreters are whole with it, data files are not read in vain.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// Puts pages into the cache of a connection.
#[derive(Debug)]
pub(crate) struct Pusher<'a> {
    device: BorrowedFd<'a>,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(device: BorrowedFd<'a>) -> Pusher<'a> {
        Pusher { device }
    }

    /// Puts the content of a file whose node the kernel knows, from `offset` to its end. Blocks while the kernel reads the
    /// same pages. Whatever goes wrong, the kernel asks for the content when it needs it.
    pub(crate) fn push(&self, node: u64, file: &OwnedFd, offset: u64) -> Result<(), Errno> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = offset;
        while at < FILE_BYTES_MAX {
            let length = pread(file, &mut buffer[..], at)?;
            if length == 0 {
                break;
            }
            let header = store_notification(node, at, &buffer[..length]);
            let slices = [IoSlice::new(&header), IoSlice::new(&buffer[..length])];
            let written = writev(self.device.as_fd(), &slices)?;
            debug_assert_eq!(written, STORE_HEADER_BYTES + length);
            at += length as u64;
        }
        Ok(())
    }
}
