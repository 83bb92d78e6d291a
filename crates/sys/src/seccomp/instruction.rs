// SPDX-License-Identifier: Apache-2.0
//! One instruction of the classic BPF machine, and the few of its operations that a system call
//! filter uses.
//!
//! This file names nothing of its own crate: the room `runtime` also compiles it into its build
//! script, which lays the default profile out before the program exists.
//!
//! Sources: `linux/filter.h`, `linux/bpf_common.h`, `linux/seccomp.h`, `linux/audit.h`; seccomp(2).

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions a conditional jump skips where its test holds.
    pub jump_true: u8,
    /// How many instructions a conditional jump skips where its test fails.
    pub jump_false: u8,
    /// The operand: an offset, a constant, a distance or a verdict.
    pub operand: u32,
}

impl Instruction {
    /// An instruction that does not branch.
    pub const fn plain(code: u16, operand: u32) -> Self {
        Self {
            code,
            jump_true: 0,
            jump_false: 0,
            operand,
        }
    }
}

/// Loads the 32-bit word at the operand's offset in `struct seccomp_data`.
pub const LOAD: u16 = 0x20;
/// Keeps the bits of the accumulator that are set in the operand.
pub const AND: u16 = 0x54;
/// Skips as many instructions as the operand says.
pub const JUMP: u16 = 0x05;
/// Branches on accumulator = operand.
pub const JUMP_EQUAL: u16 = 0x15;
/// Branches on accumulator > operand, unsigned.
pub const JUMP_GREATER: u16 = 0x25;
/// Branches on accumulator >= operand, unsigned.
pub const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// Ends with the operand as the verdict.
pub const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` keeps the system call's number.
pub const OFFSET_NUMBER: u32 = 0;
/// Where it keeps the audit token of the architecture.
pub const OFFSET_ARCHITECTURE: u32 = 4;
/// Where it keeps the first of six 64-bit arguments.
pub const OFFSET_ARGUMENTS: u32 = 16;

/// How many instructions the kernel takes in one filter (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;
