// SPDX-License-Identifier: Apache-2.0
//! The guest's end of the wire as a descriptor: a TAP device, or a socket of whole frames (User Mode Linux).

use std::{
    fmt::Debug,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::io::Errno;
use wolffia_packet::{Offload, SLICES_MAX, Sent, VIRTIO_HEADER_BYTES, VirtioHeader};
use wolffia_sys::tap::{self, Tap};

/// The largest frame: an IP packet of 64 KiB behind its Ethernet header.
pub const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Where frames come from and go to. A test puts a bad wire in between.
pub trait Device: AsFd + Debug {
    /// Says what it does for frames that are written.
    fn offload(&self) -> Offload;

    /// Reads one frame into `frame`; `EAGAIN` where none waits, and length 0 where nobody is at the other end any more.
    fn read(&mut self, frame: &mut [u8]) -> Result<(VirtioHeader, usize), Errno>;

    /// Writes one frame in pieces.
    fn write(&mut self, header: &VirtioHeader, pieces: &[&[u8]]) -> Sent;
}

const _: () = assert!(VIRTIO_HEADER_BYTES == tap::HEADER_BYTES);

impl Device for Tap {
    fn offload(&self) -> Offload {
        let granted = Tap::offload(self);
        Offload {
            checksum: granted.contains(tap::Offload::CHECKSUM),
            tso4: granted.contains(tap::Offload::TSO4),
            tso6: granted.contains(tap::Offload::TSO6),
            uso: granted.contains(tap::Offload::USO4 | tap::Offload::USO6),
        }
    }

    fn read(&mut self, frame: &mut [u8]) -> Result<(VirtioHeader, usize), Errno> {
        if !self.has_header() {
            let count = Tap::read(self, &mut [IoSliceMut::new(frame)])?;
            return Ok((VirtioHeader::default(), count));
        }
        let mut header = [0; VIRTIO_HEADER_BYTES];
        let count = Tap::read(
            self,
            &mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame)],
        )?;
        let read = VirtioHeader::from_bytes(&header).unwrap_or_default();
        Ok((read, count.saturating_sub(VIRTIO_HEADER_BYTES)))
    }

    fn write(&mut self, header: &VirtioHeader, pieces: &[&[u8]]) -> Sent {
        let bytes = header.to_bytes();
        let head: &[u8] = if self.has_header() { &bytes } else { &[] };
        send(head, pieces, |slices| Tap::write(self, slices))
    }
}

/// A socket that keeps frames apart (`SOCK_SEQPACKET`); nothing is left undone over it.
#[derive(Debug)]
pub struct Packets {
    socket: OwnedFd,
}

impl Packets {
    /// Takes a connected socket.
    pub fn new(socket: OwnedFd) -> Result<Packets, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Packets { socket })
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Device for Packets {
    fn offload(&self) -> Offload {
        Offload::NONE
    }

    fn read(&mut self, frame: &mut [u8]) -> Result<(VirtioHeader, usize), Errno> {
        let count = rustix::io::read(&self.socket, &mut frame[..])?;
        Ok((VirtioHeader::default(), count))
    }

    fn write(&mut self, _header: &VirtioHeader, pieces: &[&[u8]]) -> Sent {
        send(&[], pieces, |slices| {
            rustix::io::writev(&self.socket, slices)
        })
    }
}

/// Hands a header and pieces to one `writev`. A frame that the device does not take for what it is, is lost as on any wire.
fn send(
    head: &[u8],
    pieces: &[&[u8]],
    write: impl Fn(&[IoSlice<'_>]) -> Result<usize, Errno>,
) -> Sent {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX + 1];
    let mut count = 0;
    for piece in std::iter::once(&head).chain(pieces.iter()) {
        if !piece.is_empty() && count < slices.len() {
            slices[count] = IoSlice::new(piece);
            count += 1;
        }
    }
    loop {
        return match write(&slices[..count]) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::NOBUFS) => Sent::Full,
            Ok(_) | Err(_) => Sent::Taken,
        };
    }
}
