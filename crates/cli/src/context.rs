// SPDX-License-Identifier: Apache-2.0
//! What every command is given: the flags before its name, the state root, the two streams.

use std::{
    cell::OnceCell,
    env,
    ffi::OsString,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use wolffia_engine::{containers::Containers, home::Home, identity};
use wolffia_fetch::Environment;
use wolffia_store::Store;

use crate::{
    configuration::{self, Configuration},
    failure::Failure,
};

/// The surroundings of one command.
#[derive(Debug, Default)]
pub(crate) struct Context {
    root: Option<PathBuf>,
    home: OnceCell<Home>,
    store: OnceCell<Store>,
    configuration: OnceCell<Configuration>,
    /// `-v` before the command: how much is told.
    pub(crate) verbosity: u8,
}

impl Context {
    /// Reads the flags before the command's name; returns the words from that name on.
    pub(crate) fn read(words: &[OsString]) -> Result<(Context, &[OsString]), Failure> {
        let mut context = Context::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            match word.to_str() {
                Some("-v" | "--verbose") => context.verbosity += 1,
                Some("-vv" | "-D" | "--debug") => context.verbosity += 2,
                Some("--root") => {
                    at += 1;
                    let root = words
                        .get(at)
                        .ok_or_else(|| Failure::usage("--root needs a directory"))?;
                    context.root = Some(absolute(root.as_ref())?);
                }
                Some(word) if word.starts_with("--root=") => {
                    context.root = Some(absolute(word["--root=".len()..].as_ref())?);
                }
                _ => break,
            }
            at += 1;
        }
        start_log(context.verbosity);
        Ok((context, &words[at..]))
    }

    /// Returns the state root, made on first use.
    pub(crate) fn home(&self) -> Result<&Home, Failure> {
        if let Some(home) = self.home.get() {
            return Ok(home);
        }
        let settled = identity::settle(self.root.as_deref()).map_err(|error| {
            error
                .hint()
                .into_iter()
                .fold(Failure::from_error(&error), Failure::help)
        })?;
        let root = settled.as_deref().or(self.root.as_deref());
        let home =
            Home::open(root).map_err(|error| Failure::from_error(&error).help(error.hint()))?;
        Ok(self.home.get_or_init(|| home))
    }

    /// Returns what is configured, read on first use.
    pub(crate) fn configuration(&self) -> Result<&Configuration, Failure> {
        if let Some(configuration) = self.configuration.get() {
            return Ok(configuration);
        }
        let read = configuration::read(&Environment::of_process())?;
        Ok(self.configuration.get_or_init(|| read))
    }

    /// Returns where the state root is or would be; touches nothing.
    pub(crate) fn place(&self) -> Result<PathBuf, Failure> {
        Home::locate(self.root.as_deref())
            .map_err(|error| Failure::from_error(&error).help(error.hint()))
    }

    /// Returns the store, opened on first use.
    pub(crate) fn store(&self) -> Result<&Store, Failure> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = Store::open(self.home()?.store())
            .map_err(|error| crate::applets::store_failure(&error))?;
        Ok(self.store.get_or_init(|| store))
    }

    /// Returns the containers, after finishing what killed processes left.
    pub(crate) fn containers(&self) -> Result<Containers, Failure> {
        let containers = Containers::of(self.home()?);
        if let Err(error) = containers.sweep() {
            self.note(&Failure::from_error(&error).to_text().replacen(
                "error:",
                "note: cleaning up:",
                1,
            ));
        }
        Ok(containers)
    }

    /// Writes data to standard output; a reader that went away is no failure.
    #[expect(
        clippy::unused_self,
        reason = "where data goes is the context's matter"
    )]
    pub(crate) fn say(&self, text: &str) -> u8 {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => 0,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Err(error) => complain(
                &Failure::new("writing to standard output").cause(error.to_string()),
                1,
            ),
        }
    }

    /// Writes talk to standard error.
    #[expect(
        clippy::unused_self,
        reason = "where talk goes is the context's matter"
    )]
    pub(crate) fn note(&self, text: &str) {
        let mut out = io::stderr().lock();
        // Nobody is left to be told that nobody can be told.
        drop(writeln!(out, "{}", text.trim_end()));
    }

    /// Writes talk that only `-v` wants.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbosity > 0 {
            self.note(text);
        }
    }

    /// Tells whether a person sits at both ends.
    #[expect(
        clippy::unused_self,
        reason = "what the streams are is the context's matter"
    )]
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }
}

/// Says what did not work and returns the exit code.
pub(crate) fn complain(failure: &Failure, otherwise: u8) -> u8 {
    let mut text = failure.to_text();
    if let Some(user) = identity::instead_of_root()
        && text.contains(DENIED)
    {
        let _ = writeln!(
            text,
            "help: started by root, Wolffia gives up root's user id and works as user {user}, to whom this is closed: \
             put it where everybody may read it, or start wolffia as the user whose it is"
        );
    }
    let mut out = io::stderr().lock();
    drop(out.write_all(text.as_bytes()));
    failure.exit_code(otherwise)
}

/// What the kernel says of files that are closed to us, through whatever rooms the word came.
const DENIED: &str = "Permission denied";

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage(format!("--root {}", path.display())).cause(error.to_string())
    })
}

/// Starts the log of the program itself, if it is wanted; without `-vv` it costs nothing.
fn start_log(verbosity: u8) {
    if verbosity < 2 {
        return;
    }
    let level = if verbosity == 2 {
        tracing::Level::DEBUG
    } else {
        tracing::Level::TRACE
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none())
        .with_writer(io::stderr)
        .finish();
    // Only one can be set, and this is the only place that does.
    drop(tracing::subscriber::set_global_default(subscriber));
}
