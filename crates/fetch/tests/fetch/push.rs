// SPDX-License-Identifier: Apache-2.0
//! Images and what is attached to them get into registries of every kind, and into layouts, and are found there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use wolffia_fetch::targets::{self, Arrival, Content, Relay};
use wolffia_fetch::{Environment, Error, Source, Target};
use wolffia_image::{Descriptor, Digest, Manifest, Platform, Reference};
use wolffia_testkit::image_builder::Image;
use wolffia_testkit::need;
use wolffia_testkit::registry::{
    Auth, Fault, Link, On, Options, PASSWORD, RealRegistry, Registry, USER,
};

use crate::common::{environment, image, limits, open, pull, story};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const KIND: &str = "application/vnd.example.notes.v1";

fn target(name: &str, environment: &Environment) -> Box<dyn Target> {
    targets::open(name, environment, limits(), None).unwrap()
}

/// Sends everything of an image, as a copy of it does.
fn push(
    to: &dyn Target,
    image: &Image,
    elsewhere: Option<&Reference>,
) -> Result<Vec<Arrival>, Error> {
    let mut arrivals = Vec::new();
    for (digest, bytes) in &image.blobs {
        let size = u64::try_from(bytes.len()).unwrap();
        let blob = Descriptor::new("", *digest, size);
        arrivals.push(to.put_blob(&blob, bytes as &dyn Content, elsewhere)?);
    }
    to.put_manifest(&image.top.media_type, &image.top.bytes, true)?;
    Ok(arrivals)
}

fn notes(subject: Digest, size: u64, text: &str) -> (Arc<[u8]>, Manifest) {
    let bytes: Arc<[u8]> = text.as_bytes().into();
    let empty = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::of(b"{}"), 2);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: Some(KIND.to_owned()),
        config: empty,
        layers: vec![Descriptor::new(
            KIND,
            Digest::of(&bytes),
            u64::try_from(bytes.len()).unwrap(),
        )],
        subject: Some(Descriptor::new(OCI_MANIFEST, subject, size)),
        annotations: BTreeMap::from([("text".to_owned(), text.to_owned())]),
    };
    (bytes, manifest)
}

fn attach(to: &dyn Target, image: &Image, text: &str) -> Result<Descriptor, Error> {
    let size = u64::try_from(image.top.bytes.len()).unwrap();
    let (bytes, manifest) = notes(image.digest(), size, text);
    let empty: Arc<[u8]> = b"{}".as_slice().into();
    to.put_blob(&manifest.config, &empty, None)?;
    to.put_blob(&manifest.layers[0], &bytes, None)?;
    to.put_referrer(&manifest)
}

/// Reads what is attached, down to its bytes.
fn attached(source: &Arc<dyn Source>, image: &Image) -> Vec<String> {
    let found = source.referrers(&image.digest(), KIND).unwrap();
    let mut texts: Vec<String> = found
        .iter()
        .map(|entry| {
            let manifest: Manifest =
                serde_json::from_slice(&source.document(entry).unwrap()).unwrap();
            assert_eq!(manifest.subject.unwrap().digest, image.digest());
            assert_eq!(entry.annotations, manifest.annotations);
            String::from_utf8(source.document(&manifest.layers[0]).unwrap()).unwrap()
        })
        .collect();
    texts.sort();
    texts
}

fn home_with(registry: &str, user: &str, password: &str) -> (TempDir, Environment) {
    use base64::Engine as _;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/containers/auth.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let content = serde_json::json!({ "auths": { registry: { "auth": auth } } });
    std::fs::write(file, content.to_string()).unwrap();
    let environment = environment(home.path());
    (home, environment)
}

#[test]
fn what_is_pushed_is_what_is_pulled_and_what_is_there_is_not_sent_again() {
    let original = image(&[3_000_000, 0, 5]);
    let ann = || Some(("ann".to_owned(), "s:cret".to_owned()));
    let auths = [
        Auth::Open,
        Auth::Basic {
            user: "ann".into(),
            password: "s:cret".into(),
        },
        Auth::Token {
            user: ann(),
            identity: None,
            seconds: 60,
            requests: u32::MAX,
        },
        Auth::Token {
            user: ann(),
            identity: None,
            seconds: 60,
            requests: 1,
        },
    ];
    for auth in auths {
        for referrers in [true, false] {
            let registry = Registry::start_with(Options {
                auth: auth.clone(),
                apart: true,
                referrers,
                ..Options::default()
            });
            let (_home, environment) = home_with(&registry.address(), "ann", "s:cret");
            let name = registry.name("team/app", "v1");
            let to = target(&name, &environment);
            let arrivals =
                push(&*to, &original, None).unwrap_or_else(|error| panic!("{}", story(&error)));
            assert!(
                arrivals.iter().all(|arrival| *arrival == Arrival::Sent),
                "{arrivals:?}"
            );
            let again = push(&*to, &original, None).unwrap();
            assert!(
                again.iter().all(|arrival| *arrival == Arrival::Present),
                "{again:?}"
            );
            let source = open(&name, &environment);
            pull(&source, &original).unwrap();
            assert_eq!(attached(&source, &original), Vec::<String>::new());
            for text in ["one", "two", "one"] {
                attach(&*to, &original, text).unwrap_or_else(|error| panic!("{}", story(&error)));
            }
            assert_eq!(attached(&source, &original), ["one", "two"]);
            // Another repository of the registry spares the sending.
            let from = Reference::parse(&name).unwrap();
            let other = target(&registry.name("team/other", "v2"), &environment);
            let mounted = push(&*other, &original, Some(&from)).unwrap();
            assert!(
                mounted.iter().all(|arrival| *arrival == Arrival::Mounted),
                "{mounted:?}"
            );
            // And one that does not have it does not.
            let nowhere = Reference::parse(&registry.name("team/nowhere", "v1")).unwrap();
            let third = target(&registry.name("team/third", "v1"), &environment);
            let sent = push(&*third, &original, Some(&nowhere)).unwrap();
            assert!(
                sent.iter().all(|arrival| *arrival == Arrival::Sent),
                "{sent:?}"
            );
        }
    }
}

#[test]
fn an_upload_that_breaks_goes_on_where_it_broke() {
    let original = image(&[5_000_000]);
    let registry = Registry::start();
    let home = tempfile::tempdir().unwrap();
    let name = registry.name("a", "b");
    let to = target(&name, &environment(home.path()));
    registry.fault(
        On::Upload,
        3,
        Fault::Cut {
            after_bytes: 1_500_000,
        },
    );
    push(&*to, &original, None).unwrap_or_else(|error| panic!("{}", story(&error)));
    pull(&open(&name, &environment(home.path())), &original).unwrap();
    let begun = |served: &[wolffia_testkit::registry::Served]| {
        served
            .iter()
            .filter(|request| request.method == "POST")
            .count()
    };
    let requests = registry.requests();
    // One upload for each blob, the configuration's among them; three times it was asked how far it came.
    assert_eq!(begun(&requests), 2, "{requests:?}");
    let asked = requests.iter().filter(|request| {
        request.method == "GET" && request.path.contains("/uploads/") && request.status == 204
    });
    assert_eq!(asked.count(), 3, "{requests:?}");
}

#[test]
fn an_upload_that_the_registry_forgot_is_begun_anew_and_one_that_never_works_ends() {
    let original = image(&[3_000_000]);
    let registry = Registry::start();
    let home = tempfile::tempdir().unwrap();
    let to = target(&registry.name("a", "b"), &environment(home.path()));
    // Nothing came before the cut: how far it is cannot be told from one byte.
    registry.fault(On::Upload, 2, Fault::Cut { after_bytes: 0 });
    push(&*to, &original, None).unwrap_or_else(|error| panic!("{}", story(&error)));
    let dead = Registry::start();
    let to = target(&dead.name("a", "b"), &environment(home.path()));
    dead.fault(On::Upload, 1_000, Fault::Cut { after_bytes: 0 });
    let error = push(&*to, &original, None).unwrap_err();
    assert!(
        matches!(error, Error::GivenUp { .. } | Error::Protocol { .. }),
        "{error:?}"
    );
}

#[test]
fn a_lie_about_the_content_is_refused_and_not_named() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let layout = format!("oci:{}:x", folder.path().join("l").display());
    for name in [registry.name("a", "b"), layout] {
        let to = target(&name, &environment);
        let right: Arc<[u8]> = b"right".as_slice().into();
        let wrong: Arc<[u8]> = b"wrong".as_slice().into();
        let blob = Descriptor::new("", Digest::of(&right), 5);
        let error = to.put_blob(&blob, &wrong, None).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Status { status: 400, .. } | Error::Digest { .. }
            ),
            "{error:?}"
        );
        assert_eq!(to.put_blob(&blob, &right, None).unwrap(), Arrival::Sent);
    }
}

#[test]
fn many_who_attach_at_once_lose_nothing_where_there_is_no_interface_for_it() {
    let registry = Registry::start_with(Options {
        referrers: false,
        ..Options::default()
    });
    let original = image(&[10]);
    let name = registry.put("a", "b", &original);
    let home = tempfile::tempdir().unwrap();
    let environment = environment(home.path());
    let texts: Vec<String> = (0..8).map(|number| format!("note {number}")).collect();
    std::thread::scope(|scope| {
        for text in &texts {
            let (name, environment, original) = (&name, &environment, &original);
            scope.spawn(move || {
                let mut limits = limits();
                limits.pause = std::time::Duration::from_millis(60);
                let to = targets::open(name, environment, limits, None).unwrap();
                attach(&*to, original, text).unwrap_or_else(|error| panic!("{}", story(&error)));
            });
        }
    });
    let source = open(&name, &environment);
    assert_eq!(attached(&source, &original), texts);
    let tag = original.digest().to_string().replace(':', "-");
    assert!(registry.tagged("a", &tag).is_some());
}

#[test]
fn layouts_take_images_and_what_is_attached_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let (one, two) = (image(&[100_000, 3]), image(&[7]));
    let at = folder.path().join("made here");
    let name = format!("oci:{}:v1", at.display());
    let to = target(&name, &environment);
    push(&*to, &one, None).unwrap();
    attach(&*to, &one, "note").unwrap();
    attach(&*to, &one, "note").unwrap();
    let source = open(&name, &environment);
    pull(&source, &one).unwrap();
    assert_eq!(attached(&source, &one), ["note"]);
    // What is attached does not stand in the way of what has no name.
    pull(&open(&format!("oci:{}", at.display()), &environment), &one).unwrap();
    // A name moves; another image is added beside.
    push(&*target(&name, &environment), &two, None).unwrap();
    pull(&open(&name, &environment), &two).unwrap();
    let second = format!("oci:{}:example.com/x:v2", at.display());
    push(&*target(&second, &environment), &one, None).unwrap();
    pull(&open(&second, &environment), &one).unwrap();
    pull(&open(&name, &environment), &two).unwrap();
    assert_eq!(drafts(&at), 0);
}

fn drafts(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".writing")
        })
        .count()
}

#[test]
fn an_image_goes_from_one_place_to_another_without_a_copy_in_between() {
    let (from, to) = (Registry::start(), Registry::start());
    let original = image(&[2_000_000, 30]);
    let home = tempfile::tempdir().unwrap();
    let environment = environment(home.path());
    let source = open(&from.put("a", "b", &original), &environment);
    let resolved = source.resolve(&Platform::host()).unwrap();
    let name = to.name("c", "d");
    let target = target(&name, &environment);
    to.fault(
        On::Upload,
        1,
        Fault::Cut {
            after_bytes: 1_000_000,
        },
    );
    for blob in resolved.layers.iter().chain([&resolved.config]) {
        let relay = Relay {
            source: &*source,
            blob,
        };
        target.put_blob(blob, &relay, None).unwrap();
    }
    target
        .put_manifest(
            &resolved.manifest.media_type,
            &resolved.manifest_bytes,
            true,
        )
        .unwrap();
    pull(&open(&name, &environment), &original).unwrap();
}

#[test]
fn the_real_registry_takes_everything_resumes_and_skopeo_reads_it() {
    need!(DockerRegistry, Skopeo);
    let folder = tempfile::tempdir().unwrap();
    let registry = RealRegistry::start_with_password(folder.path());
    let original = image(&[6 << 20, 0, 40]);
    let delay = std::time::Duration::from_millis(1);
    // Every connection breaks after 2.5 MB.
    let link = Link::to(
        registry.address().parse().unwrap(),
        None,
        delay,
        Some(2_500_000),
    );
    let name = format!("{}/team/app:v1", link.address());
    let (_home, environment) = home_with(&link.address(), USER, PASSWORD);
    let mut patient = limits();
    patient.tries = 12;
    let to = targets::open(&name, &environment, patient, None).unwrap();
    push(&*to, &original, None).unwrap_or_else(|error| panic!("{}", story(&error)));
    attach(&*to, &original, "note").unwrap_or_else(|error| panic!("{}", story(&error)));
    attach(&*to, &original, "second").unwrap();
    let direct = format!("{}/team/app:v1", registry.address());
    let (_home, environment) = home_with(&registry.address(), USER, PASSWORD);
    let source = open(&direct, &environment);
    pull(&source, &original).unwrap();
    assert_eq!(attached(&source, &original), ["note", "second"]);
    let other = target(
        &format!("{}/team/other:v1", registry.address()),
        &environment,
    );
    let from = Reference::parse(&direct).unwrap();
    let arrivals = push(&*other, &original, Some(&from)).unwrap();
    assert!(arrivals.contains(&Arrival::Mounted), "{arrivals:?}");
    let output = std::process::Command::new("skopeo")
        .args(["copy", "-q", "--src-tls-verify=false", "--src-creds"])
        .arg(format!("{USER}:{PASSWORD}"))
        .arg(format!("docker://{}/team/other:v1", registry.address()))
        .arg(format!("dir:{}", folder.path().join("read").display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
