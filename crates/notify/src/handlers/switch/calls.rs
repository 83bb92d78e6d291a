// SPDX-License-Identifier: Apache-2.0
//! The calls that switching answers, by number, and the rules that close the ways round them.
//!
//! - `connect` and `listen` come to us.
//! - `sendto`, `sendmsg` and `sendmmsg` with `MSG_FASTOPEN` would connect without `connect`: refused as where the machine has it
//!   switched off, after which programs connect first.
//! - `socketcall`, by which 32-bit x86 reaches all of these at once behind a pointer, is not there: libraries of the last ten years
//!   use it for nothing, older ones cannot be helped.
//! - `io_uring_setup` is not there: a ring connects without any system call. (The default profile has it closed anyway.)
//!
//! Sources: `arch/x86/entry/syscalls/syscall_{64,32}.tbl`, `arch/arm/tools/syscall.tbl`, `include/uapi/asm-generic/unistd.h`.

use wolffia_sys::seccomp::policy::{Action, Architecture, Condition, Rule, Test, Width};

const X32: Architecture = Architecture::X32;

/// `MSG_FASTOPEN`.
const FAST_OPEN: u64 = 0x2000_0000;
const EOPNOTSUPP: u16 = 95;
const ENOSYS: u16 = 38;

/// The numbers of one architecture, as they stand in the register.
struct Numbers {
    connect: u32,
    listen: u32,
    /// Each with the place of its flags among the arguments.
    sending: [(u32, u8); 3],
    socketcall: Option<u32>,
    io_uring_setup: u32,
}

fn numbers(architecture: Architecture) -> Numbers {
    match architecture {
        Architecture::X86_64 => Numbers {
            connect: 42,
            listen: 50,
            sending: [(44, 3), (46, 2), (307, 3)],
            socketcall: None,
            io_uring_setup: 425,
        },
        Architecture::X32 => Numbers {
            connect: X32.raw_number(42),
            listen: X32.raw_number(50),
            sending: [
                (X32.raw_number(44), 3),
                (X32.raw_number(518), 2),
                (X32.raw_number(538), 3),
            ],
            socketcall: None,
            io_uring_setup: X32.raw_number(425),
        },
        Architecture::X86 => Numbers {
            connect: 362,
            listen: 363,
            sending: [(369, 3), (370, 2), (345, 3)],
            socketcall: Some(102),
            io_uring_setup: 425,
        },
        Architecture::Aarch64 => Numbers {
            connect: 203,
            listen: 201,
            sending: [(206, 3), (211, 2), (269, 3)],
            socketcall: None,
            io_uring_setup: 425,
        },
        Architecture::Arm => Numbers {
            connect: 283,
            listen: 284,
            sending: [(290, 3), (296, 2), (374, 3)],
            socketcall: None,
            io_uring_setup: 425,
        },
    }
}

/// Which of the two a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Connect,
    Listen,
}

/// Returns which call of any architecture has this number in the register.
pub(super) fn call(audit_token: u32, number: u32) -> Option<Call> {
    use Architecture::{Aarch64, Arm, X86, X86_64};
    let of = |architecture: &Architecture| architecture.audit_token() == audit_token;
    [X86_64, X32, X86, Aarch64, Arm]
        .into_iter()
        .filter(of)
        .find_map(|architecture| {
            let numbers = numbers(architecture);
            match number {
                _ if number == numbers.connect => Some(Call::Connect),
                _ if number == numbers.listen => Some(Call::Listen),
                _ => None,
            }
        })
}

/// The numbers of `connect` and `listen`.
pub(super) fn answered(architecture: Architecture) -> &'static [u32] {
    match architecture {
        Architecture::X86_64 => &[42, 50],
        Architecture::X32 => &const { [X32.raw_number(42), X32.raw_number(50)] },
        Architecture::X86 => &[362, 363],
        Architecture::Aarch64 => &[203, 201],
        Architecture::Arm => &[283, 284],
    }
}

/// The rules of the head of this file.
pub(super) fn rules(architecture: Architecture) -> Vec<(u32, Rule)> {
    let numbers = numbers(architecture);
    let always = |action| Rule {
        conditions: Vec::new(),
        action,
    };
    let fast_open = |argument| Rule {
        conditions: vec![Condition {
            argument,
            width: Width::Int,
            test: Test::MaskedEqual {
                mask: FAST_OPEN,
                value: FAST_OPEN,
            },
        }],
        action: Action::Errno(EOPNOTSUPP),
    };
    let mut rules = vec![
        (numbers.connect, always(Action::Notify)),
        (numbers.listen, always(Action::Notify)),
        (numbers.io_uring_setup, always(Action::Errno(ENOSYS))),
    ];
    rules.extend(
        numbers
            .sending
            .map(|(number, argument)| (number, fast_open(argument))),
    );
    rules.extend(
        numbers
            .socketcall
            .map(|number| (number, always(Action::Errno(ENOSYS)))),
    );
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_this_machine() {
        let native = if cfg!(target_arch = "x86_64") {
            Architecture::X86_64
        } else {
            Architecture::Aarch64
        };
        let numbers = numbers(native);
        let of = |number: libc::c_long| u32::try_from(number).unwrap();
        assert_eq!(numbers.connect, of(libc::SYS_connect));
        assert_eq!(numbers.listen, of(libc::SYS_listen));
        assert_eq!(
            numbers.sending.map(|(number, _)| number),
            [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg].map(of)
        );
        assert_eq!(numbers.io_uring_setup, of(libc::SYS_io_uring_setup));
    }

    #[test]
    fn what_is_answered_is_asked_for() {
        use Architecture::{Aarch64, Arm, X86, X86_64};
        for architecture in [X86_64, X32, X86, Aarch64, Arm] {
            let notified: Vec<u32> = rules(architecture)
                .into_iter()
                .filter(|(_, rule)| rule.action == Action::Notify)
                .map(|(number, _)| number)
                .collect();
            assert_eq!(notified, answered(architecture), "{architecture:?}");
            let token = architecture.audit_token();
            let kinds: Vec<_> = notified.iter().map(|number| call(token, *number)).collect();
            assert_eq!(kinds, [Some(Call::Connect), Some(Call::Listen)]);
        }
    }
}
