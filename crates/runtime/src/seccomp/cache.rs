// SPDX-License-Identifier: Apache-2.0
//! Filters of bundles that were laid out before, kept on disk.
//!
//! Engines write the same profile of some 400 calls into every bundle. Reading it as JSON and laying it out takes as long
//! as a quarter of a start does (0.25 of 2.8 ms, Linux 6.18); finding it here takes 0.03 ms.
//!
//! # Theory of operation
//! A file holds the section's own text and the program that it came to. The name is a hash of the text, good for finding
//! and for nothing else: the text itself is compared, so that no clash, by chance or by design, makes a container run
//! under another's filter. [`FORMAT`] and the package's version stand in the header: another version of ours lays out anew.
//!
//! The directory is our own (0700, checked by its owner), as safe as the rest of the state. A file that cannot be
//! read, or is not what it should be, counts as missing; one that cannot be written is done without. Sections whose filter
//! has a supervisor are not kept: their socket matters, too.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use wolffia_sys::seccomp::{Flags, Instruction, Program};

use super::oci::Filter;

/// Raised with every change of what a section comes to.
const FORMAT: u32 = 1;
/// The version of ours that wrote a file.
const WRITER: &[u8] = concat!("wolffia ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
/// How many files are kept. Machines have one or two profiles; beyond this the directory is begun anew.
const FILES_MAX: usize = 32;
/// The largest section that is kept.
const SECTION_BYTES_MAX: usize = 1 << 20;
/// Bytes of an instruction.
const INSTRUCTION_BYTES: usize = 8;

/// A directory of filters.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Returns the cache in this directory, which is made when the first filter is kept. Its parent must be ours alone.
    pub fn new(directory: PathBuf) -> Cache {
        Cache { directory }
    }

    /// Returns the filter that this section came to, if it is here.
    pub fn find(&self, section: &str) -> Option<Filter> {
        let text = fs::read(self.path(section)).ok()?;
        let mut rest = text.as_slice().strip_prefix(WRITER)?;
        let mut number = || {
            let (first, behind) = rest.split_first_chunk::<4>()?;
            rest = behind;
            Some(u32::from_le_bytes(*first))
        };
        let (format, flags, length, count) = (number()?, number()?, number()?, number()?);
        let (kept, instructions) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if format != FORMAT || kept != section.as_bytes() {
            return None;
        }
        let (rows, odd) = instructions.as_chunks::<INSTRUCTION_BYTES>();
        if !odd.is_empty() || u32::try_from(rows.len()) != Ok(count) {
            return None;
        }
        Some(Filter {
            program: Program::new(rows.iter().copied().map(instruction).collect()).ok()?,
            flags: Flags::from_bits(flags)?,
        })
    }

    /// Keeps the filter that this section came to.
    pub fn keep(&self, section: &str, filter: &Filter) {
        if filter.flags.contains(Flags::LISTENER) || section.len() > SECTION_BYTES_MAX {
            return;
        }
        if let Err(error) = self.write(section, filter) {
            tracing::debug!(%error, "a system call filter was not kept");
        }
    }

    fn write(&self, section: &str, filter: &Filter) -> io::Result<()> {
        self.make_room()?;
        let mut text = WRITER.to_vec();
        let instructions = filter.program.instructions();
        let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let header = [
            FORMAT,
            filter.flags.bits(),
            length(section.len())?,
            length(instructions.len())?,
        ];
        text.extend(header.iter().flat_map(|number| number.to_le_bytes()));
        text.extend(section.as_bytes());
        text.extend(instructions.iter().copied().flat_map(bytes));
        let path = self.path(section);
        // Of two that write at once each has a name of its own, and the last one's stays.
        let new = path.with_extension(format!("new-{}", std::process::id()));
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?
            .write_all(&text)?;
        fs::rename(&new, &path)
    }

    /// Makes the directory; empties one that is full.
    fn make_room(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let files: Vec<PathBuf> = fs::read_dir(&self.directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        if files.len() >= FILES_MAX {
            files.iter().try_for_each(|path| gone(path))?;
        }
        Ok(())
    }

    fn path(&self, section: &str) -> PathBuf {
        self.directory.join(format!("{:016x}", hash(section)))
    }
}

/// Removes a file that another may be removing.
fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A quick hash, eight bytes at a time (the multiplication of Fibonacci hashing): for a file's name, never for trust.
fn hash(text: &str) -> u64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words.chain(rest).fold(text.len() as u64, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(GOLDEN)
    })
}

fn bytes(one: Instruction) -> [u8; INSTRUCTION_BYTES] {
    let number = u64::from(one.code)
        | u64::from(one.jump_true) << 16
        | u64::from(one.jump_false) << 24
        | u64::from(one.operand) << 32;
    number.to_le_bytes()
}

fn instruction(bytes: [u8; INSTRUCTION_BYTES]) -> Instruction {
    let [code_low, code_high, jump_true, jump_false, operand @ ..] = bytes;
    Instruction {
        code: u16::from_le_bytes([code_low, code_high]),
        jump_true,
        jump_false,
        operand: u32::from_le_bytes(operand),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{LinuxSeccomp, from_oci};

    fn filter(section: &str) -> Filter {
        let section: LinuxSeccomp = serde_json::from_str(section).expect("a section");
        from_oci(&section).expect("a filter")
    }

    const REFUSING: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read","write","exit_group"],"action":"SCMP_ACT_ALLOW"}]}"#;
    const ALLOWING: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;

    #[test]
    fn what_is_kept_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path().join("filters"));
        assert_eq!(cache.find(REFUSING), None);
        for section in [REFUSING, ALLOWING] {
            cache.keep(section, &filter(section));
        }
        assert_eq!(cache.find(REFUSING), Some(filter(REFUSING)));
        assert_eq!(cache.find(ALLOWING), Some(filter(ALLOWING)));
        assert_eq!(cache.find(&REFUSING.replace("read", "dup2")), None);
    }

    #[test]
    fn a_clash_of_names_is_not_a_find() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path().to_owned());
        cache.keep(ALLOWING, &filter(ALLOWING));
        fs::rename(cache.path(ALLOWING), cache.path(REFUSING)).expect("renamed");
        assert_eq!(cache.find(REFUSING), None);
    }

    #[test]
    fn what_is_broken_or_of_another_version_counts_as_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path().to_owned());
        cache.keep(REFUSING, &filter(REFUSING));
        let path = cache.path(REFUSING);
        let good = fs::read(&path).expect("kept");
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).expect("cut");
            assert_eq!(cache.find(REFUSING), None, "{length}");
        }
        for place in [0, WRITER.len()] {
            let mut other = good.clone();
            other[place] ^= 1;
            fs::write(&path, other).expect("changed");
            assert_eq!(cache.find(REFUSING), None, "{place}");
        }
        fs::write(&path, good).expect("mended");
        assert_eq!(cache.find(REFUSING), Some(filter(REFUSING)));
    }

    #[test]
    fn a_full_directory_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path().to_owned());
        for number in 0..3 * FILES_MAX {
            let section = format!("{ALLOWING}{}", " ".repeat(number));
            cache.keep(&section, &filter(ALLOWING));
            assert!(cache.find(&section).is_some());
        }
        let count = fs::read_dir(folder.path()).expect("a folder").count();
        assert!(count <= FILES_MAX, "{count}");
    }

    #[test]
    fn a_filter_with_a_supervisor_is_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path().to_owned());
        let section = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x",
            "syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        cache.keep(section, &filter(section));
        assert_eq!(cache.find(section), None);
    }
}
