// SPDX-License-Identifier: Apache-2.0
//! The classic BPF machine, as far as filters use it: the tests' judge of what a program does.

use wolffia_sys::seccomp::instruction::{
    AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD,
    OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS, OFFSET_NUMBER, RETURN,
};

/// A system call as the kernel shows it to a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) token: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The verdict.
    pub(crate) verdict: u32,
    /// How many instructions it took.
    pub(crate) steps: usize,
    /// Whether an argument was looked at: such a call is not in the kernel's bitmap.
    pub(crate) looked_at_arguments: bool,
}

/// Runs `program` on `call`; panics where the kernel's checker would have refused the program.
pub(crate) fn run(program: &[Instruction], call: &Call) -> Ending {
    let mut accumulator = 0_u32;
    let mut at = 0;
    let mut looked_at_arguments = false;
    for steps in 1..=program.len() {
        let Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        } = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD => {
                looked_at_arguments |= operand >= OFFSET_ARGUMENTS;
                accumulator = word(call, operand);
            }
            AND => accumulator &= operand,
            JUMP => at += usize::try_from(operand).expect("fits"),
            JUMP_EQUAL => at += branch(accumulator == operand),
            JUMP_GREATER => at += branch(accumulator > operand),
            JUMP_GREATER_OR_EQUAL => at += branch(accumulator >= operand),
            RETURN => {
                return Ending {
                    verdict: operand,
                    steps,
                    looked_at_arguments,
                };
            }
            other => panic!("the machine has no operation {other:#x}"),
        }
    }
    panic!("the program does not end");
}

fn word(call: &Call, offset: u32) -> u32 {
    match offset {
        OFFSET_NUMBER => call.number,
        OFFSET_ARCHITECTURE => call.token,
        offset => {
            assert!((OFFSET_ARGUMENTS..OFFSET_ARGUMENTS + 48).contains(&offset) && offset % 4 == 0);
            let index = usize::try_from((offset - OFFSET_ARGUMENTS) / 8).expect("fits");
            let bytes = call.arguments[index].to_le_bytes();
            let half = if offset % 8 == 0 {
                &bytes[..4]
            } else {
                &bytes[4..]
            };
            u32::from_le_bytes(half.try_into().expect("four bytes"))
        }
    }
}
