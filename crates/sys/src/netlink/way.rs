// SPDX-License-Identifier: Apache-2.0
//! Which way a packet would take: the kernel's own routing decision, asked for and not taken.

use std::net::IpAddr;

use rustix::io::Errno;

use super::{
    Netlink,
    message::{self, Message, attributes},
};

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device that it leaves by.
    pub device: u32,
    /// Whether it leads out to one other machine: neither to an address of this namespace's own, nor to a group, nor nowhere.
    pub leads_out: bool,
}

/// `struct rtmsg`, bytes.
const HEADER_BYTES: usize = 12;
/// Where in it the kind of the route stands.
const KIND_AT: usize = 7;

impl Netlink {
    /// Returns the way to an address from the namespace in which this was opened; `ENETUNREACH` where there is none.
    pub fn way_to(&mut self, address: IpAddr) -> Result<Way, Errno> {
        let mut request = Message::new(message::GET_ROUTE, 0);
        let bits = if address.is_ipv6() { 128 } else { 32 };
        request.raw(&[message::family(address.is_ipv6()), bits, 0, 0]);
        request.raw(&[0; HEADER_BYTES - 4]);
        request.ip(message::RTA_DST, address);
        let mut way = None;
        self.ask(request, |kind, body| {
            if kind == message::NEW_ROUTE {
                way = read(body);
            }
        })?;
        way.ok_or(Errno::NETUNREACH)
    }
}

fn read(body: &[u8]) -> Option<Way> {
    let kind = *body.get(KIND_AT)?;
    let (_, device) =
        attributes(body.get(HEADER_BYTES..)?).find(|(kind, _)| *kind == message::RTA_OIF)?;
    Some(Way {
        device: u32::from_ne_bytes(device.try_into().ok()?),
        leads_out: kind == message::ROUTE_UNICAST,
    })
}
