// SPDX-License-Identifier: Apache-2.0
//! The small images that both sides are given; the large ones are `testkit`'s Debian.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;
use wolffia_testkit::layout::{Layout, Meta, Tar};

/// How many layers the image of many layers has.
const LAYERS: usize = 100;

/// The programs that the small image links to its busybox.
const LINKS: [&str; 8] = ["sh", "true", "sleep", "ls", "cat", "echo", "id", "find"];

/// Makes an OCI layout in this folder, where it is not there yet.
pub(super) fn make_layout(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let finished = folder.join("layout");
    if finished.exists() {
        return Ok(());
    }
    let unfinished = folder.join("layout.unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    let mut layout = Layout::new(&unfinished);
    let small = small()?;
    let command = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    layout.image("small", &[small.clone().bytes()], &command);
    let file = |tar: Tar, number: usize| {
        let content = format!("layer {number}\n");
        tar.file(
            &format!("layer-{number}"),
            Meta::mode(0o644),
            content.as_bytes(),
        )
    };
    layout.image(
        "one",
        &[(1..LAYERS).fold(small.clone(), file).bytes()],
        &command,
    );
    let mut layers = vec![small.bytes()];
    layers.extend((1..LAYERS).map(|number| file(Tar::new(), number).bytes()));
    layout.image("hundred", &layers, &command);
    std::fs::rename(unfinished, finished)?;
    Ok(())
}

/// A file system with a static busybox.
fn small() -> anyhow::Result<Tar> {
    let found = Command::new("sh")
        .args(["-c", "command -v busybox"])
        .output()?;
    ensure!(
        found.status.success(),
        "there is no busybox: apt-get install busybox-static"
    );
    let path = String::from_utf8(found.stdout)?;
    let program = std::fs::read(path.trim()).context("reading busybox")?;
    let mut tar = Tar::new();
    for directory in ["bin", "dev", "etc", "proc", "root", "sys"] {
        tar = tar.directory(&format!("{directory}/"), Meta::mode(0o755));
    }
    tar = tar
        .directory("tmp/", Meta::mode(0o1777))
        .file(
            "etc/passwd",
            Meta::mode(0o644),
            b"root:x:0:0:root:/root:/bin/sh\n",
        )
        .file("etc/group", Meta::mode(0o644), b"root:x:0:\n")
        .file("bin/busybox", Meta::mode(0o755), &program);
    Ok(LINKS.iter().fold(tar, |tar, link| {
        tar.symlink(&format!("bin/{link}"), "busybox")
    }))
}
