// SPDX-License-Identifier: Apache-2.0
//! The first minute with the program, on a machine on which nothing is installed: from a registry to a running container.
//!
//! The registry is `testkit`'s own, the image holds a program made by the C compiler; no helper, no download, no daemon.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;
use std::process::{Command, Stdio};

use wolffia_testkit::image_builder::{ImageBuilder, Packing};
use wolffia_testkit::registry::Registry;

/// Runs a command in this HOME; returns its code and what it printed on standard output and standard error.
fn wolffia(home: &Path, words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_wolffia"))
        .args(words)
        .env("HOME", home)
        .env_remove("WOLFFIA_ROOT")
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn an_image_of_a_registry_is_pulled_and_run_with_nothing_installed() {
    wolffia_testkit::need!(UserNamespace, Cc);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.put("tiny", "1", &ImageBuilder::tiny(Packing::Gzip).build());
    let image = registry.name("tiny", "1");
    let run = ["run", "--rm", "--network", "none", &image];
    let cases: [(&[&str], i32, &str); 6] = [
        (&[], 0, "uid=0 gid=0"),
        (&["echo", "hello"], 0, "hello"),
        (&["exit", "7"], 7, ""),
        (
            &["cat", "/etc/passwd"],
            0,
            "root:x:0:0:root:/root:/bin/payload",
        ),
        (&["pwd"], 0, "/"),
        (&["no-such-program"], 127, ""),
    ];
    for (words, code, expected) in cases {
        let (got, said, complained) = wolffia(home.path(), &[&run[..], words].concat());
        assert_eq!(
            (got, said.as_str()),
            (code, expected),
            "{words:?}: {complained}"
        );
    }
    let manifests = registry
        .requests()
        .iter()
        .filter(|one| one.path.contains("/blobs/"))
        .count();
    assert_eq!(
        manifests,
        2,
        "the configuration and the layer, once each: {:#?}",
        registry.requests()
    );
    let (code, said, complained) = wolffia(home.path(), &["ps", "-a", "-q"]);
    assert_eq!((code, said.as_str()), (0, ""), "{complained}");
    let (code, _, complained) = wolffia(home.path(), &["system", "reset", "--force"]);
    assert_eq!(code, 0, "{complained}");
}
