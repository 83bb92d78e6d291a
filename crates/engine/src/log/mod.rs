// SPDX-License-Identifier: Apache-2.0
//! What a container said: docker's json-file lines in files of bounded size.
//!
//! Theory of operation. The conductor cuts each stream into lines and appends `{"log":"text\n","stream":"stdout","time":"..."}` to `log`; a line
//! longer than [`LINE_BYTES_MAX`] is cut into records of which only the last ends with a newline, as docker does. When `log` has grown past
//! [`FILE_BYTES_MAX`] it becomes `log.1`, that `log.2`, and the one before is gone: at most [`FILES`] files, about 30 MiB a container, never an
//! unbounded disk. A record is one `write`, so a reader sees whole lines, but for one that a full disk or a kill cut short, which is skipped.
//! Text that is not UTF-8 is kept with replacement characters, as docker keeps it.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{Follow, Select, follow, read};
pub use write::Writer;

/// Lines are cut into records of at most so many bytes; docker's value.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// A log file is turned when it has grown past this.
pub const FILE_BYTES_MAX: u64 = 10 << 20;

/// The files of one log, the current one among them.
pub const FILES: u32 = 3;

/// The current file.
const CURRENT: &str = "log";

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The text; without a newline at its end it goes on in the next record of its stream.
    pub log: String,
    /// Its stream.
    pub stream: Stream,
    /// When it was written, RFC 3339 in UTC.
    pub time: String,
}

/// Returns the name of the file that was current `turns` turns ago.
fn file_name(turns: u32) -> String {
    match turns {
        0 => CURRENT.to_owned(),
        _ => format!("{CURRENT}.{turns}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::time::Timestamp;

    fn texts(folder: &std::path::Path, select: &Select) -> Vec<String> {
        let mut texts = Vec::new();
        read(folder, select, &mut |entry| texts.push(entry.log.clone())).unwrap();
        texts
    }

    #[test]
    fn lines_come_back_whole_and_long_ones_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        writer.push(Stream::Stdout, b"one\ntw");
        writer.push(Stream::Stderr, b"oops\n");
        writer.push(Stream::Stdout, b"o\n");
        writer.push(Stream::Stdout, "ä".repeat(LINE_BYTES_MAX).as_bytes());
        writer.push(Stream::Stdout, b"\xff end");
        writer.finish();
        let all = texts(folder.path(), &Select::default());
        assert_eq!(all[..3], ["one\n", "oops\n", "two\n"]);
        assert_eq!(
            all[3..].concat(),
            "ä".repeat(LINE_BYTES_MAX) + "\u{fffd} end"
        );
        assert!(
            all[3..].iter().all(|piece| piece.len() <= LINE_BYTES_MAX),
            "cut at the bound"
        );
        let last = Select {
            tail: Some(1),
            ..Select::default()
        };
        assert_eq!(
            texts(folder.path(), &last).concat(),
            all[3..].concat(),
            "a cut line is one line"
        );
    }

    #[test]
    fn a_log_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        let lines = (FILE_BYTES_MAX * u64::from(FILES + 2)) / 1000;
        for _ in 0..lines {
            writer.push(Stream::Stdout, &line);
        }
        writer.finish();
        let size: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|found| found.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= (FILE_BYTES_MAX + 2000) * u64::from(FILES), "{size}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES as usize);
        assert!(texts(folder.path(), &Select::default()).len() > 20_000);
    }

    #[test]
    fn since_and_tail_choose() {
        let folder = tempfile::tempdir().unwrap();
        let line = |second: u32| {
            format!(
                "{{\"log\":\"{second}\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:{second:02}Z\"}}\n"
            )
        };
        fs::write(
            folder.path().join("log.1"),
            (0..5).map(line).collect::<String>(),
        )
        .unwrap();
        let torn = (5..10).map(line).collect::<String>() + "{\"log\":\"to";
        fs::write(folder.path().join("log"), torn).unwrap();
        let since = Timestamp {
            seconds: 3,
            nanoseconds: 0,
        };
        let select = Select {
            since: Some(since),
            ..Select::default()
        };
        assert_eq!(texts(folder.path(), &select).len(), 7);
        let select = Select {
            tail: Some(2),
            ..Select::default()
        };
        assert_eq!(texts(folder.path(), &select), ["8\n", "9\n"]);
        assert!(
            texts(
                folder.path(),
                &Select {
                    tail: Some(0),
                    ..Select::default()
                }
            )
            .is_empty()
        );
    }
}
