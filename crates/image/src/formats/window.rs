// SPDX-License-Identifier: Apache-2.0
//! The 32 KiB of output before a checkpoint, without what is never referred to: about a ninth of it, packed by zstd.
//!
//! Forms, told apart by their length: nothing (no window), exactly 32 KiB (the window itself: SOCI's, or where packing does not help), or else a zstd frame
//! of: the number of runs; for each run how many bytes lie between it and the one before (for the first, the beginning) and its length; then the runs'
//! bytes. Numbers are of seven bits to a byte, the lowest first. What lies in no run is zero.
//!
//! Measured on a Debian image of 95 MB: the whole windows of checkpoints 512 KiB apart are 6.2 % of it packed, these 1.1 to 1.5 %.

use crate::inflate::WINDOW_BYTES;

/// Unmarked bytes that are kept between two runs, since another run costs as much.
const GAP_BYTES: usize = 3;
/// Above it nothing is gained; below it neither.
const LEVEL: i32 = 3;
/// Bytes of all runs and what describes them: each run but the last is followed by at least a gap.
const PLAIN_BYTES_MAX: usize = 2 * WINDOW_BYTES;

/// Packs a window, given a bit for each of its bytes that is referred to. A window of less than 32 KiB has the last of the bits.
pub(super) fn pack(window: &[u8], marks: &[u64]) -> Vec<u8> {
    let missing = WINDOW_BYTES - window.len().min(WINDOW_BYTES);
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (word, marks) in marks.iter().enumerate() {
        let mut marks = *marks;
        while marks != 0 {
            let place = word * 64 + marks.trailing_zeros() as usize;
            marks &= marks - 1;
            match runs.last_mut() {
                Some((_, end)) if *end + GAP_BYTES >= place => *end = place + 1,
                _ => runs.push((place, place + 1)),
            }
        }
    }
    runs.retain(|(from, _)| *from >= missing);
    if runs.is_empty() {
        return Vec::new();
    }
    let mut plain = Vec::new();
    number(&mut plain, runs.len());
    let mut end_before = 0;
    for (from, end) in &runs {
        number(&mut plain, from - end_before);
        number(&mut plain, end - from);
        end_before = *end;
    }
    for (from, end) in &runs {
        plain.extend_from_slice(&window[from - missing..end - missing]);
    }
    match zstd::bulk::compress(&plain, LEVEL) {
        Ok(packed) if packed.len() < WINDOW_BYTES => packed,
        _ => {
            let mut whole = vec![0; missing];
            whole.extend_from_slice(window);
            whole
        }
    }
}

/// Unpacks a window; `None` if it is none.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    if packed.is_empty() || packed.len() == WINDOW_BYTES {
        return Some(packed.to_vec());
    }
    let plain = zstd::bulk::decompress(packed, PLAIN_BYTES_MAX).ok()?;
    let mut rest = &plain[..];
    let count = take_number(&mut rest)?;
    let mut runs = Vec::new();
    let mut end_before = 0_usize;
    for _ in 0..count {
        let from = end_before.checked_add(take_number(&mut rest)?)?;
        let end = from.checked_add(take_number(&mut rest)?)?;
        if end > WINDOW_BYTES || end == end_before {
            return None;
        }
        runs.push((from, end));
        end_before = end;
    }
    let mut window = vec![0; WINDOW_BYTES];
    for (from, end) in runs {
        let (run, later) = rest.split_at_checked(end - from)?;
        window[from..end].copy_from_slice(run);
        rest = later;
    }
    rest.is_empty().then_some(window)
}

fn number(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number of at most 21 bits.
fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in [0, 7, 14] {
        let (byte, later) = rest.split_first()?;
        *rest = later;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "bytes of a pattern")]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_comes_back() {
        let window: Vec<u8> = (0..WINDOW_BYTES)
            .map(|place| (place * 7 / 3) as u8)
            .collect();
        let mut marks = vec![0_u64; WINDOW_BYTES / 64];
        let marked = [0_usize, 1, 2, 5, 63, 64, 4000, 4100, WINDOW_BYTES - 1];
        for place in marked {
            marks[place / 64] |= 1 << (place % 64);
        }
        let packed = pack(&window, &marks);
        assert!(packed.len() < 60);
        let unpacked = unpack(&packed).unwrap();
        for place in marked {
            assert_eq!(unpacked[place], window[place]);
        }
        // Of a short window the last bits count.
        let short = pack(&window[30_000..], &marks);
        let unpacked = unpack(&short).unwrap();
        assert_eq!(unpacked[WINDOW_BYTES - 1], window[WINDOW_BYTES - 1]);
        assert_eq!(unpacked[4000], 0);
    }

    #[test]
    fn forms_are_told_apart() {
        let noise: Vec<u8> = (0..WINDOW_BYTES as u32)
            .map(|place| (place.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        assert_eq!(unpack(&pack(&noise, &[u64::MAX; 512])).unwrap(), noise);
        assert_eq!(unpack(&noise).unwrap(), noise);
        assert!(pack(&noise, &[0; 512]).is_empty());
        assert!(unpack(&[]).unwrap().is_empty());
        assert_eq!(unpack(b"no window"), None);
        let packed = pack(&noise[..100], &[u64::MAX; 512]);
        for cut in 1..packed.len() {
            assert_eq!(unpack(&packed[..cut]), None);
        }
    }
}
