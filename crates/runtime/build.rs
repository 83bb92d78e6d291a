// SPDX-License-Identifier: Apache-2.0
//! Lays the default system call filter out as a program, so that it lies ready in the binary and a
//! container's start compiles nothing.
//!
//! It compiles the very files that the room uses at run time; a test checks that both come to the
//! same program.

#![expect(
    dead_code,
    reason = "the script uses a part of the files it shares with the room"
)]
#![expect(unreachable_pub, reason = "what is public there is private here")]

use std::fmt::Write as _;
use std::path::Path;

#[path = "../sys/src/seccomp/instruction.rs"]
mod instruction;
#[path = "src/seccomp/numbers.rs"]
mod numbers;
#[path = "../sys/src/seccomp/policy.rs"]
mod policy;
#[path = "src/seccomp/profile.rs"]
mod profile;
#[path = "src/seccomp/table.rs"]
mod table;
#[path = "../sys/src/seccomp/tree.rs"]
mod tree;

use policy::Architecture;
use profile::{Circumstances, DEFAULT_BOUNDING, OLDEST_KERNEL, default_policy};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for file in ["instruction", "policy", "tree"] {
        println!("cargo::rerun-if-changed=../sys/src/seccomp/{file}.rs");
    }
    for file in ["numbers", "profile", "table"] {
        println!("cargo::rerun-if-changed=src/seccomp/{file}.rs");
    }
    let architecture =
        std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo names the target's architecture");
    let native = match architecture.as_str() {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        other => panic!("no system call table for {other}: add a column to src/seccomp/numbers.rs"),
    };
    let mut text = String::new();
    for (name, nesting) in [("DEFAULT", false), ("NESTING", true)] {
        let policy = default_policy(&Circumstances {
            native,
            bounding: DEFAULT_BOUNDING,
            kernel: OLDEST_KERNEL,
            nesting,
        });
        writeln!(text, "static {name}: Program = Program::from_static(&[")
            .expect("a string takes all");
        for i in tree::emit(&policy) {
            writeln!(
                text,
                "Instruction {{ code: {:#04x}, jump_true: {}, jump_false: {}, operand: 0x{:04x}_{:04x} }},",
                i.code, i.jump_true, i.jump_false, i.operand >> 16, i.operand & 0xffff
            )
            .expect("a string takes all");
        }
        text.push_str("]);\n");
    }
    let directory = std::env::var("OUT_DIR").expect("cargo names the output directory");
    std::fs::write(Path::new(&directory).join("seccomp_ready.rs"), text)
        .expect("the output directory is writable");
}
