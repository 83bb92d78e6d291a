// SPDX-License-Identifier: Apache-2.0
//! An image inside a container against what umoci unpacks as root, name for name.
//!
//! Goal: what an ordinary user's container sees is the image, whole: types, modes, owners, times, attributes, contents, hard
//! links. Method: pull an image into a new store as an ordinary user, run a static walker in a container of it, unpack the same
//! image by umoci as root, walk that by the same program, compare. What differs must be in the list with its reason,
//! and each of those must be seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wolffia_testkit::awkward::{self, Danger};
use wolffia_testkit::debian_image;
use wolffia_testkit::layout::Layout;
use wolffia_testkit::need;
use wolffia_testkit::ordinary::Ordinary;
use wolffia_testkit::walk::{self, Node, Walk};

/// Ids that an ordinary user with 65,536 sub-ids has inside.
const IDS: u32 = 65_537;
/// What stands for an owner that is not mapped.
const NOBODY: u32 = 65_534;

/// What every container gets in its own way: these are no part of the image.
const GIVEN: [&[u8]; 6] = [
    b"dev",
    b"proc",
    b"sys",
    b"etc/hosts",
    b"etc/hostname",
    b"etc/resolv.conf",
];

/// The ways in which an image is mounted.
const DRIVERS: [&str; 2] = ["stubs", "overlay"];

/// Takes one kind of difference out of both sides of a name; `began` is when umoci did, in seconds since 1970.
type Evens = fn(inside: &mut Node, unpacked: &mut Node, began: i64);

/// A difference that is meant, and why.
type Difference = (&'static str, Evens);

/// Where the user has sub-ids.
const OWNER_BEYOND: Difference = (
    "an owner beyond the mapped range is shown as 65534; the record has the true one",
    |_, unpacked, _| {
        let shown = |id| if id < IDS { id } else { NOBODY };
        unpacked.owner = (shown(unpacked.owner.0), shown(unpacked.owner.1));
    },
);

/// Where the user has none.
const ONE_OWNER: Difference = (
    "where one id is mapped it is shown for every owner; the record has the true ones",
    |_, unpacked, _| unpacked.owner = (0, 0),
);

/// The other differences that are meant.
const DIFFERENCES: [Difference; 5] = [
    (
        "umoci leaves the time of unpacking on directories that no layer describes and on those that lose something to a \
         whiteout; ours say 1970 and what their layer said",
        |inside, unpacked, began| {
            if inside.kind == 'd' && unpacked.mtime.0 >= began {
                unpacked.mtime = inside.mtime;
            }
        },
    ),
    (
        "Go's archive/tar, which umoci uses, drops an attribute whose value is empty",
        |inside, unpacked, _| {
            if inside.xattrs.len() > unpacked.xattrs.len() {
                inside.xattrs.retain(|_, value| !value.is_empty());
            }
        },
    ),
    (
        "attributes of class trusted belong to the machine's root: an ordinary user can neither write nor see them",
        |_, unpacked, _| {
            unpacked
                .xattrs
                .retain(|name, _| !name.starts_with(b"trusted."));
        },
    ),
    (
        "user.rootlesscontainers is kept under another name, so that an image cannot claim owners by it",
        |inside, _, _| {
            if let Some(value) = inside
                .xattrs
                .remove(&b"user.wolffia.escaped.user.rootlesscontainers"[..])
            {
                inside
                    .xattrs
                    .insert(b"user.rootlesscontainers".to_vec(), value);
            }
        },
    ),
    (
        "a device is nothing inside; names of it that are hard links neither",
        |inside, unpacked, _| {
            if matches!(unpacked.kind, 'c' | 'b') && inside.kind == '?' {
                *unpacked = inside.clone();
            }
        },
    ),
];

/// What stands for a name that is not there.
fn nothing() -> Node {
    Node {
        kind: '?',
        mode: 0,
        owner: (0, 0),
        mtime: (0, 0),
        size: 0,
        content: String::new(),
        xattrs: std::collections::BTreeMap::new(),
        first_name: Vec::new(),
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Unpacks an image of a layout by umoci, as root, and walks it.
fn unpacked(layout: &Path, tag: &str, walker: &Path) -> Walk {
    let bundle = tempfile::tempdir().unwrap();
    let bundle = bundle.path().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    output(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    );
    walk::parse(&output(Command::new(walker).arg(bundle.join("rootfs"))))
}

/// Pulls an image and walks a container of it, mounted by one of [`DRIVERS`]; also returns what the pull said.
///
/// `wolffia` begins a command of an ordinary user with `state` as root.
fn inside(
    wolffia: &dyn Fn() -> Command,
    state: &Path,
    (layout, tag): (&Path, &str),
    walker: &Path,
    driver: &str,
) -> (Walk, String) {
    let image = format!("oci:{}:{tag}", layout.display());
    let pull = wolffia().args(["pull", &image]).output().unwrap();
    let said = String::from_utf8(pull.stderr).unwrap();
    assert!(pull.status.success(), "{said}");
    // What was found fittest for this kernel is remembered in this file: two lines.
    let memory = state.join("driver");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let remembered = format!("{}\n{driver}\n", kernel.trim());
    std::fs::write(&memory, &remembered).unwrap();
    // Into /dev, which is the container's own: the image stays as it is.
    let mount = format!("{}:/dev/walker:ro", walker.parent().unwrap().display());
    let walk = [
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &mount,
        &image,
        "/dev/walker/walk",
        "/",
    ];
    let walked = output(wolffia().args(walk));
    let used = std::fs::read_to_string(&memory).unwrap();
    assert_eq!(used, remembered, "the driver was given up");
    (walk::parse(&walked), said)
}

/// Puts the program where the user may execute it, and returns how its commands begin.
fn wolffia_of(user: &Ordinary) -> impl Fn() -> Command {
    let program = user.folder().join("wolffia");
    wolffia_testkit::executable::copy(env!("CARGO_BIN_EXE_wolffia"), &program);
    move || {
        let mut command = user.command(&program);
        command.arg("--root").arg(user.home().join("state"));
        command
    }
}

/// Makes both sides alike in all that is meant to differ, and counts what was.
fn even(
    inside: &mut Walk,
    unpacked: &mut Walk,
    began: i64,
    owner: Difference,
    seen: &mut [usize; DIFFERENCES.len() + 1],
) {
    // What is mounted, and the directory for it where the image has none.
    let has_etc = unpacked.contains_key(&b"etc"[..]);
    let given = |name: &Vec<u8>| GIVEN.contains(&name.as_slice()) || (name == b"etc" && !has_etc);
    let missing = GIVEN.iter().any(|name| !unpacked.contains_key(*name));
    inside.retain(|name, _| !given(name));
    unpacked.retain(|name, _| !given(name));
    if missing {
        // The directory in which a mount point had to be made.
        for name in [&b""[..], b"etc"] {
            if let (Some(inside), Some(unpacked)) = (inside.get_mut(name), unpacked.get(name)) {
                inside.mtime = unpacked.mtime;
            }
        }
    }
    let names: BTreeSet<Vec<u8>> = inside.keys().chain(unpacked.keys()).cloned().collect();
    for name in names {
        let mut one = inside.get(&name).cloned().unwrap_or_else(nothing);
        let mut other = unpacked.get(&name).cloned().unwrap_or_else(nothing);
        let differences = DIFFERENCES.iter().chain([&owner]);
        for (count, (_, evens)) in seen.iter_mut().zip(differences) {
            let before = (one.clone(), other.clone());
            evens(&mut one, &mut other, began);
            *count += usize::from(before != (one.clone(), other.clone()));
        }
        for (walk, node) in [(&mut *inside, one), (&mut *unpacked, other)] {
            if node.kind == '?' {
                walk.remove(&name);
            } else {
                walk.insert(name.clone(), node);
            }
        }
    }
}

fn now() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

fn walker(folder: &Path) -> PathBuf {
    let folder = folder.join("walker");
    std::fs::create_dir(&folder).unwrap();
    walk::compile(&folder)
}

#[test]
fn awkward_images_are_inside_what_umoci_unpacks() {
    need!(Root, Umoci, Cc, Overlay, DataOnlyLayers);
    hold_awkward_images(&Ordinary::new(), 100..104, OWNER_BEYOND);
}

#[test]
fn with_one_id_all_but_owners_is_inside_what_umoci_unpacks() {
    need!(Root, Umoci, Cc, Overlay, DataOnlyLayers);
    hold_awkward_images(&Ordinary::with_one_id(), 104..106, ONE_OWNER);
}

fn hold_awkward_images(user: &Ordinary, seeds: Range<u64>, owner: Difference) {
    let walker = walker(user.folder());
    let (wolffia, state) = (wolffia_of(user), user.home().join("state"));
    let mut seen = [0; DIFFERENCES.len() + 1];
    for seed in seeds {
        let layout = user.folder().join(format!("layout{seed}"));
        Layout::new(&layout).image(
            "awkward",
            &awkward::layers(seed, Danger::Readable),
            &json!({}),
        );
        let began = now();
        let unpacked = unpacked(&layout, "awkward", &walker);
        for driver in DRIVERS {
            let mut unpacked = unpacked.clone();
            let image = (layout.as_path(), "awkward");
            let (mut inside, _) = inside(&wolffia, &state, image, &walker, driver);
            even(&mut inside, &mut unpacked, began, owner, &mut seen);
            let differences = walk::differences(&inside, &unpacked);
            let differences = differences.join("\n");
            assert!(
                differences.is_empty(),
                "seed {seed}, driver {driver}:\n{differences}"
            );
        }
    }
    for (count, (reason, _)) in seen.iter().zip(DIFFERENCES.iter().chain([&owner])) {
        assert!(*count > 0, "no longer seen, take it off the list: {reason}");
    }
}

#[test]
fn a_real_image_is_inside_what_umoci_unpacks() {
    need!(Root, Umoci, Cc, DataOnlyLayers, Mmdebstrap);
    let user = Ordinary::new();
    let walker = walker(user.folder());
    let (wolffia, state) = (wolffia_of(&user), user.home().join("state"));
    // The folder for what is kept may be closed to the user.
    let layout = user.folder().join("layout");
    output(
        Command::new("cp")
            .arg("-r")
            .arg(debian_image::layout())
            .arg(&layout),
    );
    let began = now();
    let mut unpacked = unpacked(&layout, debian_image::TAG, &walker);
    let image = (layout.as_path(), debian_image::TAG);
    let (mut inside, _) = inside(&wolffia, &state, image, &walker, DRIVERS[0]);
    assert!(
        inside.len() > 10_000,
        "{} names are not this image",
        inside.len()
    );
    even(
        &mut inside,
        &mut unpacked,
        began,
        OWNER_BEYOND,
        &mut [0; DIFFERENCES.len() + 1],
    );
    let differences = walk::differences(&inside, &unpacked);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What umoci cannot read or must not: held against our own merged tree, which the tests of room `image` hold against models.
#[test]
fn dishonest_images_are_inside_what_their_tree_says_and_the_pull_tells_of_refusals() {
    need!(UserNamespace, SubIds, Cc, Overlay, DataOnlyLayers);
    let folder = tempfile::tempdir().unwrap();
    let walker = walker(folder.path());
    let state = folder.path().join("state");
    let wolffia = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wolffia"));
        command.arg("--root").arg(&state);
        command
    };
    for seed in 200..202 {
        let archives = awkward::layers(seed, Danger::Hostile);
        let layout = folder.path().join(format!("layout{seed}"));
        Layout::new(&layout).image("awkward", &archives, &json!({}));
        let tree = walk::tree(&archives);
        assert!(tree.refused.count > 10, "{:?}", tree.refused);
        for driver in DRIVERS {
            let image = (layout.as_path(), "awkward");
            let (mut inside, said) = inside(&wolffia, &state, image, &walker, driver);
            let mut expected = walk::of_tree(&tree);
            even(
                &mut inside,
                &mut expected,
                i64::MAX,
                OWNER_BEYOND,
                &mut [0; DIFFERENCES.len() + 1],
            );
            let differences = walk::differences(&inside, &expected).join("\n");
            assert!(
                differences.is_empty(),
                "seed {seed}, driver {driver}:\n{differences}"
            );
            if driver == DRIVERS[0] {
                let first = &tree.refused.listed[0];
                let told = format!("{} entries of the image were left out", tree.refused.count);
                assert!(
                    said.contains(&told) && said.contains(&first.to_string()),
                    "{said}"
                );
            }
        }
    }
}
