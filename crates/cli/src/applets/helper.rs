// SPDX-License-Identifier: Apache-2.0
//! The helper's side: one job from standard input, its answer on standard output.
//!
//! Executed by the engine inside a user namespace, never by people. It may have threads, and never forks.

use std::{
    io::{self, BufRead, Write},
    sync::Mutex,
};

use wolffia_fetch::Environment;
use wolffia_pull::{
    Policy, Progress, Watch, import,
    job::{Failure, Job, Message, Outcome, Task},
    pull, put_stubs,
};
use wolffia_store::{Removed, Repair, Store, StoreError, UnusedLayers};

/// Longer jobs were not written by us.
const JOB_BYTES_MAX: u64 = 1 << 20;

/// Serves one job and returns the exit code.
pub(crate) fn serve(_words: &[std::ffi::OsString]) -> u8 {
    let mut line = String::new();
    let read = io::Read::take(io::stdin().lock(), JOB_BYTES_MAX).read_line(&mut line);
    let job: Job = match read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_str(&line).map_err(|error| error.to_string()))
    {
        Ok(job) => job,
        Err(cause) => {
            return answer(&Message::Failed(failure(
                "reading the helper's job",
                vec![cause],
                None,
            )));
        }
    };
    let message = match work(&job) {
        Ok(outcome) => Message::Done(Box::new(outcome)),
        Err(failure) => Message::Failed(failure),
    };
    answer(&message)
}

/// Says something; an asker that is gone is not told.
fn answer(message: &Message) -> u8 {
    let Ok(mut line) = serde_json::to_vec(message) else {
        return 1;
    };
    line.push(b'\n');
    u8::from(io::stdout().lock().write_all(&line).is_err())
}

struct Teller(Mutex<Progress>);

impl Watch for Teller {
    fn progress(&self, progress: Progress) {
        let mut last = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != progress {
            *last = progress;
            answer(&Message::Progress(progress));
        }
    }
}

fn work(job: &Job) -> Result<Outcome, Failure> {
    if job.task == Task::Reset {
        return Store::reset(&job.store)
            .map(|()| Outcome::Reset)
            .map_err(of_store);
    }
    let store = Store::open(&job.store).map_err(of_store)?;
    let environment = Environment::of_process();
    let teller = Teller(Mutex::new(Progress::default()));
    match &job.task {
        Task::Pull(request) => pull(&store, &job.owners, request, &environment, &teller)
            .map(Outcome::Image)
            .map_err(|error| error.to_failure()),
        Task::Import(request) => import(&store, &job.owners, request, &teller)
            .map(Outcome::Image)
            .map_err(|error| error.to_failure()),
        Task::Stubs { image } => {
            let record = store.image(image).map_err(of_store)?;
            let record = record.ok_or_else(|| of_store(StoreError::NoImage(image.to_string())))?;
            put_stubs(&store, &job.owners, &record).map_err(|error| error.to_failure())?;
            let request = wolffia_pull::PullRequest {
                name: image.to_string(),
                platform: wolffia_image::Platform::host(),
                policy: Policy::Missing,
                insecure: false,
            };
            pull(&store, &job.owners, &request, &environment, &teller)
                .map(Outcome::Image)
                .map_err(|error| error.to_failure())
        }
        Task::Remove { images, force } => {
            let mut removed: Vec<Removed> = Vec::new();
            let mut failed = Vec::new();
            for doomed in images {
                match store.remove(&doomed.name, &doomed.users, *force) {
                    Ok(gone) => removed.push(gone),
                    Err(error) => failed.push((doomed.name.clone(), of_store(error))),
                }
            }
            let collected = store.collect(UnusedLayers::KeepYoung).map_err(of_store)?;
            Ok(Outcome::Removed {
                removed,
                failed,
                collected,
            })
        }
        Task::Collect => store
            .collect(UnusedLayers::KeepYoung)
            .map(Outcome::Collected)
            .map_err(of_store),
        Task::Check => store
            .check(Some(&job.owners), Repair::No)
            .map(Outcome::Checked)
            .map_err(of_store),
        Task::Reset => Ok(Outcome::Reset),
    }
}

fn of_store(error: StoreError) -> Failure {
    wolffia_pull::PullError::from(error).to_failure()
}

fn failure(message: &str, causes: Vec<String>, hint: Option<String>) -> Failure {
    Failure {
        message: message.to_owned(),
        causes,
        hint,
        kind: wolffia_pull::job::FailureKind::Other,
    }
}
