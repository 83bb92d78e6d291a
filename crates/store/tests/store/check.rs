// SPDX-License-Identifier: Apache-2.0
//! The check sees what is wrong, whatever it is, and repairing leaves a store that a pull can fill again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use wolffia_image::Digest;
use wolffia_store::{ImageRecord, Owners, Repair, Store};
use wolffia_testkit::layout::{Meta, Tar};

use crate::fixture;

const CONTENT: &[u8] = b"the content of a file";

fn plain_tar() -> Vec<u8> {
    Tar::new()
        .directory("dir/", Meta::mode(0o755))
        .file("dir/file", Meta::mode(0o644), CONTENT)
        .file("other", Meta::mode(0o600), b"other")
        .symlink("link", "dir/file")
        .file("dir/no ? text", Meta::mode(0o644), CONTENT)
        .bytes()
}

/// The tar with a name that is no text: the question mark becomes a byte that UTF-8 has not, and the checksum follows.
fn tar() -> Vec<u8> {
    let mut tar = plain_tar();
    let name = b"dir/no ? text";
    let at = tar
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    tar[at + 7] = 0xff;
    tar[at + 148..at + 156].fill(b' ');
    let sum: u32 = tar[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
    tar[at + 148..at + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar
}

struct Place {
    _directory: tempfile::TempDir,
    store: Store,
    image: ImageRecord,
    owners: Owners,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let owners = Owners::single("one");
        let image = fixture::image(&store, "an/image", &[tar()], &owners);
        Self {
            _directory: directory,
            store,
            image,
            owners,
        }
    }

    fn object(&self) -> PathBuf {
        self.store.object_path(Digest::of(CONTENT).object_name())
    }

    fn stubs(&self) -> PathBuf {
        self.store.rootfs(&self.image, "one").unwrap().stubs
    }

    fn layer(&self) -> PathBuf {
        self.store
            .path()
            .join("layers")
            .join(Digest::of(&tar()).hex())
    }
}

/// Makes a file of mode 0444 writable and changes it.
fn rewrite(path: &Path, content: &[u8]) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_sound_store_has_no_problems() {
    let place = Place::new();
    let report = place.store.check(Some(&place.owners), Repair::No).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(
        (report.objects, report.images, report.stub_trees),
        (2, 1, 1)
    );
}

#[test]
fn every_damage_is_seen() {
    type Damage = fn(&Place);
    let damages: [(&str, Damage, &str); 12] = [
        (
            "changed content",
            |place| rewrite(&place.object(), b"the content of a fake"),
            "its content has the digest",
        ),
        (
            "truncated object",
            |place| rewrite(&place.object(), b""),
            "its content has the digest",
        ),
        (
            "writable object",
            |place| {
                std::fs::set_permissions(place.object(), std::fs::Permissions::from_mode(0o644))
                    .unwrap();
            },
            "its mode is 644",
        ),
        (
            "missing object",
            |place| std::fs::remove_file(place.object()).unwrap(),
            "is missing",
        ),
        (
            "foreign file",
            |place| std::fs::write(place.store.path().join("objects/A/x"), b"").unwrap(),
            "not the name of an object",
        ),
        (
            "torn layer record",
            |place| {
                let bytes = std::fs::read(place.layer()).unwrap();
                std::fs::write(place.layer(), &bytes[..bytes.len() - 7]).unwrap();
            },
            "layers",
        ),
        (
            "stub of another mode",
            |place| {
                std::fs::set_permissions(
                    place.stubs().join("other"),
                    std::fs::Permissions::from_mode(0o640),
                )
                .unwrap();
            },
            "its mode is 640",
        ),
        (
            "missing stub",
            |place| std::fs::remove_file(place.stubs().join("other")).unwrap(),
            "cannot be looked at",
        ),
        (
            "file too many",
            |place| std::fs::create_dir(place.stubs().join("more")).unwrap(),
            "does not name it",
        ),
        (
            "stub that names nothing",
            |place| {
                let path = place.stubs().join("dir/file");
                rustix::fs::removexattr(&path, wolffia_store::REDIRECT_ATTRIBUTE).unwrap();
            },
            "does not name the object",
        ),
        (
            "name without image",
            |place| {
                std::fs::remove_dir_all(place.store.path().join("images")).unwrap();
                std::fs::create_dir(place.store.path().join("images")).unwrap();
            },
            "names an image that is missing",
        ),
        (
            "image without tree",
            |place| {
                std::fs::remove_dir_all(place.store.path().join("trees")).unwrap();
                std::fs::create_dir(place.store.path().join("trees")).unwrap();
            },
            "its tree is missing",
        ),
    ];
    for (name, damage, expected) in damages {
        let place = Place::new();
        damage(&place);
        let problems = fixture::problems(&place.store, &place.owners);
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{name}: {problems:#?}"
        );
    }
}

#[test]
fn what_was_repaired_can_be_stored_again() {
    let place = Place::new();
    rewrite(&place.object(), b"the content of a fake");
    let report = place.store.check(Some(&place.owners), Repair::Yes).unwrap();
    assert!(report.repaired >= 3, "object, layer and tree: {report:?}");
    assert_eq!(place.store.layer(&Digest::of(&tar())).unwrap(), None);
    let image = fixture::image(&place.store, "an/image", &[tar()], &place.owners);
    assert_eq!(image.id, place.image.id);
    assert_eq!(
        fixture::problems(&place.store, &place.owners),
        Vec::<String>::new()
    );
}
