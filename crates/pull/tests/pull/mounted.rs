// SPDX-License-Identifier: Apache-2.0
//! What the kernel shows of a pulled image is what the image says: type, mode, owner, times, attributes, content, links.
//!
//! Method: inside a user namespace with 65,536 ids an image is pulled and mounted (stubs over objects, as containers mount it),
//! and a static program walks it. Awkward images are compared with the merged tree (which `image` holds against umoci), the
//! real one with what umoci unpacks there.

use std::path::Path;
use std::process::Command;

use wolffia_image::tree::{Kind, Tree, xattr};
use wolffia_store::{IdSpan, Owners};
use wolffia_testkit::awkward::{self, Danger};
use wolffia_testkit::layout::Layout;
use wolffia_testkit::walk::{self, Walk};
use wolffia_testkit::{debian_image, need};

use crate::place::Place;

/// Says to this binary that it is inside, and where the walker is.
const WALKER: &str = "WOLFFIA_TEST_WALKER";
/// Ids of the namespace: those that images are made for, and one more for root.
const IDS: u32 = 65_536;

/// Returns the walker's path, inside.
fn walker() -> Option<String> {
    std::env::var(WALKER).ok()
}

/// Runs the test again inside, with a walker.
fn run_inside(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let walker = walk::compile(folder.path());
    let namespaces = [
        "--user",
        "--map-root-user",
        "--map-users=auto",
        "--map-groups=auto",
        "--mount",
    ];
    let output = Command::new("unshare")
        .args(namespaces)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(WALKER, walker)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inside: {said}");
}

/// Pulls an image, mounts it and walks it; returns the walk and the tree.
fn pull_and_walk(image: &str, walker: &str) -> (Walk, Tree) {
    let mut place = Place::new();
    let ids = vec![IdSpan {
        first: 0,
        count: IDS,
    }];
    place.owners = Owners {
        key: "s1".into(),
        users: ids.clone(),
        groups: ids,
    };
    let outcome = place.pull(image).unwrap();
    place.check();
    let record = place.store.image(&outcome.image).unwrap().unwrap();
    let root = place.store.rootfs(&record, "s1").unwrap();
    let at = place.directory.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    let options = format!(
        "ro,userxattr,lowerdir={}::{}",
        root.stubs.display(),
        root.objects.display()
    );
    run(Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay"])
        .arg(&at));
    let walk = walk_of(walker, &at);
    run(Command::new("umount").arg(&at));
    let tree = place.store.tree(record.tree).unwrap();
    // What sub-ids own can only be deleted here, inside.
    drop(place);
    (walk, tree)
}

fn walk_of(walker: &str, at: &Path) -> Walk {
    let output = Command::new(walker).arg(at).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "walking {}: {said}", at.display());
    walk::parse(&String::from_utf8(output.stdout).unwrap())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// What a mount in a user namespace shows of a tree: no devices, no owners beyond the mapping, none of the attributes
/// that only the machine's root may set.
fn as_shown(tree: &Tree) -> Walk {
    let mut walk = walk::of_tree(tree);
    let devices: Vec<Vec<u8>> = walk
        .iter()
        .filter(|(_, node)| matches!(node.kind, 'c' | 'b'))
        .map(|(name, _)| name.clone())
        .collect();
    for name in devices {
        walk.remove(&name);
    }
    let shown = |id: u32| {
        if id < IDS {
            id
        } else {
            wolffia_store::OVERFLOW_ID
        }
    };
    for node in walk.values_mut() {
        node.owner = (shown(node.owner.0), shown(node.owner.1));
        // A user's attribute stands on files and directories only (xattr(7)).
        let has_user = matches!(node.kind, '-' | 'd');
        // The kernel takes its own escape of `user.overlay.*` back, but not ours of owners' attributes.
        let shown = |name: Vec<u8>| match xattr::stored_name(&name) {
            Some(stored) if !name.starts_with(b"user.overlay.") => stored.into_owned(),
            _ => name,
        };
        let xattrs = std::mem::take(&mut node.xattrs);
        node.xattrs = xattrs
            .into_iter()
            .map(|(name, value)| (shown(name), value))
            .collect();
        node.xattrs.retain(|name, _| {
            !name.starts_with(b"trusted.") && (has_user || !name.starts_with(b"user."))
        });
    }
    walk
}

#[test]
fn an_awkward_image_is_mounted_as_its_tree_says() {
    // The gate stands outside only: a namespace has no sub-ids to give.
    let Some(walker) = walker() else {
        need!(UserNamespace, SubIds, DataOnlyLayers, Cc);
        return run_inside("mounted::an_awkward_image_is_mounted_as_its_tree_says");
    };
    for seed in 0..8 {
        let danger = if seed % 2 == 0 {
            Danger::Honest
        } else {
            Danger::Hostile
        };
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        Layout::new(&layout).image("t", &awkward::layers(seed, danger), &serde_json::json!({}));
        let (mut walk, tree) = pull_and_walk(&format!("oci:{}:t", layout.display()), &walker);
        let attributes_kept = |node: &mut walk::Node| {
            node.xattrs
                .retain(|name, _| name.as_slice() != b"system.posix_acl_access");
        };
        walk.values_mut().for_each(attributes_kept);
        let differences = walk::differences(&walk, &as_shown(&tree));
        assert!(
            differences.is_empty(),
            "seed {seed}:\n{}",
            differences.join("\n")
        );
        let devices = tree.entries.iter().filter(|entry| {
            matches!(
                entry.kind,
                Kind::CharDevice { .. } | Kind::BlockDevice { .. }
            )
        });
        assert!(devices.count() > 0, "an awkward image without a device");
    }
}

/// There is no list of differences: on this image there are none.
#[test]
fn the_real_image_is_mounted_as_umoci_unpacks_it() {
    let Some(walker) = walker() else {
        need!(Mmdebstrap, UserNamespace, SubIds, DataOnlyLayers, Cc, Umoci);
        // Made outside, where mmdebstrap may make a namespace of its own.
        debian_image::layout();
        return run_inside("mounted::the_real_image_is_mounted_as_umoci_unpacks_it");
    };
    let image = format!("{}:{}", debian_image::layout().display(), debian_image::TAG);
    let (ours, tree) = pull_and_walk(&format!("oci:{image}"), &walker);
    assert!(
        tree.entries.len() > 10_000,
        "{} entries",
        tree.entries.len()
    );
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    let theirs = walk_of(&walker, &bundle.join("rootfs"));
    let differences = walk::differences(&ours, &theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Most of the first image's bytes that one rebuilt with another package may add: the package has 0.1 %.
const REBUILT_PERCENT_MAX: u64 = 3;

#[test]
fn a_rebuilt_image_costs_what_is_new() {
    need!(Mmdebstrap, UserNamespace, SubIds);
    let place = Place::new();
    let layout = debian_image::layout();
    let pull = |tag| {
        place
            .pull(&format!("oci:{}:{tag}", layout.display()))
            .unwrap()
    };
    let first = pull(debian_image::TAG);
    let rebuilt = pull(debian_image::REBUILT_TAG);
    assert_eq!(rebuilt.layers_present, 0, "the layers should differ");
    assert!(rebuilt.stored_bytes > 0, "there is one package more");
    assert!(
        rebuilt.stored_bytes * 100 < first.stored_bytes * REBUILT_PERCENT_MAX,
        "{} bytes after {}",
        rebuilt.stored_bytes,
        first.stored_bytes
    );
}
