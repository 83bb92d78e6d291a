// SPDX-License-Identifier: Apache-2.0
//! Small static programs in C, compiled by the compiler that Rust needs anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a source into `folder`, under a name; returns the program.
///
/// # Panics
/// Where the compiler fails: it says why.
pub(crate) fn compile(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (text, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&text, source).expect("writing a source");
    let output = Command::new("cc")
        .args(["-static", "-O2", "-s", "-o"])
        .args([&program, &text])
        .output()
        .expect("starting cc");
    assert!(
        output.status.success(),
        "cc: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}
