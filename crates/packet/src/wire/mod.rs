// SPDX-License-Identifier: Apache-2.0
//! How each protocol looks on the wire: one file each, reading with every length checked, writing into fixed room.

mod virtio;

pub use virtio::{Gso, VIRTIO_HEADER_BYTES, VirtioHeader};
