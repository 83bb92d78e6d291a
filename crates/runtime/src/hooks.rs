// SPDX-License-Identifier: Apache-2.0
//! Hooks: programs that are told the container's state on their standard input, and given a time to end in.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use wolffia_sys::{
    Errno,
    process::{Ended, PidFd},
};

use crate::spec::Hook;

/// A hook that did not do its work.
#[derive(Debug, Error)]
pub enum HookError {
    /// It could not be started or waited for.
    #[error("running the hook {path}")]
    Run {
        /// The program.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It ended, and said that it failed.
    #[error("the hook {path} ended with code {code}")]
    Failed {
        /// The program.
        path: PathBuf,
        /// Its code, 128 and the number of a signal that ended it.
        code: u8,
    },
    /// It was killed because it took too long.
    #[error("the hook {path} did not end within {seconds} seconds")]
    TimedOut {
        /// The program.
        path: PathBuf,
        /// Its time.
        seconds: u32,
    },
}

/// Runs a hook in the caller's namespaces and waits for it.
pub(crate) fn run(hook: &Hook, state: &[u8]) -> Result<(), HookError> {
    let fail = |source| HookError::Run {
        path: hook.path.clone(),
        source,
    };
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let variables = hook.env.iter().filter_map(|row| row.split_once('='));
    let mut child = command
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its state.
        match input.write_all(state) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(fail(error)),
            _ => {}
        }
    }
    let pidfd = PidFd::open(child.id()).map_err(|error| fail(error.into()))?;
    if !ends_in_time(&pidfd, hook.timeout).map_err(|error| fail(error.into()))? {
        child.kill().map_err(fail)?;
        child.wait().map_err(fail)?;
        return Err(HookError::TimedOut {
            path: hook.path.clone(),
            seconds: hook.timeout.unwrap_or_default(),
        });
    }
    match pidfd.wait().map_err(|error| fail(error.into()))? {
        Ended::Exited(0) => Ok(()),
        ended => Err(HookError::Failed {
            path: hook.path.clone(),
            code: ended.code(),
        }),
    }
}

fn ends_in_time(pidfd: &PidFd, seconds: Option<u32>) -> Result<bool, Errno> {
    let timeout = seconds.map(|seconds| Timespec {
        tv_sec: i64::from(seconds),
        tv_nsec: 0,
    });
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<u32>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["WORD=said".into()],
            timeout,
        }
    }

    #[test]
    fn a_hook_gets_state_environment_and_time() {
        let good = shell(
            "read line; test \"$line\" = state && test \"$WORD\" = said && test -z \"$HOME\"",
            None,
        );
        run(&good, b"state\n").expect("it succeeds");
        let failed = run(&shell("exit 3", Some(10)), b"");
        assert!(
            matches!(failed, Err(HookError::Failed { code: 3, .. })),
            "{failed:?}"
        );
        let late = run(&shell("exec sleep 100", Some(1)), b"");
        assert!(
            matches!(late, Err(HookError::TimedOut { seconds: 1, .. })),
            "{late:?}"
        );
    }
}
