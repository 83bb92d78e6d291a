// SPDX-License-Identifier: Apache-2.0
//! Configurations that can be prepared, and those that are refused by name.

use super::*;
use crate::defaults::default_spec;

fn error_of(change: impl FnOnce(&mut Spec)) -> String {
    let mut spec = default_spec();
    change(&mut spec);
    container(&spec, Path::new("/"), Besides::default())
        .map(|_| ())
        .expect_err("refused")
        .to_string()
}

#[test]
fn the_default_configuration_can_be_prepared() {
    let prepared =
        container(&default_spec(), Path::new("/"), Besides::default()).expect("prepared");
    assert!(prepared.process.capabilities.inheritable.is_empty());
    assert!(prepared.process.capabilities.ambient.is_empty());
    assert!(!prepared.process.no_new_privileges);
}

#[test]
fn ambient_capabilities_that_the_kernel_would_refuse_are_passed_over() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let asked = Capabilities {
        permitted: names(&["CAP_KILL", "CAP_CHOWN"]),
        inheritable: names(&["CAP_KILL"]),
        ambient: names(&["CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN"]),
        ..Capabilities::default()
    };
    let kill = capabilities::Set::named("CAP_KILL");
    assert_eq!(Some(sets(Some(&asked)).ambient), kill);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let linux = |spec: &mut Spec, change: fn(&mut Linux)| {
        change(spec.linux.get_or_insert_default());
    };
    let process = |spec: &mut Spec, change: fn(&mut Process)| {
        change(spec.process.get_or_insert_default());
    };
    let said = [
        error_of(|spec| spec.process = None),
        error_of(|spec| process(spec, |process| process.cwd = "relative".into())),
        error_of(|spec| process(spec, |process| process.args = vec!["a\0b".into()])),
        error_of(|spec| {
            process(spec, |process| {
                process.rlimits = vec![crate::spec::Rlimit {
                    kind: "RLIMIT_LUCK".into(),
                    soft: 0,
                    hard: 0,
                }];
            });
        }),
        error_of(|spec| {
            linux(spec, |linux| {
                linux.sysctl.insert("kernel.panic".into(), "1".into());
            });
        }),
        error_of(|spec| {
            linux(spec, |linux| {
                let pids = Some(crate::spec::Pids { limit: Some(5) });
                linux.resources.get_or_insert_default().pids = pids;
            });
        }),
        error_of(|spec| {
            linux(spec, |linux| {
                let twice = linux.namespaces[0].clone();
                linux.namespaces.push(twice);
            });
        }),
        error_of(|spec| {
            linux(spec, |linux| {
                linux
                    .namespaces
                    .retain(|one| one.kind.bit() != Namespaces::UTS);
            });
            spec.hostname = Some("name".into());
        }),
    ];
    let wanted = [
        "no process",
        "relative",
        "zero byte",
        "RLIMIT_LUCK",
        "kernel.panic",
        "pids.limit",
        "twice",
        "uts namespace",
    ];
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.contains(wanted), "{said:?} should say {wanted:?}");
    }
}
