// SPDX-License-Identifier: Apache-2.0
//! Attacks on OCI runtimes that once worked, against `wolffia oci`: each is told by the number it is known by.

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::Command,
};

use bundle::Bundle;
use serde_json::json;

mod bundle;

/// CVE-2019-19921, CVE-2023-27561: /proc or /sys of the image is a link, and what is mounted there lands elsewhere.
#[test]
fn proc_and_sys_are_not_mounted_through_links() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        bundle.link("/tmp", name);
        let done = bundle.run();
        assert_eq!(done.code, 125, "{name} {done:?}");
        assert!(done.err.contains("the image has a link"), "{done:?}");
    }
}

/// CVE-2026-41579: /dev is a link, and devices are made, or files deleted, where it points on the machine.
#[test]
fn dev_as_a_link_touches_nothing_outside() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let bundle = Bundle::new("ls /dev/null > /dev/null && echo fine");
    let outside = bundle.path("outside");
    for target in [
        outside.as_path(),
        "../outside".as_ref(),
        "../../../../../../outside".as_ref(),
    ] {
        bundle.link(target, "dev");
        // Either inside, or not at all.
        let done = bundle.run();
        assert!(done.code == 125 || done.out == "fine", "{done:?}");
        assert_eq!(bundle.names_outside(), ["secret"], "{}", target.display());
    }
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2019-16884: places of mounts lead outside.
#[test]
fn mounts_stay_inside_wherever_links_point() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    for target in [
        "../outside",
        "/../../outside",
        "/proc/self/root",
        "../../../../../../../tmp",
    ] {
        let mut bundle = Bundle::new("cat /volume/data 2>/dev/null; true");
        fs::create_dir(bundle.path("data")).unwrap();
        fs::write(bundle.path("data/data"), "data").unwrap();
        bundle.link(target, "volume");
        bundle.bind("data", "/volume", &["rbind"]);
        bundle.bind("data/data", "/volume/sub/file", &["bind"]);
        let done = bundle.run();
        assert!(done.code == 0 || done.code == 125, "{target} {done:?}");
        assert_eq!(bundle.names_outside(), ["secret"], "{target}");
        assert!(
            !bundle.path("sub").exists() && !bundle.path("outside/sub").exists(),
            "{target}"
        );
    }
}

/// CVE-2026-55686: the working directory is made through a link, on the machine.
#[test]
fn the_working_directory_is_made_inside() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("pwd -P");
    let outside = bundle.path("outside");
    bundle.link(&outside, "work");
    bundle.config["process"]["cwd"] = json!("/work/made");
    let said = bundle.output();
    assert_eq!(
        said,
        format!("{}/made", outside.display()),
        "the link was followed inside"
    );
    assert_eq!(bundle.names_outside(), ["secret"]);
}

/// CVE-2024-21626: a descriptor of ours leads outside, as working directory or as part of the program's name.
#[test]
fn no_descriptor_of_ours_leads_outside() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("ls /proc/self/fd");
    bundle.write();
    // A careless caller leaves a directory open for us.
    let directory = fs::File::open(bundle.path("outside")).unwrap();
    rustix::io::fcntl_setfd(&directory, rustix::io::FdFlags::empty()).unwrap();
    let done = bundle.oci(&["run", "test"]);
    assert_eq!(done.out.lines().count(), 4, "{done:?}");
    for number in 3..=directory.as_raw_fd().max(12) {
        let path = format!("/proc/self/fd/{number}");
        bundle.config["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "cat secret ../secret ../outside/secret 2>/dev/null; true"
        ]);
        bundle.config["process"]["cwd"] = json!(path);
        let done = bundle.run();
        assert!(!done.out.contains("secret"), "{path} {done:?}");
        bundle.config["process"]["cwd"] = json!("/");
        bundle.config["process"]["args"] = json!([
            format!("{path}/../../../bin/sh"),
            "-c",
            "cat /outside/secret"
        ]);
        let done = bundle.run();
        assert!([125, 126, 127].contains(&done.code), "{path} {done:?}");
    }
}

/// CVE-2025-31133: what hides a path is /dev/null, or nothing is hidden and nothing started.
#[test]
fn a_false_null_hides_nothing() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("true");
    bundle.nest();
    bundle.write();
    let program = bundle.program.display();
    let script = format!("mount --bind /dev/zero /dev/null && {program} oci --root state run test");
    let done = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .current_dir(bundle.path(""))
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(125), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("/dev/null"), "{said}");
}

/// A masked path that is a link would be hidden where it points.
#[test]
fn links_are_not_masked() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("true");
    bundle.link("/etc/passwd", "masked");
    bundle.config["linux"]["maskedPaths"] = json!(["/masked"]);
    let done = bundle.run();
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("hiding /masked"), "{done:?}");
}

/// CVE-2025-52881: settings are written to a real /proc alone.
#[test]
fn settings_go_to_a_real_proc() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("true");
    fs::create_dir_all(bundle.path("fake/sys/net/ipv4")).unwrap();
    let fake = bundle.path("fake/sys/net/ipv4/ip_unprivileged_port_start");
    fs::write(&fake, "before").unwrap();
    bundle.bind("fake", "/proc", &["rbind"]);
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0" });
    let done = bundle.run();
    assert_eq!(done.code, 125, "{done:?}");
    assert_eq!(fs::read_to_string(&fake).unwrap(), "before");
}

/// CVE-2025-52565: the terminal is one of the container's own devpts, or there is none.
#[test]
fn a_terminal_comes_from_a_real_devpts() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("true");
    fs::create_dir(bundle.path("fake")).unwrap();
    fs::write(bundle.path("fake/ptmx"), "").unwrap();
    bundle.without_mount("/dev/pts");
    bundle.bind("fake", "/dev/pts", &["rbind"]);
    bundle.config["process"]["terminal"] = json!(true);
    let done = bundle.run();
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("is no devpts"), "{done:?}");
}

/// CVE-2019-5736: our own program, which the user owns, is executed inside and then written.
#[test]
fn our_program_cannot_be_written_from_inside() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("");
    // A copy that the user owns, and that a success of the attack may spoil.
    let copy = bundle.path("wolffia");
    wolffia_testkit::executable::copy(&bundle.program, &copy);
    bundle.program.clone_from(&copy);
    let before = fs::metadata(&copy).unwrap();
    bundle.script("bin/self", "#!/proc/self/exe\n");
    // As the first process.
    bundle.config["process"]["args"] = json!(["/bin/self"]);
    let done = bundle.run();
    assert_eq!(
        (done.code, done.out.as_str()),
        (126, ""),
        "what ran was not ours: {done:?}"
    );
    // As one that joins, while the container waits for it and holds what it can open.
    bundle.config["process"]["args"] = json!(["sh", "-c", "\
        turn=0
        while [ ! -e /tmp/stop -a $turn -lt 100000 ]; do
          turn=$((turn + 1))
          for exe in /proc/[0-9]*/exe; do
            case $(readlink $exe) in
              */bin/busybox|'') ;;
              *) echo $(readlink $exe) >> /tmp/seen; ( exec 3< $exe && sleep 0.05; echo spoilt > /proc/self/fd/3 ) 2>/dev/null;;
            esac
          done
        done"]);
    bundle.detach();
    for _ in 0..10 {
        for command in ["/bin/self", "/bin/true", "/bin/nothing"] {
            let done = bundle.oci(&["exec", "test", command]);
            let wanted = match command {
                "/bin/self" => 126,
                "/bin/true" => 0,
                _ => 127,
            };
            assert_eq!(done.code, wanted, "{command} {done:?}");
        }
    }
    fs::write(bundle.path("rootfs/tmp/stop"), "").unwrap();
    let after = fs::metadata(&copy).unwrap();
    assert_eq!(
        (before.len(), after.mtime()),
        (after.len(), before.mtime().max(after.mtime()))
    );
    assert_eq!(
        fs::read(&copy).unwrap(),
        fs::read(env!("CARGO_BIN_EXE_wolffia")).unwrap()
    );
    let seen = fs::read_to_string(bundle.path("rootfs/tmp/seen")).unwrap_or_default();
    assert!(!seen.contains("wolffia"), "ours was seen inside: {seen}");
}

/// A negative group: whoever is kept out by his group must not drop it (CVE-2014-8989).
#[test]
fn with_one_id_groups_cannot_be_dropped() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("cat /proc/self/setgroups");
    assert_eq!(bundle.output(), "deny");
    let before = bundle.output_of("grep Groups /proc/self/status");
    assert!(before.starts_with("Groups:"), "{before}");
}

/// What the machine locked on a mount stays so for a container that binds it.
#[test]
fn locked_flags_of_a_bind_mount_stay() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle =
        Bundle::new("grep ' /volume ' /proc/self/mounts; touch /volume/x 2>&1 | grep -c Read-only");
    bundle.bind("locked", "/volume", &["rbind", "rw", "suid", "exec", "dev"]);
    fs::create_dir(bundle.path("locked")).unwrap();
    bundle.nest();
    bundle.write();
    let program = bundle.program.display();
    // The mount is made in a user namespace around, which locks it for the one that the container gets.
    let script = format!(
        "mount -t tmpfs -o ro,nosuid,nodev,noexec none locked && {program} oci --root state run test"
    );
    let done = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .current_dir(bundle.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    for flag in ["ro,", "nosuid", "nodev", "noexec"] {
        assert!(said.contains(flag), "{flag} in {said} {done:?}");
    }
    assert!(said.trim_end().ends_with('1'), "{said}");
}
