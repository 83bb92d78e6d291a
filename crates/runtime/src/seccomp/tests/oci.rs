// SPDX-License-Identifier: Apache-2.0
//! What OCI sections and profile files come to.

use wolffia_sys::seccomp::Flags;

use crate::seccomp::document::{DocumentError, resolve};
use crate::seccomp::machine::{Call, run};
use crate::seccomp::oci::{Filter, LinuxSeccomp, SeccompError, from_oci};
use crate::seccomp::policy::{Action, Architecture};
use crate::seccomp::{NATIVE, numbers};

fn filter(json: &str) -> Result<Filter, SeccompError> {
    let section: LinuxSeccomp = serde_json::from_str(json).expect("the test's own JSON");
    from_oci(&section)
}

fn verdict(filter: &Filter, architecture: Architecture, name: &str, arguments: [u64; 6]) -> u32 {
    let number = architecture.raw_number(numbers::number(architecture, name).expect("a call"));
    let call = Call {
        token: architecture.audit_token(),
        number,
        arguments,
    };
    run(filter.program.instructions(), &call).verdict
}

/// Checks calls of the machine's own architecture.
fn check(json: &str, cases: &[(&str, [u64; 6], Action)]) {
    let filter = filter(json).expect("a good section");
    for (name, arguments, action) in cases {
        let got = verdict(&filter, NATIVE, name, *arguments);
        assert_eq!(got, action.verdict(), "{name} {arguments:?} of {json}");
    }
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn actions_and_errnos() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["kcmp"],"action":"SCMP_ACT_ERRNO"},
            {"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["mount"],"action":"SCMP_ACT_TRACE","errnoRet":7},
            {"names":["chroot"],"action":"SCMP_ACT_TRAP"},
            {"names":["reboot"],"action":"SCMP_ACT_KILL"},
            {"names":["swapon"],"action":"SCMP_ACT_KILL_PROCESS"},
            {"names":["getpid"],"action":"SCMP_ACT_LOG"},
            {"names":["no_such_call"],"action":"SCMP_ACT_KILL"}]}"#,
        &[
            ("kcmp", NONE, Action::Errno(1)),
            ("bpf", NONE, Action::Errno(38)),
            ("mount", NONE, Action::Trace(7)),
            ("chroot", NONE, Action::Trap),
            ("reboot", NONE, Action::KillThread),
            ("swapon", NONE, Action::KillProcess),
            ("getpid", NONE, Action::Log),
            ("read", NONE, Action::Allow),
        ],
    );
}

#[test]
fn conditions_are_all_required_unless_two_are_about_one_argument() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":3,"op":"SCMP_CMP_EQ"},{"index":2,"value":10,"op":"SCMP_CMP_LT"}]},
            {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["openat"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":2,"value":3,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        &[
            ("read", [3, 0, 9, 0, 0, 0], Action::Allow),
            ("read", [3, 0, 10, 0, 0, 0], Action::Errno(13)),
            ("read", [4, 0, 9, 0, 0, 0], Action::Errno(13)),
            ("write", [1, 0, 0, 0, 0, 0], Action::Allow),
            ("write", [2, 0, 0, 0, 0, 0], Action::Allow),
            ("write", [3, 0, 0, 0, 0, 0], Action::Errno(13)),
            ("openat", [0, 0, 0o100, 0, 0, 0], Action::Allow),
            ("openat", [0, 0, 0o101, 0, 0, 0], Action::Errno(13)),
        ],
    );
}

#[test]
fn rule_without_conditions_wins_and_the_default_action_narrows_nothing() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":3,"op":"SCMP_CMP_EQ"}]},
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},
            {"names":["write"],"action":"SCMP_ACT_ERRNO"},
            {"names":["write"],"action":"SCMP_ACT_ALLOW"}]}"#,
        &[
            ("read", [9, 0, 0, 0, 0, 0], Action::Allow),
            ("write", NONE, Action::Allow),
        ],
    );
}

#[test]
fn call_newer_than_the_profile_is_answered_enosys() {
    let refusing = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["openat2"],"action":"SCMP_ACT_ALLOW"}]}"#;
    check(
        refusing,
        &[
            ("openat2", NONE, Action::Allow),
            ("close_range", NONE, Action::Errno(1)),
            ("faccessat2", NONE, Action::Errno(38)),
            ("mseal", NONE, Action::Errno(38)),
        ],
    );
    let allowing = refusing.replace("ERRNO", "LOG").replace("ALLOW", "ERRNO");
    check(
        &allowing,
        &[
            ("mseal", NONE, Action::Log),
            ("openat2", NONE, Action::Errno(1)),
        ],
    );
}

#[test]
fn only_listed_architectures_and_the_machines_own_are_served() {
    let section = |list: &str| {
        filter(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":[{list}],
                "syscalls":[{{"names":["bpf"],"action":"SCMP_ACT_ERRNO"}}]}}"#
        ))
    };
    let own = section("").unwrap();
    let all = section(
        r#""SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64","SCMP_ARCH_ARM","SCMP_ARCH_S390X""#,
    )
    .unwrap();
    for &architecture in NATIVE.family() {
        let refused = Action::Errno(1).verdict();
        assert_eq!(
            verdict(&all, architecture, "bpf", NONE),
            refused,
            "{architecture:?}"
        );
        let expected = if architecture == NATIVE {
            refused
        } else {
            Action::KillThread.verdict()
        };
        assert_eq!(
            verdict(&own, architecture, "bpf", NONE),
            expected,
            "{architecture:?}"
        );
    }
    assert_eq!(
        section(r#""SCMP_ARCH_VAX""#),
        Err(SeccompError::UnknownArchitecture("SCMP_ARCH_VAX".into()))
    );
}

#[test]
fn flags_are_taken_over_and_speculation_is_left_alone_otherwise() {
    let with = |flags: &str| {
        filter(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#)).map(|f| f.flags)
    };
    assert_eq!(with(""), Ok(Flags::ALLOW_SPECULATION));
    assert_eq!(with(r#","flags":[]"#), Ok(Flags::empty()));
    assert_eq!(
        with(r#","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG"]"#),
        Ok(Flags::ALL_THREADS | Flags::LOG)
    );
    assert_eq!(
        with(r#","flags":["LOUD"]"#),
        Err(SeccompError::UnknownFlag("LOUD".into()))
    );
}

#[test]
fn notify_asks_for_a_listener() {
    let section = |path: &str, call: &str| {
        filter(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW"{path},"syscalls":[{{"names":["{call}"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
        ))
    };
    let good = section(r#","listenerPath":"/run/agent.sock""#, "mkdir").unwrap();
    assert_eq!(good.flags, Flags::ALLOW_SPECULATION | Flags::LISTENER);
    assert_eq!(section("", "mkdirat"), Err(SeccompError::NoListener));
    assert_eq!(
        section(r#","listenerPath":"/a""#, "write"),
        Err(SeccompError::NotifyStopsRuntime)
    );
    assert_eq!(
        filter(r#"{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/a"}"#),
        Err(SeccompError::NotifyStopsRuntime)
    );
}

#[test]
fn profile_that_allows_execve_lets_the_stepping_stone_through() {
    const SET_CLOSE_ON_EXEC: [u64; 6] = [9, 2, 1, 0, 0, 0];
    const BY_DESCRIPTOR: [u64; 6] = [9, 0, 0, 0, 0x1000, 0];
    let list = |execve: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/a","syscalls":[
                {{"names":["read","fcntl","getpid"],"action":"SCMP_ACT_ERRNO","errnoRet":5}},
                {{"names":["execve"],{execve}}}]}}"#
        )
    };
    check(
        &list(r#""action":"SCMP_ACT_ALLOW""#),
        &[
            ("execveat", BY_DESCRIPTOR, Action::Allow),
            ("execveat", NONE, Action::Errno(38)),
            ("fcntl", SET_CLOSE_ON_EXEC, Action::Allow),
            ("fcntl", [9, 2, 0, 0, 0, 0], Action::Errno(5)),
            ("fcntl", NONE, Action::Errno(5)),
        ],
    );
    let refused = &[
        ("execveat", BY_DESCRIPTOR, Action::Errno(38)),
        ("fcntl", SET_CLOSE_ON_EXEC, Action::Errno(5)),
    ];
    check(&list(r#""action":"SCMP_ACT_NOTIFY""#), refused);
    check(&list(r#""action":"SCMP_ACT_ERRNO","errnoRet":9"#), refused);
    let some = r#""action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]"#;
    check(&list(some), refused);
}

#[test]
fn mistakes_are_named() {
    let rule = |rule: &str| {
        filter(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],{rule}}}]}}"#
        ))
        .unwrap_err()
    };
    assert_eq!(
        filter("{}"),
        Err(SeccompError::UnknownAction(String::new()))
    );
    assert_eq!(
        rule(r#""action":"SCMP_ACT_MAYBE""#),
        SeccompError::UnknownAction("SCMP_ACT_MAYBE".into())
    );
    assert_eq!(
        rule(r#""action":"SCMP_ACT_ERRNO","errnoRet":4096"#),
        SeccompError::ErrnoTooLarge(4096)
    );
    assert_eq!(
        rule(r#""action":"SCMP_ACT_TRAP","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#),
        SeccompError::NoSuchArgument {
            call: "read".into(),
            index: 6
        }
    );
    assert_eq!(
        rule(r#""action":"SCMP_ACT_TRAP","args":[{"index":0,"value":0,"op":"EQ"}]"#),
        SeccompError::UnknownOperator {
            operator: "EQ".into(),
            call: "read".into()
        }
    );
}

/// A profile file of docker's form, with everything that form has.
const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
        {"name": "chroot", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT", "CAP_SYS_ADMIN"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
        {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}}]}"#;

#[test]
fn profile_file_comes_to_what_docker_makes_of_it() {
    let names = |kernel, caps: &[&str]| {
        let section = resolve(PROFILE.as_bytes(), kernel, |name| caps.contains(&name))
            .unwrap()
            .unwrap();
        assert_eq!(section.architectures.len(), NATIVE.family().len());
        from_oci(&section).expect("an installable section");
        section
            .syscalls
            .into_iter()
            .flat_map(|call| call.names)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names((6, 1), &[]), "read write clone ptrace mseal");
    assert_eq!(names((4, 7), &[]), "read write clone kcmp mseal");
    assert_eq!(
        names((5, 0), &["CAP_SYS_CHROOT"]),
        "read write clone ptrace mseal"
    );
    assert_eq!(
        names((5, 0), &["CAP_SYS_CHROOT", "CAP_SYS_ADMIN"]),
        "read write chroot ptrace mseal"
    );
    assert_eq!(names((5, 0), &["CAP_BPF"]), "read write ptrace mseal");
}

#[test]
fn profile_file_that_says_nothing_is_unconfined_and_mistakes_are_named() {
    let resolve = |json: &str| resolve(json.as_bytes(), (6, 1), |_| false);
    assert!(resolve("{}").unwrap().is_none());
    let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
        "archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#;
    assert!(matches!(
        resolve(both),
        Err(DocumentError::Both {
            other: "archMap",
            ..
        })
    ));
    let both =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"read","names":["read"]}]}"#;
    assert!(matches!(
        resolve(both),
        Err(DocumentError::Both { other: "names", .. })
    ));
    let kernel = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"read","includes":{"minKernel":"six"}}]}"#;
    assert!(matches!(resolve(kernel), Err(DocumentError::Kernel(_))));
    assert!(matches!(resolve("[]"), Err(DocumentError::NotAnObject)));
    assert!(matches!(resolve("{"), Err(DocumentError::Json(_))));
    let large = " ".repeat(crate::seccomp::document::DOCUMENT_BYTES_MAX + 1);
    assert!(matches!(
        resolve(&large),
        Err(DocumentError::TooLarge { .. })
    ));
}
