// SPDX-License-Identifier: Apache-2.0
//! Jobs for the re-executed helper: pulls, checks, removals, done with threads inside a user namespace.
//!
//! The command that a person runs has one thread, because it will fork; a pull has many. So the same binary is executed again, inside the
//! namespace whose ids the files get. It reads its job from a socket, which is its standard output, and answers there. Its standard input is
//! empty, or, where that is what the job is to read, what the person gave: a pipe cannot be opened a second time by whoever seems to be
//! another user. It dies with us: by its death signal, and because a terminal's interrupt reaches it too. What it leaves half done, the store
//! sweeps.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, Stdio},
};

use thiserror::Error;
use wolffia_pull::{
    causes,
    job::{Failure, Job, Message, Outcome, Progress},
    unpacked,
};
use wolffia_store::{IdSpan, Owners, Site, Store};
use wolffia_sys::{
    idmap::{IdMap, Mapping},
    namespace::Namespaces,
};

use crate::inside::{self, InsideError};

/// The name that the helper is started by; the door looks at it.
pub const HELPER_NAME: &str = "wolffia-helper";

/// Exit code of a helper whose program could not be executed.
const NOT_EXECUTED: u8 = 127;

/// Why a job brought nothing.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It was not started.
    #[error(transparent)]
    Start(#[from] InsideError),
    /// The wire broke.
    #[error("talking to the helper")]
    Talk(#[from] io::Error),
    /// It answered something else.
    #[error("understanding the helper")]
    Answer(#[from] serde_json::Error),
    /// It said why.
    #[error(transparent)]
    Failed(Failure),
    /// It ended without an answer.
    #[error("the helper was killed before it was done")]
    Killed,
}

/// Returns the store's view of a mapping.
pub fn owners(mapping: &Mapping) -> Owners {
    let spans = |map: &IdMap| {
        map.ranges()
            .iter()
            .map(|range| IdSpan {
                first: range.inside,
                count: range.count,
            })
            .collect()
    };
    let maps = mapping.maps();
    Owners {
        key: mapping.key(),
        users: spans(&maps.uid),
        groups: spans(&maps.gid),
    }
}

/// Has a job done, and hands progress to `watch`.
pub fn ask(
    mapping: &Mapping,
    job: &Job,
    watch: &mut dyn FnMut(Progress),
) -> Result<Outcome, HelperError> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut ours = Some(ours);
    let child = inside::start(mapping, Namespaces::empty(), || {
        drop(ours.take());
        let error = become_helper(&theirs, job.reads_input());
        let mut out = io::stderr().lock();
        // Nobody can be told that nobody can be told.
        drop(writeln!(out, "error: starting the helper\ncause: {error}"));
        NOT_EXECUTED
    })?;
    // `start` returned in the parent, where the closure did not run.
    let Some(mut ours) = ours else {
        return Err(HelperError::Killed);
    };
    // Or we would never see the end.
    drop(theirs);
    serde_json::to_writer(&mut ours, job)?;
    ours.write_all(b"\n")?;
    let answers = ours.try_clone()?;
    let answer = listen(job, answers, &mut ours, watch);
    // It has said its last word; how it ended says nothing more.
    let _ = child.pidfd.wait();
    answer
}

fn listen(
    job: &Job,
    answers: UnixStream,
    to_helper: &mut UnixStream,
    watch: &mut dyn FnMut(Progress),
) -> Result<Outcome, HelperError> {
    let mut answers = BufReader::new(answers);
    let mut line = String::new();
    loop {
        line.clear();
        if answers.read_line(&mut line)? == 0 {
            return Err(HelperError::Killed);
        }
        match serde_json::from_str(&line)? {
            Message::Progress(progress) => watch(progress),
            Message::Walk(sites) => {
                serde_json::to_writer(&mut *to_helper, &walk(job, &sites))?;
                to_helper.write_all(b"\n")?;
            }
            Message::Done(outcome) => return Ok(*outcome),
            Message::Failed(failure) => return Err(HelperError::Failed(failure)),
        }
    }
}

/// Walks what sites unpacked: here true owners are seen. Returns what cannot be used, and why.
fn walk(job: &Job, sites: &[Site]) -> Vec<String> {
    let store = match Store::open(&job.store) {
        Ok(store) => store,
        Err(error) => return vec![causes(&error)],
    };
    sites
        .iter()
        .filter_map(|site| unpacked::walk(&store, site).err())
        .map(|error| causes(&error))
        .collect()
}

/// Executes this program again as the helper. Returns only when that failed.
fn become_helper(wire: &UnixStream, reads_input: bool) -> io::Error {
    if let Err(error) = rustix::stdio::dup2_stdout(wire) {
        return error.into();
    }
    let mut command = Command::new("/proc/self/exe");
    if !reads_input {
        command.stdin(Stdio::null());
    }
    command.arg0(HELPER_NAME).exec()
}
