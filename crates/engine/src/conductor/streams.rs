// SPDX-License-Identifier: Apache-2.0
//! Who gets which stream of a container.
//!
//! | container | standard input | standard output and error |
//! |---|---|---|
//! | foreground, `--rm`, no terminal involved | the caller's own (`-i`) or /dev/null | the caller's own: no relay, no log |
//! | foreground | relayed (`-i`) or /dev/null | pipes, relayed to the caller and the log |
//! | foreground, `-t` | the caller's terminal, relayed (`-i`) | a terminal of the container's own, relayed and logged |
//! | detached | /dev/null | pipes or a terminal, to the log |
//!
//! A caller's terminal is never handed to a container: whoever holds one may push letters into it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::relay::Relay;
use crate::{containers::Container, log::Stream, start::Mode, terminal};

/// Descriptors that a container gets.
#[derive(Debug)]
pub struct Given {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The streams of a container, both sides.
#[derive(Debug)]
pub struct Streams {
    /// What the container gets; `None` where it gets a terminal.
    pub given: Option<Given>,
    /// What the container is told, where that is relayed to a pipe.
    pub input: Option<Relay>,
    /// What it says, where that is relayed from pipes.
    pub outputs: Vec<Relay>,
    /// The caller's input for the container's terminal.
    pub terminal_input: Option<OwnedFd>,
    /// Where what the container's terminal says goes.
    pub terminal_output: Option<OwnedFd>,
    /// The container's terminal starts with this size.
    pub size: Option<(u16, u16)>,
    /// What is said is kept.
    pub logged: bool,
}

impl Streams {
    /// Decides and opens.
    pub fn of(container: &Container, mode: Mode) -> io::Result<Streams> {
        let options = &container.record.options;
        let attached = mode == Mode::Foreground;
        if options.tty {
            return Streams::with_terminal(options.interactive && attached, attached);
        }
        let outputs_are_plain = !terminal::is_terminal(rustix::stdio::stdout())
            && !terminal::is_terminal(rustix::stdio::stderr());
        let input = options.interactive && attached;
        if attached && options.remove && outputs_are_plain {
            return Streams::direct(input);
        }
        Streams::piped(input, attached)
    }

    /// Returns all descriptors that it has.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let given = self
            .given
            .iter()
            .flat_map(|given| [&given.stdin, &given.stdout, &given.stderr]);
        let terminal = self.terminal_input.iter().chain(&self.terminal_output);
        let relays = self
            .input
            .iter()
            .chain(&self.outputs)
            .flat_map(Relay::descriptors);
        given.chain(terminal).map(AsFd::as_fd).chain(relays)
    }

    fn empty() -> Streams {
        Streams {
            given: None,
            input: None,
            outputs: Vec::new(),
            terminal_input: None,
            terminal_output: None,
            size: None,
            logged: true,
        }
    }

    fn with_terminal(input: bool, attached: bool) -> io::Result<Streams> {
        let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok(Streams {
            terminal_input: input.then(|| own(rustix::stdio::stdin())).transpose()?,
            terminal_output: attached.then(|| own(rustix::stdio::stdout())).transpose()?,
            size: terminal::size(rustix::stdio::stdout()).filter(|_| attached),
            ..Streams::empty()
        })
    }

    /// The caller's own descriptors; only a terminal as input is relayed all the same.
    fn direct(input: bool) -> io::Result<Streams> {
        let (stdin, relay) = input_of(input)?;
        let given = Given {
            stdin,
            stdout: rustix::stdio::stdout().try_clone_to_owned()?,
            stderr: rustix::stdio::stderr().try_clone_to_owned()?,
        };
        Ok(Streams {
            given: Some(given),
            input: relay,
            logged: false,
            ..Streams::empty()
        })
    }

    fn piped(input: bool, attached: bool) -> io::Result<Streams> {
        let (stdin, relay) = input_of(input)?;
        let (out_reader, out_writer) = io::pipe()?;
        let (error_reader, error_writer) = io::pipe()?;
        let sink =
            |fd: std::os::fd::BorrowedFd<'_>| attached.then(|| fd.try_clone_to_owned()).transpose();
        let outputs = vec![
            Relay::output(
                out_reader.into(),
                sink(rustix::stdio::stdout())?,
                Some(Stream::Stdout),
            ),
            Relay::output(
                error_reader.into(),
                sink(rustix::stdio::stderr())?,
                Some(Stream::Stderr),
            ),
        ];
        let given = Given {
            stdin,
            stdout: out_writer.into(),
            stderr: error_writer.into(),
        };
        Ok(Streams {
            given: Some(given),
            input: relay,
            outputs,
            ..Streams::empty()
        })
    }

    /// Returns the person's terminal, where the container has one of its own and gets its input from there.
    pub fn terminal(&self) -> io::Result<Option<OwnedFd>> {
        match &self.terminal_input {
            Some(input) if terminal::is_terminal(input) => input.try_clone().map(Some),
            _ => Ok(None),
        }
    }
}

/// Returns what the container reads from, and the relay behind it where that is a pipe of ours.
pub(crate) fn input_of(wanted: bool) -> io::Result<(OwnedFd, Option<Relay>)> {
    if !wanted {
        return Ok((File::open("/dev/null")?.into(), None));
    }
    let stdin = rustix::stdio::stdin();
    let own = stdin.as_fd().try_clone_to_owned()?;
    if !terminal::is_terminal(stdin) {
        return Ok((own, None));
    }
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), Some(Relay::input(own, writer.into(), true))))
}
