// SPDX-License-Identifier: Apache-2.0
//! Images in other formats and other places: what `image convert` and `push` write, others read.
//!
//! Method: an image with everything that a tar of a layer can be awkward about (no parent directories, long names, links, attributes, an
//! empty file, a large one) is converted, twice, to a layout and to a registry. `gzip` and `zstd` must give tars with the digests that the
//! configuration names, `tar` must list what was put in, skopeo must copy it, and a container of it must see what a container of the
//! original sees.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wolffia_image::Digest;
use wolffia_testkit::image_builder::{ImageBuilder, Packing, noise};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::need;
use wolffia_testkit::registry::Registry;

const LOOK: &str =
    "ls -lnR /opt /srv; cat /srv/two /opt/small; sha256sum /opt/large /opt/chunk /opt/zeros";

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find_map(|path| fs::read(path).ok())
            .expect("a busybox");
        let meta = Meta::mode;
        let mut base =
            Tar::new()
                .directory("./", meta(0o755))
                .file("./bin/busybox", meta(0o755), &busybox);
        for program in ["sh", "ls", "cat", "sha256sum"] {
            base = base.symlink(&format!("./bin/{program}"), "busybox");
        }
        let upper = Tar::new()
            .file("opt/deep/er/file", meta(0o644), b"no parents\n")
            .file("opt/small", meta(0o4755), b"small\n")
            .file("opt/empty", meta(0o600), b"")
            .file("opt/large", meta(0o644), &noise(5, 3_500_000))
            .file("opt/chunk", meta(0o644), &noise(6, 1 << 20))
            .file("opt/zeros", meta(0o644), &vec![0; 2 << 20])
            .file("srv/one", meta(0o640), b"one and two\n")
            .hard_link("srv/two", "srv/one")
            .symlink("srv/link", "../opt/small")
            .file("srv/.wh.gone", meta(0o644), b"");
        let image = ImageBuilder::new()
            .layer(base.bytes(), Packing::Gzip)
            .layer(upper.bytes(), Packing::Zstd)
            .config(json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] }))
            .build();
        let folder = tempfile::tempdir().unwrap();
        image.write_layout(&folder.path().join("source"), Some("v1"));
        Scene { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn layout(&self, name: &str) -> String {
        format!("oci:{}:v1", self.path(name).display())
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_wolffia"))
            .arg("--root")
            .arg(self.path("state"))
            .args(words)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    fn good(&self, words: &[&str]) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, 0, "{words:?}: {out}\n{err}");
        out
    }

    fn look(&self, image: &str) -> String {
        let id = self.good(&["pull", "-q", image]);
        self.good(&["run", "--rm", "--network", "none", &id, "sh", "-c", LOOK])
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.run(&["system", "reset", "--force"]));
    }
}

/// Reads the only manifest of a layout, and its configuration.
fn documents(layout: &Path) -> (Value, Value) {
    let read = |digest: &Value| -> Value {
        let hex = &digest.as_str().unwrap()[7..];
        serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let manifest = read(&index["manifests"][0]["digest"]);
    let config = read(&manifest["config"]["digest"]);
    (manifest, config)
}

/// Runs a filter over a file.
fn filtered(program: &str, words: &[&str], input: &Path) -> Vec<u8> {
    let output = Command::new(program)
        .args(words)
        .stdin(fs::File::open(input).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
    output.stdout
}

#[test]
fn what_is_converted_is_read_by_everybody_and_the_same_each_time() {
    need!(UserNamespace, DataOnlyLayers, Busybox, Skopeo, Zstd);
    let scene = Scene::new();
    let expected = scene.look(&scene.layout("source"));
    assert!(
        expected.contains("one and two") && expected.contains("-rwsr-xr-x"),
        "{expected}"
    );
    for (format, unpacker, annotation) in [
        (
            "estargz",
            "gzip",
            "containerd.io/snapshot/stargz/toc.digest",
        ),
        (
            "zstd-chunked",
            "zstd",
            "io.github.containers.zstd-chunked.manifest-checksum",
        ),
    ] {
        let words = ["image", "convert", "--to", format, "-q"];
        let source = scene.layout("source");
        let first = scene.good(&[&words[..], &[&source, &scene.layout(format)]].concat());
        let again = format!("{format}-again");
        let second = scene.good(&[&words[..], &[&source, &scene.layout(&again)]].concat());
        assert_eq!(
            first, second,
            "{format}: the same image gives the same bytes"
        );
        let place = scene.path(format);
        let (manifest, config) = documents(&place);
        let layers = manifest["layers"].as_array().unwrap();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!((layers.len(), diff_ids.len()), (2, 2));
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            assert!(layer["annotations"][annotation].is_string(), "{layer}");
            let blob = place
                .join("blobs/sha256")
                .join(&layer["digest"].as_str().unwrap()[7..]);
            let tar = filtered(unpacker, &["-dc"], &blob);
            assert_eq!(Digest::of(&tar).to_string(), *diff_id);
            let file = scene.path("tar");
            fs::write(&file, &tar).unwrap();
            let names = String::from_utf8(filtered("tar", &["-tf", "-"], &file)).unwrap();
            assert!(
                names.contains("bin/busybox") || names.contains("opt/deep/er/file"),
                "{names}"
            );
        }
        let copy = Command::new("skopeo")
            .args(["copy", "-q", &scene.layout(format)])
            .arg(format!("dir:{}", scene.path("copied").display()))
            .output()
            .unwrap();
        assert!(
            copy.status.success(),
            "{}",
            String::from_utf8_lossy(&copy.stderr)
        );
        assert_eq!(scene.look(&scene.layout(format)), expected, "{format}");
    }
    // The tars of zstd:chunked are those of the source, so it is the same image.
    assert_eq!(
        documents(&scene.path("zstd-chunked")).1,
        documents(&scene.path("source")).1
    );
}

#[test]
fn images_go_from_a_layout_to_a_registry_and_back_as_they_are() {
    need!(UserNamespace, Busybox);
    let scene = Scene::new();
    let registry = Registry::start();
    let name = registry.name("team/app", "v1");
    let pushed = scene.good(&["push", "-q", &scene.layout("source"), &name]);
    let fetched = scene.good(&["push", "-q", &name, &scene.layout("back")]);
    assert_eq!(pushed, fetched);
    assert_eq!(
        documents(&scene.path("back")),
        documents(&scene.path("source"))
    );
    // Converted on the way, from a registry to a registry.
    let other = registry.name("team/app", "lazy");
    scene.good(&["image", "convert", "--to", "estargz", &name, &other]);
    scene.good(&["push", &other, &scene.layout("lazy")]);
    let (manifest, _) = documents(&scene.path("lazy"));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    let (code, _, said) = scene.run(&["image", "convert", "--to", "stargz", &name, &other]);
    assert_eq!(code, 125, "{said}");
    assert!(said.contains("--to estargz"), "{said}");
}
