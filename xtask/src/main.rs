// SPDX-License-Identifier: Apache-2.0
//! The developer's front desk: `cargo xtask test | tidy | bench | dist`.
//!
//! Everything that a developer types is here, in Rust, so that a clone needs nothing but Rust and a C compiler.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the developer is its work"
)]

use std::process::ExitCode;

mod bench;
mod dist;
mod test;
mod tidy;
mod workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--room ROOM]... [--filter TEXT] [--quick]
          builds and runs all tests; as root: as an ordinary user in a private mount
          namespace, then those that need root. REQUIRE=all turns skips into failures.
  tidy    checks the rules of the house that no compiler checks
  dist    builds the static program into target/dist, checks it, and says its size
";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().unwrap_or_default();
    let done = match command.to_str() {
        Some("test") => test::command(words),
        Some("bench") => bench::command(words),
        Some("dist") => dist::command(words),
        Some("tidy") => tidy::command(words),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
