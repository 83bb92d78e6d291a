// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: builds every test binary, runs each in the right world, and accounts for every single test.
//!
//! # Theory of operation
//! 1. As root the command starts itself again in a private mount namespace ([`world`]), where it may bind files of its
//!    own over `/etc/passwd` and the like: the machine's files are never edited. As an ordinary user it goes on as it is.
//! 2. Cargo builds all test binaries and says where they are ([`build`]).
//! 3. The abilities of the machine are probed once, as the user who will run the tests, and printed.
//! 4. Each binary lists its tests and then runs them ([`binary`]) with a ledger at hand
//!    ([`wolffia_testkit::ledger`]). As root, the binaries run as an unprivileged user; tests that said `need!(Root)` are
//!    run by name in a second pass.
//! 5. Lists, results and ledger are compared ([`account`]): a test that neither ran nor stands in the ledger is a failure,
//!    whatever the reason (a crash, a deadline, an `#[ignore]`).

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use wolffia_testkit::gate::{self, Answers, Need};

use crate::workspace::Workspace;
use account::Account;
use world::World;

mod account;
mod binary;
mod build;
mod world;

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// The rooms to test; all if empty.
    rooms: Vec<String>,
    /// A part of the names of the tests to run.
    filter: Option<String>,
    /// Leave out the integration tests, which start containers.
    quick: bool,
}

/// Runs `cargo xtask test` with these words behind it.
pub(crate) fn command(words: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<ExitCode> {
    let words: Vec<_> = words.collect();
    if words.first().is_some_and(|word| word == PROBE) {
        println!("{}", serde_json::to_string(&gate::probe_all())?);
        return Ok(ExitCode::SUCCESS);
    }
    let options = parse(words.clone())?;
    check_require(std::env::var(gate::REQUIRE_VARIABLE).ok().as_deref())?;
    if world::needs_a_private_one() {
        return world::start_again_in_private(&words);
    }
    let workspace = Workspace::load()?;
    let binaries = build::build(&workspace, &options)?;
    let world = World::make(&workspace)?;
    let answers = probe(&world)?;
    print_answers(&answers, &world);

    let mut account = Account::default();
    for binary in &binaries {
        let pass = binary::Pass::Ordinary {
            filter: options.filter.as_deref(),
        };
        account.add(binary::run(binary, &pass, &world, &answers)?);
        account.note_left_behind(&binary.name, world.processes_left_behind()?);
    }
    if world.is_private() {
        let as_root = world.as_root()?;
        let answers = probe(&as_root)?;
        for (binary, tests) in account.put_off(&binaries) {
            account.add(binary::run(
                binary,
                &binary::Pass::AsRoot { tests },
                &as_root,
                &answers,
            )?);
        }
    }
    print!("{account}");
    Ok(if account.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The word behind which this program only probes and prints, as the user who will run the tests.
const PROBE: &str = "--only-probe";

fn parse(words: Vec<std::ffi::OsString>) -> anyhow::Result<Options> {
    use lexopt::prelude::{Long, ValueExt as _};
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("room") => options.rooms.push(parser.value()?.string()?),
            Long("filter") => options.filter = Some(parser.value()?.string()?),
            Long("quick") => options.quick = true,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

/// A misspelt need would require nothing, in silence.
fn check_require(require: Option<&str>) -> anyhow::Result<()> {
    for name in require.unwrap_or_default().split(',').map(str::trim) {
        if !name.is_empty() && name != "all" && Need::from_name(name).is_none() {
            let known: Vec<_> = Need::ALL.iter().map(|need| need.name()).collect();
            bail!(
                "REQUIRE names no need: {name} (known: all, {})",
                known.join(", ")
            );
        }
    }
    Ok(())
}

fn probe(world: &World) -> anyhow::Result<Answers> {
    let mut command = Command::new(PathBuf::from("/proc/self/exe"));
    command.args(["test", PROBE]);
    world.dress(&mut command);
    let output = command.output().context("starting the probe")?;
    anyhow::ensure!(
        output.status.success(),
        "the probe ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("reading what the probe printed")
}

fn print_answers(answers: &Answers, world: &World) {
    println!("tests run as {}", world.who());
    for (name, missing) in answers {
        if let Some(missing) = missing {
            println!("  without {name}: {}", missing.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_options() {
        let words = [
            "--room",
            "image",
            "--room=store",
            "--filter",
            "tar",
            "--quick",
        ];
        let options = parse(words.iter().map(Into::into).collect()).unwrap();
        let expected = Options {
            rooms: vec!["image".into(), "store".into()],
            filter: Some("tar".into()),
            quick: true,
        };
        assert_eq!(options, expected);
        assert!(parse(vec!["--rooms".into()]).is_err());
        assert!(parse(vec!["image".into()]).is_err());
    }

    #[test]
    fn a_misspelt_need_is_refused() {
        assert!(check_require(Some("all")).is_ok());
        assert!(check_require(Some("fuse,overlay")).is_ok());
        assert!(
            check_require(Some("fuze"))
                .unwrap_err()
                .to_string()
                .contains("fuze")
        );
    }
}
