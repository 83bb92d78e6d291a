// SPDX-License-Identifier: Apache-2.0
//! Prints what this machine lets us do, as plain data: `facts [DIRECTORY]`.
//!
//! Run by tests as a process of its own, since probing forks and a test harness has threads.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::PathBuf;

fn main() {
    let directory = std::env::args_os().nth(1);
    let directory = directory.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:#?}", wolffia_sys::facts::HostFacts::probe(&directory));
}
