// SPDX-License-Identifier: Apache-2.0
//! The few facts of an ELF program that tell whether it is static: its loader, its libraries, its type.
//!
//! Source: System V ABI, "Object Files" and "Program Loading" (64 bits, little-endian, which is all that is built here).

use anyhow::{Context, ensure};

/// What the program headers say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The loader that the program asks for (`PT_INTERP`).
    pub(super) interpreter: Option<String>,
    /// How many libraries it asks for (`DT_NEEDED`).
    pub(super) libraries: usize,
    /// Whether it can be loaded anywhere (`ET_DYN`).
    pub(super) position_independent: bool,
}

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const DYNAMIC_ENTRY_BYTES: usize = 16;
const ET_DYN: u64 = 3;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;

/// Reads the facts of a 64-bit little-endian program.
pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Facts> {
    ensure!(
        bytes.starts_with(b"\x7fELF\x02\x01"),
        "no 64-bit little-endian ELF file"
    );
    ensure!(bytes.len() >= HEADER_BYTES, "the header is cut short");
    let headers_at = usize::try_from(number(bytes, 32, 8)?)?;
    let count = usize::try_from(number(bytes, 56, 2)?)?;
    let mut facts = Facts {
        interpreter: None,
        libraries: 0,
        position_independent: number(bytes, 16, 2)? == ET_DYN,
    };
    for index in 0..count {
        let at = headers_at
            .checked_add(index * PROGRAM_HEADER_BYTES)
            .context("a header far away")?;
        let kind = number(bytes, at, 4)?;
        if kind != PT_DYNAMIC && kind != PT_INTERP {
            continue;
        }
        let offset = usize::try_from(number(bytes, at + 8, 8)?)?;
        let length = usize::try_from(number(bytes, at + 32, 8)?)?;
        let end = offset.checked_add(length).context("a segment far away")?;
        let segment = bytes.get(offset..end).context("a segment beyond the end")?;
        if kind == PT_INTERP {
            let name = String::from_utf8_lossy(segment);
            facts.interpreter = Some(name.trim_end_matches('\0').to_owned());
        } else {
            let entries = segment.chunks_exact(DYNAMIC_ENTRY_BYTES);
            facts.libraries = entries
                .filter(|entry| number(entry, 0, 8).is_ok_and(|tag| tag == DT_NEEDED))
                .count();
        }
    }
    Ok(facts)
}

/// Reads a little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> anyhow::Result<u64> {
    let field = at.checked_add(length).and_then(|end| bytes.get(at..end));
    let field = field.context("a field beyond the end")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_seen_as_such() {
        // This very test is dynamic, or it could not have been built with procedural macros.
        let facts = read(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(facts.interpreter.unwrap().contains("ld-linux"));
        assert!(facts.libraries > 0);
        assert!(facts.position_independent);
    }

    #[test]
    fn a_made_up_static_program_is_seen_as_such_and_no_cut_panics() {
        let mut bytes = vec![0; HEADER_BYTES + PROGRAM_HEADER_BYTES + DYNAMIC_ENTRY_BYTES];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 3;
        bytes[32] = 64;
        bytes[56] = 1;
        bytes[64] = 2;
        bytes[72] = 120;
        bytes[96] = 16;
        let expected = Facts {
            interpreter: None,
            libraries: 0,
            position_independent: true,
        };
        assert_eq!(read(&bytes).unwrap(), expected);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length}");
        }
        bytes[120] = 1;
        assert_eq!(read(&bytes).unwrap().libraries, 1);
    }
}
