// SPDX-License-Identifier: Apache-2.0
//! The tree means what the policy says, for every number and architecture; the ready program is the one that the table
//! gives now.

use super::machine::{Call, run};
use super::policy::{Action, Architecture, Policy, X32_BIT};
use super::profile::{Circumstances, DEFAULT_BOUNDING, OLDEST_KERNEL, default_policy};
use super::{Options, default_profile, instruction, tree};

/// Every token a filter can meet, and one that it cannot.
const TOKENS: [u32; 5] = [
    0xC000_003E,
    0x4000_0003,
    0xC000_00B7,
    0x4000_0028,
    0x1234_5678,
];

fn circumstances(native: Architecture, bounding: u64, nesting: bool) -> Circumstances {
    Circumstances {
        native,
        bounding,
        kernel: OLDEST_KERNEL,
        nesting,
    }
}

/// Numbers at which anything can happen: all that tables name, and the edges beyond.
fn numbers() -> impl Iterator<Item = u32> {
    let edges = [
        0xF_0000 - 1,
        X32_BIT - 1,
        0x7FFF_FFFF,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
    ];
    (0..600)
        .chain(0xF_0000..0xF_0010)
        .chain(X32_BIT..X32_BIT + 600)
        .chain(edges)
}

/// Holds the tree against the plain reading for every number and token with these arguments.
fn assert_same(policy: &Policy, arguments: &[[u64; 6]]) {
    let program = tree::emit(policy);
    assert!(program.len() <= instruction::INSTRUCTIONS_MAX);
    for token in TOKENS {
        for number in numbers() {
            for &arguments in arguments {
                let want = policy.verdict(token, number, &arguments).verdict();
                let got = run(
                    &program,
                    &Call {
                        token,
                        number,
                        arguments,
                    },
                )
                .verdict;
                assert_eq!(
                    got, want,
                    "token {token:#x} number {number:#x} arguments {arguments:x?}"
                );
            }
        }
    }
}

#[test]
fn default_tree_means_what_the_table_says() {
    let arguments: Vec<[u64; 6]> = [
        0,
        1,
        8,
        37,
        38,
        39,
        40,
        41,
        0x0002_0008,
        0x7E02_0000,
        0xFFFF_FFFF,
        u64::MAX,
    ]
    .into_iter()
    .map(|value| [value, 0, 0, 0, 0, 0])
    .collect();
    for native in [Architecture::X86_64, Architecture::Aarch64] {
        for bounding in [DEFAULT_BOUNDING, 0, 1 << 21, u64::MAX] {
            for nesting in [false, true] {
                assert_same(
                    &default_policy(&circumstances(native, bounding, nesting)),
                    &arguments,
                );
            }
        }
    }
}

#[test]
fn ready_program_is_the_tables() {
    for nesting in [false, true] {
        let now = tree::emit(&default_policy(&circumstances(
            super::NATIVE,
            DEFAULT_BOUNDING,
            nesting,
        )));
        let ready = default_profile(DEFAULT_BOUNDING, Options { nesting });
        assert_eq!(ready.instructions(), now);
        eprintln!("nesting {nesting}: {} instructions", now.len());
    }
}

#[test]
fn allowed_calls_are_decided_in_few_steps() {
    let policy = default_policy(&circumstances(
        Architecture::X86_64,
        DEFAULT_BOUNDING,
        false,
    ));
    let program = tree::emit(&policy);
    let token = Architecture::X86_64.audit_token();
    for number in 0..500 {
        let ending = run(
            &program,
            &Call {
                token,
                number,
                arguments: [0; 6],
            },
        );
        assert!(
            ending.steps <= 16,
            "call {number} takes {} steps",
            ending.steps
        );
        let plain = policy.tenant(token, number).is_some_and(|(_, rules)| {
            rules
                .of(number)
                .iter()
                .all(|rule| rule.conditions.is_empty())
        });
        assert_eq!(ending.looked_at_arguments, !plain, "call {number}");
    }
    assert_eq!(policy.verdict(token, 0, &[0; 6]), Action::Allow);
}
