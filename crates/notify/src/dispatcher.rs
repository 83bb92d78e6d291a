// SPDX-License-Identifier: Apache-2.0
//! The loop that reads waiting calls from the listener and has them answered.
//!
//! # Theory of operation
//! One thread, one poll over the listener and over what handlers wait for. A call that nobody answers (its handler is gone
//! wrong, its number is nobody's) goes on in the kernel, where the container's own confinement holds. At most [`WAITS_MAX`] calls wait for something at once;
//! one more has its answer made right away, as if its time were over. The loop ends when the last process with the
//! filter has ended: the listener then is hung up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wolffia_sys::Errno;
use wolffia_sys::seccomp::notification::{Answer, Listener, Notification};
use wolffia_sys::seccomp::policy::{Architecture, X32_BIT};

use crate::Caller;
use crate::handler::{Handler, Outcome, Wait};

/// How many calls may wait for something at once. Each costs a socket; a container can make so many threads connect at once.
pub const WAITS_MAX: usize = 512;

/// Answers the calls of one listener.
pub struct Dispatcher {
    listener: Listener,
    processes: OwnedFd,
    handlers: Vec<Box<dyn Handler>>,
    waits: Vec<(Notification, Wait)>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Dispatcher")
            .field("waits", &self.waits.len())
            .finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Makes a dispatcher. `processes` is the root of a procfs of our PID namespace.
    pub fn new(
        listener: Listener,
        processes: OwnedFd,
        handlers: Vec<Box<dyn Handler>>,
    ) -> Dispatcher {
        Dispatcher {
            listener,
            processes,
            handlers,
            waits: Vec::new(),
        }
    }

    /// Answers calls until the last process with the filter has ended.
    ///
    /// # Errors
    /// Where the listener or poll(2) fails otherwise than by an interruption.
    pub fn serve(&mut self) -> Result<(), Errno> {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let [listener, waits @ ..] = ready.as_slice() else {
                continue;
            };
            let listener = *listener;
            self.settle(waits);
            if listener.contains(PollFlags::IN) {
                self.receive()?;
            } else if listener.intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
        }
    }

    /// Waits; returns what is ready, the listener first.
    fn wait(&self) -> Result<Vec<PollFlags>, Errno> {
        let mut polled = Vec::with_capacity(self.waits.len() + 1);
        polled.push(PollFd::new(&self.listener, PollFlags::IN));
        for (_, wait) in &self.waits {
            polled.push(PollFd::new(&wait.descriptor, PollFlags::OUT));
        }
        let first = self.waits.iter().map(|(_, wait)| wait.until).min();
        let timeout = first.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        poll(&mut polled, timeout.as_ref())?;
        Ok(polled.iter().map(PollFd::revents).collect())
    }

    /// Finishes the waits that are over.
    fn settle(&mut self, ready: &[PollFlags]) {
        let now = Instant::now();
        let mut over = Vec::new();
        for at in (0..self.waits.len()).rev() {
            let is_ready = ready.get(at).is_some_and(|flags| !flags.is_empty());
            if is_ready || self.waits[at].1.until <= now {
                over.push(self.waits.swap_remove(at));
            }
        }
        for (notification, wait) in over {
            self.finish(notification, wait);
        }
    }

    fn finish(&self, notification: Notification, wait: Wait) {
        let caller = self.caller(notification);
        let answer = (wait.then.0)(&caller, wait.descriptor);
        self.answer(notification, answer);
    }

    fn receive(&mut self) -> Result<(), Errno> {
        let notification = match self.listener.receive() {
            Ok(notification) => notification,
            // It was killed before we came to it.
            Err(Errno::NOENT | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let outcome = self.ask(notification);
        match outcome {
            Outcome::Now(answer) => self.answer(notification, answer),
            Outcome::Later(wait) if self.waits.len() < WAITS_MAX => {
                self.waits.push((notification, wait));
            }
            Outcome::Later(wait) => self.finish(notification, wait),
        }
        Ok(())
    }

    fn ask(&mut self, notification: Notification) -> Outcome {
        let go_on = Outcome::Now(Answer::Continue);
        let Some(architecture) = architecture(&notification) else {
            return go_on;
        };
        let number = notification.number.cast_unsigned();
        let caller = Caller::new(&self.listener, self.processes.as_fd(), notification);
        let handler = self
            .handlers
            .iter_mut()
            .find(|handler| handler.calls(architecture).contains(&number));
        let Some(handler) = handler else {
            return go_on;
        };
        let outcome = handler.answer(&caller);
        tracing::debug!(
            handler = handler.name(),
            thread = notification.thread,
            number,
            ?outcome,
            "a call"
        );
        outcome
    }

    fn answer(&self, notification: Notification, answer: Answer) {
        // A caller that is gone needs no answer.
        if let Err(errno) = self.listener.answer(notification.id, answer) {
            tracing::debug!(thread = notification.thread, %errno, "an answer came too late");
        }
    }

    fn caller(&self, notification: Notification) -> Caller<'_> {
        let processes: BorrowedFd<'_> = self.processes.as_fd();
        Caller::new(&self.listener, processes, notification)
    }
}

/// Whose call it is.
fn architecture(notification: &Notification) -> Option<Architecture> {
    use Architecture::{Aarch64, Arm, X32, X86, X86_64};
    let is_x32 = notification.number.cast_unsigned() & X32_BIT != 0;
    [X86_64, X86, X32, Aarch64, Arm]
        .into_iter()
        .find(|one| one.audit_token() == notification.audit_token && (*one == X32) == is_x32)
}
