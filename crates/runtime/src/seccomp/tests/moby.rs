// SPDX-License-Identifier: Apache-2.0
//! The default table against the facts of moby's profile, call by call and condition by condition.
//!
//! The facts are read and resolved by code of this file alone, so that a mistake in the table, in
//! its resolution or in the order of its groups shows. Every capability that the facts name is
//! tried alone, with docker's default set, with all others, and not at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::seccomp::numbers;
use crate::seccomp::policy::{Action, Architecture, Condition, Rule, Test, Width};
use crate::seccomp::profile::{Circumstances, DEFAULT_BOUNDING, OLDEST_KERNEL, default_policy};

const FACTS: &str = include_str!("moby-default.txt");

/// What capabilities(7) calls them, for those that the facts name.
const CAPABILITIES: &[(&str, u8)] = &[
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_PACCT", 20),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_BOOT", 22),
    ("CAP_SYS_NICE", 23),
    ("CAP_SYS_TIME", 25),
    ("CAP_SYS_TTY_CONFIG", 26),
    ("CAP_SYSLOG", 34),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// One line of the facts.
struct Fact {
    call: &'static str,
    action: Action,
    conditions: Vec<Condition>,
    restrictions: Vec<(&'static str, &'static str)>,
}

fn facts() -> Vec<Fact> {
    let lines = FACTS
        .lines()
        .filter(|line| !line.starts_with(['#', 'd']) && !line.starts_with("arch "));
    lines.map(fact).collect()
}

fn fact(line: &'static str) -> Fact {
    let mut words = line.split(' ');
    let action = match words.next().expect("a verdict") {
        "allow" => Action::Allow,
        errno => Action::Errno(
            errno
                .strip_prefix("errno:")
                .expect("a verdict")
                .parse()
                .expect("an errno"),
        ),
    };
    let mut fact = Fact {
        call: words.next().expect("a call"),
        action,
        conditions: Vec::new(),
        restrictions: Vec::new(),
    };
    for word in words {
        match condition(word) {
            Some(condition) => fact.conditions.push(condition),
            None => fact
                .restrictions
                .push(word.split_once('=').expect("key and value")),
        }
    }
    fact
}

fn condition(word: &str) -> Option<Condition> {
    let rest = word.strip_prefix('a')?;
    let argument = rest[..1].parse().expect("an argument's index");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let test = match rest.split_at(2).0.as_bytes()[1] {
        b'<' => Test::Less(number(&rest[2..])),
        b'=' => Test::Equal(number(&rest[2..])),
        b'>' => Test::Greater(number(&rest[2..])),
        b'&' => {
            let (mask, value) = rest[2..].split_once('=').expect("mask and value");
            let mask = mask.strip_prefix("0x").expect("a mask in hexadecimal");
            Test::MaskedEqual {
                mask: u64::from_str_radix(mask, 16).expect("a mask"),
                value: number(value),
            }
        }
        other => panic!("comparison {other}"),
    };
    Some(Condition {
        argument,
        width: Width::Register,
        test,
    })
}

impl Fact {
    fn counts(&self, native: &str, bounding: u64) -> bool {
        let has = |name: &str| {
            let (_, number) = CAPABILITIES
                .iter()
                .find(|(known, _)| *known == name)
                .expect("a known capability");
            bounding & 1 << number != 0
        };
        self.restrictions.iter().all(|(key, value)| match *key {
            "has" => has(value),
            "lacks" => !has(value),
            "native" => value.split(',').any(|name| name == native),
            "not-native" => value.split(',').all(|name| name != native),
            "kernel" => {
                let (major, minor) = value.split_once('.').expect("major and minor");
                OLDEST_KERNEL
                    >= (
                        major.parse().expect("a number"),
                        minor.parse().expect("a number"),
                    )
            }
            other => panic!("restriction {other}"),
        })
    }
}

/// The rules that the facts give each call: one without conditions stands alone.
fn resolve(facts: &[Fact], native: &str, bounding: u64) -> BTreeMap<&'static str, Vec<Rule>> {
    let mut resolved: BTreeMap<&str, Vec<Rule>> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.counts(native, bounding)) {
        let rule = Rule {
            conditions: fact.conditions.clone(),
            action: fact.action,
        };
        let rules = resolved.entry(fact.call).or_default();
        match (
            rules.iter().position(|rule| rule.conditions.is_empty()),
            rule.conditions.is_empty(),
        ) {
            (Some(at), true) => assert_eq!(
                rules[at].action, rule.action,
                "{} is contradictory",
                fact.call
            ),
            (Some(_), false) => {}
            (None, true) => *rules = vec![rule],
            (None, false) => rules.push(rule),
        }
    }
    resolved
}

/// The one place where the table is stricter than moby's: an int is compared as an int.
fn as_registers(name: &str, rules: &[Rule]) -> Vec<Rule> {
    let mut rules = rules.to_vec();
    for condition in rules.iter_mut().flat_map(|rule| &mut rule.conditions) {
        assert_eq!(condition.width == Width::Int, name == "socket", "{name}");
        condition.width = Width::Register;
    }
    rules
}

fn capability_sets() -> BTreeSet<u64> {
    let single = CAPABILITIES.iter().map(|(_, number)| 1 << number);
    let without = CAPABILITIES.iter().map(|(_, number)| !(1_u64 << number));
    let besides = CAPABILITIES
        .iter()
        .map(|(_, number)| DEFAULT_BOUNDING | 1 << number);
    single
        .chain(without)
        .chain(besides)
        .chain([0, DEFAULT_BOUNDING, u64::MAX])
        .collect()
}

#[test]
fn default_profile_allows_what_mobys_allows() {
    let facts = facts();
    assert!(facts.len() > 400, "the facts were read");
    for (go_name, native) in [
        ("amd64", Architecture::X86_64),
        ("arm64", Architecture::Aarch64),
    ] {
        for bounding in capability_sets() {
            let expected = resolve(&facts, go_name, bounding);
            let policy = default_policy(&Circumstances {
                native,
                bounding,
                kernel: OLDEST_KERNEL,
                nesting: false,
            });
            assert_eq!(policy.default, Action::Errno(1));
            for (architecture, rules) in &policy.architectures {
                let mut ruled = 0;
                for (name, number) in numbers::calls(*architecture) {
                    let expected = expected.get(name).map_or(&[][..], Vec::as_slice);
                    let actual = &as_registers(name, rules.of(architecture.raw_number(number)));
                    let set = |rules: &[Rule]| {
                        rules
                            .iter()
                            .map(|rule| format!("{rule:?}"))
                            .collect::<BTreeSet<_>>()
                    };
                    assert_eq!(
                        set(actual),
                        set(expected),
                        "{name} on {architecture:?} with capabilities {bounding:#x}"
                    );
                    ruled += usize::from(!actual.is_empty());
                }
                assert_eq!(
                    rules.iter().count(),
                    ruled,
                    "no rule for a number without a name"
                );
            }
        }
    }
}

#[test]
fn default_profile_serves_the_architectures_that_mobys_serves() {
    for (line, native) in [
        ("arch amd64 x86 x32", Architecture::X86_64),
        ("arch arm64 arm", Architecture::Aarch64),
    ] {
        assert!(FACTS.lines().any(|fact| fact == line), "{line}");
        let names: Vec<&str> = line.split(' ').skip(1).collect();
        let go = |architecture: &Architecture| match architecture {
            Architecture::X86_64 => "amd64",
            Architecture::X86 => "x86",
            Architecture::X32 => "x32",
            Architecture::Aarch64 => "arm64",
            Architecture::Arm => "arm",
        };
        assert_eq!(native.family().iter().map(go).collect::<Vec<_>>(), names);
    }
}

#[test]
fn every_call_of_the_facts_has_a_number_where_it_exists() {
    // Calls of architectures that are not served; the last goes by another name on 32-bit Arm.
    let elsewhere = [
        "riscv_flush_icache",
        "riscv_hwprobe",
        "s390_pci_mmio_read",
        "s390_pci_mmio_write",
        "s390_runtime_instr",
        "swapcontext",
        "sync_file_range2",
    ];
    for fact in facts() {
        assert_ne!(
            numbers::known(fact.call),
            elsewhere.contains(&fact.call),
            "{}",
            fact.call
        );
    }
}
