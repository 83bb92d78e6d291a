// SPDX-License-Identifier: Apache-2.0
//! The tree means what the policy says, for every number and architecture; the ready program is the
//! one that the table gives now.

mod moby;
mod oci;

use proptest::collection::vec;
use proptest::prelude::*;

use super::machine::{Call, run};
use super::policy::{
    Action, Architecture, Condition, Newer, Policy, Rule, Rules, Test, Width, X32_BIT,
};
use super::profile::{Circumstances, DEFAULT_BOUNDING, OLDEST_KERNEL, default_policy};
use super::{Options, default_profile, tree};
use wolffia_sys::seccomp::instruction;

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

/// Any test, with values near the borders of both words.
fn any_test() -> impl Strategy<Value = Test> {
    let value = prop_oneof![
        0_u64..4,
        (0_u64..4).prop_map(|low| 0xFFFF_FFFF - low),
        (0_u64..4).prop_map(|low| 0x1_0000_0000 + low),
        (0_u64..4).prop_map(|low| u64::MAX - low),
        any::<u64>(),
    ];
    (0..7, value.clone(), value).prop_map(|(kind, value, mask)| match kind {
        0 => Test::Equal(value),
        1 => Test::NotEqual(value),
        2 => Test::Less(value),
        3 => Test::LessOrEqual(value),
        4 => Test::GreaterOrEqual(value),
        5 => Test::Greater(value),
        _ => Test::MaskedEqual { mask, value },
    })
}

fn any_width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Register), Just(Width::Int)]
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::Errno(1)),
        Just(Action::Errno(38)),
        Just(Action::Notify),
        Just(Action::KillThread),
        Just(Action::Trap),
    ]
}

/// Any rules for numbers below 500, dense and sparse.
fn any_rules(architecture: Architecture) -> impl Strategy<Value = (Architecture, Rules)> {
    let condition =
        (0_u8..6, any_test(), any_width()).prop_map(|(argument, test, width)| Condition {
            argument,
            width,
            test,
        });
    let rule = (vec(condition, 0..3), any_action())
        .prop_map(|(conditions, action)| Rule { conditions, action });
    vec((0_u32..500, rule), 0..400).prop_map(move |entries| {
        let entries = entries.into_iter();
        (
            architecture,
            entries
                .map(|(number, rule)| (architecture.raw_number(number), rule))
                .collect(),
        )
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let architectures = prop_oneof![
        Just(vec![Architecture::X86_64]),
        Just(vec![Architecture::X32]),
        Just(vec![
            Architecture::X86_64,
            Architecture::X86,
            Architecture::X32
        ]),
        Just(vec![Architecture::Aarch64, Architecture::Arm]),
    ];
    let architectures =
        architectures.prop_flat_map(|list| list.into_iter().map(any_rules).collect::<Vec<_>>());
    (any_action(), any::<Option<u16>>(), architectures).prop_map(
        |(default, newer, architectures)| {
            let newer = newer.map(|cut| Newer {
                action: Action::Errno(38),
                highest: architectures
                    .iter()
                    .map(|(architecture, _)| {
                        (*architecture, architecture.raw_number(u32::from(cut) % 600))
                    })
                    .collect(),
            });
            Policy {
                default,
                newer,
                foreign: Action::KillProcess,
                architectures,
            }
        },
    )
}

/// Arguments that lie on, beside and far from what the policy's conditions ask for.
fn telling_arguments(policy: &Policy, noise: u64) -> Vec<[u64; 6]> {
    let values = policy
        .architectures
        .iter()
        .flat_map(|(_, rules)| rules.iter())
        .flat_map(|(_, rules)| rules);
    let mut values: Vec<u64> = values
        .flat_map(|rule| &rule.conditions)
        .take(8)
        .flat_map(|condition| match condition.test {
            Test::Equal(value)
            | Test::NotEqual(value)
            | Test::Less(value)
            | Test::LessOrEqual(value)
            | Test::GreaterOrEqual(value)
            | Test::Greater(value) => [value, value.wrapping_add(1), value.wrapping_sub(1)],
            Test::MaskedEqual { mask, value } => [value, value & mask, !mask | value],
        })
        .collect();
    values.extend([0, noise, u64::MAX]);
    let turn = |by: usize| std::array::from_fn(|at| values[(at + by) % values.len()]);
    (0..values.len()).map(turn).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn tree_means_what_any_policy_says(policy in any_policy(), noise: u64) {
        let program = tree::emit(&policy);
        for arguments in telling_arguments(&policy, noise) {
            for token in TOKENS {
                for number in numbers() {
                    let want = policy.verdict(token, number, &arguments).verdict();
                    let got = run(&program, &Call { token, number, arguments }).verdict;
                    prop_assert_eq!(got, want, "token {:#x} number {:#x} {:x?}", token, number, arguments);
                }
            }
        }
    }
}
