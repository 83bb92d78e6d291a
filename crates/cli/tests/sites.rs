// SPDX-License-Identifier: Apache-2.0
//! Layers that a site unpacked are used where they are: in the layout of CVMFS' publisher, mixed with others, again and again, gone and
//! back.
//!
//! Method: an image of three layers with whiteouts, hard links and an opaque directory stands in a registry. A tree is made as the
//! publisher lays it out (whiteouts as plain files, catalogue marks, chains that are stale), and what a container sees is compared, line by
//! line, with what it sees of the same image fully pulled. The registry's log says what was fetched.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use wolffia_testkit::image_builder::{Image, ImageBuilder, Packing};
use wolffia_testkit::layout::{Meta, Tar};
use wolffia_testkit::need;
use wolffia_testkit::registry::Registry;

/// What a container says of everything that the layers touch.
const LOOK: &str =
    "ls -lnR /opt /etc /srv; cat /etc/kept /etc/third /opt/dir/c /srv/two; ls -a /etc /opt/dir";

/// One machine: a registry, a published tree, and a user.
struct Scene {
    folder: tempfile::TempDir,
    registry: Registry,
    tars: Vec<Vec<u8>>,
    image: Image,
    name: String,
}

impl Scene {
    fn new() -> Scene {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find_map(|path| fs::read(path).ok())
            .expect("a busybox");
        let meta = Meta::mode;
        let mut base = Tar::new()
            .directory("bin/", meta(0o755))
            .file("bin/busybox", meta(0o755), &busybox)
            .directory("etc/", meta(0o755))
            .file("etc/kept", meta(0o644), b"kept\n")
            .file("etc/gone", meta(0o644), b"gone\n")
            .directory("opt/", meta(0o755))
            .directory("opt/dir/", meta(0o750))
            .file("opt/dir/a", meta(0o644), b"a\n")
            .file("opt/empty", meta(0o600), b"");
        for program in ["sh", "ls", "cat", "rm", "sleep", "true"] {
            base = base.symlink(&format!("bin/{program}"), "busybox");
        }
        let middle = Tar::new()
            .directory("etc/", meta(0o755))
            .file("etc/.wh.gone", meta(0o644), b"")
            .directory("opt/", meta(0o755))
            .directory("opt/dir/", meta(0o755))
            .file("opt/dir/.wh..wh..opq", meta(0o644), b"")
            .file("opt/dir/c", meta(0o4755), b"c\n")
            .directory("srv/", meta(0o755))
            .file("srv/one", meta(0o640), b"one and two\n")
            .hard_link("srv/two", "srv/one")
            .symlink("srv/link", "../etc/kept");
        let upper =
            Tar::new()
                .directory("etc/", meta(0o755))
                .file("etc/third", meta(0o644), b"third\n");
        let tars: Vec<Vec<u8>> = [base, middle, upper].into_iter().map(Tar::bytes).collect();
        let image = tars
            .iter()
            .fold(ImageBuilder::new(), |builder, tar| {
                builder.layer(tar.clone(), Packing::Gzip)
            })
            .config(json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] }))
            .build();
        let registry = Registry::start();
        let name = registry.put("team/app", "1", &image);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("repository")).unwrap();
        Scene {
            folder,
            registry,
            tars,
            image,
            name,
        }
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    /// Returns the digests of the packed layers, the lowest first.
    fn layers(&self) -> Vec<String> {
        let manifest: serde_json::Value = serde_json::from_slice(&self.image.top.bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let hex = |layer: &serde_json::Value| layer["digest"].as_str().unwrap()[7..].to_owned();
        layers.iter().map(hex).collect()
    }

    /// Unpacks a layer as the publisher does; returns where.
    fn publish(&self, layer: usize) -> PathBuf {
        let hex = &self.layers()[layer];
        let place = self.repository().join(".layers").join(&hex[..2]).join(hex);
        let root = place.join("layerfs");
        unpack(&self.tars[layer], &root);
        fs::write(place.join("layerfs/.cvmfscatalog"), "").unwrap();
        fs::write(place.join(".metadata"), "{}").unwrap();
        // Chains that no longer fit, which nobody may look at.
        for folder in [".chains", ".dirty-chains"] {
            let stale = self.repository().join(folder).join(&hex[..2]).join(hex);
            fs::create_dir_all(stale.join("etc")).unwrap();
            fs::write(stale.join("etc/kept"), "stale\n").unwrap();
        }
        root
    }

    fn publish_all(&self) {
        for layer in 0..3 {
            self.publish(layer);
        }
    }

    /// Runs a command of the program, with the repository configured.
    fn run(&self, state: &str, words: &[&str]) -> (i32, String, String) {
        let configuration = self.folder.path().join("config.toml");
        let text = format!("unpacked = [\"{}\"]\n", self.repository().display());
        fs::write(&configuration, text).unwrap();
        self.run_with(state, &configuration, words)
    }

    fn run_with(&self, state: &str, configuration: &Path, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_wolffia"))
            .arg("--root")
            .arg(self.folder.path().join(state))
            .args(words)
            .env("HOME", self.folder.path())
            .env("WOLFFIA_CONFIG", configuration)
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

    fn good(&self, state: &str, words: &[&str]) -> String {
        let (code, out, err) = self.run(state, words);
        assert_eq!(code, 0, "{words:?}: {out}\n{err}");
        out
    }

    fn look(&self, state: &str) -> String {
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            &self.name,
            "sh",
            "-c",
            LOOK,
        ];
        of_image(&self.good(state, &words))
    }

    /// What a container sees of the image when all of it was fetched.
    fn expected(&self) -> String {
        let nothing = self.folder.path().join("nothing.toml");
        fs::write(&nothing, "").unwrap();
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            &self.name,
            "sh",
            "-c",
            LOOK,
        ];
        let (code, out, err) = self.run_with("full", &nothing, &words);
        assert_eq!(code, 0, "{err}");
        assert!(
            out.contains("third") && !out.contains("gone") && !out.contains(".wh."),
            "{out}"
        );
        of_image(&out)
    }

    /// Returns which layers were fetched since `since` requests.
    fn fetched(&self, since: usize) -> Vec<usize> {
        let layers = self.layers();
        let requests = self.registry.requests();
        (0..layers.len())
            .filter(|layer| {
                requests[since..]
                    .iter()
                    .any(|request| request.path.contains(&layers[*layer]))
            })
            .collect()
    }

    fn objects(&self, state: &str) -> usize {
        let objects = self.folder.path().join(state).join("store/objects");
        let shards = fs::read_dir(objects).unwrap();
        shards
            .map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count())
            .sum()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What containers wrote may belong to sub-ids, which only the program can remove.
        for state in ["site", "full"] {
            drop(self.run(state, &["system", "reset", "--force"]));
        }
    }
}

/// Leaves out what the engine puts into every container, and when.
fn of_image(listing: &str) -> String {
    let engines = ["hostname", "hosts", "resolv.conf", "total "];
    let lines = listing.lines();
    let own: Vec<&str> = lines
        .filter(|line| !engines.iter().any(|word| line.contains(word)))
        .collect();
    own.join("\n")
}

/// Unpacks a tar into a new directory, as whoever runs this.
fn unpack(tar: &[u8], root: &Path) {
    use std::io::Write as _;
    fs::create_dir_all(root).unwrap();
    let mut child = Command::new("tar")
        .args(["-xpf", "-", "-C"])
        .arg(root)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_image_that_is_all_there_is_used_in_place_and_nothing_is_fetched_or_copied() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    scene.publish_all();
    let before = scene.registry.requests().len();
    assert_eq!(scene.look("site"), expected);
    assert_eq!(scene.fetched(before), Vec::<usize>::new());
    assert_eq!(scene.objects("site"), 0);
    // Everything can be changed inside, and nothing of it is seen outside.
    let line = "echo more >> /etc/kept && rm /opt/dir/c && cat /etc/kept";
    let said = scene.good("site", &["run", "--rm", &scene.name, "sh", "-c", line]);
    assert_eq!(said, "kept\nmore");
    assert_eq!(scene.look("site"), expected);
    // No registry is asked for what is here.
    let asked = scene.registry.requests().len();
    scene.look("site");
    assert_eq!(scene.registry.requests().len(), asked);
    let said = scene.good("site", &["system", "check"]);
    assert!(said.contains("no problems"), "{said}");
    assert!(scene.good("site", &["info"]).contains("repository"));
}

#[test]
fn layers_that_are_not_there_are_fetched_and_joined_with_those_that_are() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    for (there, missing) in [(vec![0], vec![1, 2]), (vec![0, 1], vec![2])] {
        for layer in there {
            scene.publish(layer);
        }
        let before = scene.registry.requests().len();
        scene.good("site", &["pull", &scene.name]);
        assert_eq!(scene.look("site"), expected);
        assert_eq!(scene.fetched(before), missing);
        scene.good("site", &["system", "reset", "--force"]);
    }
}

#[test]
fn images_are_mounted_and_unmounted_again_and_again_and_side_by_side() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    scene.publish_all();
    // A second image with the same layers below.
    let other = scene.tars[..2]
        .iter()
        .fold(ImageBuilder::new(), |builder, tar| {
            builder.layer(tar.clone(), Packing::Gzip)
        })
        .config(json!({ "Env": ["PATH=/bin"] }))
        .build();
    let other = scene.registry.put("team/other", "1", &other);
    let before = scene.registry.requests().len();
    let long = ["run", "-d", "--name", "long", &scene.name, "sleep", "1000"];
    scene.good("site", &long);
    for _ in 0..4 {
        assert_eq!(scene.look("site"), expected);
        let said = scene.good("site", &["run", "--rm", &other, "ls", "/etc"]);
        assert_eq!(of_image(&said), "kept");
    }
    scene.good("site", &["rm", "-f", "long"]);
    assert_eq!(scene.look("site"), expected);
    scene.good("site", &["rmi", &scene.name]);
    assert_eq!(scene.look("site"), expected);
    assert_eq!(scene.fetched(before), Vec::<usize>::new());
}

#[test]
fn whiteouts_in_the_spelling_of_overlayfs_are_understood_too() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    scene.publish_all();
    let hex = &scene.layers()[1];
    let root = scene.repository().join(".layers").join(&hex[..2]).join(hex);
    let root = root.join("layerfs");
    for (mark, made) in [("etc/.wh.gone", "etc/gone"), ("opt/dir/.wh..wh..opq", "")] {
        fs::remove_file(root.join(mark)).unwrap();
        if !made.is_empty() {
            let made = Command::new("mknod")
                .arg(root.join(made))
                .args(["c", "0", "0"])
                .status();
            assert!(made.unwrap().success());
        }
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("opt/dir"), "user.overlay.opaque", b"y", flags).unwrap();
    let touched = Command::new("touch")
        .args(["-d", "@0"])
        .args([root.join("opt/dir"), root.join("etc")])
        .status();
    assert!(touched.unwrap().success());
    assert_eq!(scene.look("site"), expected);
    assert_eq!(scene.objects("site"), 0);
}

#[test]
fn a_repository_that_is_gone_is_named_and_one_that_is_back_serves_again() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    scene.publish_all();
    assert_eq!(scene.look("site"), expected);
    let away = scene.folder.path().join("away");
    fs::rename(scene.repository(), &away).unwrap();
    let (code, _, said) = scene.run("site", &["run", "--rm", &scene.name, "true"]);
    assert_eq!(code, 125, "{said}");
    assert!(
        said.contains("layerfs") && said.contains("wolffia pull"),
        "{said}"
    );
    fs::rename(&away, scene.repository()).unwrap();
    assert_eq!(scene.look("site"), expected);
    // What the help says works, too; and then the repository is no longer needed.
    fs::rename(scene.repository(), &away).unwrap();
    let before = scene.registry.requests().len();
    scene.good("site", &["pull", &scene.name]);
    assert_eq!(scene.fetched(before), [0, 1, 2]);
    assert_eq!(scene.look("site"), expected);
    fs::rename(&away, scene.repository()).unwrap();
    assert_eq!(scene.look("site"), expected);
}

#[test]
fn a_flat_root_file_system_serves_where_the_layers_are_not_published() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    let manifest: serde_json::Value = serde_json::from_slice(&scene.image.top.bytes).unwrap();
    let hex = &manifest["config"]["digest"].as_str().unwrap()[7..];
    let flat = scene.repository().join(".flat").join(&hex[..2]).join(hex);
    // Flattened as the publisher does: whiteouts are carried out.
    for tar in &scene.tars {
        unpack(tar, &flat);
    }
    for gone in [
        "etc/gone",
        "etc/.wh.gone",
        "opt/dir/a",
        "opt/dir/.wh..wh..opq",
    ] {
        fs::remove_file(flat.join(gone)).unwrap();
    }
    let touched = Command::new("touch")
        .args(["-d", "@0"])
        .args([flat.join("opt/dir"), flat.join("etc")])
        .status();
    assert!(touched.unwrap().success());
    let before = scene.registry.requests().len();
    assert_eq!(scene.look("site"), expected);
    assert_eq!(scene.fetched(before), Vec::<usize>::new());
    assert_eq!(scene.objects("site"), 0);
}

#[test]
fn a_layer_that_this_user_cannot_read_wholly_is_fetched_and_said_to_be() {
    need!(UserNamespace, DataOnlyLayers, Busybox);
    let scene = Scene::new();
    let expected = scene.expected();
    scene.publish_all();
    let hex = &scene.layers()[1];
    let shut = scene.repository().join(".layers").join(&hex[..2]).join(hex);
    let shut = shut.join("layerfs/srv/one");
    fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let before = scene.registry.requests().len();
    let (code, _, said) = scene.run("site", &["pull", &scene.name]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("srv/one") && said.contains("cannot be read"),
        "{said}"
    );
    assert_eq!(scene.fetched(before), [1]);
    assert_eq!(scene.look("site"), expected);
}
