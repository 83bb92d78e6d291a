// SPDX-License-Identifier: Apache-2.0
//! A full disk and a read-only one: a clear error with a hint, and nothing lost.
//!
//! Each test runs itself again inside a user and mount namespace, where it may mount a file system of a megabyte or two.

use std::ffi::CStr;
use std::path::Path;
use std::process::Command;

use rustix::mount::MountFlags;
use wolffia_pull::PullError;
use wolffia_store::{Owners, Repair, Store, StoreError};
use wolffia_testkit::image_builder::Packing;
use wolffia_testkit::need;
use wolffia_testkit::registry::Registry;

use crate::place::{Place, check_image, image};

/// Says to this binary that it is inside.
const INSIDE: &str = "WOLFFIA_TEST_INSIDE";

/// Runs the test again inside a user and mount namespace.
fn run_inside(test: &str) {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inside: {said}");
}

/// Without mount(8), which hands the old options on, among them an owner that the namespace does not have.
fn remount(at: &Path, flags: MountFlags, options: &CStr) {
    rustix::mount::mount_remount(at, flags, options).unwrap();
}

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount")
        .args(arguments)
        .arg(at)
        .status()
        .unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

#[test]
fn a_full_disk_fails_one_pull_and_loses_nothing() {
    if std::env::var_os(INSIDE).is_none() {
        need!(UserNamespace);
        return run_inside("space::a_full_disk_fails_one_pull_and_loses_nothing");
    }
    let registry = Registry::start();
    let mut place = Place::new();
    let small = place.directory.path().join("small");
    std::fs::create_dir(&small).unwrap();
    // Room for one image of 1.4 MB and its stubs, not for two.
    mount(
        &["-t", "tmpfs", "-o", "size=2500k,mode=0700", "tmpfs"],
        &small,
    );
    place.store = Store::open(small.join("store")).unwrap();
    for seed in [1, 2] {
        registry.put("a/b", &seed.to_string(), &image(seed, Packing::Gzip));
    }
    let (one, two) = (registry.name("a/b", "1"), registry.name("a/b", "2"));
    place.pull(&one).unwrap();
    check_image(&place, &one, 1);
    let before = place.store.check(None, Repair::No).unwrap();

    let failed = place.pull(&two);
    let Err(PullError::Store(error @ StoreError::Full { .. })) = failed else {
        panic!("{failed:?}")
    };
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("free some space") && hint.contains(small.to_str().unwrap()),
        "{hint}"
    );
    // What the failed pull wrote is gone again, and the first image is as it was.
    check_image(&place, &one, 1);
    let after = place.store.check(None, Repair::No).unwrap();
    assert_eq!((before.objects, before.bytes), (after.objects, after.bytes));

    remount(&small, MountFlags::empty(), c"size=20m");
    place.pull(&two).unwrap();
    check_image(&place, &two, 2);
}

#[test]
fn a_read_only_place_is_named_and_can_be_read() {
    if std::env::var_os(INSIDE).is_none() {
        need!(UserNamespace);
        return run_inside("space::a_read_only_place_is_named_and_can_be_read");
    }
    let registry = Registry::start();
    let mut place = Place::new();
    let home = place.directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    mount(&["-t", "tmpfs", "-o", "mode=0700", "tmpfs"], &home);
    place.store = Store::open(home.join("store")).unwrap();
    registry.put("a/b", "t", &image(1, Packing::Gzip));
    registry.put("a/b", "u", &image(2, Packing::Gzip));
    let name = registry.name("a/b", "t");
    place.pull(&name).unwrap();
    remount(&home, MountFlags::RDONLY, c"");

    let store = Store::open(home.join("store")).unwrap();
    let found = store.resolve(&name).unwrap();
    assert!(store.rootfs(&found, "one").is_ok());
    let failed = place.pull(&registry.name("a/b", "u"));
    let Err(PullError::Store(error @ StoreError::ReadOnly { .. })) = failed else {
        panic!("{failed:?}")
    };
    assert!(error.hint().unwrap().contains("--root"));
    let failed = Store::open(home.join("other/store"));
    assert!(
        matches!(failed, Err(StoreError::ReadOnly { .. })),
        "{failed:?}"
    );
    assert!(store.remove(&name, &[], false).is_err());
    assert_eq!(store.resolve(&name).unwrap(), found);
    let unchanged = store.rootfs(&found, &Owners::single("one").key).unwrap();
    assert!(unchanged.stubs.join("etc/name").exists());
}
