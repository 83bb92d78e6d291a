// SPDX-License-Identifier: Apache-2.0
//! A seccomp policy as plain data: for each architecture, which verdict a system call gets for
//! which arguments.
//!
//! It stands between what is written (a container's profile in the room `runtime`, the calls that a
//! helper of ours needs in [`crate::jail`]) and what the kernel runs (the tree of [`super::tree`]). [`Policy::verdict`] says what
//! it means in the plainest way; the tests hold the tree against it.
//!
//! This file names nothing of its own crate, and that of the tree only its neighbours: the room
//! `runtime` also compiles them into its build script.
//!
//! Sources: seccomp(2); OCI runtime-spec, config-linux, "Seccomp"; `seccomp_rule_add(3)` for the
//! comparisons.

/// An instruction set with its own system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86, which a 64-bit kernel also runs.
    X86,
    /// 32-bit pointers on 64-bit x86: x86-64's audit token, and a bit in the number.
    X32,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, which most 64-bit kernels also run.
    Arm,
}

/// The bit that x32 sets in a number.
pub const X32_BIT: u32 = 0x4000_0000;

impl Architecture {
    /// The token by which the kernel tells the filter who is calling (`AUDIT_ARCH_*`).
    pub const fn audit_token(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Returns whether arguments are 64 bits wide in the kernel's eyes.
    pub const fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::X32 | Self::Aarch64)
    }

    /// The number as it stands in the register.
    pub const fn raw_number(self, number: u32) -> u32 {
        if matches!(self, Self::X32) {
            number | X32_BIT
        } else {
            number
        }
    }

    /// This architecture and those that a kernel for it also runs: what a profile has to speak
    /// about, since a call of an architecture left out would end the program.
    pub const fn family(self) -> &'static [Architecture] {
        match self {
            Self::X86_64 => &[Self::X86_64, Self::X86, Self::X32],
            Self::X86 => &[Self::X86],
            Self::X32 => &[Self::X32],
            Self::Aarch64 => &[Self::Aarch64, Self::Arm],
            Self::Arm => &[Self::Arm],
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The whole process is killed with SIGSYS.
    KillProcess,
    /// The calling thread is killed with SIGSYS.
    KillThread,
    /// The thread gets a SIGSYS that it may handle.
    Trap,
    /// The call is not made and returns this errno; zero is success.
    Errno(u16),
    /// A supervisor answers through the filter's listener.
    Notify,
    /// A tracer is told, with this message.
    Trace(u16),
    /// The call is made and logged.
    Log,
    /// The call is made.
    Allow,
}

impl Action {
    /// The verdict in the kernel's form (`SECCOMP_RET_*`).
    pub const fn verdict(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Notify => 0x7FC0_0000,
            Self::Trace(message) => 0x7FF0_0000 | message as u32,
            Self::Log => 0x7FFC_0000,
            Self::Allow => 0x7FFF_0000,
        }
    }
}

/// How an argument is compared; all comparisons are unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// argument = value
    Equal(u64),
    /// argument != value
    NotEqual(u64),
    /// argument < value
    Less(u64),
    /// argument <= value
    LessOrEqual(u64),
    /// argument >= value
    GreaterOrEqual(u64),
    /// argument > value
    Greater(u64),
    /// argument & mask = value & mask
    MaskedEqual {
        /// The bits that are looked at.
        mask: u64,
        /// What they have to be.
        value: u64,
    },
}

/// How much of an argument counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// All that the architecture has: what `seccomp_rule_add(3)` and with it OCI profiles mean.
    Register,
    /// The low 32 bits, since that is what the kernel takes of an `int`. Compared as a register,
    /// `socket` with a family of 40 and a stray bit above would count as "greater than 40", and be
    /// family 40 to the kernel.
    Int,
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How much of it counts.
    pub width: Width,
    /// What it is held against.
    pub test: Test,
}

impl Condition {
    /// Returns whether both words of the argument count. On a narrow architecture there is one.
    pub const fn wide(&self, architecture_wide: bool) -> bool {
        architecture_wide && matches!(self.width, Width::Register)
    }

    /// Returns whether a call with these arguments meets the condition.
    pub fn holds(&self, architecture_wide: bool, arguments: &[u64; 6]) -> bool {
        let wide = self.wide(architecture_wide);
        let cut = |number: u64| if wide { number } else { number & 0xFFFF_FFFF };
        let argument = cut(arguments[usize::from(self.argument)]);
        match self.test {
            Test::Equal(value) => argument == cut(value),
            Test::NotEqual(value) => argument != cut(value),
            Test::Less(value) => argument < cut(value),
            Test::LessOrEqual(value) => argument <= cut(value),
            Test::GreaterOrEqual(value) => argument >= cut(value),
            Test::Greater(value) => argument > cut(value),
            Test::MaskedEqual { mask, value } => argument & cut(mask) == cut(value) & cut(mask),
        }
    }
}

/// An action that counts where every condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All of these must hold; none means always.
    pub conditions: Vec<Condition>,
    /// What then happens.
    pub action: Action,
}

/// The rules of one architecture, by the number in the register (x32's with its bit). The first
/// that holds counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Sorted by number.
    entries: Vec<(u32, Entry)>,
}

/// The rules of one number: nearly always a single one, which then needs no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    One(Rule),
    Several(Vec<Rule>),
}

impl Entry {
    fn as_slice(&self) -> &[Rule] {
        match self {
            Self::One(rule) => std::slice::from_ref(rule),
            Self::Several(rules) => rules,
        }
    }

    /// Puts a rule behind the ones that stand there, except that a rule without conditions replaces
    /// those with conditions and is not itself narrowed by later ones (what libseccomp makes of
    /// such profiles).
    fn add(&mut self, rule: Rule) {
        if self.as_slice()[0].conditions.is_empty() {
            return;
        }
        *self = match std::mem::replace(self, Self::Several(Vec::new())) {
            _ if rule.conditions.is_empty() => Self::One(rule),
            Self::One(first) => Self::Several(vec![first, rule]),
            Self::Several(mut rules) => {
                rules.push(rule);
                Self::Several(rules)
            }
        };
    }
}

impl FromIterator<(u32, Rule)> for Rules {
    /// Takes rules in any order of their numbers. Of several for one number the earlier comes
    /// first, except that a rule without conditions replaces those with conditions.
    fn from_iter<I: IntoIterator<Item = (u32, Rule)>>(rules: I) -> Self {
        let mut all: Vec<(u32, Rule)> = rules.into_iter().collect();
        all.sort_by_key(|(number, _)| *number);
        let mut entries: Vec<(u32, Entry)> = Vec::with_capacity(all.len());
        for (number, rule) in all {
            match entries.last_mut() {
                Some((last, entry)) if *last == number => entry.add(rule),
                _ => entries.push((number, Entry::One(rule))),
            }
        }
        Self { entries }
    }
}

impl Rules {
    /// Puts a rule before all others of its number.
    pub fn put_first(&mut self, number: u32, rule: Rule) {
        match self
            .entries
            .binary_search_by_key(&number, |(number, _)| *number)
        {
            Ok(at) => {
                let rest = self.entries[at].1.as_slice().iter().cloned();
                let rules = std::iter::once(rule).chain(rest).collect();
                self.entries[at].1 = Entry::Several(rules);
            }
            Err(at) => self.entries.insert(at, (number, Entry::One(rule))),
        }
    }

    /// The calls that have rules, in the order of their numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, &[Rule])> {
        self.entries
            .iter()
            .map(|(number, entry)| (*number, entry.as_slice()))
    }

    /// The rules of one call.
    pub fn of(&self, number: u32) -> &[Rule] {
        let found = self
            .entries
            .binary_search_by_key(&number, |(number, _)| *number);
        found.map_or(&[], |at| self.entries[at].1.as_slice())
    }
}

/// What is done with every possible call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a call without a rule, or of whose rules none holds.
    pub default: Action,
    /// What happens to a call with a number above every number that has been considered, where that
    /// is not `default`: ENOSYS for what is newer than the profile, since libraries then try the
    /// older way and give up on EPERM.
    pub newer: Option<Newer>,
    /// What happens to a call of an architecture that is not listed.
    pub foreign: Action,
    /// The architectures, the most frequent first.
    pub architectures: Vec<(Architecture, Rules)>,
}

/// How calls newer than the profile are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// The answer.
    pub action: Action,
    /// The highest number in the register that was considered, for each listed architecture.
    pub highest: Vec<(Architecture, u32)>,
}

impl Policy {
    /// The highest number of this architecture that the policy has considered, if newer ones are
    /// told apart.
    pub fn highest(&self, architecture: Architecture) -> Option<u32> {
        let newer = self.newer.as_ref()?;
        newer
            .highest
            .iter()
            .find(|(listed, _)| *listed == architecture)
            .map(|(_, number)| *number)
    }

    /// What a call with this raw number gets when no rule of its own holds.
    pub fn fallback(&self, architecture: Architecture, raw_number: u32) -> Action {
        match &self.newer {
            Some(newer)
                if self
                    .highest(architecture)
                    .is_some_and(|highest| raw_number > highest) =>
            {
                newer.action
            }
            _ => self.default,
        }
    }

    /// Whose number this is, if the policy lists that architecture.
    pub fn tenant(&self, audit_token: u32, raw_number: u32) -> Option<&(Architecture, Rules)> {
        let x32 = audit_token == Architecture::X32.audit_token()
            && raw_number >= X32_BIT
            && raw_number != SKIPPED;
        self.architectures.iter().find(|(architecture, _)| {
            architecture.audit_token() == audit_token && (*architecture == Architecture::X32) == x32
        })
    }

    /// What a call gets, found in the plainest way: the meaning that the tree has to keep.
    pub fn verdict(&self, audit_token: u32, raw_number: u32, arguments: &[u64; 6]) -> Action {
        let Some((architecture, rules)) = self.tenant(audit_token, raw_number) else {
            return self.foreign;
        };
        let rule = rules.of(raw_number).iter().find(|rule| {
            rule.conditions
                .iter()
                .all(|condition| condition.holds(architecture.wide(), arguments))
        });
        rule.map_or_else(
            || self.fallback(*architecture, raw_number),
            |rule| rule.action,
        )
    }
}

/// The number of a call that a tracer has cancelled: minus one. It has x32's bit without being
/// x32's.
pub const SKIPPED: u32 = u32::MAX;
