// SPDX-License-Identifier: Apache-2.0
//! The shape of netlink messages: a header, a fixed part, attributes; written to be sent, and taken apart when they come.
//!
//! An attribute is its length, its kind, its value, filled up to four bytes; a value may be attributes again. Lengths that come from the kernel are
//! checked as if they came from a stranger.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::io::Errno;

/// The kernel fills a page or two for each answer of a dump (`NLMSG_GOODSIZE`, at most 32 KiB).
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 10;

const HEADER_BYTES: usize = 16;
const ALIGNMENT: usize = 4;

pub(super) const VERDICT: u16 = 2;
pub(super) const DONE: u16 = 3;
pub(super) const NEW_LINK: u16 = 16;
pub(super) const DEL_LINK: u16 = 17;
pub(super) const GET_LINK: u16 = 18;
pub(super) const NEW_ADDRESS: u16 = 20;
pub(super) const DEL_ADDRESS: u16 = 21;
pub(super) const GET_ADDRESS: u16 = 22;
pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DEL_ROUTE: u16 = 25;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const NEW_RULE: u16 = 32;
pub(super) const DEL_RULE: u16 = 33;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;

pub(super) const LINK_HEADER_BYTES: usize = 16;
pub(super) const ADDRESS_HEADER_BYTES: usize = 8;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const VETH_INFO_PEER: u16 = 1;
pub(super) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
pub(super) const IFF_UP: u32 = 1;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const IFA_F_NODAD: u8 = 2;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const MAIN_TABLE: u32 = 254;
pub(super) const BY_ADMINISTRATOR: u8 = 4;
pub(super) const SCOPE_LINK: u8 = 253;
pub(super) const SCOPE_HOST: u8 = 254;
pub(super) const ROUTE_UNICAST: u8 = 1;
pub(super) const ROUTE_LOCAL: u8 = 2;

pub(super) const FRA_PRIORITY: u16 = 6;
pub(super) const FRA_FWMARK: u16 = 10;
pub(super) const FRA_TABLE: u16 = 15;
pub(super) const FRA_FWMASK: u16 = 16;
pub(super) const FRA_IP_PROTO: u16 = 22;
pub(super) const FRA_SPORT_RANGE: u16 = 23;
pub(super) const TO_TABLE: u8 = 1;

const INET: u8 = 2;
pub(super) const INET6: u8 = 10;

pub(super) fn family(is_v6: bool) -> u8 {
    if is_v6 { INET6 } else { INET }
}

/// A message that is being written.
pub(super) struct Message {
    bytes: Vec<u8>,
    kind: u16,
    flags: u16,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Message {
        Message {
            bytes: vec![0; HEADER_BYTES],
            kind,
            flags: flags | REQUEST,
        }
    }

    pub(super) fn want_verdict(&mut self) {
        self.flags |= ACK;
    }

    pub(super) fn wants_verdict(&self) -> bool {
        self.flags & ACK != 0
    }

    pub(super) fn is_dump(&self) -> bool {
        let asks = matches!(self.kind, GET_LINK | GET_ADDRESS);
        asks && self.flags & DUMP == DUMP
    }

    /// Writes a `struct ifinfomsg`.
    pub(super) fn link_header(&mut self, index: u32, flags: u32, mask: u32) {
        self.raw(&[0; 4]);
        self.raw(&index.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&mask.to_ne_bytes());
    }

    /// Writes a part of the fixed part.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.raw(value));
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.nest(kind, |message| {
            message.raw(text.as_bytes());
            message.raw(&[0]);
        });
    }

    pub(super) fn ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    pub(super) fn descriptor(&mut self, kind: u16, fd: BorrowedFd<'_>) {
        self.bytes(kind, &fd.as_raw_fd().to_ne_bytes());
    }

    /// Writes an attribute whose value `write` writes.
    pub(super) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Message)) {
        let start = self.bytes.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        write(self);
        // A value that is too long leaves a length that `finish` refuses.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        let filled = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(filled, 0);
    }

    /// Completes the header.
    pub(super) fn finish(mut self, sequence: u32) -> Result<Vec<u8>, Errno> {
        if self.bytes.len() > usize::from(u16::MAX) {
            return Err(Errno::MSGSIZE);
        }
        let length = u32::try_from(self.bytes.len()).map_err(|_| Errno::MSGSIZE)?;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// A message that came.
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl Answer<'_> {
    /// Returns what a verdict says.
    pub(super) fn verdict(&self) -> Result<(), Errno> {
        let number = self.body.get(..4).and_then(|bytes| bytes.try_into().ok());
        match number.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(number) => Err(Errno::from_raw_os_error(number.saturating_neg())),
            None => Err(Errno::PROTO),
        }
    }
}

/// Takes apart what one `recv` brought.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        let answer = Answer {
            kind: u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?),
            body: bytes.get(HEADER_BYTES..length)?,
        };
        let next = length.next_multiple_of(ALIGNMENT);
        bytes = bytes.get(next..).unwrap_or_default();
        Some(answer)
    })
}

/// Takes attributes apart, up to one that is cut.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The kind without its two flags, nested and byte order.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..usize::from(length))?;
        let next = usize::from(length).next_multiple_of(ALIGNMENT);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}
