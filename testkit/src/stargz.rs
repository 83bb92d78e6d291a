// SPDX-License-Identifier: Apache-2.0
//! Layers as eStargz has them, made from the format's page alone: each file's content in gzip members of its own, a table of
//! contents behind them, a footer that says where it is.
//!
//! Nothing is shared with the reader under test but the digest function. Other people's writers are used where they are
//! installed; this one is always here.
//!
//! Source: stargz-snapshotter docs/estargz.md.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wolffia_image::Digest;

use crate::layout::{Meta, Tar};

/// The annotation of a layer that holds the digest of its table.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The name that the table has in the archive.
const TOC_NAME: &str = "stargz.index.json";

/// A layer in the making.
#[derive(Debug)]
pub struct Stargz {
    blob: Vec<u8>,
    member: Vec<u8>,
    entries: Vec<Value>,
    chunk_bytes: usize,
}

/// A layer that is made.
#[derive(Debug, Clone)]
pub struct StargzLayer {
    /// Its bytes.
    pub blob: Vec<u8>,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The digest of its table.
    pub toc_digest: Digest,
}

impl Stargz {
    /// Returns an empty layer whose files are cut into chunks of so many bytes.
    pub fn new(chunk_bytes: usize) -> Self {
        Self {
            blob: Vec::new(),
            member: Vec::new(),
            entries: Vec::new(),
            chunk_bytes,
        }
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.header(Tar::new().directory(path, Meta::mode(mode)));
        self.entry(json!({ "name": path, "type": "dir", "mode": mode }));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.header(Tar::new().symlink(path, target));
        self.entry(json!({ "name": path, "type": "symlink", "mode": 0o777, "linkName": target }));
        self
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let whole = Tar::new().file(path, Meta::mode(mode), content);
        let bytes = without_end(whole);
        self.member.extend_from_slice(&bytes[..512]);
        let size = content.len();
        if size == 0 {
            self.entry(json!({ "name": path, "type": "reg", "mode": mode }));
            return self;
        }
        let mut at = 0;
        while at < size {
            let end = size.min(at + self.chunk_bytes);
            let offset = self.end_member();
            let chunk = &content[at..end];
            self.member.extend_from_slice(chunk);
            let mut entry = json!({
                "name": path,
                "offset": offset,
                "chunkDigest": Digest::of(chunk).to_string(),
            });
            if at == 0 {
                entry["type"] = json!("reg");
                entry["size"] = json!(size);
                entry["mode"] = json!(mode);
                entry["digest"] = json!(Digest::of(content).to_string());
            } else {
                entry["type"] = json!("chunk");
                entry["chunkOffset"] = json!(at);
            }
            if end < size {
                entry["chunkSize"] = json!(end - at);
            }
            self.entry(entry);
            at = end;
        }
        self.member.extend_from_slice(&bytes[512 + size..]);
        self
    }

    /// Adds [the payload](crate::payload) and what it needs, as [`Tar::payload`] does.
    #[must_use]
    pub fn payload(self) -> Self {
        let mut layer = self;
        for folder in ["bin", "dev", "etc", "proc", "root", "sys"] {
            layer = layer.directory(&format!("{folder}/"), 0o755);
        }
        layer = layer
            .directory("tmp/", 0o1777)
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/payload\n")
            .file("etc/group", 0o644, b"root:x:0:\n")
            .file("bin/payload", 0o755, crate::payload::program());
        for command in crate::payload::COMMANDS {
            layer = layer.symlink(&format!("bin/{command}"), "payload");
        }
        layer
    }

    /// Makes the layer.
    ///
    /// # Panics
    /// Never: it writes to memory.
    pub fn build(mut self) -> StargzLayer {
        let toc = json!({ "version": 1, "entries": self.entries }).to_string();
        let offset = self.end_member();
        let entry = Tar::new().file(TOC_NAME, Meta::mode(0o444), toc.as_bytes());
        self.member = entry.bytes();
        let _end = self.end_member();
        let mut extra = b"SG".to_vec();
        extra.extend_from_slice(&22_u16.to_le_bytes());
        extra.extend_from_slice(format!("{offset:016x}STARGZ").as_bytes());
        let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
        footer.extend_from_slice(&26_u16.to_le_bytes());
        footer.extend_from_slice(&extra);
        // One stored block without bytes, its sum and its length.
        footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(footer.len(), 51, "the footer has a fixed length");
        self.blob.extend_from_slice(&footer);
        let mut tar = Vec::new();
        MultiGzDecoder::new(&self.blob[..])
            .read_to_end(&mut tar)
            .expect("what was just packed");
        StargzLayer {
            diff_id: Digest::of(&tar),
            toc_digest: Digest::of(toc.as_bytes()),
            blob: self.blob,
        }
    }

    fn entry(&mut self, mut entry: Value) {
        if entry["type"] != "chunk" {
            entry["modtime"] = json!("1970-01-01T00:00:00Z");
        }
        self.entries.push(entry);
    }

    fn header(&mut self, tar: Tar) {
        let bytes = without_end(tar);
        self.member.extend_from_slice(&bytes);
    }

    /// Packs what is gathered, and returns where the next member begins.
    fn end_member(&mut self) -> usize {
        if !self.member.is_empty() {
            let mut packer = GzEncoder::new(&mut self.blob, Compression::default());
            packer.write_all(&self.member).expect("memory takes all");
            packer.finish().expect("memory takes all");
            self.member.clear();
        }
        self.blob.len()
    }
}

/// Returns an archive's bytes without the two empty blocks at its end.
fn without_end(tar: Tar) -> Vec<u8> {
    let mut bytes = tar.bytes();
    bytes.truncate(bytes.len() - 1024);
    bytes
}
