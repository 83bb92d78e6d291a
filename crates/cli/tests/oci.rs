// SPDX-License-Identifier: Apache-2.0
//! `wolffia oci` from a bundle, as an ordinary user: what a container sees, how it lives, how it fails.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    fs,
    io::{IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    process::{Command, Stdio},
};

use bundle::{Bundle, Done};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

#[expect(dead_code, reason = "each file of tests uses a part")]
mod bundle;

/// Docker's default capabilities as a mask.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

#[test]
fn a_container_has_its_own_everything() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("");
    let rows = [
        ("hostname", "wolffia"),
        ("id -u", "0"),
        ("echo $$", "1"),
        ("pwd", "/"),
        ("echo $HOME", "/root"),
        (
            "ls /dev",
            "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        ),
        ("ls /proc | grep -c '^[0-9]'", "3"), // the shell, ls, grep
        ("ip link | grep -c LOOPBACK,UP", "1"),
        ("ip a | grep -c 127.0.0.1", "1"),
        ("ip link | grep -c mtu", "1"),
        ("ls /proc/self/fd | grep -c .", "4"), // three, and the one that ls reads with
        ("readlink /dev/fd", "/proc/self/fd"),
        ("echo gone > /dev/null; cat /dev/null", ""),
        ("head -c 4 /dev/zero | wc -c", "4"),
        ("echo x > /dev/shm/file && cat /dev/shm/file", "x"),
        ("stat -c %a /dev/shm", "1777"),
        ("stat -f -c %t /dev/mqueue", "19800202"),
    ];
    for (script, wanted) in rows {
        let said = bundle
            .output_of(script)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(said, wanted, "{script}");
    }
}

#[test]
fn capabilities_are_dockers_and_pass_to_nobody() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let mut bundle = Bundle::new("exec sleep 1000");
    let check = |said: &str, what: &str| {
        let rows: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let (some, none) = (DEFAULT_CAPABILITIES, "0000000000000000");
        let wanted = [
            ["CapInh:", none],
            ["CapPrm:", some],
            ["CapEff:", some],
            ["CapBnd:", some],
            ["CapAmb:", none],
            ["NoNewPrivs:", "0"],
        ];
        assert_eq!(rows, wanted, "{what}");
    };
    bundle.detach();
    check(
        &bundle.oci(&["exec", "test", "sh", "-c", script]).out,
        "exec",
    );
    assert_eq!(bundle.oci(&["delete", "-f", "test"]).code, 0);
    check(&bundle.output_of(script), "run");
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    assert!(bundle.output().contains("NoNewPrivs:\t1"));
    bundle.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    assert!(bundle.output().contains("CapBnd:\t0000000000000000"));
}

#[test]
fn exit_codes_tell_what_happened() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("");
    bundle.script("bin/broken", "\u{7f}not a program");
    bundle.script("bin/orphan", "#!/bin/missing\n");
    let rows: [(&[&str], i32, &str); 8] = [
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (&["nothing"], 127, "executable file not found in $PATH"),
        (&["/bin/nothing"], 127, "No such file"),
        (&["/etc/passwd"], 126, "Permission denied"),
        (&["/etc"], 126, "Permission denied"),
        (&["/bin/broken"], 126, "Exec format error"),
        (&["/bin/orphan"], 127, "No such file"),
    ];
    for (words, code, wanted) in rows {
        bundle.config["process"]["args"] = json!(words);
        let done = bundle.run();
        assert_eq!(done.code, code, "{words:?} {done:?}");
        assert!(done.err.contains(wanted), "{words:?} {done:?}");
    }
    bundle.config["process"]["args"] = json!(["true"]);
    bundle.config["linux"]["resources"] =
        json!({ "pids": { "limit": 10 }, "devices": [{ "allow": false }] });
    let done = bundle.run();
    assert_eq!(done.code, 125, "{done:?}");
    assert!(
        done.err.contains("pids.limit cannot be enforced"),
        "{done:?}"
    );
    assert_eq!(
        bundle.oci(&["list", "-q"]).out,
        "",
        "nothing is left of containers that failed"
    );
}

#[test]
fn a_container_goes_from_created_to_deleted() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let bundle = Bundle::new("echo started; exec sleep 1000");
    bundle.write();
    let status = || -> Value {
        serde_json::from_str(&bundle.oci(&["state", "test"]).out).unwrap_or_default()
    };
    // Its output goes to a file: it outlives the command that made it.
    let output = fs::File::create(bundle.path("output")).unwrap();
    let mut create = bundle.command(&["create", "--pid-file", "pid", "test"]);
    assert!(create.stdout(output).status().unwrap().success());
    let pid: u32 = fs::read_to_string(bundle.path("pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        (&status()["status"], &status()["pid"]),
        (&json!("created"), &json!(pid))
    );
    assert_eq!(
        bundle.oci(&["create", "test"]).code,
        1,
        "a name is taken once"
    );
    assert_eq!(fs::read_to_string(bundle.path("output")).unwrap(), "");
    assert_eq!(bundle.oci(&["start", "test"]).code, 0);
    assert_eq!(bundle.oci(&["start", "test"]).code, 1, "it starts once");
    assert_eq!(status()["status"], "running");
    let exec = bundle.oci(&[
        "exec",
        "-e",
        "WORD=said",
        "--cwd",
        "/tmp",
        "test",
        "sh",
        "-c",
        "echo $WORD; pwd; exit 3",
    ]);
    assert_eq!(
        (exec.code, exec.out.as_str()),
        (3, "said\n/tmp"),
        "{exec:?}"
    );
    assert_eq!(bundle.oci(&["exec", "test", "nothing"]).code, 127);
    assert_eq!(
        bundle.oci(&["delete", "test"]).code,
        1,
        "what runs is not deleted"
    );
    assert_eq!(bundle.oci(&["kill", "test", "KILL"]).code, 0);
    wait_until(|| status()["status"] == "stopped");
    assert_eq!(bundle.oci(&["kill", "test", "TERM"]).code, 1);
    assert_eq!(bundle.oci(&["delete", "test"]).code, 0);
    assert_eq!(bundle.oci(&["state", "test"]).code, 1);
    assert_eq!(
        fs::read_to_string(bundle.path("output")).unwrap(),
        "started\n"
    );
}

/// Polls, for what has no descriptor to wait on; the harness's own time limit is the bound.
fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

#[test]
fn signals_reach_the_program_in_the_foreground() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let bundle =
        Bundle::new("trap 'echo caught; exit 5' TERM; echo ready; while true; do sleep 0.01; done");
    bundle.write();
    let mut child = bundle
        .command(&["run", "test"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut line = [0; 6];
    out.read_exact(&mut line).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "caught\n");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_terminal_is_handed_over_and_resizes() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new(
        "tty; stty size; trap 'stty size; exit 0' WINCH; echo ready; while true; do sleep 0.01; done",
    );
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({ "height": 31, "width": 97 });
    bundle.write();
    assert_eq!(
        bundle.oci(&["create", "test"]).code,
        1,
        "a terminal needs somebody to take it"
    );
    let listener = UnixListener::bind(bundle.path("console")).unwrap();
    let mut create = bundle.command(&["create", "--console-socket", "console", "test"]);
    assert!(
        create
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    let (connection, _) = listener.accept().unwrap();
    let mut console = fs::File::from(receive(&connection));
    let handle = console.try_clone().unwrap();
    assert_eq!(bundle.oci(&["start", "test"]).code, 0);
    let mut read_to = |end: &str| {
        let mut said = String::new();
        let mut byte = [0];
        while !said.ends_with(end) {
            console.read_exact(&mut byte).unwrap();
            said.push(char::from(byte[0]));
        }
        said.replace('\r', "")
    };
    assert_eq!(read_to("ready\r\n"), "/dev/pts/0\n31 97\nready\n");
    let size = rustix::termios::Winsize {
        ws_row: 11,
        ws_col: 22,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&handle, size).unwrap();
    let mut rest = String::new();
    // The kernel answers EIO where the other end is closed.
    drop(console.read_to_string(&mut rest));
    assert_eq!(rest, "11 22\r\n");
}

fn receive(connection: &std::os::unix::net::UnixStream) -> OwnedFd {
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.unwrap()
}

#[test]
fn hooks_run_in_their_order_and_places() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("echo program >> /tmp/order");
    let order = bundle.path("rootfs/tmp/order");
    let outside = |name: &str| {
        let script = format!(
            "read -r state; echo \"$state\" | grep -q '\"id\":\"test\"' && echo {name} >> {}",
            order.display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20 }])
    };
    bundle.config["hooks"] = json!({
        "prestart": outside("prestart"),
        "createRuntime": outside("createRuntime"),
        "createContainer": outside("createContainer"),
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >> /tmp/order"] }],
        "poststop": outside("poststop"),
    });
    bundle.output();
    let said = fs::read_to_string(&order).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "program",
            "poststop"
        ]
    );
    bundle.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    let done = bundle.run();
    assert_eq!(done.code, 125, "{done:?}");
    assert!(
        done.err.contains("the hook /bin/false ended with code 1"),
        "{done:?}"
    );
}

#[test]
fn what_the_configuration_says_holds() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("");
    bundle.config["root"]["readonly"] = json!(true);
    bundle.config["linux"]["maskedPaths"] = json!([
        "/proc/self/status",
        "/proc/interrupts",
        "/tmp",
        "/etc/passwd",
        "/none"
    ]);
    bundle.config["linux"]["sysctl"] = json!({
        "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 0",
    });
    bundle.config["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 100 }]);
    bundle.config["process"]["user"]["umask"] = json!(0o27);
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    fs::write(bundle.path("rootfs/tmp/hidden"), "hidden").unwrap();
    bundle.bind("outside", "/mnt/readonly", &["rbind", "ro"]);
    bundle.bind("outside/secret", "/mnt/file", &["bind"]);
    // Mount places must exist where the root itself is to stay as it is; they are made before it becomes read-only.
    let rows = [
        ("touch /made 2>&1 | grep -c Read-only", "1"),
        ("touch /dev/made && echo made", "made"),
        ("cat /etc/passwd /proc/interrupts", ""),
        ("ls /tmp", ""),
        ("touch /tmp/x 2>&1 | grep -c Read-only", "1"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ("cat /proc/sys/net/ipv4/ping_group_range", "0 0"),
        (
            "echo 1 > /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo no",
            "no",
        ),
        ("ulimit -n; ulimit -Hn", "99 100"),
        ("umask", "0027"),
        ("cat /proc/self/oom_score_adj", "500"),
        ("cat /mnt/readonly/secret /mnt/file", "secretsecret"),
        ("touch /mnt/readonly/x 2>&1 | grep -c Read-only", "1"),
        ("umount /tmp 2>&1 | grep -c permitted", "1"),
    ];
    for (script, wanted) in rows {
        let said = bundle
            .output_of(script)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(said, wanted, "{script}");
    }
    assert_eq!(bundle.names_outside(), ["secret"]);
}

#[test]
fn every_version_of_the_first_generation_is_accepted() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("true");
    for version in ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0"] {
        bundle.config["ociVersion"] = json!(version);
        assert_eq!(bundle.run().code, 0, "{version}");
    }
    bundle.config["ociVersion"] = json!("2.0.0");
    assert_eq!(bundle.run().code, 1);
    for id in ["../evil", "", "a/b", "."] {
        assert_eq!(bundle.oci(&["run", id]).code, 1, "{id:?}");
    }
}

#[test]
fn sub_ids_of_the_bundle_are_mapped() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox);
    let mut bundle = Bundle::new(
        "id -u; id -g; cat /proc/self/uid_map | grep -c .; touch /tmp/mine; stat -c %u /tmp/mine",
    );
    // Without a user namespace of its own, an ordinary user's container gets one with all his sub-ids.
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "user");
    let linux = bundle.config["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    fs::set_permissions(bundle.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(
        bundle.path("rootfs/tmp"),
        fs::Permissions::from_mode(0o1777),
    )
    .unwrap();
    bundle.config["process"]["user"] = json!({ "uid": 33, "gid": 44, "additionalGids": [55] });
    assert_eq!(
        bundle.output().split_whitespace().collect::<Vec<_>>(),
        ["33", "44", "2", "33"]
    );
    let said = bundle
        .output_of("grep -E '^(Groups|CapEff|CapPrm)' /proc/self/status | cat; rm -f /tmp/mine");
    assert!(said.contains("Groups:\t55"), "{said}");
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
}

#[test]
fn features_and_lists_are_what_callers_parse() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let bundle = Bundle::new("exec sleep 1000");
    let features: Value = serde_json::from_str(&bundle.oci(&["features"]).out).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(bundle.oci(&["--version"]).out.contains("spec: 1.3.0"));
    assert_eq!(bundle.oci(&["--systemd-cgroup", "list", "-q"]).code, 0);
    bundle.detach();
    let list: Value = serde_json::from_str(&bundle.oci(&["list", "-f", "json"]).out).unwrap();
    assert_eq!(
        (&list[0]["id"], &list[0]["status"]),
        (&json!("test"), &json!("running"))
    );
    let processes = |format: &str| bundle.oci(&["ps", "--format", format, "test"]).out;
    let first: Vec<u64> = serde_json::from_str(&processes("json")).unwrap();
    assert_eq!(first, [list[0]["pid"].as_u64().unwrap()]);
    // One that joins belongs to it too.
    let mut joined = bundle
        .command(&["exec", "test", "sh", "-c", "echo here; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(joined.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut String::new()).unwrap();
    let both: Vec<u64> = serde_json::from_str(&processes("json")).unwrap();
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    assert_eq!(processes("table").lines().count(), 3);
    drop(joined.stdin.take());
    assert!(joined.wait().unwrap().success());
    assert_eq!(bundle.oci(&["ps", "none"]).code, 1);
    let paused = bundle.oci(&["pause", "test"]);
    assert!(paused.err.contains("control group"), "{paused:?}");
    let failed = bundle.oci(&["--log", "log", "--log-format", "json", "start", "none"]);
    assert_eq!(failed.code, 1);
    let log: Value =
        serde_json::from_str(&fs::read_to_string(bundle.path("log")).unwrap()).unwrap();
    assert_eq!(
        (&log["level"], &log["msg"]),
        (&json!("error"), &json!("container none does not exist"))
    );
}

/// The namespaces that are left out stay the machine's: they cannot be joined, and need not be.
#[test]
fn a_container_that_shares_namespaces_can_be_joined() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("exec sleep 1000");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| {
        !["network", "cgroup", "ipc"].contains(&namespace["type"].as_str().unwrap())
    });
    bundle.detach();
    let done = bundle.oci(&["exec", "test", "id", "-u"]);
    assert_eq!((done.code, done.out.as_str()), (0, "0"), "{done:?}");
}

/// Podman, told that we are crun, makes, joins and removes containers, and finds the reasons of failures in our words.
#[test]
fn podman_takes_us_for_crun() {
    wolffia_testkit::need!(UserNamespace, SubIds, Busybox, Podman);
    let bundle = Bundle::new("");
    for made in ["home", "run"] {
        fs::create_dir(bundle.path(made)).unwrap();
    }
    std::os::unix::fs::symlink(&bundle.program, bundle.path("crun")).unwrap();
    let rootfs = bundle.path("rootfs").display().to_string();
    let podman = |words: &[&str]| -> Done {
        let crun = bundle.path("crun").display().to_string();
        let ours = [
            "--runtime",
            crun.as_str(),
            "--cgroup-manager",
            "cgroupfs",
            "--storage-driver",
            "vfs",
        ];
        let output = Command::new("podman")
            .args(ours)
            .args(words)
            .env("HOME", bundle.path("home"))
            .env("XDG_RUNTIME_DIR", bundle.path("run"))
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null())
            .output();
        output.unwrap().into()
    };
    let shared = [
        "--network",
        "none",
        "--cgroups=disabled",
        "--rootfs",
        rootfs.as_str(),
    ];
    let run = |words: &[&str]| podman(&[&["run", "--rm"][..], &shared[..], words].concat());
    let rows: [(&[&str], i32, &str); 4] = [
        (&["id", "-u"], 0, "0"),
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["/bin/nothing"], 127, ""),
        (&["/etc/passwd"], 126, ""),
    ];
    for (words, code, out) in rows {
        let done = run(words);
        assert_eq!(
            (done.code, done.out.as_str()),
            (code, out),
            "{words:?} {done:?}"
        );
    }
    let detached = podman(
        &[
            &["run", "-d", "--name", "one"][..],
            &shared[..],
            &["sleep", "1000"],
        ]
        .concat(),
    );
    assert_eq!(detached.code, 0, "{detached:?}");
    let joined = podman(&["exec", "-t", "one", "tty"]);
    assert_eq!(
        (joined.code, joined.out.as_str()),
        (0, "/dev/pts/0"),
        "{joined:?}"
    );
    assert_eq!(podman(&["rm", "-f", "-t", "0", "one"]).code, 0);
    // Podman leaves a process that holds its namespaces, and files that only they may remove.
    drop(podman(&[
        "unshare",
        "rm",
        "-rf",
        &bundle.path("home").display().to_string(),
    ]));
    let pause = fs::read_to_string(bundle.path("run/libpod/tmp/pause.pid")).unwrap_or_default();
    if let Some(pid) = pause
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// A filter that lets a program do its work and nothing else is no obstacle to starting it.
#[test]
fn a_narrow_filter_does_not_keep_the_program_from_starting() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] = json!(["echo", "narrow"]);
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "action": "SCMP_ACT_ALLOW", "names": [
            "execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink",
            "readlinkat", "getrandom", "mprotect", "mmap", "exit_group", "write", "writev", "newfstatat", "fstat",
            "ioctl", "getuid", "uname",
        ] }],
    });
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    assert_eq!(bundle.output(), "narrow");
    // Without it the filter comes first, and what takes the capabilities away must pass too, as with runc.
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    let names = bundle.config["linux"]["seccomp"]["syscalls"][0]["names"]
        .as_array_mut()
        .unwrap();
    names.extend([json!("capset"), json!("prctl")]);
    assert_eq!(bundle.output(), "narrow");
}

/// Without the calls of newer kernels (here a filter denies them), and inside a container: mount(2) does it.
#[test]
fn a_container_in_a_container_needs_no_new_mount_calls() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let mut inner = Bundle::new(
        "id -u; grep -c ' /proc/keys ' /proc/mounts; cat /proc/keys; (echo x > /proc/sys/kernel/core_pattern) 2>&1 | grep -c Read-only; \
         ls /dev/null /dev/pts/ptmx; touch /made 2>&1 | grep -c Read-only; cat /mnt/secret",
    );
    inner.nest();
    inner.bind("outside", "/mnt", &["rbind", "ro"]);
    inner.config["root"]["readonly"] = json!(true);
    inner.write();
    let mut outer = Bundle::new("");
    let (program, bundle) = (inner.program.display().to_string(), inner.path(""));
    let (state, bundle) = (
        bundle.join("state").display().to_string(),
        bundle.display().to_string(),
    );
    outer.config["process"]["args"] = json!([
        program, "oci", "--root", state, "run", "-b", bundle, "inner"
    ]);
    outer.config["root"]["path"] = json!("/");
    outer.config["linux"]["maskedPaths"] = json!([]);
    outer.config["linux"]["readonlyPaths"] = json!([]);
    let names = [
        "fsopen",
        "fsconfig",
        "fsmount",
        "open_tree",
        "move_mount",
        "mount_setattr",
    ];
    for denied in [&names[..0], &names[5..], &names[..]] {
        outer.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "names": denied }],
        });
        let said = outer.output();
        let said: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(
            said,
            ["0", "1", "1", "/dev/null", "/dev/pts/ptmx", "1", "secret"],
            "without {denied:?}"
        );
    }
}
