// SPDX-License-Identifier: Apache-2.0
//! The `linux.seccomp` section of an OCI bundle, and its meaning as a [`Policy`].
//!
//! # What is not written in the specification, and is done as runc and crun do it
//! - A name that no architecture of ours knows is passed over: profiles list calls of many kernels
//!   and machines.
//! - A rule whose action is the default action is passed over, so that it does not narrow a later
//!   one.
//! - Two conditions on the same argument of one rule are alternatives, not both required.
//! - Of rules for one call, one without conditions wins; else the first that holds.
//! - Where the default refuses, a call with a higher number than any the profile names returns
//!   ENOSYS, unless the profile's own default errno is that: a libc then takes the older way.
//! - Without `architectures` only the machine's own is served, and a call of another ends the
//!   program.
//! - A profile that lets everybody execute anything lets our stepping stone through.
//! - Without `flags`, speculation is left alone (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
//!
//! # Sources
//! OCI runtime-spec 1.3, config-linux, "Seccomp"; `seccomp_rule_add(3)`; `seccomp_init(3)`.

use serde::{Deserialize, Serialize};
use wolffia_sys::seccomp::{Flags, Program, ProgramError};

use super::numbers::{self, Numbers};
use super::policy::{Action, Architecture, Condition, Newer, Policy, Rule, Test, Width};
use super::{NATIVE, compile};

/// The section as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinuxSeccomp {
    /// What happens to calls without a rule.
    pub default_action: String,
    /// The errno of the default action, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// The architectures, as libseccomp names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// How the filter is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// The socket of the supervisor that gets the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<String>,
    /// What that supervisor is told besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_metadata: Option<String>,
    /// The rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Syscall>,
}

/// One rule of the section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Syscall {
    /// The calls.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: String,
    /// With which errno.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// For which arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// A condition of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Argument {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// The value, or the mask.
    pub value: u64,
    /// The value under the mask.
    #[serde(skip_serializing_if = "is_zero")]
    pub value_two: u64,
    /// How it is compared.
    pub op: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is wrong with a section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// An action that seccomp does not have.
    #[error("seccomp profile: unknown action {0:?}")]
    UnknownAction(String),
    /// A comparison that seccomp does not have.
    #[error("seccomp profile: unknown operator {operator:?} for {call}")]
    UnknownOperator {
        /// As it is written.
        operator: String,
        /// The rule's first call.
        call: String,
    },
    /// An architecture that libseccomp does not have either.
    #[error("seccomp profile: unknown architecture {0:?}")]
    UnknownArchitecture(String),
    /// A flag that seccomp does not have.
    #[error("seccomp profile: unknown flag {0:?}")]
    UnknownFlag(String),
    /// There are six arguments.
    #[error("seccomp profile: {call} has no argument {index}")]
    NoSuchArgument {
        /// The rule's first call.
        call: String,
        /// As it is written.
        index: u32,
    },
    /// The kernel knows errno numbers up to 4095.
    #[error("seccomp profile: errno {0} is above {ERRNO_MAX}")]
    ErrnoTooLarge(u32),
    /// A default action that would stop the runtime itself.
    #[error(
        "seccomp profile: SCMP_ACT_NOTIFY as the default action, or for write, would stop the runtime itself"
    )]
    NotifyStopsRuntime,
    /// A supervisor is named that nothing is sent to, or the reverse.
    #[error("seccomp profile: SCMP_ACT_NOTIFY needs listenerPath")]
    NoListener,
    /// The filter would not fit.
    #[error("seccomp profile")]
    Program(#[from] ProgramError),
}

/// The largest errno the kernel returns from a filter (`MAX_ERRNO`).
pub const ERRNO_MAX: u32 = 4095;
/// What a refusing action returns where nothing is said.
const EPERM: u32 = 1;
/// A call that is not there.
const ENOSYS: u16 = 38;

/// What the section asks for, ready to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub program: Program,
    /// How to install it; with [`Flags::LISTENER`] where a rule notifies.
    pub flags: Flags,
}

/// Returns the filter that an OCI section asks for.
pub fn from_oci(section: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let policy = to_policy(section)?;
    let mut flags = flags(section)?;
    if section
        .syscalls
        .iter()
        .any(|call| call.action == "SCMP_ACT_NOTIFY")
    {
        if section.listener_path.as_deref().unwrap_or("").is_empty() {
            return Err(SeccompError::NoListener);
        }
        flags |= Flags::LISTENER;
    }
    Ok(Filter {
        program: compile(&policy)?,
        flags,
    })
}

/// Returns what the section means.
pub fn to_policy(section: &LinuxSeccomp) -> Result<Policy, SeccompError> {
    let default = action(&section.default_action, section.default_errno_ret)?;
    if default == Action::Notify {
        return Err(SeccompError::NotifyStopsRuntime);
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for name in &section.architectures {
        if let Some(architecture) = architecture(name)?
            && !drafts
                .iter()
                .any(|draft| draft.architecture == architecture)
        {
            drafts.push(Draft::new(architecture));
        }
    }
    // The machine's own calls are always served: the runtime makes them itself.
    if !drafts.iter().any(|draft| draft.architecture == NATIVE) {
        drafts.insert(0, Draft::new(NATIVE));
    }
    for call in &section.syscalls {
        let action = action(&call.action, call.errno_ret)?;
        if action == Action::Notify && call.names.iter().any(|name| name == "write") {
            return Err(SeccompError::NotifyStopsRuntime);
        }
        let rules = rules(call, action)?;
        let rules = if action == default {
            &[]
        } else {
            rules.as_slice()
        };
        for numbers in call.names.iter().filter_map(|name| Numbers::of(name)) {
            for draft in &mut drafts {
                draft.add(numbers, rules);
            }
        }
    }
    let answers_newer = !matches!(default, Action::Allow | Action::Log | Action::Trace(_))
        && section.default_errno_ret != Some(u32::from(ENOSYS));
    let highest = drafts
        .iter()
        .filter_map(|draft| Some((draft.architecture, draft.highest?)))
        .collect();
    let mut policy = Policy {
        default,
        newer: answers_newer.then_some(Newer {
            action: Action::Errno(ENOSYS),
            highest,
        }),
        foreign: Action::KillThread,
        architectures: drafts
            .into_iter()
            .map(|draft| (draft.architecture, draft.rules.into_iter().collect()))
            .collect(),
    };
    admit_stepping_stone(&mut policy);
    Ok(policy)
}

/// Lets the [stepping stone](wolffia_sys::stepping_stone) through, between our process and the
/// program: it is executed by descriptor, and marks a descriptor as close-on-exec. Whoever may
/// execute anything at all, unwatched, gains nothing by that. Where execve is watched by a
/// supervisor or allowed for some arguments only, nothing is added.
fn admit_stepping_stone(policy: &mut Policy) {
    const F_SETFD: u64 = 2;
    const FD_CLOEXEC: u64 = 1;
    const AT_EMPTY_PATH: u64 = 0x1000;
    let equal = |argument, value| Condition {
        argument,
        width: Width::Register,
        test: Test::Equal(value),
    };
    let number = |name| numbers::number(NATIVE, name);
    let (Some(execve), Some(execveat), Some(fcntl)) =
        (number("execve"), number("execveat"), number("fcntl"))
    else {
        return;
    };
    let goes_through = |policy: &Policy, number: u32, arguments: [u64; 6]| {
        let verdict = policy.verdict(NATIVE.audit_token(), number, &arguments);
        matches!(verdict, Action::Allow | Action::Log)
    };
    let conditional = policy
        .tenant(NATIVE.audit_token(), execve)
        .is_some_and(|(_, rules)| {
            rules
                .of(execve)
                .iter()
                .any(|rule| !rule.conditions.is_empty())
        });
    if conditional || !goes_through(policy, execve, [0; 6]) {
        return;
    }
    for (number, arguments, conditions) in [
        (
            execveat,
            [0, 0, 0, 0, AT_EMPTY_PATH, 0],
            vec![equal(4, AT_EMPTY_PATH)],
        ),
        (
            fcntl,
            [0, F_SETFD, FD_CLOEXEC, 0, 0, 0],
            vec![equal(1, F_SETFD), equal(2, FD_CLOEXEC)],
        ),
    ] {
        if !goes_through(policy, number, arguments)
            && let Some((_, rules)) = policy
                .architectures
                .iter_mut()
                .find(|(listed, _)| *listed == NATIVE)
        {
            rules.put_first(
                number,
                Rule {
                    conditions,
                    action: Action::Allow,
                },
            );
        }
    }
}

/// What has been read of one architecture.
struct Draft {
    architecture: Architecture,
    rules: Vec<(u32, Rule)>,
    highest: Option<u32>,
}

impl Draft {
    const fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            rules: Vec::new(),
            highest: None,
        }
    }

    /// Adds the rules of a call, which may be none: that, too, says that the profile knows it.
    fn add(&mut self, numbers: Numbers, rules: &[Rule]) {
        let Some(number) = numbers.on(self.architecture) else {
            return;
        };
        let raw = self.architecture.raw_number(number);
        // Arm's own calls lie far above the common ones and say nothing about how new the profile is.
        if number < numbers::ARM_PRIVATE {
            self.highest = self.highest.max(Some(raw));
        }
        self.rules
            .extend(rules.iter().map(|rule| (raw, rule.clone())));
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, SeccompError> {
    let errno = || {
        let errno = errno.unwrap_or(EPERM);
        u16::try_from(errno)
            .ok()
            .filter(|_| errno <= ERRNO_MAX)
            .ok_or(SeccompError::ErrnoTooLarge(errno))
    };
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_ERRNO" => Action::Errno(errno()?),
        "SCMP_ACT_TRACE" => Action::Trace(errno()?),
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => Action::Notify,
        other => return Err(SeccompError::UnknownAction(other.to_owned())),
    })
}

/// The architecture of this name; none where it is one that cannot call this machine's kernel
/// anyway.
fn architecture(name: &str) -> Result<Option<Architecture>, SeccompError> {
    /// Those that libseccomp knows besides.
    const OTHERS: &[&str] = &[
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
        "SHEB",
    ];
    let short = name.strip_prefix("SCMP_ARCH_").unwrap_or_default();
    let found = match short {
        "NATIVE" => Some(NATIVE),
        "X86_64" => Some(Architecture::X86_64),
        "X86" => Some(Architecture::X86),
        "X32" => Some(Architecture::X32),
        "AARCH64" => Some(Architecture::Aarch64),
        "ARM" => Some(Architecture::Arm),
        other if OTHERS.contains(&other) => None,
        _ => return Err(SeccompError::UnknownArchitecture(name.to_owned())),
    };
    Ok(found.filter(|architecture| NATIVE.family().contains(architecture)))
}

fn flags(section: &LinuxSeccomp) -> Result<Flags, SeccompError> {
    let Some(names) = &section.flags else {
        return Ok(Flags::ALLOW_SPECULATION);
    };
    names.iter().try_fold(Flags::empty(), |flags, name| {
        Ok(flags
            | match name.as_str() {
                "SECCOMP_FILTER_FLAG_TSYNC" => Flags::ALL_THREADS,
                "SECCOMP_FILTER_FLAG_LOG" => Flags::LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Flags::ALLOW_SPECULATION,
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Flags::WAIT_KILLABLE,
                other => return Err(SeccompError::UnknownFlag(other.to_owned())),
            })
    })
}

/// The rules of one entry: one with all its conditions, or one for each where two are about the
/// same argument.
fn rules(call: &Syscall, action: Action) -> Result<Vec<Rule>, SeccompError> {
    let name = || call.names.first().cloned().unwrap_or_default();
    let conditions: Vec<Condition> = call
        .args
        .iter()
        .map(|argument| {
            let test = match argument.op.as_str() {
                "SCMP_CMP_EQ" => Test::Equal(argument.value),
                "SCMP_CMP_NE" => Test::NotEqual(argument.value),
                "SCMP_CMP_LT" => Test::Less(argument.value),
                "SCMP_CMP_LE" => Test::LessOrEqual(argument.value),
                "SCMP_CMP_GE" => Test::GreaterOrEqual(argument.value),
                "SCMP_CMP_GT" => Test::Greater(argument.value),
                "SCMP_CMP_MASKED_EQ" => Test::MaskedEqual {
                    mask: argument.value,
                    value: argument.value_two,
                },
                other => {
                    return Err(SeccompError::UnknownOperator {
                        operator: other.to_owned(),
                        call: name(),
                    });
                }
            };
            let index = u8::try_from(argument.index).ok().filter(|index| *index < 6);
            let argument = index.ok_or(SeccompError::NoSuchArgument {
                call: name(),
                index: argument.index,
            })?;
            Ok(Condition {
                argument,
                width: Width::Register,
                test,
            })
        })
        .collect::<Result<_, _>>()?;
    let repeated = conditions.iter().enumerate().any(|(at, one)| {
        conditions[..at]
            .iter()
            .any(|other| other.argument == one.argument)
    });
    Ok(if repeated {
        conditions
            .into_iter()
            .map(|condition| Rule {
                conditions: vec![condition],
                action,
            })
            .collect()
    } else {
        vec![Rule { conditions, action }]
    })
}
