// SPDX-License-Identifier: Apache-2.0
//! What of this machine is seen inside, and whose it is.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::machine::{IMAGE, Machine, text};

/// What the container's root writes into a directory of yours is yours, and can be deleted by you.
#[test]
fn your_own_directory_is_roots_inside_and_yours_outside() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let folder = machine.path("mine");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("old"), "old").unwrap();
    let volume = format!("{}:/v", text(&folder));
    let said = machine.shell(&["-v", &volume], "stat -c %u:%g /v/old; echo new >/v/new");
    assert_eq!((said.code, said.out.as_str()), (0, "0:0"), "{}", said.err);
    let user = rustix::process::geteuid().as_raw();
    if user != 0 {
        assert_eq!(fs::metadata(folder.join("new")).unwrap().uid(), user);
    }
    fs::remove_dir_all(&folder).unwrap();
    let made = machine.path("made/for/you");
    let volume = format!("{}:/v:ro", text(&made));
    let said = machine.shell(&["-v", &volume], "touch /v/x");
    assert!(
        said.code == 1 && said.err.contains("Read-only"),
        "{}",
        said.err
    );
    assert!(made.is_dir(), "-v makes a directory where there is nothing");
    let missing = format!(
        "type=bind,source={},target=/v",
        text(&machine.path("missing"))
    );
    let said = machine.shell(&["--mount", &missing], "true");
    assert!(
        said.code == 125 && said.err.contains("help:"),
        "--mount does not: {}",
        said.err
    );
}

/// The whole machine mounted in: its devices are nobody's and closed, and our own state is not to be seen.
#[test]
fn the_machines_devices_are_nobodys_and_our_state_is_masked() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox);
    let machine = Machine::new();
    let disk = fs::read_dir("/dev").unwrap().flatten().find(|entry| {
        entry
            .metadata()
            .is_ok_and(|found| found.file_type().is_block_device() && found.mode() & 0o006 == 0)
    });
    if let Some(disk) = disk {
        let name = disk.file_name().into_string().unwrap();
        let said = machine.shell(
            &["-v", "/:/host"],
            &format!("ls -ln /host/dev/{name}; head -c 1 /host/dev/{name}"),
        );
        let owners: Vec<&str> = said.out.split_whitespace().skip(2).take(2).collect();
        assert_eq!(owners, ["65534", "65534"], "{}", said.out);
        assert!(
            said.code != 0 && said.err.contains("Permission denied"),
            "{}",
            said.err
        );
    }
    let state = machine.state();
    let line = format!("ls -A /host{}; touch /host{}/x", text(&state), text(&state));
    let said = machine.shell(&["-v", "/:/host"], &line);
    assert_eq!(said.out, "", "nothing of the state is seen");
    assert_ne!(said.code, 0);
    let inside = format!("{}:/x", text(&state.join("store")));
    let said = machine.shell(&["-v", &inside], "true");
    assert!(
        said.code == 125 && said.err.contains("Wolffia's own state"),
        "{}",
        said.err
    );
}

#[test]
fn memory_and_read_only_roots() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let cases: [(&[&str], &str, i32, &str); 5] = [
        (
            &["--tmpfs", "/t:size=1m,mode=700"],
            "stat -c %a /t; grep -c ' /t tmpfs.*size=1024k' /proc/mounts",
            0,
            "700\n1",
        ),
        (
            &["--mount", "type=tmpfs,target=/t,readonly"],
            "touch /t/x 2>/dev/null || echo closed",
            0,
            "closed",
        ),
        (
            &["--read-only"],
            "touch /x 2>/dev/null || echo closed",
            0,
            "closed",
        ),
        (
            &["--read-only", "--tmpfs", "/t"],
            "touch /t/x && echo open",
            0,
            "open",
        ),
        (
            &["--tmpfs", "/dev/shm:size=2m"],
            "grep -c ' /dev/shm tmpfs.*size=2048k' /proc/mounts",
            0,
            "1",
        ),
    ];
    for (flags, line, code, out) in cases {
        let said = machine.shell(flags, line);
        assert_eq!(
            (said.code, said.out.as_str()),
            (code, out),
            "{flags:?}: {}",
            said.err
        );
    }
}

#[test]
fn an_image_in_use_is_kept() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&["create", "--name", "user", IMAGE]);
    let names: Vec<String> = machine
        .good(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .lines()
        .map(String::from)
        .collect();
    assert!(names.contains(&IMAGE.to_owned()), "{names:?}");
    let refused = machine.run(&["rmi", IMAGE]);
    assert!(
        refused.code == 1 && refused.err.contains("user"),
        "{}",
        refused.err
    );
    machine.good(&["rm", "user"]);
    machine.good(&["rmi", IMAGE]);
}

/// Removed by force, an image is no longer there for others; a container that was made of it starts as before.
#[test]
fn a_container_outlives_its_image() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    machine.good(&["create", "--name", "user", IMAGE, "echo", "here"]);
    machine.good(&["rmi", "-f", IMAGE]);
    assert_eq!(machine.good(&["images", "-q"]), "");
    assert_eq!(machine.good(&["start", "-a", "user"]), "here");
    let image = machine.good(&["inspect", "-f", "{{.Config.Image}}", "user"]);
    assert_eq!(image, IMAGE);
    let check = machine.run(&["system", "check"]);
    assert_eq!(check.code, 0, "{} {}", check.out, check.err);
    machine.good(&["rm", "user"]);
}
