// SPDX-License-Identifier: Apache-2.0
//! The process `netd`: the same binary under another name, which serves one network namespace and ends with it.
//!
//! Its one word is a [`Job`] as JSON; the descriptors that it names by number were left open for it. It says that it is ready by one byte, and
//! why it is not on standard error.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::fd::{OwnedFd, RawFd},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use wolffia_sys::fd;

use crate::{
    drivers::{self, NetDriver},
    settings::Settings,
    user::{AttachError, Doors, Place, ServeError},
};

/// The name that it is started by; the door looks at it.
pub const SERVER_NAME: &str = "wolffia-netd";

/// What it is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The network.
    pub settings: Settings,
    /// A descriptor of the network namespace.
    pub network: RawFd,
    /// A descriptor of the user namespace that owns it, where that is another than the process is born in.
    pub user: Option<RawFd>,
    /// Where the ready byte goes.
    pub ready: Option<RawFd>,
    /// The process ends when something happens to this one.
    pub end: Option<RawFd>,
}

/// Why it ended otherwise than it was told to.
#[derive(Debug, Error)]
enum HelperError {
    #[error("it is started by wolffia itself, with one word")]
    Words,
    #[error("understanding the job")]
    Job(#[from] serde_json::Error),
    #[error("taking descriptor {number}")]
    Descriptor { number: RawFd, source: Errno },
    #[error("attaching the network")]
    Attach(#[from] AttachError),
    #[error("serving the network")]
    Serve(#[from] ServeError),
}

/// Is the process: serves the job in `words` and returns the exit code.
pub fn serve(words: &[OsString]) -> u8 {
    let Err(error) = work(words) else { return 0 };
    let mut out = io::stderr().lock();
    let mut lines = vec![format!("error: {error}")];
    let mut cause = std::error::Error::source(&error);
    while let Some(one) = cause {
        lines.push(format!("cause: {one}"));
        cause = one.source();
    }
    // Nobody can be told that nobody can be told.
    drop(writeln!(out, "{}", lines.join("\n")));
    1
}

fn work(words: &[OsString]) -> Result<(), HelperError> {
    let [word] = words else {
        return Err(HelperError::Words);
    };
    let job: Job = serde_json::from_slice(word.as_encoded_bytes())?;
    let take = |number: RawFd| {
        fd::inherited(number).map_err(|source| HelperError::Descriptor { number, source })
    };
    let take_one = |number: Option<RawFd>| -> Result<Option<OwnedFd>, HelperError> {
        number.map(take).transpose()
    };
    let place = Place {
        user: take_one(job.user)?,
        network: take(job.network)?,
    };
    let doors = Doors {
        ready: take_one(job.ready)?,
        end: take_one(job.end)?,
        ..Doors::default()
    };
    let link = drivers::tap::TapDriver.attach(&place, &job.settings)?;
    drop(place);
    link.serve(&job.settings, doors)?;
    Ok(())
}
