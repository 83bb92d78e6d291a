// SPDX-License-Identifier: Apache-2.0
//! What a hostile program finds when it looks for a way out of `wolffia run`. SECURITY.md names these tests.
//!
//! The image holds `testkit`'s payload alone. Attacks on the OCI command line are in `oci_attacks.rs`.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use wolffia_testkit::layout::{Layout, Meta, Tar};
use wolffia_testkit::need;

const EPERM: &str = "1";
const ENOSYS: &str = "38";

/// A HOME with an image.
struct House {
    home: tempfile::TempDir,
    image: String,
}

impl House {
    fn new() -> House {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("layout");
        let layer = Tar::new()
            .payload()
            .file("bin/self", Meta::mode(0o755), b"#!/proc/self/exe version\n")
            .file("bin/root-shell", Meta::mode(0o4755), b"set-uid\n");
        Layout::new(&folder).image(
            "latest",
            &[layer.bytes()],
            &serde_json::json!({"Env": ["PATH=/bin"]}),
        );
        let image = format!("oci:{}:latest", folder.display());
        let house = House { home, image };
        // A user without sub-ids is told so once, and not in the outputs that are compared.
        house.run(&[], &["true"]);
        house
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.path())
            .env_remove("WOLFFIA_ROOT")
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Runs a container with these flags and words; returns its code and what it said, both outputs together.
    fn run(&self, flags: &[&str], words: &[&str]) -> (i32, String) {
        let run = ["run", "--rm", "-q", "--network", "none"];
        let words = [&run[..], flags, &[&self.image], words].concat();
        let output = self
            .command(env!("CARGO_BIN_EXE_wolffia"))
            .args(words)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&text).trim_end().to_owned(),
        )
    }

    /// Makes system calls in a container; returns the errno of each.
    fn calls(&self, flags: &[&str], calls: &[&str]) -> Vec<String> {
        let (code, said) = self.run(flags, &[&["syscall"], calls].concat());
        assert_eq!(code, 0, "{said}");
        said.lines()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect()
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_filter_is_on_unless_it_is_given_away() {
    need!(UserNamespace, Cc);
    let house = House::new();
    // unshare(CLONE_NEWUSER), keyctl, socket(AF_ALG) with a stray bit, clone3.
    let calls = ["272,0x10000000", "250,0", "41,0x100000026,5,0", "435,0,0"];
    assert_eq!(house.calls(&[], &calls), [EPERM, EPERM, EPERM, ENOSYS]);
    // Other capabilities lay the filter out anew.
    assert_eq!(
        house.calls(&["--cap-drop", "ALL"], &calls),
        [EPERM, EPERM, EPERM, ENOSYS]
    );
    // chroot is opened by its capability alone: 14 is EFAULT, the kernel's own answer.
    assert_eq!(house.calls(&[], &["161,0"]), ["14"]);
    assert_eq!(
        house.calls(&["--cap-drop", "SYS_CHROOT"], &["161,0"]),
        [EPERM]
    );
    let nesting = house.calls(&["--security-opt", "nesting"], &calls);
    assert_eq!(nesting[..3], ["0", ENOSYS, EPERM]);
    let unconfined = house.calls(&["--security-opt", "seccomp=unconfined"], &calls);
    assert_eq!(
        (unconfined[0].as_str(), unconfined[2] != EPERM),
        ("0", true)
    );
}

#[test]
fn our_program_is_not_what_proc_self_exe_names() {
    need!(UserNamespace, Cc);
    let house = House::new();
    for words in [&["self"][..], &["/proc/self/exe", "version"]] {
        let (code, said) = house.run(&[], words);
        assert_eq!(code, 126, "{words:?}: {said}");
        assert!(
            !said.contains("wolffia version"),
            "{words:?} ran us: {said}"
        );
    }
}

#[test]
fn our_process_1_cannot_be_looked_into() {
    need!(UserNamespace, Cc);
    let house = House::new();
    for path in ["/proc/1/exe", "/proc/1/environ", "/proc/1/mem"] {
        let (code, said) = house.run(&["--init"], &["cat", path]);
        assert!(
            code != 0 && said.contains("ermission denied"),
            "{path}: {code}"
        );
    }
    // A process of the container's own can be: the refusal above is about ours.
    let (code, said) = house.run(&[], &["cat", "/proc/1/environ"]);
    assert!(code == 0 && said.contains("PATH="), "{said}");
}

#[test]
fn no_descriptor_of_the_caller_comes_in() {
    need!(UserNamespace, Cc);
    let house = House::new();
    let program = env!("CARGO_BIN_EXE_wolffia");
    let script = format!(
        "exec 7</etc/passwd 8</; exec {program} run --rm -q --network none {} ls /proc/self/fd",
        house.image
    );
    let output = house
        .command("/bin/sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    // The third is the directory that is being listed.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n1\n2\n3\n");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn nothing_can_be_typed_on_the_callers_terminal() {
    need!(UserNamespace, Cc);
    let house = House::new();
    let program = env!("CARGO_BIN_EXE_wolffia");
    for interactive in ["", "-i"] {
        // ioctl(0..2, TIOCSTI, nothing): EFAULT would mean that only the letter is missing.
        let words = "syscall 16,0,0x5412,0 16,1,0x5412,0 16,2,0x5412,0";
        let run = format!(
            "{program} run --rm -q --network none {interactive} {} {words}",
            house.image
        );
        let output = house
            .command("script")
            .args(["-qec", &run, "/dev/null"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("16,"))
            .collect();
        assert_eq!(answers.len(), 3, "{said}");
        for answer in answers {
            let errno = answer.trim_end().rsplit(' ').next().unwrap();
            assert!(["1", "5", "25"].contains(&errno), "{interactive} {answer}");
        }
        let run = format!(
            "{program} run --rm -q --network none {interactive} {} cat /dev/tty",
            house.image
        );
        let output = house
            .command("script")
            .args(["-qec", &run, "/dev/null"])
            .output()
            .unwrap();
        assert!(
            !output.status.success(),
            "the container has a controlling terminal"
        );
    }
}

#[test]
fn other_users_reach_nothing_of_the_state() {
    need!(UserNamespace, Cc);
    let house = House::new();
    assert_eq!(house.run(&[], &["true"]), (0, String::new()));
    let root = house.path().join(".local/share/wolffia");
    let status = fs::metadata(&root).unwrap();
    assert_eq!(status.permissions().mode() & 0o7777, 0o700);
    assert_eq!(status.uid(), rustix::process::geteuid().as_raw());
    // Opened to others by hand, it is refused or closed again: set-uid files of images lie below.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said) = house.run(&[], &["true"]);
    let mode = fs::metadata(&root).unwrap().permissions().mode() & 0o7777;
    assert!(
        code != 0 || mode == 0o700,
        "{code} {said}: the root stayed {mode:o}"
    );
}

#[test]
fn a_mounted_home_shows_nothing_of_the_state() {
    need!(UserNamespace, Cc);
    let house = House::new();
    assert_eq!(house.run(&[], &["true"]).0, 0);
    let mount = format!("{}:/home", house.path().display());
    let (code, said) = house.run(&["-v", &mount], &["ls", "/home/.local/share/wolffia"]);
    assert_eq!((code, said.as_str()), (0, ""), "the state is seen inside");
    let (_, said) = house.run(&["-v", &mount], &["ls", "/home"]);
    assert!(said.contains("layout"), "the rest of it is there: {said}");
}

#[test]
fn what_the_machine_hides_from_the_user_stays_hidden_in_a_mount() {
    need!(UserNamespace, Cc);
    let house = House::new();
    let shadow = |path: &str| house.run(&["-v", "/:/host"], &["cat", path]);
    let (code, said) = shadow("/host/etc/shadow");
    assert!(
        code != 0 && said.contains("ermission denied"),
        "the machine's passwords: {code}"
    );
    // A device that is nothing to others (the last three bits of its mode); machines without a disk have none.
    let private = |path: &Path| {
        fs::metadata(path).is_ok_and(|status| {
            status.file_type().is_block_device()
                && status.uid() == 0
                && status.mode().trailing_zeros() >= 3
        })
    };
    let mut devices = fs::read_dir("/dev")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    if let Some(device) = devices.find(|path| private(path)) {
        let inside = format!("/host{}", device.display());
        let (code, said) = house.run(&["-v", "/:/host"], &["stat", &inside]);
        // Mode, user, group, size, name.
        assert_eq!(code, 0, "{said}");
        assert_eq!(
            said.split(' ').skip(1).take(2).collect::<Vec<_>>(),
            ["65534", "65534"],
            "{said}"
        );
        let (code, said) = shadow(&inside);
        assert!(
            code != 0 && said.contains("ermission denied"),
            "{inside}: {code} {said}"
        );
    }
}

#[test]
fn no_process_of_ours_is_root_of_the_machine() {
    need!(Root, Cc);
    let house = House::new();
    // A program under a path of its own is found by it.
    let program = house.path().join("wolffia");
    wolffia_testkit::executable::copy(env!("CARGO_BIN_EXE_wolffia"), &program);
    let wolffia = |words: &[&str]| {
        let output = house
            .command(program.to_str().unwrap())
            .args(words)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let id = wolffia(&["run", "-d", "-q", "--network", "none", &house.image, "hold"]);
    let mut users = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        // "program (deleted)" where it was replaced; unreadable where the process has just ended.
        let ours = fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(&program));
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        users.extend(user.filter(|_| ours).map(str::to_owned));
    }
    wolffia(&["rm", "-f", &id]);
    assert!(!users.is_empty(), "the container has a process of ours");
    for user in users {
        assert!(
            !user.split_whitespace().any(|id| id == "0"),
            "a process of ours runs as {user}"
        );
    }
}
