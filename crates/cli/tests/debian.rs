// SPDX-License-Identifier: Apache-2.0
//! A real image from a real registry, used as people use it: Debian with python3 and numpy, by an ordinary user.
//!
//! Method: Debian's own registry on a loopback port holds the image, pushed by skopeo; the program pulls it and runs what
//! asks most of a root file system and of ids: an interpreter with a large library, a package manager, `su`, `tar`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use wolffia_testkit::debian_image;
use wolffia_testkit::need;
use wolffia_testkit::registry::RealRegistry;

#[test]
fn a_real_image_from_a_real_registry_does_what_people_do_with_it() {
    need!(
        UserNamespace,
        SubIds,
        Overlay,
        DataOnlyLayers,
        DockerRegistry,
        Skopeo,
        Mmdebstrap
    );
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("registry");
    fs::create_dir(&data).unwrap();
    let registry = RealRegistry::start(&data);
    let one = format!("{}:{}", debian_image::layout().display(), debian_image::TAG);
    registry.push(Path::new(&one), "debian", debian_image::TAG);
    let image = format!("{}/debian:{}", registry.address(), debian_image::TAG);
    let state = folder.path().join("state");
    let wolffia = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_wolffia"))
            .arg("--root")
            .arg(&state)
            .args(words)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    let package = package(folder.path());
    let packages = format!("{}:/packages:ro", package.parent().unwrap().display());
    let shell = |line: &str| {
        let start = ["run", "--rm", "--network", "none", "-v", &packages, &image];
        wolffia(&[&start[..], &["sh", "-ec", line]].concat())
    };
    wolffia(&["pull", "-q", &image]);
    let summed = shell("python3 -c 'import numpy; print(numpy.arange(10).sum())'");
    assert_eq!(summed, "45");
    let installed = shell(
        "apt-get install -y /packages/greeter_1.0_all.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
         greeter; stat -c '%U:%G %a' /usr/bin/greeter; dpkg -s greeter | grep Status",
    );
    assert_eq!(
        installed,
        "hello from a package\nroot:root 755\nStatus: install ok installed"
    );
    let switched = shell("su nobody -s /bin/sh -c 'id -un; touch /etc/mine 2>&1 || echo refused'");
    assert!(
        switched.starts_with("nobody\n") && switched.ends_with("refused"),
        "{switched}"
    );
    let owners = shell(
        "mkdir /tmp/a /tmp/b; cp -a /etc/. /tmp/a; chown 33:33 /tmp/a/hostname; ln /tmp/a/hostname /tmp/a/twin
         tar -C /tmp/a -cf - . | tar -C /tmp/b -xpf - ; diff -r --no-dereference /tmp/a /tmp/b
         stat -c '%u:%g %h' /tmp/b/hostname /tmp/b/shadow",
    );
    assert_eq!(owners, "33:33 2\n0:42 1");
    wolffia(&["system", "reset", "--force"]);
}

/// Makes a package of one script, and returns its file.
fn package(folder: &Path) -> std::path::PathBuf {
    let tree = folder.join("tree");
    let packages = folder.join("packages");
    for part in ["tree/DEBIAN", "tree/usr/bin", "packages"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    let control = "Package: greeter\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\n\
                   Description: says hello\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let program = tree.join("usr/bin/greeter");
    fs::write(&program, "#!/bin/sh\necho hello from a package\n").unwrap();
    set_mode(&program, 0o755);
    for part in ["", "DEBIAN", "usr", "usr/bin"] {
        set_mode(&tree.join(part), 0o755);
    }
    let file = packages.join("greeter_1.0_all.deb");
    let built = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&file)
        .stdout(Stdio::null())
        .status()
        .expect("Debian's dpkg-deb, which is there where mmdebstrap is");
    assert!(built.success());
    file
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
