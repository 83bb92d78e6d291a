// SPDX-License-Identifier: Apache-2.0
//! Lays a [`Policy`] out as a classic BPF program: a balanced tree over the system call numbers.
//!
//! # Why a tree
//! The usual layout asks "is it this number? this one?" in a row. Since 5.11 the kernel runs a new
//! filter once for every number of every architecture, to note which calls are allowed whatever
//! their arguments; with a row of questions that is where the installation's millisecond goes. A
//! tree over runs of equal verdicts asks about seven.
//!
//! Measured on a 2-core VM, kernel 6.18, mitigations on, the default profile of x86-64 with x86 and
//! x32 (`cargo bench -p wolffia-runtime --bench seccomp`; best of 300, of 7 for calls):
//!
//! | | tree | row | no filter |
//! |---|---|---|---|
//! | instructions | 329 | 1,964 | |
//! | installation | 59 us | 778 us | |
//! | a call that is allowed, getppid | 82 ns | 96 ns | 76 ns |
//! | a call that is refused, `pivot_root` | 84 ns | 486 ns | 130 ns |
//!
//! Laying the tree out takes 13 us, reading and laying out an OCI section with as many names 67 us:
//! too little for a cache on disk. The default profile's is laid out by the build script all the
//! same, which makes it a constant that can be read: `docs/decisions/002-seccomp-tree.md`.
//!
//! # Theory of operation
//! 1. Each audit token's number line is cut into *runs*: neighbouring numbers with the same outcome
//!    (a verdict, or the same argument rules). x32 shares x86-64's token and is simply the upper
//!    part of its line.
//! 2. The program is written from its end to its beginning, so that a branch always knows how far
//!    its targets are. What was written once (a verdict, a block of argument tests) is used again
//!    as long as a branch can reach it: a conditional jump spans 255 instructions, beyond that a
//!    plain jump is put beside it.
//! 3. Nothing but loads of number and architecture, comparisons, AND and returns is used on the way
//!    to a verdict: the kernel's own evaluation at installation understands just these, and
//!    anything else would keep a call out of its bitmap of always-allowed calls.
//!
//! A [`Label`] counts from the program's end: the last instruction is 1, the one before it 2.
//!
//! # Sources
//! `kernel/seccomp.c` (`seccomp_is_const_allow`, `seccomp_cache_prepare`), `net/core/filter.c`.

use std::collections::HashMap;

use super::instruction::{
    AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD,
    OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS, OFFSET_NUMBER, RETURN,
};
use super::policy::{Action, Architecture, Condition, Policy, Rule, SKIPPED, Test, X32_BIT};

/// Returns the instructions of `policy`.
pub fn emit(policy: &Policy) -> Vec<Instruction> {
    let mut writer = Writer::default();
    let mut tokens: Vec<u32> = Vec::new();
    for (architecture, _) in &policy.architectures {
        if !tokens.contains(&architecture.audit_token()) {
            tokens.push(architecture.audit_token());
        }
    }
    let mut next = writer.verdict(policy.foreign);
    for token in tokens.into_iter().rev() {
        let root = writer.tree(&runs(policy, token));
        writer.reach_back_to(root);
        let entry = writer.put(Instruction::plain(LOAD, OFFSET_NUMBER));
        next = writer.branch(JUMP_EQUAL, token, entry, next);
    }
    writer.put(Instruction::plain(LOAD, OFFSET_ARCHITECTURE));
    writer.reversed.reverse();
    writer.reversed
}

/// What a call leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome<'a> {
    /// One verdict whatever the arguments.
    Verdict(Action),
    /// The first rule that holds, else the fallback.
    Rules {
        rules: &'a [Rule],
        fallback: Action,
        wide: bool,
    },
}

/// Numbers from `first` up to the next run's have this outcome.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    first: u32,
    outcome: Outcome<'a>,
}

/// The number line of one audit token, cut into runs that differ from their neighbours.
fn runs(policy: &Policy, token: u32) -> Vec<Run<'_>> {
    let mut line = Line {
        policy,
        runs: Vec::new(),
    };
    if token == Architecture::X32.audit_token() {
        line.stretch(token, 0, X32_BIT - 1);
        line.stretch(token, X32_BIT, SKIPPED - 1);
        line.stretch(token, SKIPPED, SKIPPED);
    } else {
        line.stretch(token, 0, u32::MAX);
    }
    line.runs
}

/// A number line that is written from its lower end.
struct Line<'a> {
    policy: &'a Policy,
    runs: Vec<Run<'a>>,
}

impl<'a> Line<'a> {
    /// Writes the numbers `first` to `last`, which have one tenant.
    fn stretch(&mut self, token: u32, first: u32, last: u32) {
        let policy = self.policy;
        let Some((architecture, rules)) = policy.tenant(token, first) else {
            return self.push(first, Outcome::Verdict(policy.foreign));
        };
        let mut next = Some(first);
        for (number, rules) in rules
            .iter()
            .filter(|(number, _)| (first..=last).contains(number))
        {
            if let Some(from) = next.filter(|from| *from < number) {
                self.gap(*architecture, from, number - 1);
            }
            self.push(
                number,
                match rules {
                    [rule, ..] if rule.conditions.is_empty() => Outcome::Verdict(rule.action),
                    rules => Outcome::Rules {
                        rules,
                        fallback: policy.fallback(*architecture, number),
                        wide: architecture.wide(),
                    },
                },
            );
            next = number.checked_add(1);
        }
        if let Some(from) = next.filter(|from| *from <= last) {
            self.gap(*architecture, from, last);
        }
    }

    /// Writes numbers without rules, among which the highest that was considered may lie.
    fn gap(&mut self, architecture: Architecture, first: u32, last: u32) {
        let fallback = |number| Outcome::Verdict(self.policy.fallback(architecture, number));
        let (at_first, at_last) = (fallback(first), fallback(last));
        self.push(first, at_first);
        if let Some(highest) = self
            .policy
            .highest(architecture)
            .filter(|highest| (first..last).contains(highest))
        {
            self.push(highest + 1, at_last);
        }
    }

    fn push(&mut self, first: u32, outcome: Outcome<'a>) {
        if self.runs.last().is_none_or(|run| run.outcome != outcome) {
            self.runs.push(Run { first, outcome });
        }
    }
}

/// An instruction's place, counted from the program's end; the last instruction is 1.
type Label = usize;

/// How far a conditional jump reaches.
const REACH: usize = 255;

/// Writes a program from its end to its beginning.
#[derive(Default)]
struct Writer<'a> {
    reversed: Vec<Instruction>,
    placed: HashMap<Outcome<'a>, Label>,
}

impl<'a> Writer<'a> {
    fn put(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        self.reversed.len()
    }

    /// Puts a conditional jump, with plain jumps behind it for targets beyond its reach.
    fn branch(&mut self, code: u16, operand: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // The second target moves one further away where the first needs a jump of its own.
        let no = self.within_reach(no, 1);
        let yes = self.within_reach(yes, 0);
        let distance =
            |label| u8::try_from(self.reversed.len() - label).expect("brought within reach above");
        let (jump_true, jump_false) = (distance(yes), distance(no));
        self.put(Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        })
    }

    /// Makes the next instruction fall through to `label`, with a plain jump unless it is the one
    /// just written.
    fn reach_back_to(&mut self, label: Label) {
        let distance =
            u32::try_from(self.reversed.len() - label).expect("a program is far shorter than 2^32");
        if distance != 0 {
            self.put(Instruction::plain(JUMP, distance));
        }
    }

    fn within_reach(&mut self, label: Label, margin: usize) -> Label {
        let distance = self.reversed.len() - label;
        if distance + margin <= REACH {
            return label;
        }
        let distance = u32::try_from(distance).expect("a program is far shorter than 2^32");
        self.put(Instruction::plain(JUMP, distance))
    }

    fn verdict(&mut self, action: Action) -> Label {
        self.leaf(Outcome::Verdict(action))
    }

    /// The place where `outcome` is carried out; written anew where no earlier place is in reach.
    fn leaf(&mut self, outcome: Outcome<'a>) -> Label {
        if let Some(label) = self.placed.get(&outcome) {
            // Half the reach, so that the branches above can still get there.
            if self.reversed.len() - label <= REACH / 2 {
                return *label;
            }
        }
        let label = match outcome {
            Outcome::Verdict(action) => self.put(Instruction::plain(RETURN, action.verdict())),
            Outcome::Rules {
                rules,
                fallback,
                wide,
            } => {
                let mut next = self.verdict(fallback);
                for rule in rules.iter().rev() {
                    let action = self.verdict(rule.action);
                    next = rule.conditions.iter().rev().fold(action, |met, condition| {
                        self.condition(condition, wide, met, next)
                    });
                }
                next
            }
        };
        self.placed.insert(outcome, label);
        label
    }

    /// Writes the tests that tell these runs apart, and returns the root.
    fn tree(&mut self, runs: &[Run<'a>]) -> Label {
        match runs {
            [] => unreachable!("a number line has at least one run"),
            [only] => self.leaf(only.outcome),
            // One number that differs from both sides costs one test instead of two.
            [before, single, after]
                if before.outcome == after.outcome
                    && single.first.checked_add(1) == Some(after.first) =>
            {
                let around = self.leaf(before.outcome);
                let at = self.leaf(single.outcome);
                self.branch(JUMP_EQUAL, single.first, at, around)
            }
            _ => {
                let (below, above) = runs.split_at(runs.len() / 2);
                let split = above[0].first;
                let above = self.tree(above);
                let below = self.tree(below);
                self.branch(JUMP_GREATER_OR_EQUAL, split, above, below)
            }
        }
    }

    /// Writes the test of one argument.
    fn condition(&mut self, condition: &Condition, wide: bool, met: Label, unmet: Label) -> Label {
        let at = OFFSET_ARGUMENTS + 8 * u32::from(condition.argument);
        let mut words = Words {
            writer: self,
            low: at,
            high: at + 4,
            wide: condition.wide(wide),
        };
        match condition.test {
            Test::Equal(value) => words.equal(u64::MAX, value, met, unmet),
            Test::NotEqual(value) => words.equal(u64::MAX, value, unmet, met),
            Test::MaskedEqual { mask, value } => words.equal(mask, value, met, unmet),
            Test::GreaterOrEqual(value) => words.above(JUMP_GREATER_OR_EQUAL, value, met, unmet),
            Test::Less(value) => words.above(JUMP_GREATER_OR_EQUAL, value, unmet, met),
            Test::Greater(value) => words.above(JUMP_GREATER, value, met, unmet),
            Test::LessOrEqual(value) => words.above(JUMP_GREATER, value, unmet, met),
        }
    }
}

/// An argument as the two words that the machine can load (both architectures served are
/// little-endian).
struct Words<'a, 'p> {
    writer: &'a mut Writer<'p>,
    low: u32,
    high: u32,
    wide: bool,
}

/// The low and the high word of a number.
#[expect(
    clippy::cast_possible_truncation,
    reason = "cutting the number in two is the purpose"
)]
const fn halves(number: u64) -> (u32, u32) {
    (number as u32, (number >> 32) as u32)
}

impl Words<'_, '_> {
    fn equal(&mut self, mask: u64, value: u64, met: Label, unmet: Label) -> Label {
        let (low_mask, high_mask) = halves(mask);
        let (low, high) = halves(value & mask);
        let low = self.masked(self.low, low_mask, low, met, unmet);
        if self.wide {
            self.masked(self.high, high_mask, high, low, unmet)
        } else {
            low
        }
    }

    fn masked(&mut self, offset: u32, mask: u32, value: u32, met: Label, unmet: Label) -> Label {
        if mask == 0 {
            return met;
        }
        let mut label = self.writer.branch(JUMP_EQUAL, value, met, unmet);
        if label == met {
            return met; // both ways lead to one place: nothing to load for
        }
        if mask != u32::MAX {
            label = self.writer.put(Instruction::plain(AND, mask));
        }
        debug_assert_eq!(
            label,
            self.writer.reversed.len(),
            "the test directly precedes"
        );
        self.writer.put(Instruction::plain(LOAD, offset))
    }

    /// `code` is > or >= and decides the low word where the high words are equal.
    fn above(&mut self, code: u16, value: u64, met: Label, unmet: Label) -> Label {
        if met == unmet {
            return met;
        }
        let (low, high) = halves(value);
        self.writer.branch(code, low, met, unmet);
        let low = self.writer.put(Instruction::plain(LOAD, self.low));
        if !self.wide {
            return low;
        }
        let equal = self.writer.branch(JUMP_EQUAL, high, low, unmet);
        self.writer.branch(JUMP_GREATER, high, met, equal);
        self.writer.put(Instruction::plain(LOAD, self.high))
    }
}
