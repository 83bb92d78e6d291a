// SPDX-License-Identifier: Apache-2.0
//! What a person types at the door besides running containers: logging in, importing, asking; and what docker knows and we do
//! not serve yet.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use wolffia_testkit::image_builder::{ImageBuilder, Packing, noise};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::need;
use wolffia_testkit::registry::{Auth, Options, Registry};

/// What a command came to.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs a command in this HOME, with something to read.
fn told(home: &Path, words: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wolffia"))
        .args(words)
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("TERM", "xterm")
        .env_remove("WOLFFIA_ROOT")
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended.
    drop(child.stdin.take().unwrap().write_all(input));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn run(home: &Path, words: &[&str]) -> Said {
    told(home, words, b"")
}

/// Runs a command that must succeed; returns what it printed.
fn good(home: &Path, words: &[&str]) -> String {
    let said = run(home, words);
    assert_eq!(said.code, 0, "{words:?}: {}", said.err);
    said.out
}

#[test]
fn a_private_image_is_pulled_between_login_and_logout() {
    need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (user, password) = ("ann".to_owned(), "hunter2".to_owned());
    for auth in [
        Auth::Basic {
            user: user.clone(),
            password: password.clone(),
        },
        Auth::Token {
            user: Some((user, password)),
            identity: None,
            seconds: 60,
            requests: 50,
        },
    ] {
        let registry = Registry::start_with(Options {
            auth,
            ..Options::default()
        });
        registry.put("tiny", "1", &ImageBuilder::tiny(Packing::Gzip).build());
        let (image, address) = (registry.name("tiny", "1"), registry.address());
        let refused = run(home, &["pull", "-q", &image]);
        assert_eq!(refused.code, 1);
        assert!(
            refused.err.contains(&format!("wolffia login {address}")),
            "{}",
            refused.err
        );
        let login = ["login", "-u", "ann", "--password-stdin", &address];
        let wrong = told(home, &login, b"wrong\n");
        assert_eq!(wrong.code, 1, "{wrong:?}");
        assert_eq!(told(home, &login, b"hunter2\n").code, 0);
        good(home, &["pull", "-q", &image]);
        good(home, &["logout", &address]);
        good(home, &["rmi", &image]);
        assert_eq!(run(home, &["pull", "-q", &image]).code, 1, "logged out");
    }
    good(home, &["system", "reset", "--force"]);
}

#[test]
fn a_tar_becomes_an_image_with_names() {
    need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let tar = Tar::new().payload().bytes();
    std::fs::write(home.join("root.tar"), &tar).unwrap();
    good(home, &["import", "-q", "root.tar", "mine:1"]);
    let piped = told(
        home,
        &["import", "-q", "-m", "by pipe", "-", "mine:2"],
        &tar,
    );
    assert_eq!(piped.code, 0, "{piped:?}");
    good(home, &["tag", "mine:2", "yours"]);
    let mut names: Vec<String> = good(home, &["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["mine:1", "mine:2", "yours:latest"]);
    let said = good(
        home,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "yours",
            "/bin/payload",
            "echo",
            "imported",
        ],
    );
    assert_eq!(said, "imported");
    let shown = good(
        home,
        &[
            "inspect",
            "-f",
            "{{json .RepoTags}} {{len .RootFS.Layers}}",
            "mine:1",
        ],
    );
    assert_eq!(shown, r#"["mine:1"] 1"#);
    good(home, &["rmi", "mine:1", "mine:2", "yours"]);
    assert_eq!(good(home, &["images", "-q"]), "");
    assert_eq!(run(home, &["system", "check"]).code, 0);
    good(home, &["system", "reset", "--force"]);
}

/// One line for the whole pull, however many layers; and nothing on standard output but the name.
#[test]
fn a_pull_says_one_line() {
    need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    // Where there are no sub-ids, that is said once, before.
    run(home, &["pull", "-q", "oci:nowhere"]);
    let registry = Registry::start();
    let image = (1..=3).fold(ImageBuilder::tiny(Packing::Gzip), |image, seed| {
        let file = Tar::new().file(
            &format!("file{seed}"),
            Meta::mode(0o644),
            &noise(seed, 90_000),
        );
        image.layer(file.bytes(), Packing::Gzip)
    });
    let name = registry.put("four", "1", &image.build());
    let said = run(home, &["pull", &name]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, name.as_str()),
        "{said:?}"
    );
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert!(said.err.contains("4 of 4 layers new"), "{}", said.err);
    let again = run(home, &["pull", &name]);
    assert!(again.err.contains("up to date"), "{}", again.err);
    assert_eq!(
        good(home, &["pull", "-q", &name]).len(),
        "sha256:".len() + 64
    );
    good(home, &["system", "reset", "--force"]);
}

#[test]
fn run_without_an_image_greets_from_this_machines_files() {
    need!(UserNamespace, Overlay, Fuse);
    let home = tempfile::tempdir().unwrap();
    let said = run(home.path(), &["run"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.starts_with("uid=0(root)"), "{said:?}");
    let greetings = format!("{}\n{}", said.out, said.err);
    let greetings = greetings.lines().filter(|line| line.starts_with("Hello"));
    assert_eq!(greetings.count(), 1, "{said:?}");
    assert_eq!(good(home.path(), &["ps", "-aq"]), "");
    good(home.path(), &["system", "reset", "--force"]);
}

#[test]
fn info_and_version_are_read_by_people_and_programs() {
    need!(UserNamespace);
    let home = tempfile::tempdir().unwrap();
    let info = good(home.path(), &["info", "--format", "{{json .}}"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["Images"], 0);
    assert_eq!(
        info["DockerRootDir"],
        home.path().join(".local/share/wolffia").to_str().unwrap()
    );
    assert!(good(home.path(), &["info"]).contains("state root"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(good(home.path(), &["version"]).contains(version));
    assert_eq!(
        good(home.path(), &["version", "-f", "{{.Client.Version}}"]),
        version
    );
    good(home.path(), &["system", "reset", "--force"]);
}

/// docker's flags, those of its manual as of version 28; each command's own.
const FLAGS: [(&str, &str); 15] = [
    (
        "run",
        "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile \
         cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach detach-keys device \
         device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns \
         dns-opt dns-option dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval \
         health-retries health-start-interval health-start-period health-timeout hostname init interactive ip ip6 ipc \
         isolation kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory \
         memory-reservation memory-swap memory-swappiness mount name net net-alias network network-alias no-healthcheck \
         oom-kill-disable oom-score-adj pid pids-limit platform privileged publish publish-all pull quiet read-only restart \
         rm runtime security-opt shm-size sig-proxy stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit \
         use-api-socket user userns uts volume volume-driver volumes-from workdir a c d e h i l m p P q t u v w",
    ),
    (
        "create",
        "add-host attach cap-add cpus device dns entrypoint env gpus hostname init interactive label memory mount name network \
         pids-limit platform privileged publish pull quiet read-only restart rm runtime security-opt shm-size tmpfs tty user \
         volume workdir",
    ),
    (
        "exec",
        "detach detach-keys env env-file interactive privileged tty user workdir d e i t u w",
    ),
    (
        "ps",
        "all filter format last latest no-trunc quiet size a f n l q s",
    ),
    ("logs", "details follow since tail timestamps until f n t"),
    ("stop", "signal time timeout s t"),
    ("kill", "signal s"),
    ("rm", "force link volumes f l v"),
    (
        "start",
        "attach checkpoint checkpoint-dir detach-keys interactive a i",
    ),
    ("pull", "all-tags disable-content-trust platform quiet a q"),
    (
        "images",
        "all digests filter format no-trunc quiet tree a f q",
    ),
    ("rmi", "force no-prune platform f"),
    ("inspect", "format size type f s"),
    ("import", "change message platform c m"),
    ("login", "password password-stdin username p u"),
];

/// docker's commands, and those that podman and docker both have.
const COMMANDS: &str = "attach build builder buildx checkpoint commit compose config context cp create diff events exec export \
                        history images import info inspect kill load login logout logs manifest network node pause plugin \
                        port ps pull push rename restart rm rmi run save search secret service stack start stats stop swarm \
                        system tag top trust unpause update version volume wait";

/// Whoever types what docker knows is never told that there is no such thing.
#[test]
fn what_docker_knows_is_served_or_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let mut strange = Vec::new();
    for (command, flags) in FLAGS {
        for flag in flags.split_ascii_whitespace() {
            let dashes = if flag.len() == 1 { "-" } else { "--" };
            let said = run(home.path(), &[command, &format!("{dashes}{flag}")]);
            if said.err.contains("has no flag") {
                strange.push(format!("{command} {dashes}{flag}"));
            }
        }
    }
    for command in COMMANDS.split_ascii_whitespace() {
        // Words that cannot be served, where the command could be.
        let said = run(home.path(), &[command, "--no-such-flag"]);
        assert_eq!(said.code, 125, "{command}: {said:?}");
        if said.err.contains("there is no command") {
            strange.push(command.to_owned());
        }
    }
    assert_eq!(strange, [""; 0]);
}
