// SPDX-License-Identifier: Apache-2.0
//! References against configurations, as containers-registries.conf(5) describes them.

use super::*;

fn registries(text: &str) -> Registries {
    let mut registries = Registries::default();
    registries.merge(toml::from_str(text).unwrap());
    registries
}

fn places(registries: &Registries, reference: &str) -> String {
    let reference = Reference::parse(reference).unwrap();
    match registries.places(&reference) {
        Places::Blocked => "blocked".to_owned(),
        Places::Try(places) => {
            let texts: Vec<String> = places
                .iter()
                .map(|place| {
                    let mark = if place.insecure { "!" } else { "" };
                    format!("{mark}{}/{}", place.registry, place.repository)
                })
                .collect();
            texts.join(" ")
        }
    }
}

const DIGEST: &str = "@sha256:0123456789012345678901234567890123456789012345678901234567890123";

#[test]
fn the_longest_prefix_decides_and_is_replaced() {
    let registries = registries(
        r#"
        unqualified-search-registries = ["elsewhere.test"]
        short-name-mode = "enforcing"
        [aliases]
        "debian" = "elsewhere.test/debian"
        [[registry]]
        location = "plain.test"
        insecure = true
        [[registry]]
        prefix = "a.test/team"
        location = "b.test:5000/deep/er"
        [[registry]]
        prefix = "a.test/team/secret"
        blocked = true
        [[registry]]
        prefix = "*.wild.test"
        location = "wild-proxy.test"
        [[registry]]
        prefix = "*.no.wild.test"
        blocked = true
        [[registry]]
        prefix = "one.test/repo:tag"
        blocked = true
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.test/hub"
        insecure = true
        [[registry.mirror]]
        location = "digests.test"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.test"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "old.test"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "old-mirror.test"
        "#,
    );
    let digest = |name: &str| format!("{name}{DIGEST}");
    let cases = [
        ("other.test/x", "other.test/x"),
        ("plain.test/x", "!plain.test/x"),
        ("plain.test.evil.test/x", "plain.test.evil.test/x"),
        ("a.test/team/app", "b.test:5000/deep/er/app"),
        ("a.test/teams/app", "a.test/teams/app"),
        ("a.test/team/secret/x", "blocked"),
        ("sub.wild.test/x", "wild-proxy.test/x"),
        ("sub.wild.test:5000/x", "wild-proxy.test/x"),
        ("wild.test/x", "wild.test/x"),
        ("x.no.wild.test/x", "blocked"),
        (
            "debian",
            "!mirror.test/hub/library/debian tags.test/library/debian docker.io/library/debian",
        ),
        ("old.test/x", "old.test/x"),
    ];
    for (reference, expected) in cases {
        assert_eq!(places(&registries, reference), expected, "{reference}");
    }
    assert_eq!(
        places(&registries, &digest("debian")),
        "!mirror.test/hub/library/debian digests.test/library/debian docker.io/library/debian"
    );
    assert_eq!(
        places(&registries, &digest("old.test/x")),
        "old-mirror.test/x old.test/x"
    );
    assert!(registries.is_insecure("plain.test") && !registries.is_insecure("other.test"));
}

#[test]
fn files_override_each_other_in_the_documented_order() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let to = |location: &str| format!("[[registry]]\nprefix=\"a.test\"\nlocation=\"{location}\"\n");
    let environment = Environment::below(root.path()).with("HOME", root.path().join("home"));
    let found =
        |environment: &Environment| places(&Registries::read(environment).unwrap(), "a.test/x");
    assert_eq!(found(&environment), "a.test/x");
    for (path, location) in [
        ("etc/containers/registries.conf", "machine.test"),
        ("home/.config/containers/registries.conf", "user.test"),
        ("etc/containers/registries.conf.d/2.conf", "second.test"),
        ("etc/containers/registries.conf.d/9.txt", "text.test"),
        (
            "home/.config/containers/registries.conf.d/1.conf",
            "mine.test",
        ),
    ] {
        write(path, &to(location));
        let expected = if path.ends_with("txt") {
            "second.test"
        } else {
            location
        };
        assert_eq!(found(&environment), format!("{expected}/x"), "{path}");
    }
    write(
        "named",
        "[registries.block]\nregistries = ['blocked.test']\n[registries.insecure]\nregistries = ['in.test']",
    );
    let named = environment.with("CONTAINERS_REGISTRIES_CONF", root.path().join("named"));
    let registries = Registries::read(&named).unwrap();
    assert_eq!(places(&registries, "blocked.test/x"), "blocked");
    assert_eq!(places(&registries, "in.test/x"), "!in.test/x");
    write("named", "[[registry]\n");
    assert!(matches!(
        Registries::read(&named),
        Err(RegistriesError::Format { .. })
    ));
}
