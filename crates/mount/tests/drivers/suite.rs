// SPDX-License-Identifier: Apache-2.0
//! The promises, each a function of a driver; and the processes that they are tried in.
//!
//! A promise is tried by this binary run again inside a user and mount namespace with 65,536 ids, which util-linux makes.

use std::{
    fs,
    io::Write as _,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    },
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{Mode, OFlags, XattrFlags},
    mount::{MountPropagationFlags, UnmountFlags},
};
use wolffia_mount::{SnapshotDriver, WorkDir, choice, drivers};
use wolffia_store::{ImageRoot, Repair, Store, UNPACKED, UnusedLayers};
use wolffia_sys::facts::{Overlays, overlay};
use wolffia_testkit::need;

use crate::image::{self, CONTENT, MODIFIED};

/// Says to this binary that it runs inside.
const INSIDE: &str = "WOLFFIA_TEST_INSIDE";

/// Runs `test` of this binary inside.
fn inside(test: &str) {
    let said = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--map-users=auto",
            "--map-groups=auto",
        ])
        .args(["--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("suite::{test}"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// One driver, one image, one place that is gone afterwards.
struct Bench {
    driver: &'static dyn SnapshotDriver,
    image: ImageRoot,
    place: tempfile::TempDir,
}

impl Bench {
    fn of(driver: &'static dyn SnapshotDriver) -> Bench {
        let place = tempfile::tempdir().unwrap();
        Bench {
            driver,
            image: image::make(place.path()),
            place,
        }
    }

    fn work(&self, name: &str) -> WorkDir {
        let directory = self.place.path().join(name);
        fs::create_dir_all(&directory).unwrap();
        WorkDir::new(directory)
    }

    fn mount(&self, work: &WorkDir) -> Mounted {
        let at = self.place.path().join("merged");
        fs::create_dir_all(&at).unwrap();
        let plan = self.driver.prepare(&self.image, work).unwrap();
        let target = rustix::fs::open(&at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let root = plan.execute(target.as_fd()).unwrap();
        Mounted {
            at,
            _root: root.into_fd(),
        }
    }
}

struct Mounted {
    at: PathBuf,
    _root: OwnedFd,
}

impl Mounted {
    fn path(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

/// What a driver promises, in words, and how it is tried.
type Promise = (&'static str, fn(&Bench));

const SUITE: &[Promise] = &[
    ("the tree is the image's", the_tree_is_the_images),
    (
        "attributes that steer are inert",
        attributes_that_steer_are_inert,
    ),
    (
        "changes stay in the upper layer",
        changes_stay_in_the_upper_layer,
    ),
    (
        "changes are kept between mounts",
        changes_are_kept_between_mounts,
    ),
    (
        "read-only refuses every change",
        read_only_refuses_every_change,
    ),
    (
        "a committed layer lies below others",
        a_committed_layer_lies_below_others,
    ),
    (
        "discard removes what any id wrote",
        discard_removes_what_any_id_wrote,
    ),
    (
        "what a driver makes is checked with the store, and goes with its image",
        what_a_driver_makes_is_checked_and_collected,
    ),
];

#[test]
fn every_driver_keeps_every_promise() {
    if !is_inside() {
        need!(UserNamespace, SubIds, Overlay, DataOnlyLayers);
        return inside("every_driver_keeps_every_promise");
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    for driver in drivers::ALL {
        for (promise, check) in SUITE {
            let caught = std::panic::catch_unwind(AssertUnwindSafe(|| check(&Bench::of(*driver))));
            assert!(caught.is_ok(), "driver {}: {promise}", driver.name());
        }
    }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 100];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

fn the_tree_is_the_images(bench: &Bench) {
    let mounted = bench.mount(&bench.work("one"));
    let look = |path: &str| fs::symlink_metadata(mounted.path(path)).unwrap();
    for (path, mode, owner) in [
        ("", 0o040_751, (0, 0)),
        ("dir", 0o042_775, (0, 0)),
        ("dir/file", 0o100_640, (33, 50)),
        ("dir/same", 0o100_604, (0, 0)),
        ("dir/empty", 0o100_644, (0, 0)),
        ("dir/su", 0o104_755, (0, 12)),
        ("dir/pipe", 0o010_600, (0, 0)),
    ] {
        let found = look(path);
        assert_eq!(
            (found.mode(), (found.uid(), found.gid())),
            (mode, owner),
            "{path}"
        );
        assert_eq!((found.mtime(), found.mtime_nsec()), MODIFIED, "{path}");
    }
    assert!(look("dir/pipe").file_type().is_fifo());
    assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), CONTENT);
    assert_eq!(fs::read(mounted.path("dir/same")).unwrap(), CONTENT);
    assert_eq!(fs::read(mounted.path("dir/empty")).unwrap(), b"");
    assert_eq!(look("dir/file").len(), CONTENT.len() as u64);
    assert_eq!(
        fs::read_link(mounted.path("dir/link")).unwrap(),
        Path::new("file")
    );
    let (su, other_name) = (look("dir/su"), look("dir/zz"));
    assert_eq!((su.ino(), su.nlink()), (other_name.ino(), 2));
    let tagged = mounted.path("dir/tagged");
    assert_eq!(attribute(&tagged, "user.mine"), Some(b"a\0b".to_vec()));
    let mut names = [0; 1000];
    let length = rustix::fs::llistxattr(mounted.path("dir/file"), &mut names[..]).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&names[..length]),
        "",
        "no mark of ours is seen inside"
    );
}

fn attributes_that_steer_are_inert(bench: &Bench) {
    let mounted = bench.mount(&bench.work("one"));
    assert_eq!(fs::read(mounted.path("evil-redirect")).unwrap(), CONTENT);
    assert_eq!(fs::read(mounted.path("evil-whiteout")).unwrap(), b"");
    assert_eq!(
        fs::read(mounted.path("evil-opaque/inside")).unwrap(),
        CONTENT
    );
    // Nor when the file has been copied up with its attributes.
    append(&mounted.path("evil-redirect"), b"!");
    assert_eq!(
        fs::read(mounted.path("evil-redirect")).unwrap(),
        [CONTENT, b"!"].concat()
    );
    fs::write(mounted.path("evil-opaque/new"), b"").unwrap();
    let names = fs::read_dir(mounted.path("evil-opaque")).unwrap().count();
    assert_eq!(names, 2);
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// Everything below a directory, as text: names, modes, sizes and contents.
fn picture(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let look = fs::symlink_metadata(&path).unwrap();
            let content = if look.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.push(format!(
                "{} {:o} {}:{} {content:?}",
                path.display(),
                look.mode(),
                look.uid(),
                look.gid()
            ));
            if look.is_dir() {
                directories.push(path);
            }
        }
    }
    found.sort();
    found
}

fn changes_stay_in_the_upper_layer(bench: &Bench) {
    let work = bench.work("one");
    drop(bench.mount(&work));
    let store = bench.place.path().join("store");
    let before = picture(&store);
    let mounted = bench.mount(&work);
    append(&mounted.path("dir/file"), b" and more");
    fs::write(mounted.path("dir/same"), b"replaced").unwrap();
    fs::set_permissions(
        mounted.path("dir/tagged"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    chown(mounted.path("dir/empty"), Some(65_534), Some(1)).unwrap();
    fs::rename(mounted.path("dir/su"), mounted.path("su")).unwrap();
    fs::remove_file(mounted.path("dir/link")).unwrap();
    fs::remove_dir_all(mounted.path("evil-opaque")).unwrap();
    fs::create_dir(mounted.path("evil-opaque")).unwrap();
    let attribute_set = rustix::fs::lsetxattr(
        mounted.path("dir/victim"),
        "user.new",
        b"value",
        XattrFlags::empty(),
    );
    attribute_set.unwrap();
    assert_eq!(
        fs::read(mounted.path("dir/file")).unwrap(),
        [CONTENT, b" and more"].concat()
    );
    assert_eq!(fs::read(mounted.path("dir/tagged")).unwrap(), CONTENT);
    assert_eq!(fs::read(mounted.path("su")).unwrap(), b"set-uid program");
    assert!(!mounted.path("dir/link").exists());
    assert_eq!(
        fs::read_dir(mounted.path("evil-opaque")).unwrap().count(),
        0
    );
    drop(mounted);
    assert_eq!(picture(&store), before, "the store is as it was");
}

fn changes_are_kept_between_mounts(bench: &Bench) {
    let work = WorkDir {
        volatile: true,
        ..bench.work("one")
    };
    let mounted = bench.mount(&work);
    fs::write(mounted.path("dir/new"), b"kept").unwrap();
    fs::remove_file(mounted.path("dir/file")).unwrap();
    // As after a crash: nobody unmounts in order, and a volatile overlay leaves its mark.
    drop(mounted);
    let mounted = bench.mount(&work);
    assert_eq!(fs::read(mounted.path("dir/new")).unwrap(), b"kept");
    assert!(!mounted.path("dir/file").exists());
}

fn read_only_refuses_every_change(bench: &Bench) {
    let work = WorkDir {
        read_only: true,
        ..bench.work("one")
    };
    let mounted = bench.mount(&work);
    assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), CONTENT);
    for refused in [
        fs::write(mounted.path("new"), b""),
        fs::remove_file(mounted.path("dir/file")),
        fs::create_dir(mounted.path("directory")),
    ] {
        assert_eq!(
            refused.unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
    }
    assert_eq!(fs::read_dir(&work.directory).unwrap().count(), 0);
}

fn a_committed_layer_lies_below_others(bench: &Bench) {
    let (first, layer) = (bench.work("one"), bench.place.path().join("layer"));
    let mounted = bench.mount(&first);
    fs::write(mounted.path("dir/new"), b"of the first").unwrap();
    fs::remove_file(mounted.path("dir/same")).unwrap();
    fs::remove_dir_all(mounted.path("evil-opaque")).unwrap();
    fs::create_dir(mounted.path("evil-opaque")).unwrap();
    drop(mounted);
    first.commit(&layer).unwrap();
    let second = WorkDir {
        committed: vec![layer.clone()],
        ..bench.work("two")
    };
    let mounted = bench.mount(&second);
    assert_eq!(fs::read(mounted.path("dir/new")).unwrap(), b"of the first");
    assert!(!mounted.path("dir/same").exists());
    assert_eq!(
        fs::read_dir(mounted.path("evil-opaque")).unwrap().count(),
        0
    );
    assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), CONTENT);
    fs::write(mounted.path("dir/new"), b"of the second").unwrap();
    drop(mounted);
    assert_eq!(fs::read(layer.join("dir/new")).unwrap(), b"of the first");
    assert!(first.commit(&layer).is_err(), "a layer is never replaced");
}

fn discard_removes_what_any_id_wrote(bench: &Bench) {
    let work = bench.work("one");
    let mounted = bench.mount(&work);
    let closed = mounted.path("home/of/somebody");
    fs::create_dir_all(&closed).unwrap();
    fs::write(closed.join("file"), b"theirs").unwrap();
    for path in [closed.join("file"), closed.clone(), mounted.path("home")] {
        chown(&path, Some(1000), Some(1000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    drop(mounted);
    work.discard().unwrap();
    assert_eq!(fs::read_dir(&work.directory).unwrap().count(), 0);
    work.discard().unwrap();
}

/// On a file system without attributes for users nothing works, and the refusal says so by name.
#[test]
fn a_file_system_that_cannot_carry_an_upper_layer_is_refused_by_name() {
    if !is_inside() {
        need!(UserNamespace, SubIds);
        return inside("a_file_system_that_cannot_carry_an_upper_layer_is_refused_by_name");
    }
    let found = overlay::probe(Path::new("/proc"), overlay::Standing::Inside);
    let Overlays { plain, data_layers } = &found;
    assert!(plain.is_err() && data_layers.is_err());
    let refusal = choice::choose(&found).unwrap_err().to_string();
    assert!(
        refusal.contains("making a directory on the storage"),
        "{refusal}"
    );
}

fn what_a_driver_makes_is_checked_and_collected(bench: &Bench) {
    let store = Store::open(bench.place.path().join("store")).unwrap();
    let owners = image::owners();
    let check = |repair| store.check(Some(&owners), repair).unwrap();
    drop(bench.mount(&bench.work("one")));
    let clean = check(Repair::No);
    assert_eq!(clean.problems, [], "as it was made");
    let unpacked = bench.image.stubs.with_file_name(UNPACKED);
    assert_eq!(clean.stub_trees, if unpacked.exists() { 2 } else { 1 });
    if unpacked.exists() {
        // One byte, at the same time as before.
        let path = unpacked.join("dir/same");
        let mut damaged = CONTENT.to_vec();
        damaged[0] ^= 1;
        let file = fs::File::options().write(true).open(&path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        (&file).write_all(&damaged).unwrap();
        file.set_modified(before).unwrap();
        let report = check(Repair::Yes);
        assert_eq!(report.problem_count, 1, "{:?}", report.problems);
        assert_eq!(report.problems[0].path, path);
        assert!(!unpacked.exists(), "taken away, to be made again");
    }
    store.remove("localhost/every:kind", &[], true).unwrap();
    store.collect(UnusedLayers::Drop).unwrap();
    for folder in ["trees", "objects", "ingest"] {
        let left: Vec<_> = fs::read_dir(store.path().join(folder))
            .unwrap()
            .flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap())
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}
