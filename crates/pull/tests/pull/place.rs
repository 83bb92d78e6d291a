// SPDX-License-Identifier: Apache-2.0
//! A store of its own for each test, a registry, and small images.

use std::path::{Path, PathBuf};

use wolffia_fetch::{Environment, Limits, sources};
use wolffia_image::Platform;
use wolffia_pull::job::{Job, Message, Outcome, Task};
use wolffia_pull::{ImageOutcome, Policy, PullError, PullRequest, helper};
use wolffia_store::{Owners, Repair, Store};
use wolffia_testkit::image_builder::{Image, ImageBuilder, Packing, noise};
use wolffia_testkit::layout::{Meta, Tar};

/// More than is kept in memory of one file.
const LARGE_BYTES: usize = 1_200_000;

pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) owners: Owners,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self {
            directory,
            store,
            owners: Owners::single("one"),
        }
    }

    /// Pulls by name with limits that suit a test.
    pub(crate) fn pull(&self, name: &str) -> Result<ImageOutcome, PullError> {
        self.pull_with(name, Limits::default())
    }

    pub(crate) fn pull_with(&self, name: &str, limits: Limits) -> Result<ImageOutcome, PullError> {
        let environment = Environment::below(self.directory.path());
        let source = sources::open(name, &environment, limits)?;
        let source = source.into();
        wolffia_pull::pull_from(&self.store, &self.owners, &source, &Platform::host(), &())
    }

    /// Fails where the store is not in order.
    pub(crate) fn check(&self) {
        let report = self.store.check(Some(&self.owners), Repair::No).unwrap();
        assert!(report.is_clean(), "{report:#?}");
        let left: Vec<_> = std::fs::read_dir(self.store.path().join("ingest"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub(crate) fn stubs(&self, name: &str) -> PathBuf {
        let image = self.store.resolve(name).unwrap();
        self.store.rootfs(&image, &self.owners.key).unwrap().stubs
    }

    /// Reads a file of an image as overlayfs would: by its stub's redirect.
    pub(crate) fn read(&self, name: &str, path: &str) -> Vec<u8> {
        let stub = self.stubs(name).join(path);
        let mut redirect = [0; 64];
        let attribute = wolffia_store::REDIRECT_ATTRIBUTE;
        match rustix::fs::lgetxattr(&stub, attribute, &mut redirect[..]) {
            Ok(length) => {
                let object = std::str::from_utf8(&redirect[1..length]).unwrap();
                std::fs::read(self.store.objects_path().join(object)).unwrap()
            }
            Err(_) => std::fs::read(&stub).unwrap(),
        }
    }

    pub(crate) fn job(&self, task: Task) -> Job {
        Job {
            store: self.store.path().to_owned(),
            owners: self.owners.clone(),
            task,
        }
    }
}

pub(crate) fn pull_task(name: &str) -> Task {
    Task::Pull(PullRequest {
        lazy: wolffia_pull::Lazy::Never,
        strict: false,
        name: name.to_owned(),
        platform: Platform::host(),
        policy: Policy::Always,
        unpacked: Vec::new(),
        credential: None,
    })
}

/// Does a job as the helper does, and returns its last word.
pub(crate) fn serve(job: &Job) -> Result<Outcome, wolffia_pull::job::Failure> {
    let mut line = serde_json::to_vec(job).unwrap();
    line.push(b'\n');
    let mut output = Vec::new();
    let done = helper::serve(&line[..], &mut output);
    let last = output.split(|byte| *byte == b'\n').rev().nth(1).unwrap();
    match serde_json::from_slice(last).unwrap() {
        Message::Done(outcome) if done => Ok(*outcome),
        Message::Failed(failure) if !done => Err(failure),
        other => panic!("{other:?} after {done}"),
    }
}

/// An image of three layers with files of every size, in the given packing. `seed` makes it another image.
pub(crate) fn image(seed: u64, packing: Packing) -> Image {
    let meta = Meta::mode(0o644);
    let large = noise(seed, LARGE_BYTES);
    let mut many = Tar::new().directory("many/", Meta::mode(0o755));
    for number in 0..60_u32 {
        let content = format!("file {number} of {seed}").repeat(1 + number as usize);
        many = many.file(&format!("many/{number}"), meta, content.as_bytes());
    }
    ImageBuilder::new()
        .layer(
            Tar::new()
                .directory("etc/", Meta::mode(0o755))
                .file("etc/gone", meta, b"soon gone")
                .file("etc/name", meta, b"a name")
                .file("large", Meta::mode(0o755), &large)
                .bytes(),
            packing,
        )
        .layer(many.hard_link("many/link", "many/7").bytes(), packing)
        .layer(
            Tar::new()
                .file("etc/.wh.gone", meta, b"")
                .file("etc/name", meta, b"another name")
                .symlink("etc/link", "name")
                .file("empty", meta, b"")
                .bytes(),
            packing,
        )
        .build()
}

/// Fails where the image of [`image`] is not there as it must be.
pub(crate) fn check_image(place: &Place, name: &str, seed: u64) {
    assert_eq!(place.read(name, "etc/name"), b"another name");
    assert_eq!(place.read(name, "large"), noise(seed, LARGE_BYTES));
    assert_eq!(place.read(name, "empty"), b"");
    let seventh = format!("file 7 of {seed}").repeat(8);
    assert_eq!(place.read(name, "many/link"), seventh.as_bytes());
    let stubs = place.stubs(name);
    assert!(!stubs.join("etc/gone").exists());
    assert_eq!(
        std::fs::read_link(stubs.join("etc/link")).unwrap(),
        Path::new("name")
    );
    place.check();
}
