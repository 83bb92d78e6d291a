// SPDX-License-Identifier: Apache-2.0
//! The conductor's one poll: process 1 of the container, signals, the caller, the streams.
//!
//! Theory of operation. Everything that can happen is a descriptor: the pidfd of process 1, a signalfd, the channel to the caller, and for each relay
//! the one end it waits for. Nothing here waits for anything else, and nothing is timed while the container runs. When process 1 has ended, what it
//! said is still passed on: its pipes end with the last process of its PID namespace, which the kernel has ended already; only a caller that does not read
//! can hold that up. When the caller is gone (a foreground `run` that was killed), the container is ended.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::WaitOptions,
};
use wolffia_mount::host::HostRoot;
use wolffia_sys::{
    process::{Ended, PidFd},
    pty::{self, Winsize},
    signal::{Received, SignalFd},
};

use super::{
    OWN_FAILURE,
    channel::{Channel, Heard, Order},
    lazy::LazyRoot,
    network::Helper,
    relay::Relay,
};
use crate::{
    control::{Request, request_signal},
    log::Writer,
    signal::Signal,
};

/// After process 1 has ended, a stream that says nothing for so long is given up.
const DRAIN_IDLE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// What is watched.
#[derive(Debug)]
pub struct Watch {
    /// Process 1 of the container.
    pub init: PidFd,
    /// The same, as we number it.
    pub init_child: i32,
    /// The same, as this machine numbers it.
    pub init_pid: i32,
    /// How it ended.
    pub ended: Option<Ended>,
    /// Our signals, all blocked.
    pub signals: SignalFd,
    /// The caller, while it is attached.
    pub channel: Option<Channel>,
    /// The controlling end of the container's terminal.
    pub console: Option<OwnedFd>,
    /// What the container is told.
    pub input: Option<Relay>,
    /// What it says.
    pub outputs: Vec<Relay>,
    /// Where what it says is kept.
    pub log: Option<Writer>,
    /// The caller is stopped and wants its terminal left alone.
    pub paused: bool,
    /// The signal that ended process 1 in place of one it did not care for.
    pub ended_for: Option<Signal>,
    /// Processes of ours that the container cannot be without.
    pub helpers: Vec<Helper>,
    /// Why the container was ended, if one of them did.
    pub lost: Option<String>,
    /// This machine's own files, where the container is made from those: their server may need a successor.
    pub machine: Option<HostRoot>,
    /// What serves the files of an image that are still to come.
    pub lazy: Option<LazyRoot>,
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The program's own code, or 128 and the signal.
    pub code: u8,
}

enum Source {
    Init,
    Signals,
    Channel,
    Machine,
    Input,
    Output(usize),
}

impl Watch {
    /// Watches until the container has ended and said everything.
    pub fn until_end(&mut self) -> Result<Outcome, Errno> {
        let ended = loop {
            for source in self.ready(None)? {
                self.attend(&source);
            }
            self.reap();
            if let Some(ended) = self.ended {
                break ended;
            }
        };
        self.drain()?;
        let code = match (ended, self.ended_for) {
            (Ended::Killed(9), Some(signal)) => {
                u8::try_from(128 + signal.number()).unwrap_or(u8::MAX)
            }
            _ => ended.code(),
        };
        Ok(Outcome { code })
    }

    /// Passes on what is left in the streams.
    fn drain(&mut self) -> Result<(), Errno> {
        if let Some(input) = &mut self.input {
            input.end();
        }
        while self.outputs.iter().any(|output| !output.is_over()) {
            let waits_for_reader = self.outputs.iter().any(|output| {
                output
                    .wants()
                    .is_some_and(|(_, flags)| flags == PollFlags::OUT)
            });
            let limit = (!waits_for_reader).then_some(DRAIN_IDLE);
            let ready = self.ready(limit.as_ref())?;
            if ready.is_empty() && limit.is_some() {
                return Ok(());
            }
            for source in ready {
                self.attend(&source);
            }
            if self.channel.is_none() && waits_for_reader {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for something to happen, and says what.
    fn ready(&self, limit: Option<&Timespec>) -> Result<Vec<Source>, Errno> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Init, self.init.as_fd(), PollFlags::IN),
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
        ];
        if let Some(channel) = &self.channel {
            sources.push((Source::Channel, channel.as_fd(), PollFlags::IN));
        }
        if let Some(link) = self.machine.as_ref().and_then(HostRoot::link) {
            sources.push((Source::Machine, link, PollFlags::IN));
        }
        if let Some((fd, flags)) = self
            .input
            .as_ref()
            .filter(|_| !self.paused)
            .and_then(Relay::wants)
        {
            sources.push((Source::Input, fd, flags));
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some((fd, flags)) = output.wants() {
                sources.push((Source::Output(index), fd, flags));
            }
        }
        if limit.is_some() {
            // Process 1 has ended: its descriptor would always be ready.
            sources.remove(0);
        }
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match poll(&mut fds, limit) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            result => result?,
        };
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources
            .into_iter()
            .zip(happened)
            .filter_map(|((source, _, _), happened)| happened.then_some(source))
            .collect())
    }

    fn attend(&mut self, source: &Source) {
        match source {
            Source::Init => {}
            Source::Signals => {
                while let Ok(Some(received)) = self.signals.read() {
                    self.hear(received);
                }
            }
            Source::Channel => self.obey(),
            Source::Machine => self.with_machine(HostRoot::revive),
            Source::Input => {
                if let Some(input) = &mut self.input {
                    input.step(None);
                    if input.is_over() {
                        self.input = None;
                        if self.console.is_some() {
                            // The person's terminal is gone, which is what SIGHUP says.
                            self.grant(Request::End(Signal::HUP));
                        }
                    }
                }
            }
            Source::Output(index) => {
                if let Some(output) = self.outputs.get_mut(*index) {
                    output.step(self.log.as_mut());
                }
            }
        }
    }

    fn hear(&mut self, received: Received) {
        let child = rustix::process::Signal::CHILD.as_raw();
        if received.signal == child {
            self.reap();
        } else if received.signal == request_signal() && received.queued {
            if let Some(request) = Request::from_value(received.value) {
                self.grant(request);
            }
        } else if received.signal == Signal::TERM.number() {
            // The machine is going down, or a person means the container.
            self.grant(Request::End(Signal::TERM));
        }
    }

    /// Reaps every child that ended: helpers, what became ours because its parent ended, and process 1 of the container.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == self.init_child => {
                    let exited = status
                        .exit_status()
                        .and_then(|code| u8::try_from(code & 0xff).ok());
                    let killed = status.terminating_signal().map(Ended::Killed);
                    self.ended = exited.map(Ended::Exited).or(killed);
                }
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    self.with_machine(|machine| machine.reaped(pid));
                    if let Some(lazy) = &mut self.lazy {
                        let code = status
                            .exit_status()
                            .and_then(|code| u8::try_from(code).ok());
                        if !lazy.reaped(pid, code) {
                            self.grant(Request::Pass(Signal::KILL));
                        }
                    }
                    self.miss(pid);
                }
                Err(Errno::INTR) => {}
                // Without any child left, process 1 has been waited for by somebody else.
                Err(_) if self.ended.is_none() => self.ended = Some(Ended::Exited(OWN_FAILURE)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Ends the container if the process of this number was one that it cannot be without.
    fn miss(&mut self, pid: u32) {
        let is_it = |helper: &Helper| helper.pid.unsigned_abs() == pid;
        if let Some(helper) = self.helpers.iter().find(|helper| is_it(helper)) {
            self.lost.get_or_insert_with(|| helper.obituary());
            self.grant(Request::Pass(Signal::KILL));
        }
    }

    /// Does something about the server of this machine's files.
    fn with_machine(&mut self, act: impl FnOnce(&mut HostRoot) -> Result<(), Errno>) {
        if let Some(machine) = &mut self.machine
            && let Err(errno) = act(machine)
        {
            tracing::warn!(%errno, "the server of this machine's files has no successor");
            // Without one every access would wait for ever; without the descriptor it fails.
            self.machine = None;
        }
    }

    fn obey(&mut self) {
        loop {
            let heard = self.channel.as_ref().map(Channel::listen::<Order>);
            match heard {
                Some(Ok(Heard::Message(order))) => match order {
                    Order::Resize(rows, columns) => self.resize(rows, columns),
                    Order::Signal(number) => {
                        if let Some(signal) = Signal::from_number(number) {
                            self.grant(for_a_person(signal));
                        }
                    }
                    Order::Pause => self.paused = true,
                    Order::Resume => self.paused = false,
                },
                Some(Ok(Heard::Nothing)) | None => return,
                Some(Ok(Heard::HungUp) | Err(_)) => {
                    self.channel = None;
                    self.grant(Request::Pass(Signal::KILL));
                    return;
                }
            }
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        let Some(console) = &self.console else { return };
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A terminal that is gone has no size.
        let _ = pty::set_size(console, size);
    }

    fn grant(&mut self, request: Request) {
        let signal = match request {
            Request::Pass(signal) => signal,
            Request::End(signal) if cares(self.init_pid, signal) => signal,
            Request::End(signal) => {
                self.ended_for = Some(signal);
                Signal::KILL
            }
        };
        // A process that has ended already needs no signal.
        let _ = self.init.send_signal(signal.number());
    }
}

/// The signals by which a person ends a program end a container's too, although the kernel keeps those from a process 1 that does not handle them.
fn for_a_person(signal: Signal) -> Request {
    const ENDING: [i32; 4] = [1, 2, 3, 15];
    if ENDING.contains(&signal.number()) {
        Request::End(signal)
    } else {
        Request::Pass(signal)
    }
}

/// Tells whether a process handles, ignores or blocks a signal, hence decides itself what it means.
fn cares(pid: i32, signal: Signal) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let bit = 1u64 << (signal.number() - 1);
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| matches!(*key, "SigCgt" | "SigIgn" | "SigBlk"))
        .any(|(_, mask)| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & bit != 0))
}
