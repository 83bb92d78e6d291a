// SPDX-License-Identifier: Apache-2.0
//! How each need is tried: small shell scripts over util-linux, and version questions to programs.
//!
//! The programs of util-linux (`unshare`, `mount`) are on every distribution that has a shell; they are an independent
//! witness, which our own code could not be. What they make dies with the namespace they made.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{XattrFlags, setxattr};

use super::{Missing, Need};

/// The number of subordinate ids that a container with all common ids takes.
const SUBORDINATE_IDS_MIN: u64 = 65_536;

pub(super) fn probe(need: Need) -> Result<(), Missing> {
    match need {
        Need::UserNamespace => user_namespace(),
        Need::SubIds => subordinate_ids(),
        Need::Overlay => overlay(),
        Need::DataOnlyLayers => data_only_layers(),
        Need::Fuse => fuse(),
        Need::Tun => tun(),
        Need::Root => root(),
        Need::Cc => program(&["cc", "--version"], "build-essential"),
        Need::Git => program(&["git", "--version"], "git"),
        Need::Python => program(&["python3", "--version"], "python3"),
        Need::Tmux => program(&["tmux", "-V"], "tmux"),
        Need::Strace => program(&["strace", "--version"], "strace"),
        Need::Busybox => busybox(),
        Need::Mmdebstrap => program(&["mmdebstrap", "--version"], "mmdebstrap"),
        Need::Zstd => program(&["zstd", "--version"], "zstd"),
        Need::Podman => program(&["podman", "--version"], "podman"),
        Need::Skopeo => program(&["skopeo", "--version"], "skopeo"),
        Need::Umoci => program(&["umoci", "--version"], "umoci"),
        Need::DockerRegistry => program(&["docker-registry", "--version"], "docker-registry"),
        Need::Crun => program(&["crun", "--version"], "crun"),
        Need::Bubblewrap => program(&["bwrap", "--version"], "bubblewrap"),
    }
}

fn missing(reason: impl Into<String>, hint: impl Into<String>) -> Missing {
    Missing {
        reason: reason.into(),
        hint: hint.into(),
    }
}

fn user_namespace() -> Result<(), Missing> {
    run(unshare(&["--user", "--map-root-user"]).arg("true"))
        .map_err(|reason| missing(reason, USER_NAMESPACE_HINT))
}

const USER_NAMESPACE_HINT: &str = "see /proc/sys/user/max_user_namespaces, /proc/sys/kernel/unprivileged_userns_clone \
                                   and /proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// Writes both maps of a fresh namespace, as an engine does.
fn subordinate_ids() -> Result<(), Missing> {
    let uid = rustix::process::getuid().as_raw();
    let name = name_of(uid).unwrap_or_default();
    let hint = format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}");
    let first_of = |file: &str| {
        let text = std::fs::read_to_string(file)
            .map_err(|error| missing(format!("reading {file}: {error}"), &hint))?;
        subordinate_range(&text, &name, uid).ok_or_else(|| {
            missing(
                format!("{file} gives {name} ({uid}) no {SUBORDINATE_IDS_MIN} ids"),
                &hint,
            )
        })
    };
    let (first_uid, first_gid) = (first_of("/etc/subuid")?, first_of("/etc/subgid")?);
    for helper in ["newuidmap", "newgidmap"] {
        find_program(helper).ok_or_else(|| no_program(helper, "uidmap"))?;
    }
    let namespace = Held::new().map_err(|reason| missing(reason, USER_NAMESPACE_HINT))?;
    let gid = rustix::process::getgid().as_raw();
    for (helper, own, first) in [("newuidmap", uid, first_uid), ("newgidmap", gid, first_gid)] {
        let own = own.to_string();
        let (pid, first) = (namespace.pid(), first.to_string());
        run(command(helper).args([&pid, "0", &own, "1", "1", &first, "65536"])).map_err(
            |reason| {
                missing(
                    reason,
                    "is the helper set-uid, or has it its file capability?",
                )
            },
        )?;
    }
    Ok(())
}

/// Returns the first id of the first range that is large enough, in the text of /etc/subuid or /etc/subgid.
fn subordinate_range(text: &str, name: &str, uid: u32) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let first: u64 = fields.next()?.trim().parse().ok()?;
        let count: u64 = fields.next()?.trim().parse().ok()?;
        let ours = owner == name || owner.parse() == Ok(uid);
        (ours && count >= SUBORDINATE_IDS_MIN).then_some(first)
    })
}

/// Returns the name that /etc/passwd gives to a uid.
fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A user namespace that lives until this is dropped, held by a shell that waits for the end of its input.
struct Held(Child);

impl Held {
    fn new() -> Result<Held, String> {
        let mut child = unshare(&["--user"])
            .args(["sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting unshare: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).ok();
        }
        if line == "ready\n" {
            return Ok(Held(child));
        }
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said).ok();
        }
        drop(Held(child));
        Err(format!("unshare --user: {}", said.trim()))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(stdin) = self.0.stdin.as_mut() {
            stdin.write_all(b"\n").ok();
        }
        self.0.wait().ok();
    }
}

fn overlay() -> Result<(), Missing> {
    let hint = "the kernel mounts overlay in a user namespace since 5.11; is the module loaded?";
    let place = scratch()?;
    for name in ["lower", "upper", "work", "merged"] {
        make_directory(&place.path().join(name))?;
    }
    make_file(&place.path().join("lower/file"), b"content\n")?;
    let script = "mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged \
                  && echo more >> merged/file && test \"$(cat merged/file | wc -l)\" = 2";
    in_mount_namespace(place.path(), script).map_err(|reason| missing(reason, hint))
}

fn data_only_layers() -> Result<(), Missing> {
    let hint = "unprivileged data-only layers are believed to need kernel 6.16";
    let place = scratch()?;
    for name in ["stubs", "objects", "objects/ab", "merged"] {
        make_directory(&place.path().join(name))?;
    }
    make_file(&place.path().join("objects/ab/object"), b"content\n")?;
    let stub = place.path().join("stubs/file");
    make_file(&stub, &[0; 8])?;
    for (name, value) in [
        ("user.overlay.metacopy", &b""[..]),
        ("user.overlay.redirect", b"/ab/object"),
    ] {
        setxattr(&stub, name, value, XattrFlags::empty()).map_err(|error| {
            missing(
                format!("setting {name} in {}: {error}", place.path().display()),
                hint,
            )
        })?;
    }
    let script = "mount -t overlay overlay -o userxattr,lowerdir=stubs::objects merged \
                  && test \"$(cat merged/file)\" = content";
    in_mount_namespace(place.path(), script).map_err(|reason| missing(reason, hint))
}

fn fuse() -> Result<(), Missing> {
    let place = scratch()?;
    let script =
        "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 fuse .";
    in_mount_namespace(place.path(), script).map_err(|reason| {
        missing(
            reason,
            "modprobe fuse; udev opens /dev/fuse for everybody: chmod 666 /dev/fuse",
        )
    })
}

fn tun() -> Result<(), Missing> {
    let script = "test -c /dev/net/tun || { echo no device /dev/net/tun >&2; exit 1; }; exec 3<>/dev/net/tun";
    run(unshare(&["--user", "--map-root-user", "--net"]).args(["sh", "-c", script]))
        .map_err(|reason| missing(reason, "modprobe tun; chmod 666 /dev/net/tun"))
}

/// Root of the machine: a root of a user namespace does not see every id mapped to itself.
fn root() -> Result<(), Missing> {
    let uid = rustix::process::geteuid().as_raw();
    let hint = "run cargo xtask test as root: a second pass runs the tests that need it";
    if uid != 0 {
        return Err(missing(format!("runs as uid {uid}"), hint));
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"] {
        return Ok(());
    }
    Err(missing("runs as root of a user namespace", hint))
}

/// A busybox that needs no libraries, or it would not run as the only file of an image.
fn busybox() -> Result<(), Missing> {
    program(&["busybox", "true"], "busybox-static")?;
    let path = find_program("busybox").ok_or_else(|| no_program("busybox", "busybox-static"))?;
    let bytes = std::fs::read(&path)
        .map_err(|error| missing(format!("reading {}: {error}", path.display()), ""))?;
    // A dynamic program names its loader: no ELF reader is needed to see that.
    let dynamic = bytes
        .windows(8)
        .any(|window| window == b"/ld-linu" || window == b"/ld-musl");
    if dynamic {
        return Err(missing(
            format!("{} is dynamic", path.display()),
            "install busybox-static",
        ));
    }
    Ok(())
}

fn program(words: &[&str], package: &str) -> Result<(), Missing> {
    find_program(words[0]).ok_or_else(|| no_program(words[0], package))?;
    run(command(words[0]).args(&words[1..]))
        .map_err(|reason| missing(reason, format!("reinstall {package}")))
}

fn no_program(name: &str, package: &str) -> Missing {
    missing(
        format!("no program {name} in PATH"),
        format!("apt-get install {package}"),
    )
}

/// The folders for administrators are looked in too: ordinary users often have not got them in PATH.
fn search_path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push_str(":/usr/sbin:/sbin");
    }
    path
}

fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| {
            rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
        })
}

fn command(name: &str) -> Command {
    let mut command = Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)));
    command.env("PATH", search_path()).env("LC_ALL", "C");
    command
}

fn unshare(flags: &[&str]) -> Command {
    let mut unshare = command("unshare");
    unshare.args(flags);
    unshare
}

fn in_mount_namespace(directory: &Path, script: &str) -> Result<(), String> {
    run(unshare(&["--user", "--map-root-user", "--mount"])
        .args(["sh", "-c", script])
        .current_dir(directory))
}

/// Runs a command to its end; what it said on standard error is the reason of a failure.
fn run(command: &mut Command) -> Result<(), String> {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_owned();
    let program = program.to_string_lossy();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("starting {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program}: {}: {}",
        output.status,
        said.lines().next().unwrap_or_default().trim()
    ))
}

fn scratch() -> Result<tempfile::TempDir, Missing> {
    tempfile::tempdir().map_err(|error| {
        missing(
            format!(
                "making a folder in {}: {error}",
                std::env::temp_dir().display()
            ),
            "set TMPDIR",
        )
    })
}

fn make_directory(path: &Path) -> Result<(), Missing> {
    std::fs::create_dir(path)
        .map_err(|error| missing(format!("making {}: {error}", path.display()), ""))
}

fn make_file(path: &Path, content: &[u8]) -> Result<(), Missing> {
    std::fs::write(path, content)
        .map_err(|error| missing(format!("writing {}: {error}", path.display()), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_and_by_uid_and_must_be_large() {
        let cases = [
            ("alice:100000:65536\n", Some(100_000)),
            ("1000:200000:65536\n", Some(200_000)),
            ("bob:1:65536\nalice:5:100000\n", Some(5)),
            ("alice:100000:1000\n", None),
            ("bob:100000:65536\n", None),
            ("alice\nalice:x:65536\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(subordinate_range(text, "alice", 1000), expected, "{text:?}");
        }
    }
}
