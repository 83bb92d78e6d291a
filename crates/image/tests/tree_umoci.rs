// SPDX-License-Identifier: Apache-2.0
//! Trees against what umoci unpacks as root: every name, type, mode, owner, time, attribute, content and hard link.
//!
//! Goal: a person who unpacks an image with the reference tool and one who pulls it with Wolffia see the same files. Method:
//! awkward images by seed, unpacked by umoci 0.4.7, walked by a static program, compared with the walk of our merged tree.
//! What differs must be in [`DIFFERENCES`], each with its reason.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_types, reason = "a peer needs files and a process")]

use std::path::Path;
use std::process::Command;

use serde_json::json;
use wolffia_testkit::awkward::{self, Danger};
use wolffia_testkit::layout::Layout;
use wolffia_testkit::need;
use wolffia_testkit::walk::{self, Node, Walk};

/// Takes one kind of difference out of both sides of a name; `began` is when umoci did, in seconds since 1970.
type Evens = fn(ours: &mut Node, theirs: &mut Node, began: i64);

/// The differences that are meant, and why.
const DIFFERENCES: [(&str, Evens); 3] = [
    (
        "umoci leaves the time of unpacking on directories that no layer describes and on those that lose something \
         to a whiteout; ours say 1970 and what their layer said, so that a pull gives the same tree every day",
        |ours, theirs, began| {
            if ours.kind == 'd' && theirs.kind == 'd' && theirs.mtime.0 >= began {
                theirs.mtime = ours.mtime;
            }
        },
    ),
    (
        "Go's archive/tar drops an attribute whose value is empty; it is a value like any other (GNU tar keeps it)",
        |ours, _, _| ours.xattrs.retain(|_, value| !value.is_empty()),
    ),
    (
        "umoci never writes trusted.overlay.*, since it could not tell them from its own; ours are kept, renamed",
        |ours, _, _| {
            ours.xattrs
                .retain(|name, _| !name.starts_with(b"trusted.overlay."));
        },
    ),
];

/// Unpacks an image by umoci and walks it.
fn umoci(folder: &Path, archives: &[Vec<u8>]) -> Walk {
    let (layout, bundle) = (folder.join("layout"), folder.join("bundle"));
    Layout::new(&layout).image("awkward", archives, &json!({}));
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:awkward", layout.display()))
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(
        unpacked.status.success(),
        "{}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    let walker = walk::compile(folder);
    let walked = Command::new(walker)
        .arg(bundle.join("rootfs"))
        .output()
        .unwrap();
    assert!(
        walked.status.success(),
        "{}",
        String::from_utf8_lossy(&walked.stderr)
    );
    walk::parse(&String::from_utf8(walked.stdout).unwrap())
}

#[test]
fn trees_equal_what_umoci_unpacks() {
    need!(Root, Umoci, Cc);
    let mut explained = [0; DIFFERENCES.len()];
    for seed in 0..10 {
        let archives = awkward::layers(seed, Danger::Readable);
        let tree = walk::tree(&archives);
        assert!(tree.refused.is_empty(), "seed {seed}: {:?}", tree.refused);
        let mut ours = walk::of_tree(&tree);
        let folder = tempfile::tempdir().unwrap();
        let began = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        let mut theirs = umoci(folder.path(), &archives);
        for (name, ours) in &mut ours {
            let Some(theirs) = theirs.get_mut(name) else {
                continue;
            };
            for (count, (_, evens)) in explained.iter_mut().zip(DIFFERENCES) {
                let before = (ours.clone(), theirs.clone());
                evens(ours, theirs, began);
                *count += usize::from(before != (ours.clone(), theirs.clone()));
            }
        }
        let differences = walk::differences(&ours, &theirs);
        assert!(
            differences.is_empty(),
            "seed {seed}:\n{}",
            differences.join("\n")
        );
    }
    for (count, (reason, _)) in explained.iter().zip(DIFFERENCES) {
        assert!(*count > 0, "no longer seen, take it off the list: {reason}");
    }
}
