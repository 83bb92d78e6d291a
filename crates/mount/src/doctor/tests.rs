// SPDX-License-Identifier: Apache-2.0
//! Facts, and what is said of them: a table.

use std::path::PathBuf;

use wolffia_sys::{
    Errno,
    facts::{Cgroups, Overlays},
};

use super::*;

fn good() -> HostFacts {
    HostFacts {
        kernel: "6.18".into(),
        user_namespaces: UserNamespaces {
            ability: Ok(()),
            obstacle: None,
        },
        sub_ids: SubIdFacts {
            users: 65_537,
            groups: 65_537,
            why_single: None,
            ability: Ok(()),
        },
        overlays: Overlays {
            plain: Ok(()),
            data_layers: Ok(()),
        },
        fuse: Ok(()),
        tun: Ok(()),
        cgroups: Cgroups::Absent,
        storage: Storage {
            path: PathBuf::from("/home/me"),
            kind: "ext4".into(),
            remote: false,
            no_exec: false,
            read_only: false,
            writable: true,
            free_bytes: 100 << 30,
        },
    }
}

fn lack(errno: Errno) -> Lack {
    Lack::new("trying", errno)
}

#[test]
fn a_good_machine_is_ok_in_every_line() {
    let findings = examine(&good());
    assert_eq!(overall(&findings), State::Ok, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.fix.is_empty()));
}

/// Each ability that is taken away is named, by itself, with its cause and a cure.
#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn what_is_missing_is_named_with_its_cause_and_its_cure() {
    type Take = fn(&mut HostFacts);
    let cases: &[(Take, &str, State, &str, &str)] = &[
        (
            |facts| {
                facts.user_namespaces.ability = Err(lack(Errno::NOSPC));
                facts.user_namespaces.obstacle = Some(Obstacle::Limit { max: 0 });
            },
            "user namespaces",
            State::Broken,
            "user.max_user_namespaces = 0",
            "sysctl -w user.max_user_namespaces=",
        ),
        (
            |facts| {
                facts.user_namespaces.ability = Err(lack(Errno::PERM));
                facts.user_namespaces.obstacle = Some(Obstacle::AppArmor);
            },
            "user namespaces",
            State::Broken,
            "AppArmor",
            "apparmor_parser",
        ),
        (
            |facts| {
                facts.sub_ids.why_single = Some(WhySingle::NoSubIds {
                    user: "alice".into(),
                });
            },
            "ids",
            State::Limited,
            "/etc/subuid",
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice",
        ),
        (
            |facts| {
                facts.sub_ids.why_single = Some(WhySingle::NoHelper {
                    program: "newuidmap",
                });
            },
            "ids",
            State::Limited,
            "newuidmap",
            "install uidmap",
        ),
        (
            |facts| (facts.sub_ids.users, facts.sub_ids.groups) = (1001, 65_537),
            "ids",
            State::Limited,
            "65535",
            "usermod",
        ),
        (
            |facts| facts.overlays.data_layers = Err(lack(Errno::INVAL)),
            "images",
            State::Limited,
            "data-only",
            "6.16",
        ),
        (
            |facts| facts.fuse = Err(Lack::new("opening /dev/fuse", Errno::NOENT)),
            "run host",
            State::Limited,
            "/dev/fuse",
            "modprobe fuse",
        ),
        (
            |facts| facts.storage.no_exec = true,
            "storage",
            State::Broken,
            "noexec",
            "WOLFFIA_ROOT",
        ),
        (
            |facts| facts.storage.writable = false,
            "storage",
            State::Broken,
            "may not write",
            "WOLFFIA_ROOT",
        ),
        (
            |facts| facts.storage.free_bytes = 100 << 20,
            "storage",
            State::Limited,
            "little room",
            "rmi",
        ),
    ];
    for (take, ability, state, cause, fix) in cases {
        let mut facts = good();
        take(&mut facts);
        let findings = examine(&facts);
        let bad: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.state != State::Ok)
            .collect();
        let [finding] = bad[..] else {
            panic!("{ability}: {findings:#?}");
        };
        assert_eq!((finding.ability, finding.state), (*ability, *state));
        let said = finding.cause.as_deref().unwrap_or_default();
        assert!(said.contains(cause), "{said}");
        assert!(
            finding.fix.iter().any(|line| line.contains(fix)),
            "{finding:#?}"
        );
    }
}

#[test]
fn no_overlay_breaks_images_and_run_host() {
    let mut facts = good();
    facts.overlays = Overlays {
        plain: Err(lack(Errno::INVAL)),
        data_layers: Err(lack(Errno::INVAL)),
    };
    let broken: Vec<&str> = examine(&facts)
        .iter()
        .filter(|finding| finding.state == State::Broken)
        .map(|finding| finding.ability)
        .collect();
    assert_eq!(broken, ["images", "run host"]);
}

#[test]
fn sizes_are_short() {
    for (size, text) in [
        (0, "0 B"),
        (10_239, "10239 B"),
        (1 << 30, "1024 MiB"),
        (u64::MAX, "16777215 TiB"),
    ] {
        assert_eq!(bytes(size), text);
    }
}
