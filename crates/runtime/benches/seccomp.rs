// SPDX-License-Identifier: Apache-2.0
//! What a filter costs: laid out as a tree and as a row, to lay out, to install, and for each call.
//!
//! `cargo bench -p wolffia-runtime --bench seccomp`. Each installation is on a thread of its own,
//! since a filter stays; the smallest of many is what the work costs, the median what a busy
//! machine makes of it.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use wolffia_runtime::seccomp::oci::{LinuxSeccomp, Syscall, from_oci};
use wolffia_runtime::seccomp::policy::{Policy, Rule};
use wolffia_runtime::seccomp::profile::{Circumstances, OLDEST_KERNEL, default_policy};
use wolffia_runtime::seccomp::table::GROUPS;
use wolffia_runtime::seccomp::{DEFAULT_BOUNDING, NATIVE, Options, compile, default_profile};
use wolffia_sys::seccomp::instruction::{
    JUMP, JUMP_EQUAL, LOAD, OFFSET_ARCHITECTURE, OFFSET_NUMBER, RETURN,
};
use wolffia_sys::seccomp::{Flags, Instruction, Program, install};

const INSTALLATIONS: usize = 300;
const CALLS: u32 = 1_000_000;

fn main() {
    let policy = default_policy(&Circumstances {
        native: NATIVE,
        bounding: DEFAULT_BOUNDING,
        kernel: OLDEST_KERNEL,
        nesting: false,
    });
    report(
        "lay out the tree",
        &samples(INSTALLATIONS, || time(|| compile(&policy).unwrap())),
    );
    report(
        "fetch the ready one",
        &samples(INSTALLATIONS, || {
            time(|| default_profile(DEFAULT_BOUNDING, Options::default()))
        }),
    );
    let section = section();
    report(
        "lay out an OCI section",
        &samples(INSTALLATIONS, || time(|| from_oci(&section).unwrap())),
    );
    for (name, program) in [("tree", compile(&policy).unwrap()), ("row", row(&policy))] {
        println!("{name}: {} instructions", program.instructions().len());
        let installation = || {
            confined(None, || {
                time(|| install(&program, Flags::ALLOW_SPECULATION).unwrap())
            })
        };
        report("  install", &samples(INSTALLATIONS, installation));
        each("  allowed call", Some(&program), || {
            black_box(rustix::process::getppid());
        });
        each("  refused call", Some(&program), refused);
    }
    println!("none");
    each("  allowed call", None, || {
        black_box(rustix::process::getppid());
    });
    each("  refused call", None, refused);
}

/// An OCI section with the names of the default table, for three architectures.
fn section() -> LinuxSeccomp {
    let names = GROUPS
        .iter()
        .flat_map(|group| group.calls)
        .map(|name| (*name).to_owned())
        .collect();
    let architectures = ["X86_64", "X86", "X32", "AARCH64", "ARM"];
    LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        architectures: architectures
            .map(|name| format!("SCMP_ARCH_{name}"))
            .to_vec(),
        syscalls: vec![Syscall {
            names,
            action: "SCMP_ACT_ALLOW".to_owned(),
            ..Syscall::default()
        }],
        ..LinuxSeccomp::default()
    }
}

/// A call that the profile refuses and the kernel would refuse as soon as it looks at it.
fn refused() {
    rustix::process::pivot_root("", "").unwrap_err();
}

/// The same rules as "is it this number? this one?". Calls with conditions are simply allowed, in
/// favour of the row.
fn row(policy: &Policy) -> Program {
    let mut instructions = vec![Instruction::plain(LOAD, OFFSET_ARCHITECTURE)];
    let mut tokens: Vec<u32> = Vec::new();
    for (architecture, _) in &policy.architectures {
        if !tokens.contains(&architecture.audit_token()) {
            tokens.push(architecture.audit_token());
        }
    }
    for token in tokens {
        let mut section = vec![Instruction::plain(LOAD, OFFSET_NUMBER)];
        let tenants = policy
            .architectures
            .iter()
            .filter(|(tenant, _)| tenant.audit_token() == token);
        for (number, rules) in tenants.flat_map(|(_, rules)| rules.iter()) {
            let verdict = |rule: &Rule| rule.action.verdict();
            section.extend([
                Instruction {
                    code: JUMP_EQUAL,
                    jump_true: 0,
                    jump_false: 1,
                    operand: number,
                },
                Instruction::plain(RETURN, verdict(&rules[0])),
            ]);
        }
        section.push(Instruction::plain(RETURN, policy.default.verdict()));
        instructions.extend([
            Instruction {
                code: JUMP_EQUAL,
                jump_true: 1,
                jump_false: 0,
                operand: token,
            },
            Instruction::plain(JUMP, u32::try_from(section.len()).unwrap()),
        ]);
        instructions.extend(section);
    }
    instructions.push(Instruction::plain(RETURN, policy.foreign.verdict()));
    Program::new(instructions).unwrap()
}

/// Runs `work` on a thread of its own, behind `filter`.
fn confined<T: Send>(filter: Option<&Program>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                if let Some(program) = filter {
                    install(program, Flags::ALLOW_SPECULATION).unwrap();
                }
                work()
            })
            .join()
            .unwrap()
    })
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn samples(count: usize, mut sample: impl FnMut() -> Duration) -> Vec<Duration> {
    let mut all: Vec<Duration> = (0..count).map(|_| sample()).collect();
    all.sort();
    all
}

fn report(name: &str, sorted: &[Duration]) {
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    println!(
        "{name}: {:.1} us at best, {:.1} us median",
        micros(sorted[0]),
        micros(sorted[sorted.len() / 2])
    );
}

fn each(name: &str, filter: Option<&Program>, call: impl Fn() + Sync + Send) {
    let best = confined(filter, || {
        samples(7, || time(|| (0..CALLS).for_each(|_| call())))[0]
    });
    println!(
        "{name}: {:.0} ns",
        best.as_secs_f64() * 1e9 / f64::from(CALLS)
    );
}
