// SPDX-License-Identifier: Apache-2.0
//! How each protocol looks on the wire: one file each, reading with every length checked, writing into fixed room.

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod tcp;
pub mod udp;
mod virtio;

pub use virtio::{Gso, VIRTIO_HEADER_BYTES, VirtioHeader};
