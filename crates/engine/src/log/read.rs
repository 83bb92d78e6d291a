// SPDX-License-Identifier: Apache-2.0
//! The reading end of a log: `logs`, `logs -f`.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
};

use super::{CURRENT, Entry, FILES, LINE_BYTES_MAX, file_name};
use crate::time::Timestamp;

/// A line of a log file is longer than its text by escapes and frame; anything longer is not a record.
const RECORD_BYTES_MAX: u64 = LINE_BYTES_MAX as u64 * 8;

/// Which records are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Select {
    /// None before this.
    pub since: Option<Timestamp>,
    /// Only the last lines.
    pub tail: Option<usize>,
}

/// A log that is being watched.
#[derive(Debug)]
pub struct Follow {
    folder: PathBuf,
    file: Option<BufReader<fs::File>>,
    part: Vec<u8>,
}

/// Hands the chosen records to `each`, oldest first.
pub fn read(folder: &Path, select: &Select, each: &mut dyn FnMut(&Entry)) -> io::Result<Follow> {
    let mut kept = Kept::new(select, each);
    let mut follow = Follow {
        folder: folder.to_owned(),
        file: None,
        part: Vec::new(),
    };
    // The current file is opened first: when it is turned meanwhile, it is still read to its end and nothing is missed.
    follow.file = open(folder, 0)?;
    for turns in (1..FILES).rev() {
        let Some(mut file) = open(folder, turns)? else {
            continue;
        };
        if follow.is_same(&file)? {
            continue;
        }
        let mut part = Vec::new();
        drain(&mut file, &mut part, &mut |entry| kept.take(entry))?;
    }
    if let Some(file) = &mut follow.file {
        drain(file, &mut follow.part, &mut |entry| kept.take(entry))?;
    }
    kept.finish();
    Ok(follow)
}

/// Hands records to `each` as they are written, until `ended` becomes readable (a pidfd of the conductor) or `each` refuses.
pub fn follow(
    mut follow: Follow,
    ended: Option<BorrowedFd<'_>>,
    each: &mut dyn FnMut(&Entry) -> bool,
) -> io::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, &follow.folder, events)?;
    let mut over = ended.is_none();
    loop {
        let mut wanted = true;
        follow.step(&mut |entry| wanted &= each(entry))?;
        if over || !wanted {
            return Ok(());
        }
        let mut fds = vec![PollFd::new(&watch, PollFlags::IN)];
        fds.extend(
            ended
                .as_ref()
                .map(|ended| PollFd::new(ended, PollFlags::IN)),
        );
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            result => drop(result?),
        }
        over = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let mut events = [0u8; 4096];
        // What happened does not matter, only that something did; the queue is emptied so that the next poll waits.
        while rustix::io::read(watch.as_fd(), &mut events).is_ok_and(|count| count > 0) {}
    }
}

impl Follow {
    /// Reads on: the rest of the file in hand, then the ones that came after it.
    fn step(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        loop {
            if let Some(file) = &mut self.file {
                drain(file, &mut self.part, each)?;
            }
            let Some(mut current) = open(&self.folder, 0)? else {
                return Ok(());
            };
            if self.is_same(&current)? {
                return Ok(());
            }
            // The file in hand was turned after it was read to its end; what it got in between comes before the new one.
            if let Some(file) = &mut self.file {
                drain(file, &mut self.part, each)?;
            }
            self.part.clear();
            drain(&mut current, &mut self.part, each)?;
            self.file = Some(current);
        }
    }

    fn is_same(&self, other: &BufReader<fs::File>) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let (one, other) = (file.get_ref().metadata()?, other.get_ref().metadata()?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }
}

fn open(folder: &Path, turns: u32) -> io::Result<Option<BufReader<fs::File>>> {
    let name = if turns == 0 {
        CURRENT.to_owned()
    } else {
        file_name(turns)
    };
    match fs::File::open(folder.join(name)) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hands every whole record to `each`; a last line without its newline waits in `part`.
fn drain(
    file: &mut BufReader<fs::File>,
    part: &mut Vec<u8>,
    each: &mut dyn FnMut(&Entry),
) -> io::Result<()> {
    loop {
        let room = RECORD_BYTES_MAX.saturating_sub(part.len() as u64);
        let count = io::Read::take(&mut *file, room).read_until(b'\n', part)?;
        if count == 0 && room > 0 {
            return Ok(());
        }
        if part.last() == Some(&b'\n') || room == 0 {
            if let Ok(entry) = serde_json::from_slice::<Entry>(part) {
                each(&entry);
            }
            part.clear();
        }
    }
}

/// Keeps what was chosen: by time at once, by count at the end.
struct Kept<'a> {
    select: Select,
    each: &'a mut dyn FnMut(&Entry),
    /// Lines, each of one or more records.
    last: VecDeque<Vec<Entry>>,
    /// The last record of this line did not end it.
    open: bool,
}

impl<'a> Kept<'a> {
    fn new(select: &Select, each: &'a mut dyn FnMut(&Entry)) -> Kept<'a> {
        Kept {
            select: *select,
            each,
            last: VecDeque::new(),
            open: false,
        }
    }

    fn take(&mut self, entry: &Entry) {
        if let Some(since) = self.select.since {
            let written = Timestamp::parse(&entry.time, since);
            if written.is_ok_and(|written| written < since) {
                return;
            }
        }
        let Some(tail) = self.select.tail else {
            return (self.each)(entry);
        };
        match self.last.back_mut() {
            Some(line) if self.open => line.push(entry.clone()),
            _ => self.last.push_back(vec![entry.clone()]),
        }
        self.open = !entry.log.ends_with('\n');
        while self.last.len() > tail {
            self.last.pop_front();
        }
    }

    fn finish(&mut self) {
        for line in self.last.drain(..) {
            line.iter().for_each(&mut *self.each);
        }
    }
}
