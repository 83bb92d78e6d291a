// SPDX-License-Identifier: Apache-2.0
//! Against Debian's docker-registry, filled by skopeo: the two programs that nobody here wrote.

use wolffia_fetch::Error;
use wolffia_image::Platform;
use wolffia_testkit::image_builder::{ImageBuilder, Packing, noise};
use wolffia_testkit::need;
use wolffia_testkit::registry::{Link, PASSWORD, RealRegistry, USER};

use crate::common::{environment, image, limits, open, pull, story};

#[test]
fn images_that_skopeo_pushed_come_whole() {
    need!(DockerRegistry, Skopeo);
    let folder = tempfile::tempdir().unwrap();
    let registry = RealRegistry::start(folder.path());
    let original = ImageBuilder::new()
        .layer(noise(1, 3_000_000), Packing::Gzip)
        .layer(noise(2, 10), Packing::Zstd)
        .build();
    let layout = folder.path().join("layout");
    original.write_layout(&layout, None);
    let name = registry.push(&layout, "team/app", "v1");
    let environment = environment(folder.path());
    pull(&open(&name, &environment), &original).unwrap();
    let missing = open(&name.replace("v1", "v2"), &environment);
    let error = missing.resolve(&Platform::host()).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[test]
fn ranges_of_the_real_one_resume_and_run_side_by_side() {
    need!(DockerRegistry, Skopeo);
    let folder = tempfile::tempdir().unwrap();
    let registry = RealRegistry::start(folder.path());
    let original = image(&[12 << 20]);
    let layout = folder.path().join("layout");
    original.write_layout(&layout, None);
    registry.push(&layout, "a", "b");
    let address = registry.address().parse().unwrap();
    let delay = std::time::Duration::from_millis(5);
    // Every connection breaks after 2.5 MB.
    let link = Link::to(address, Some(8 << 20), delay, Some(2_500_000));
    let source = open(
        &format!("{}/a:b", link.address()),
        &environment(folder.path()),
    );
    pull(&source, &original).unwrap_or_else(|error| panic!("{}", story(&error)));
    assert!(link.connections() > 4, "{}", link.connections());
}

#[test]
fn basic_authentication_of_the_real_one_needs_a_login() {
    need!(DockerRegistry, Skopeo);
    let folder = tempfile::tempdir().unwrap();
    let registry = RealRegistry::start_with_password(folder.path());
    let original = image(&[100]);
    let layout = folder.path().join("layout");
    original.write_layout(&layout, None);
    let name = registry.push(&layout, "a", "b");
    let environment = environment(folder.path());
    let refused = |error: Error| match error {
        Error::Denied { .. } | Error::Login { .. } => true,
        error => panic!("{}", story(&error)),
    };
    let pulled = || pull(&open(&name, &environment), &original);
    assert!(refused(pulled().unwrap_err()));
    let mut login = wolffia_fetch::login::Login {
        registry: registry.address(),
        user: USER.to_owned(),
        password: wolffia_fetch::Secret::new("wrong"),
        insecure: false,
        file: None,
    };
    assert!(refused(login.perform(&environment, limits()).unwrap_err()));
    login.password = wolffia_fetch::Secret::new(PASSWORD);
    login.perform(&environment, limits()).unwrap();
    pulled().unwrap();
    // What was written is what skopeo reads.
    let inspected = std::process::Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--authfile"])
        .arg(folder.path().join(".config/containers/auth.json"))
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    assert!(
        inspected.status.success(),
        "{}",
        String::from_utf8_lossy(&inspected.stderr)
    );
    let out = wolffia_fetch::login::log_out(&environment, &registry.address(), None).unwrap();
    assert_eq!(out.len(), 1);
    assert!(refused(pulled().unwrap_err()));
}
