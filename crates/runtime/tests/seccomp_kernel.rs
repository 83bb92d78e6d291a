// SPDX-License-Identifier: Apache-2.0
//! The default profile in front of the real kernel: a program makes calls and says which errno each
//! returned.
//!
//! The filter is put on one thread of the test, which then starts the program: a filter is
//! inherited. All calls are chosen so that, let through, they would answer something else than the
//! profile does, or harm nobody.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use wolffia_runtime::seccomp::numbers::number;
use wolffia_runtime::seccomp::{DEFAULT_BOUNDING, NATIVE, Options, default_profile};
use wolffia_sys::seccomp::{Flags, Program, install};
use wolffia_testkit::{need, payload};

const EPERM: &str = "1";
const ENOSYS: &str = "38";

/// `CLONE_NEWUSER`.
const NEW_USER: u64 = 0x1000_0000;

const SIGCHLD: u64 = 17;

/// A bit above an int.
const STRAY: u64 = 1 << 32;

/// Makes the calls under the filter, each given by name or number and arguments; returns what each
/// answered.
fn answers(program: &Program, calls: &[(&str, &[u64])]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("payload");
    wolffia_testkit::executable::write(&path, payload::program());
    let words = calls.iter().map(|(name, arguments)| {
        let number = name
            .parse()
            .ok()
            .or_else(|| number(NATIVE, name))
            .expect("a call of this machine");
        arguments.iter().fold(number.to_string(), |word, argument| {
            format!("{word},{argument}")
        })
    });
    let mut command = Command::new(path);
    command.arg("syscall").args(words);
    let output = std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            install(program, Flags::ALLOW_SPECULATION).unwrap();
            command.output().unwrap()
        });
        confined.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

/// A call, its arguments, and the errno that it has to return.
type Case<'a> = (&'a str, &'a [u64], &'a str);

fn check(program: &Program, cases: &[Case<'_>]) {
    let calls: Vec<_> = cases
        .iter()
        .map(|(name, arguments, _)| (*name, *arguments))
        .collect();
    for (answer, (name, arguments, expected)) in answers(program, &calls).iter().zip(cases) {
        assert_eq!(answer, expected, "{name} {arguments:x?}");
    }
}

#[test]
fn default_profile_holds_in_the_kernel() {
    need!(Cc);
    check(
        &default_profile(DEFAULT_BOUNDING, Options::default()),
        &[
            ("getpid", &[], "0"),
            ("personality", &[0xFFFF_FFFF], "0"),
            // ADDR_NO_RANDOMIZE
            ("personality", &[0x0004_0000], EPERM),
            ("unshare", &[NEW_USER], EPERM),
            ("clone", &[NEW_USER | SIGCHLD], EPERM),
            ("clone3", &[0, 0], ENOSYS),
            ("keyctl", &[0], EPERM),
            ("bpf", &[0, 0, 0], EPERM),
            ("io_uring_setup", &[1, 0], EPERM),
            ("userfaultfd", &[0], EPERM),
            ("perf_event_open", &[0, 0, 0, 0, 0], EPERM),
            ("open_tree", &[u64::MAX, 0, 0], EPERM),
            ("mount", &[0, 0, 0, 0, 0], EPERM),
            ("pivot_root", &[0, 0], EPERM),
            ("kexec_load", &[0, 0, 0, 0], EPERM),
            // Newer than the profile, and never to be.
            ("file_getattr", &[], ENOSYS),
            ("9999", &[], ENOSYS),
            // AF_ALG and AF_VSOCK, also with a bit that the kernel does not look at.
            ("socket", &[38, 5, 0], EPERM),
            ("socket", &[40, 1, 0], EPERM),
            ("socket", &[STRAY + 38, 5, 0], EPERM),
            ("socket", &[STRAY + 40, 1, 0], EPERM),
            ("socket", &[1, 1, 0], "0"),
        ],
    );
}

#[test]
fn nesting_opens_namespaces_and_mounts() {
    need!(Cc, UserNamespace);
    // Each is made, or refused by the kernel for another reason than the profile's.
    check(
        &default_profile(DEFAULT_BOUNDING, Options { nesting: true }),
        &[
            ("unshare", &[NEW_USER], "0"),
            ("clone", &[NEW_USER | SIGCHLD], "0"),
            ("clone3", &[0, 0], "22"),
            ("mount", &[0, 0, 0, 0, 0], "14"),
            ("setns", &[u64::MAX, 0], "9"),
            ("keyctl", &[0], ENOSYS),
            ("bpf", &[0, 0, 0], EPERM),
            ("io_uring_setup", &[1, 0], EPERM),
        ],
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_number_is_no_way_round() {
    need!(Cc);
    let program = default_profile(DEFAULT_BOUNDING, Options::default());
    let x32 = |number: u32| (0x4000_0000 | number).to_string();
    // unshare, and x32's own number for kexec_load; getpid passes the filter and meets a kernel
    // with or without x32.
    let (unshare, kexec, getpid) = (x32(272), x32(528), x32(39));
    let calls: [(&str, &[u64]); 3] = [
        (&unshare, &[NEW_USER]),
        (&kexec, &[0, 0, 0, 0]),
        (&getpid, &[]),
    ];
    let answers = answers(&program, &calls);
    assert_eq!(answers[..2], [EPERM, EPERM]);
    assert!(["0", ENOSYS].contains(&answers[2].as_str()), "{answers:?}");
}
