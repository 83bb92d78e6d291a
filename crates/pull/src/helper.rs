// SPDX-License-Identifier: Apache-2.0
//! The helper: a re-executed process inside the user namespace that does one job.
//!
//! [`serve`] is what the `wolffia` binary runs when it is called as the helper: it must already be inside the namespace that
//! the job's owners describe. It makes threads and never forks. See [`crate::job`] for what is said.
//!
//! When the process that asked is gone, writing progress fails and the helper ends: nothing of it is visible then, and the
//! layers that are complete stay for the next pull.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::{Mutex, PoisonError};

use wolffia_fetch::Environment;
use wolffia_image::Digest;
use wolffia_store::{Site, Store, StoreError, UnusedLayers};

use crate::error::PullError;
use crate::job::{
    Doomed, Failure, FailureKind, ImageOutcome, Job, Message, Outcome, Progress, Task,
};
use crate::pull::{Watch, put_stubs};

/// Longest job that is read: names and paths.
const JOB_BYTES_MAX: u64 = 1 << 20;

/// Reads one job from `input`, does it, and says on `output` how it goes. Returns whether it was done.
///
/// Sets the process's umask to 0: what the store makes has exactly the mode that is said.
pub fn serve(input: impl io::Read + Send, output: impl Write + Send) -> bool {
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut input = BufReader::new(input);
    let job = read_job(&mut input);
    let output = Lines(Mutex::new(output), Mutex::new(input));
    let result = job.and_then(|job| {
        perform(&job, &Environment::of_process(), &output).map_err(|error| error.to_failure())
    });
    let done = result.is_ok();
    let last = match result {
        Ok(outcome) => Message::Done(Box::new(outcome)),
        Err(failure) => Message::Failed(failure),
    };
    output.say(&last).is_ok() && done
}

fn read_job(input: &mut impl BufRead) -> Result<Job, Failure> {
    let mut line = Vec::new();
    let read = io::Read::take(input, JOB_BYTES_MAX).read_until(b'\n', &mut line);
    let job = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_slice(&line).map_err(|error| error.to_string()));
    job.map_err(|cause| Failure {
        message: "reading the job of a helper".to_owned(),
        causes: vec![cause],
        hint: None,
        kind: FailureKind::Other,
    })
}

/// Does a job here and now. Must run inside the user namespace of the job's owners.
pub fn perform(
    job: &Job,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Outcome, PullError> {
    if job.task == Task::Reset {
        Store::reset(&job.store)?;
        return Ok(Outcome::Reset);
    }
    let store = Store::open(&job.store)?;
    Ok(match &job.task {
        Task::Pull(request) => Outcome::Image(crate::pull(
            &store,
            &job.owners,
            request,
            environment,
            watch,
        )?),
        Task::Import(request) => {
            Outcome::Image(crate::import(&store, &job.owners, request, watch)?)
        }
        Task::Convert(request) => Outcome::Brought(crate::convert::convert(
            &store,
            request,
            environment,
            watch,
        )?),
        Task::Stubs { image } => Outcome::Image(stubs(&store, job, image)?),
        Task::Remove { images, force } => remove(&store, images, *force)?,
        Task::Collect => Outcome::Collected(store.collect(UnusedLayers::Drop)?),
        Task::Check { repair } => Outcome::Checked(store.check(Some(&job.owners), *repair)?),
        Task::Reset => Outcome::Reset,
    })
}

fn stubs(store: &Store, job: &Job, image: &Digest) -> Result<ImageOutcome, PullError> {
    let image = store
        .image(image)?
        .ok_or_else(|| StoreError::NoImage(image.to_string()))?;
    put_stubs(store, &job.owners, &image)?;
    crate::pull::outcome_of_present(store, &job.owners, &image)
}

fn remove(store: &Store, images: &[Doomed], force: bool) -> Result<Outcome, PullError> {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for doomed in images {
        match store.remove(&doomed.name, &doomed.users, force) {
            Ok(gone) => removed.push(gone),
            Err(error) => {
                failed.push((doomed.name.clone(), PullError::from(error).to_failure()));
            }
        }
    }
    let collected = store.collect(UnusedLayers::KeepYoung)?;
    Ok(Outcome::Removed {
        removed,
        failed,
        collected,
    })
}

/// Messages as lines of JSON, and where answers to them come from.
struct Lines<W, R>(Mutex<W>, Mutex<R>);

impl<W: Write, R> Lines<W, R> {
    fn say(&self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&line)?;
        output.flush()
    }
}

impl<W: Write + Send, R: BufRead + Send> Watch for Lines<W, R> {
    fn walk(&self, _store: &Store, sites: &[Site]) -> Vec<String> {
        let said = self.say(&Message::Walk(sites.to_vec()));
        let mut line = Vec::new();
        let mut input = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = said.and_then(|()| {
            let mut answer = io::Read::take(&mut *input, JOB_BYTES_MAX);
            answer.read_until(b'\n', &mut line)
        });
        match answer {
            Ok(_) => serde_json::from_slice(&line).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    fn progress(&self, progress: Progress) -> bool {
        self.say(&Message::Progress(progress)).is_ok()
    }
}
