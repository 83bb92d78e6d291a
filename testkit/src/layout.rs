// SPDX-License-Identifier: Apache-2.0
//! A writer of small OCI layouts: images that tests and benchmarks need, made in a moment and without any program.
//!
//! Deliberately plain: ustar headers only, layers as they are, nothing clever. It shares no code with the readers under
//! test. Sources: OCI image specification 1.1, "Image Layout" and "Image Manifest"; POSIX.1-2017 `pax`, "ustar".

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wolffia_image::Digest;

use crate::payload;

/// The media type of an uncompressed layer.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation of an index entry that holds its tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// A tar archive in the making; every time is the epoch and every owner root unless said otherwise.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

/// The fields of an entry that tests like to choose.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Meta {
    /// Root's, with these permission bits.
    pub fn mode(mode: u32) -> Meta {
        Meta {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

impl Tar {
    /// Returns an empty archive.
    pub fn new() -> Tar {
        Tar::default()
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, meta: Meta) -> Tar {
        self.entry(path, b'5', "", meta, &[])
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, meta: Meta, content: &[u8]) -> Tar {
        self.entry(path, b'0', "", meta, content)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Tar {
        self.entry(path, b'2', target, Meta::mode(0o777), &[])
    }

    /// Adds a hard link to an earlier path.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Tar {
        self.entry(path, b'1', target, Meta::mode(0o644), &[])
    }

    /// Adds an entry of any type.
    ///
    /// # Panics
    /// Where a name is longer than the 100 bytes of a ustar field.
    #[must_use]
    pub fn entry(mut self, path: &str, kind: u8, link: &str, meta: Meta, content: &[u8]) -> Tar {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, length: usize, field: &[u8]| {
            assert!(
                field.len() <= length,
                "{path} does not fit into a ustar header"
            );
            header[at..at + field.len()].copy_from_slice(field);
        };
        put(0, 100, path.as_bytes());
        put(100, 8, format!("{:07o}", meta.mode).as_bytes());
        put(108, 8, format!("{:07o}", meta.uid).as_bytes());
        put(116, 8, format!("{:07o}", meta.gid).as_bytes());
        put(124, 12, format!("{:011o}", content.len()).as_bytes());
        put(136, 12, format!("{:011o}", 0).as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(157, 100, link.as_bytes());
        put(257, 8, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        let padding = content.len().next_multiple_of(512) - content.len();
        self.0.resize(self.0.len() + padding, 0);
        self
    }

    /// Adds [the payload](crate::payload) as `bin/payload` with a link for each of its commands, and the folders and
    /// account files that an engine expects. Calls the C compiler: say `need!(Cc)`.
    #[must_use]
    pub fn payload(self) -> Tar {
        let mut tar = self;
        for folder in ["bin", "dev", "etc", "proc", "root", "sys"] {
            tar = tar.directory(&format!("{folder}/"), Meta::mode(0o755));
        }
        tar = tar
            .directory("tmp/", Meta::mode(0o1777))
            .file(
                "etc/passwd",
                Meta::mode(0o644),
                b"root:x:0:0:root:/root:/bin/payload\n",
            )
            .file("etc/group", Meta::mode(0o644), b"root:x:0:\n")
            .file("bin/payload", Meta::mode(0o755), payload::program());
        for command in payload::COMMANDS {
            tar = tar.symlink(&format!("bin/{command}"), "payload");
        }
        tar
    }

    /// Returns the archive, with its end.
    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An OCI layout on disk, to which images are added.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty layout in a directory, which is made.
    ///
    /// # Panics
    /// Where a file cannot be written, as all functions here.
    pub fn new(directory: &Path) -> Layout {
        std::fs::create_dir_all(directory.join("blobs/sha256")).expect("a folder for blobs");
        let marker = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        std::fs::write(directory.join("oci-layout"), marker).expect("writing oci-layout");
        let layout = Layout {
            directory: directory.to_owned(),
            manifests: Vec::new(),
        };
        layout.write_index();
        layout
    }

    /// Adds an image of uncompressed layers under a tag; `config` holds the members of the configuration's `config`
    /// object, such as `Cmd`. Returns the manifest's digest.
    pub fn image(&mut self, tag: &str, layers: &[Vec<u8>], config: &Value) -> Digest {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        self.image_of(tag, &layers, &diff_ids, config)
    }

    /// Adds an image of blobs that are already there, by their descriptors and the digests of their plain tars.
    pub fn image_of(
        &mut self,
        tag: &str,
        layers: &[Value],
        diff_ids: &[String],
        config: &Value,
    ) -> Digest {
        let configuration = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(CONFIG, configuration.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        let bytes = manifest.to_string();
        let mut descriptor = self.blob(MANIFEST, bytes.as_bytes());
        descriptor["annotations"] = json!({ TAG: tag });
        self.manifests.push(descriptor);
        self.write_index();
        Digest::of(bytes.as_bytes())
    }

    /// Adds a blob and returns its descriptor.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        let name = digest.trim_start_matches("sha256:");
        std::fs::write(self.directory.join("blobs/sha256").join(name), bytes)
            .expect("writing a blob");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn write_index(&self) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests });
        std::fs::write(self.directory.join("index.json"), index.to_string())
            .expect("writing the index");
    }
}

pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_of_this_machine_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar");
        let tar = Tar::new()
            .directory("d/", Meta::mode(0o750))
            .file(
                "d/f",
                Meta {
                    mode: 0o640,
                    uid: 7,
                    gid: 8,
                },
                b"content",
            )
            .symlink("d/s", "f")
            .hard_link("d/h", "d/f");
        std::fs::write(&archive, tar.bytes()).unwrap();
        let output = Command::new("tar")
            .env("TZ", "UTC")
            .args(["-tv", "--numeric-owner", "-f"])
            .arg(&archive)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let squeezed: Vec<String> = said
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert!(output.status.success());
        let expected = [
            "drwxr-x--- 0/0 0 1970-01-01 00:00 d/",
            "-rw-r----- 7/8 7 1970-01-01 00:00 d/f",
            "lrwxrwxrwx 0/0 0 1970-01-01 00:00 d/s -> f",
            "hrw-r--r-- 0/0 0 1970-01-01 00:00 d/h link to d/f",
        ];
        assert_eq!(squeezed, expected);
    }

    #[test]
    fn skopeo_understands_the_layout() {
        crate::need!(Skopeo);
        let folder = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(folder.path());
        let layer = |name: &str| Tar::new().file(name, Meta::mode(0o644), b"x").bytes();
        let digest = layout.image("two", &[layer("a"), layer("b")], &json!({ "Cmd": ["/a"] }));
        let reference = format!("oci:{}:two", folder.path().display());
        let output = Command::new("skopeo")
            .args(["inspect", &reference])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["Digest"], digest.to_string());
        assert_eq!(said["Layers"].as_array().unwrap().len(), 2);
    }
}
