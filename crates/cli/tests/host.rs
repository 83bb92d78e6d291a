// SPDX-License-Identifier: Apache-2.0
//! `wolffia run host`: this machine's own files, all of them changeable, nothing of it kept, nothing private in it.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use wolffia_testkit::need;

/// Bytes of disk that a first start may take.
const DISK_BYTES_MAX: u64 = 5 << 20;
/// Whatever is waited for here comes within this time, or never.
const PATIENCE: Duration = Duration::from_mins(2);

fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wolffia"));
    command
        .args(words)
        .env("HOME", home)
        .env("WOLFFIA_ROOT", home.join("state"))
        .stdin(Stdio::null());
    command
}

/// Runs a script in a container of this machine's files, and returns what it printed.
fn inside(home: &Path, script: &str) -> String {
    let output = command(home, &["run", "--rm", "host", "/bin/sh", "-c", script])
        .output()
        .unwrap();
    told(&output)
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{:?}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn host_has_this_machines_programs_with_their_owners_and_nothing_private() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("diary"), "dear diary").unwrap();
    assert_eq!(inside(home.path(), "id -u"), "0\n");
    for path in ["/usr/bin/env", "/usr/bin/su", "/usr/lib", "/usr/share"] {
        let here = fs::symlink_metadata(path).unwrap();
        let expected = format!("{:x} {} {}\n", here.mode(), here.uid(), here.gid());
        let found = inside(home.path(), &format!("stat -c '%f %u %g' {path}"));
        assert_eq!(found, expected, "{path}");
    }
    for empty in ["/home", "/root", "/tmp", "/run/lock", "/srv", "/mnt"] {
        let found = inside(home.path(), &format!("ls -A {empty} | wc -l"));
        assert_eq!(found.trim(), "0", "{empty}");
    }
    let absent = format!(
        "for p in {} /etc/ssh/ssh_host_rsa_key /etc/ssl/private /etc/sudoers /etc/machine-id /var/log/syslog; do
           test -e $p && echo $p; done; find / -xdev \\( -type s -o -type b -o -name '*_key' \\) 2>/dev/null; true",
        home.path().display()
    );
    assert_eq!(inside(home.path(), &absent), "");
    // No password of this machine's is in it, and what is in it is valid for nobody.
    let shadow = inside(home.path(), "cut -d: -f2 /etc/shadow | sort -u");
    assert_eq!(shadow, "*\n");
    let taken = disk_bytes(&home.path().join("state"));
    assert!(taken <= DISK_BYTES_MAX, "{taken} bytes of disk");
}

/// What others may not read is not there, whoever runs the container: neither root's rights nor a group's open it.
#[test]
fn what_others_may_not_read_is_not_there_also_when_root_runs_it() {
    need!(Root, UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let place = PathBuf::from(format!(
        "/usr/local/lib/wolffia-test-{}",
        std::process::id()
    ));
    let _removed = Removed(place.clone());
    fs::create_dir(&place).unwrap();
    fs::create_dir(place.join("closed")).unwrap();
    for (name, mode) in [
        ("open", 0o644),
        ("group", 0o640),
        ("owner", 0o600),
        ("closed/file", 0o644),
    ] {
        fs::write(place.join(name), "some text").unwrap();
        set_mode(&place.join(name), mode);
    }
    set_mode(&place.join("closed"), 0o700);
    let script = format!("cd {}; ls -A . closed; cat *; true", place.display());
    let output = command(
        home.path(),
        &["run", "--rm", "host", "/bin/sh", "-c", &script],
    )
    .stderr(Stdio::null())
    .output()
    .unwrap();
    assert_eq!(told(&output), ".:\nclosed\nopen\n\nclosed:\nsome text");
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn disk_bytes(top: &Path) -> u64 {
    let look = fs::symlink_metadata(top).unwrap();
    let below = look.is_dir().then(|| fs::read_dir(top).ok()).flatten();
    let below = below.into_iter().flatten().flatten();
    look.blocks() * 512 + below.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

/// What of this machine the script below tries to change.
const CHANGED: &[&str] = &[
    "/usr/bin/env",
    "/usr/bin/yes",
    "/usr/bin/printf",
    "/usr/games",
    "/usr/share/perl",
    "/usr/share/common-licenses/BSD",
    "/etc/passwd",
    "/usr/local/bin",
];

#[test]
fn everything_can_be_changed_and_the_machine_is_as_before() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let look = || -> Vec<String> {
        let look = |path: &&str| match fs::symlink_metadata(path) {
            Ok(found) => format!(
                "{path} {} {:o} {} {} {} {}",
                found.ino(),
                found.mode(),
                found.size(),
                found.ctime(),
                found.ctime_nsec(),
                found.nlink()
            ),
            Err(_) => format!("{path} absent"),
        };
        CHANGED.iter().map(look).collect()
    };
    let before = look();
    let script = "set -e
        echo more >> /usr/share/common-licenses/BSD; tail -1 /usr/share/common-licenses/BSD
        chmod 0700 /usr/bin/env; stat -c %a /usr/bin/env
        mv /usr/bin/yes /usr/bin/no; test ! -e /usr/bin/yes
        ln /usr/bin/printf /usr/bin/print; /usr/bin/print '%s\\n' linked
        rm -rf /usr/games; mkdir /usr/games; ls -A /usr/games
        if test -d /usr/share/perl; then mv /usr/share/perl /usr/share/pearl; fi
        echo new:x:5000:5000::/:/bin/sh >> /etc/passwd; tail -1 /etc/passwd
        cp /bin/sh /usr/local/bin/mine; /usr/local/bin/mine -c 'echo mine'";
    assert_eq!(
        inside(home.path(), script),
        "more\n700\nlinked\nnew:x:5000:5000::/:/bin/sh\nmine\n"
    );
    assert_eq!(look(), before);
    assert_eq!(
        inside(
            home.path(),
            "ls /usr/local/bin/mine 2>&1 | grep -c 'No such'"
        ),
        "1\n"
    );
    let left = fs::read_dir(home.path().join("state/containers"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "nothing of it is kept");
}

#[test]
fn compilers_interpreters_git_su_and_apt_work_in_it() {
    need!(UserNamespace, SubIds, Overlay, Fuse, Cc, Python, Git);
    let home = tempfile::tempdir().unwrap();
    let script = r#"set -e; cd /tmp
        printf '#include <stdio.h>\nint main(void){return puts("compiled") < 0;}\n' > hello.c
        cc hello.c -o hello && ./hello
        PATH=/usr/bin:/bin python3 -c 'import json; print(json.dumps(["interpreted"]))'
        git init -q work && cd work && echo a > file && git add file
        git -c user.name=me -c user.email=me@here commit -q -m committed && git log --format=%s
        su -s /bin/sh nobody -c 'id -un'"#;
    assert_eq!(
        inside(home.path(), script),
        "compiled\n[\"interpreted\"]\ncommitted\nnobody\n"
    );
    if !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    let script = r"set -e; cd /tmp; mkdir -p build/DEBIAN build/usr/bin
        printf 'Package: wolffia-test\nVersion: 1\nArchitecture: all\nMaintainer: me <me@here>\nDescription: x\n' > build/DEBIAN/control
        printf '#!/bin/sh\necho installed\n' > build/usr/bin/wolffia-test; chmod 755 build/usr/bin/wolffia-test
        dpkg-deb -b build test.deb > log 2>&1
        DEBIAN_FRONTEND=noninteractive apt-get install -y ./test.deb > log 2>&1 || cat log
        wolffia-test; dpkg -s wolffia-test | grep ^Status
        apt-get remove -y wolffia-test > log 2>&1 || cat log; test ! -e /usr/bin/wolffia-test";
    assert_eq!(
        inside(home.path(), script),
        "installed\nStatus: install ok installed\n"
    );
}

/// The rest of a large file comes into the kernel's cache unasked, once a part of it is read.
#[test]
fn large_files_are_what_they_are_outside_from_whatever_place_they_are_read() {
    need!(UserNamespace, SubIds, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let script = "set -e
        cd /usr
        for file in $(find bin lib -xdev -type f -size +1024k | LC_ALL=C sort | head -n 20); do
            dd if=$file bs=128k skip=3 count=1 status=none | cksum
            cksum < $file
        done";
    let outside = Command::new("/bin/sh").args(["-c", script]).output();
    let outside = told(&outside.unwrap());
    assert!(outside.lines().count() > 2, "large files: {outside}");
    assert_eq!(inside(home.path(), script), outside);
}

/// Reading goes through what is mounted below /usr, as for any program, but not into interfaces of the kernel.
#[test]
fn mounts_below_usr_are_no_obstacle() {
    need!(UserNamespace, SubIds, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let script = "set -e
        mount -t tmpfs -o mode=0755 none /usr/share/doc
        mkdir /usr/share/doc/here /usr/share/doc/interface
        echo seen > /usr/share/doc/here/file
        mount -t devpts none /usr/share/doc/interface; test -e /usr/share/doc/interface/ptmx
        exec \"$WOLFFIA\" run --rm host /bin/sh -c 'cd /usr/share/doc
            cat here/file; echo changed > here/file; cat here/file; ls -A . interface'";
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--map-users=auto",
            "--map-groups=auto",
        ])
        .args(["--mount", "--", "/bin/sh", "-c", script])
        .env("WOLFFIA", env!("CARGO_BIN_EXE_wolffia"))
        .env("WOLFFIA_ROOT", home.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(
        told(&output),
        "seen\nchanged\n.:\nhere\ninterface\n\ninterface:\n"
    );
}

/// The processes that serve the files of the container whose state is in `home`: the state is among what they hide.
fn servers(home: &Path) -> Vec<i32> {
    let state = home.join("state");
    let is_ours = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.next() == Some(b"wolffia-host-server")
            && words.any(|word| word == state.as_os_str().as_encoded_bytes())
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_ours)
        .collect()
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have been replaced since it was seen.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Starts a script that prints a line when it has begun, and waits for that line.
fn begin(home: &Path, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command(home, &["run", "--rm", "host", "/bin/sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    (child, said)
}

/// Lists many files by name, type and size, which asks the server about each.
const LISTING: &str = "find /usr/lib /usr/include -printf '%p %y %s %l\\n' | sort | sha256sum";

/// A worker that is killed is replaced by its keeper, again and again, in the middle of a listing: nothing is missing.
#[test]
fn a_killed_server_is_replaced_in_the_middle_of_a_find() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let expected = inside(home.path(), LISTING);
    let (mut child, mut said) = begin(home.path(), &format!("echo begun; {LISTING}"));
    let (mut killed, begun) = (0, Instant::now());
    while child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
        let servers = servers(home.path());
        let workers = servers
            .iter()
            .filter(|pid| parent(**pid).is_some_and(|parent| servers.contains(&parent)));
        for worker in workers {
            kill(*worker);
            killed += 1;
        }
    }
    let mut found = String::new();
    said.read_to_string(&mut found).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(found, expected, "after {killed} kills");
    assert!(killed >= 5, "{killed} kills are too few to say anything");
}

/// Where keeper and worker die together, the conductor starts a successor inside.
#[test]
fn a_server_killed_with_its_keeper_has_a_successor() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let script = format!("echo begun; read line < /tmp/go; {LISTING}");
    let script = format!("mkfifo /tmp/go; (sleep 1; echo go > /tmp/go) & {script}");
    let expected = inside(home.path(), LISTING);
    let (mut child, mut said) = begin(home.path(), &script);
    let first = servers(home.path());
    assert_eq!(first.len(), 2, "a keeper and a worker");
    first.iter().copied().for_each(kill);
    let mut found = String::new();
    said.read_to_string(&mut found).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(found, expected);
}

/// Nothing of ours stays when the command is killed, nor when it ends.
#[test]
fn the_server_ends_with_its_container() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let (mut child, _said) = begin(home.path(), "echo begun; sleep 1000");
    assert!(!servers(home.path()).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let begun = Instant::now();
    while !servers(home.path()).is_empty() {
        assert!(
            begun.elapsed() < PATIENCE,
            "a server outlives its container"
        );
        std::thread::yield_now();
    }
    // The next command takes away what the killed one left.
    inside(home.path(), "true");
    let left = fs::read_dir(home.path().join("state/containers"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
