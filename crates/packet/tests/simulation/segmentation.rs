// SPDX-License-Identifier: Apache-2.0
//! What a device with offloads does to a frame: cuts it and finishes its sums, written from the virtio text alone.

use wolffia_packet::{Gso, VirtioHeader};

/// Returns the frames that a guest without offloads would see.
pub(crate) fn cut(header: &VirtioHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    if header.gso == Gso::None {
        let mut frame = frame.to_vec();
        if header.needs_checksum {
            finish(header, &mut frame);
        }
        return vec![frame];
    }
    assert!(
        header.needs_checksum,
        "a frame to be cut needs its sum finished"
    );
    let (head, payload) = frame.split_at(header.header_bytes.into());
    let start = usize::from(header.checksum_start);
    let is_v6 = head[12..14] == [0x86, 0xdd];
    let pieces = payload.chunks(header.segment_bytes.into());
    let count = pieces.len();
    assert!(count > 1, "a frame of one piece is not to be cut");
    let mut frames = Vec::new();
    for (n, piece) in pieces.enumerate() {
        let mut frame = [head, piece].concat();
        let ip_payload = frame.len() - start;
        if is_v6 {
            frame[18..20].copy_from_slice(&(ip_payload as u16).to_be_bytes());
        } else {
            let total = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[24..26].fill(0);
            let sum = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        // The pseudo header's sum counts the length of the whole: take the difference out.
        let at = start + usize::from(header.checksum_offset);
        let whole = (head.len() - start + payload.len()) as u16;
        let partial = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let difference = u32::from(partial) + u32::from(!whole) + ip_payload as u32;
        frame[at..at + 2].copy_from_slice(&fold(difference).to_be_bytes());
        match header.gso {
            Gso::Tcp4 | Gso::Tcp6 => {
                let number = u32::from_be_bytes(*frame[start + 4..].first_chunk().unwrap());
                let number = number.wrapping_add((n * usize::from(header.segment_bytes)) as u32);
                frame[start + 4..start + 8].copy_from_slice(&number.to_be_bytes());
                if n + 1 < count {
                    frame[start + 13] &= !0x09;
                }
            }
            Gso::Udp => {
                frame[start + 4..start + 6].copy_from_slice(&(ip_payload as u16).to_be_bytes());
            }
            Gso::None | Gso::Unknown => unreachable!(),
        }
        finish(header, &mut frame);
        frames.push(frame);
    }
    frames
}

fn finish(header: &VirtioHeader, frame: &mut [u8]) {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    let checksum = !sum(&frame[start..]);
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    fold(
        pairs
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
            .fold(0, |all, word| u32::from(fold(all + word))),
    )
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
