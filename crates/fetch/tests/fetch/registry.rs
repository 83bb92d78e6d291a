// SPDX-License-Identifier: Apache-2.0
//! Images from registries of every kind, and from layouts, come whole and right.

use std::sync::Arc;

use crate::common::{environment, image, open, pull, read, story};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use wolffia_fetch::{Environment, Error, Source};
use wolffia_image::Platform;
use wolffia_testkit::image_builder::{Dialect, Image, ImageBuilder, Packing};
use wolffia_testkit::registry::{Auth, Options, Registry};

/// A home with an `auth.json` of these entries.
fn home_with(entries: &serde_json::Value) -> (TempDir, Environment) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/containers/auth.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let content = serde_json::json!({ "auths": entries });
    std::fs::write(file, content.to_string()).unwrap();
    let environment = environment(home.path());
    (home, environment)
}

fn auth_entry(user: &str, password: &str) -> serde_json::Value {
    serde_json::json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
}

fn token(user: Option<(&str, &str)>, identity: Option<&str>, requests: u32) -> Auth {
    Auth::Token {
        user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
        identity: identity.map(str::to_owned),
        seconds: 60,
        requests,
    }
}

#[test]
fn every_source_gives_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let original = image(&[100_000, 0, 1]);
    let layout = folder.path().join("a:b");
    original.write_layout(&layout, Some("example.com/app:v1"));
    let registry = Registry::start();
    let name = registry.put("team/app", "v1", &original);
    let layout = format!("oci:{}", layout.display());
    let by_digest = format!("{}/team/app@{}", registry.address(), original.digest());
    let cases = [
        (name.clone(), Some(name.clone())),
        (format!("docker://{name}"), Some(name.clone())),
        (
            name.replace("127.0.0.1", "localhost"),
            Some(name.replace("127.0.0.1", "localhost")),
        ),
        (by_digest.clone(), Some(by_digest)),
        (layout.clone(), None),
        (
            format!("{layout}:example.com/app:v1"),
            Some("example.com/app:v1".to_owned()),
        ),
    ];
    for (text, reference) in cases {
        let source = open(&text, &environment);
        pull(&source, &original).unwrap_or_else(|error| panic!("{text}: {}", story(&error)));
        let said = source.reference().map(|reference| reference.to_string());
        assert_eq!(said, reference, "{text}");
    }
}

#[test]
fn an_index_gives_the_platform_that_was_asked_for_in_both_dialects() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let registry = Registry::start();
    for dialect in [Dialect::Oci, Dialect::Docker] {
        let one = |architecture, variant| {
            ImageBuilder::new()
                .layer(
                    format!("{architecture} {variant:?}").into_bytes(),
                    Packing::Gzip,
                )
                .dialect(dialect)
                .platform(architecture, variant)
                .build()
        };
        let images = [
            one("amd64", None),
            one("arm", Some("v6")),
            one("arm", Some("v7")),
            one("arm64", Some("v8")),
        ];
        let index = Image::index(&images, dialect);
        let name = registry.put("multi", "all", &index);
        let layout = folder.path().join(format!("{dialect:?}"));
        index.write_layout(&layout, None);
        for name in [name, format!("oci:{}", layout.display())] {
            let source = open(&name, &environment);
            let chosen = |platform: &str| {
                let resolved = source.resolve(&Platform::parse(platform).unwrap())?;
                assert_eq!(resolved.top.digest, index.digest());
                Ok::<_, Error>(
                    images
                        .iter()
                        .position(|image| image.digest() == resolved.manifest.digest),
                )
            };
            assert_eq!(chosen("linux/amd64").unwrap(), Some(0));
            assert_eq!(chosen("linux/arm/v7").unwrap(), Some(2));
            assert_eq!(chosen("linux/arm/v6").unwrap(), Some(1));
            assert_eq!(chosen("linux/arm64").unwrap(), Some(3));
            let error = chosen("linux/riscv64").unwrap_err();
            assert!(matches!(error, Error::NoPlatform { .. }), "{error:?}");
            let story = story(&error);
            assert!(
                story.contains("linux/arm/v6") && story.contains("--platform"),
                "{story}"
            );
        }
    }
}

#[test]
fn each_kind_of_authentication_is_understood() {
    let secret = auth_entry("ann", "s:cret");
    let ann = Some(("ann", "s:cret"));
    let cases = [
        ("none", Auth::Open, None),
        ("anonymous token", Auth::anonymous_token(), None),
        (
            "basic",
            Auth::Basic {
                user: "ann".into(),
                password: "s:cret".into(),
            },
            Some(secret.clone()),
        ),
        (
            "token by password",
            token(ann, None, u32::MAX),
            Some(secret.clone()),
        ),
        (
            "a token for each request",
            token(ann, None, 1),
            Some(secret),
        ),
        (
            "token by identity token",
            token(None, Some("refresh-me"), u32::MAX),
            Some(serde_json::json!({ "identitytoken": "refresh-me" })),
        ),
    ];
    let original = image(&[300_000, 20]);
    for (what, auth, entry) in cases {
        for redirect in [None, Some(1), Some(u32::MAX)] {
            let registry = Registry::start_with(Options {
                auth: auth.clone(),
                redirect,
                ..Options::default()
            });
            let name = registry.put("team/app", "v1", &original);
            let entries = match &entry {
                Some(entry) => serde_json::json!({ registry.address(): entry }),
                None => serde_json::json!({}),
            };
            let (_home, environment) = home_with(&entries);
            let source = open(&name, &environment);
            pull(&source, &original).unwrap_or_else(|error| panic!("{what}: {}", story(&error)));
            // Whoever was redirected must not show there what was meant for the registry.
            let leaks = registry
                .requests()
                .into_iter()
                .filter(|request| request.at_store && request.authorization.is_some());
            assert_eq!(leaks.count(), 0, "{what}");
        }
    }
}

#[test]
fn tokens_are_renewed_in_the_middle_of_a_blob_and_kept_otherwise() {
    use wolffia_testkit::registry::{Fault, On};
    let original = image(&[2_000_000]);
    let registry = Registry::start_with(Options {
        auth: token(None, None, u32::MAX),
        ..Options::default()
    });
    let name = registry.put("team/app", "v1", &original);
    let (_home, environment) = home_with(&serde_json::json!({}));
    let source = open(&name, &environment);
    let resolved = source.resolve(&Platform::host()).unwrap();
    let tokens = || {
        registry
            .requests()
            .iter()
            .filter(|request| request.path.starts_with("/token"))
            .count()
    };
    assert_eq!(tokens(), 1, "one token serves manifest and configuration");
    registry.expire_tokens();
    registry.fault(
        On::Blob,
        1,
        Fault::Cut {
            after_bytes: 700_000,
        },
    );
    assert!(
        read(&source, &resolved.layers[0]).unwrap() == *original.blobs[&resolved.layers[0].digest]
    );
    assert_eq!(tokens(), 2);
    registry.expire_tokens();
    read(&source, &resolved.layers[0]).unwrap();
    assert_eq!(tokens(), 3);
}

#[test]
fn refusals_are_typed_and_say_what_to_do() {
    let original = image(&[10]);
    let ann = Some(("ann", "right"));
    let denied = |error: &Error, authenticated: bool| matches!(error, Error::Denied { authenticated: said, .. } if *said == authenticated);
    for auth in [
        token(ann, None, 9),
        Auth::Basic {
            user: "ann".into(),
            password: "right".into(),
        },
    ] {
        let registry = Registry::start_with(Options {
            auth,
            ..Options::default()
        });
        let name = registry.put("team/app", "v1", &original);
        for (entry, authenticated) in [(None, false), (Some(auth_entry("ann", "wrong")), true)] {
            let entries = entry.map_or_else(
                || serde_json::json!({}),
                |entry| serde_json::json!({ registry.address(): entry }),
            );
            let (_home, environment) = home_with(&entries);
            let error = open(&name, &environment)
                .resolve(&Platform::host())
                .unwrap_err();
            assert!(denied(&error, authenticated), "{error:?}");
            let story = story(&error);
            assert!(story.contains("wolffia login"), "{story}");
            assert!(
                !story.contains("wrong") && !story.contains(&STANDARD.encode("ann:wrong")),
                "{story}"
            );
        }
        let missing = name.replace(":v1", ":v2");
        let (_home, environment) =
            home_with(&serde_json::json!({ registry.address(): auth_entry("ann", "right") }));
        let error = open(&missing, &environment)
            .resolve(&Platform::host())
            .unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
    }
}

#[test]
fn mirrors_are_asked_first_and_blocks_are_heeded() {
    let original = image(&[50_000, 60_000]);
    let (mirror, upstream) = (Registry::start(), Registry::start());
    mirror.put("proxy/team/app", "v1", &original);
    upstream.put("team/app", "v1", &original);
    upstream.put("team/other", "v1", &original);
    let home = tempfile::tempdir().unwrap();
    let configuration = home.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"example.test\"\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}/proxy\"\n\
         [[registry]]\nprefix = \"example.test/bad\"\nblocked = true\n",
        upstream.address(),
        mirror.address()
    );
    std::fs::write(&configuration, text).unwrap();
    let environment = environment(home.path()).with("CONTAINERS_REGISTRIES_CONF", &configuration);
    // The mirror has everything.
    let source = open("example.test/team/app:v1", &environment);
    pull(&source, &original).unwrap();
    assert_eq!(upstream.requests(), []);
    // A blob that the mirror has lost comes from the registry itself.
    let layer = source.resolve(&Platform::host()).unwrap().layers[1].clone();
    mirror.forget(&layer.digest);
    assert!(read(&source, &layer).unwrap() == *original.blobs[&layer.digest]);
    // What the mirror never had, too.
    pull(&open("example.test/team/other:v1", &environment), &original).unwrap();
    let error = wolffia_fetch::sources::open(
        "example.test/bad/app",
        &environment,
        crate::common::limits(),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Blocked { .. }), "{error:?}");
}

#[test]
fn twenty_blobs_at_once_get_one_token() {
    let original = image(&[20_000; 20]);
    let registry = Registry::start_with(Options {
        auth: Auth::anonymous_token(),
        redirect: Some(1),
        ..Options::default()
    });
    let name = registry.put("a", "b", &original);
    let home = tempfile::tempdir().unwrap();
    let source = open(&name, &environment(home.path()));
    let resolved = source.resolve(&Platform::host()).unwrap();
    registry.expire_tokens();
    let readers: Vec<_> = resolved
        .layers
        .into_iter()
        .map(|layer| {
            let source: Arc<dyn Source> = Arc::clone(&source);
            std::thread::spawn(move || read(&source, &layer).unwrap().len())
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 20_000);
    }
    let tokens = registry
        .requests()
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .count();
    assert_eq!(tokens, 2);
}
