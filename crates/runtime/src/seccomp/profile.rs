// SPDX-License-Identifier: Apache-2.0
//! From the default table to a policy: which groups count for these capabilities, on this machine.
//!
//! Also compiled into the room's build script, which lays the two most frequent answers out as a
//! program.

use super::numbers;
use super::policy::{Action, Architecture, Condition, Newer, Policy, Rule, Rules, X32_BIT};
use super::table::{Effect, GROUPS, Group, NESTING, When};

/// What a default profile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The machine's own architecture.
    pub native: Architecture,
    /// The capabilities of the container's bounding set, bit by number as in /proc/PID/status.
    pub bounding: u64,
    /// The kernel's version.
    pub kernel: (u32, u32),
    /// Whether containers are to run inside the container.
    pub nesting: bool,
}

/// The capabilities of a container that asks for nothing: docker's fourteen (chown, `dac_override`,
/// fowner, fsetid, kill, setgid, setuid, setpcap, `net_bind_service`, `net_raw`, `sys_chroot`,
/// mknod, `audit_write`, setfcap).
pub const DEFAULT_BOUNDING: u64 = 0xA804_25FB;

/// The oldest kernel on which a container can start at all (openat2, clone3 with a cgroup,
/// `close_range`): the version that the program in the binary is made for.
pub const OLDEST_KERNEL: (u32, u32) = (5, 9);

/// A call that the caller may not make.
const EPERM: u16 = 1;
/// A call that is not there.
const ENOSYS: u16 = 38;

/// Returns the default policy.
pub fn default_policy(circumstances: &Circumstances) -> Policy {
    let extra = if circumstances.nesting { NESTING } else { &[] };
    // Nesting first: among rules without conditions the first stands.
    let groups: Vec<&Group> = extra
        .iter()
        .chain(GROUPS)
        .filter(|group| group.when.iter().all(|when| holds(when, circumstances)))
        .collect();
    let mut architectures = Vec::new();
    let mut highest = Vec::new();
    for &architecture in circumstances.native.family() {
        let rules: Rules = groups
            .iter()
            .flat_map(|group| group.calls.iter().map(move |name| (group, name)))
            .filter_map(|(group, name)| Some((group, numbers::number(architecture, name)?)))
            .flat_map(|(group, number)| {
                let number = architecture.raw_number(number);
                rules_of(group.effect)
                    .into_iter()
                    .map(move |rule| (number, rule))
            })
            .collect();
        // Arm's own calls lie far above the common ones and say nothing about how new the table is.
        let common = |number: &u32| *number & !X32_BIT < numbers::ARM_PRIVATE;
        let last = rules.iter().map(|(number, _)| number).rfind(common);
        highest.extend(last.map(|number| (architecture, number)));
        architectures.push((architecture, rules));
    }
    Policy {
        default: Action::Errno(EPERM),
        newer: Some(Newer {
            action: Action::Errno(ENOSYS),
            highest,
        }),
        foreign: Action::KillProcess,
        architectures,
    }
}

/// Returns whether two capability sets lead to the same policy.
pub fn same_groups(one: u64, other: u64) -> bool {
    let relevant = GROUPS
        .iter()
        .flat_map(|group| group.when)
        .fold(0, |bits, when| match when {
            When::Has(capability) | When::Lacks(capability) => bits | 1_u64 << *capability as u8,
            When::Native(_) | When::Kernel(..) | When::Nesting => bits,
        });
    one & relevant == other & relevant
}

fn holds(when: &When, circumstances: &Circumstances) -> bool {
    match when {
        When::Has(capability) => circumstances.bounding & 1 << *capability as u8 != 0,
        When::Lacks(capability) => circumstances.bounding & 1 << *capability as u8 == 0,
        When::Native(architectures) => architectures.contains(&circumstances.native),
        When::Kernel(major, minor) => circumstances.kernel >= (*major, *minor),
        When::Nesting => circumstances.nesting,
    }
}

fn rules_of(effect: Effect) -> Vec<Rule> {
    let allow = |conditions: Vec<Condition>| Rule {
        conditions,
        action: Action::Allow,
    };
    match effect {
        Effect::Allow => vec![allow(Vec::new())],
        Effect::AllowWhereAny(conditions) => conditions
            .iter()
            .map(|condition| allow(vec![*condition]))
            .collect(),
        Effect::Errno(errno) => vec![Rule {
            conditions: Vec::new(),
            action: Action::Errno(errno),
        }],
    }
}
