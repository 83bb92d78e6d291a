// SPDX-License-Identifier: Apache-2.0
//! Credentials in every file and spelling, and helpers that work, lie and hang.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "as it is found")]
fn password(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    })
}

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// "user:secret".
const AUTH: &str = "dXNlcjpzZWNyZXQ=";

fn in_file(content: &Value, name: &str) -> Result<Option<Credential>, CredentialError> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("auth.json");
    write(&path, &content.to_string());
    find(
        &Environment::below(home.path()).with("REGISTRY_AUTH_FILE", path),
        name,
    )
}

#[test]
fn the_longest_key_that_covers_a_name_wins() {
    let auths = json!({ "auths": {
        "host.test": { "username": "host", "password": "p" },
        "host.test/team": { "username": "team", "password": "p" },
        "host.test/team/app": { "username": "app", "password": "p" },
        "https://old.test/v2/": { "auth": AUTH },
        "https://index.docker.io/v1/": { "username": "hub", "password": "p" },
        "port.test:5000": { "auth": "dXNlcjpzZWNyZXQ" },
        "empty.test": {},
    } });
    let user = |name| {
        in_file(&auths, name)
            .unwrap()
            .map(|credential| match credential {
                Credential::Password { user, .. } => user,
                other => panic!("{other:?}"),
            })
    };
    let cases = [
        ("host.test/team/app", Some("app")),
        ("host.test/team/app/more", Some("app")),
        ("host.test/team/application", Some("team")),
        ("host.test/x", Some("host")),
        ("host.test", Some("host")),
        ("ghost.test/x", None),
        ("old.test/x", Some("user")),
        ("docker.io/library/debian", Some("hub")),
        ("port.test:5000/x", Some("user")),
        ("port.test/x", None),
        ("empty.test/x", None),
    ];
    for (name, expected) in cases {
        assert_eq!(user(name).as_deref(), expected, "{name}");
    }
}

#[test]
fn every_kind_of_entry_is_read() {
    let one = |entry: Value| in_file(&json!({ "auths": { "a.test": entry } }), "a.test/b");
    assert_eq!(
        one(json!({ "auth": AUTH })).unwrap(),
        password("user", "secret")
    );
    let colons = json!({ "auth": "YTpiOmM=" });
    assert_eq!(one(colons).unwrap(), password("a", "b:c"));
    let token = |text| Secret::new(text);
    let identity = one(json!({ "auth": AUTH, "identitytoken": "i" })).unwrap();
    assert_eq!(identity, Some(Credential::IdentityToken(token("i"))));
    let registry = one(json!({ "registrytoken": "r" })).unwrap();
    assert_eq!(registry, Some(Credential::RegistryToken(token("r"))));
    for broken in ["%%%", "bm9jb2xvbg=="] {
        let error = one(json!({ "auth": broken })).unwrap_err();
        assert!(matches!(error, CredentialError::Format { .. }), "{broken}");
        assert!(!error.to_string().contains(broken), "{error}");
    }
}

#[test]
fn files_are_asked_in_podmans_order() {
    let home = tempfile::tempdir().unwrap();
    let runtime = home.path().join("run");
    let entry = |user: &str| {
        json!({ "auths": { "a.test": { "username": user, "password": "p" } } }).to_string()
    };
    let base = Environment::below(home.path())
        .with("HOME", home.path())
        .with("XDG_RUNTIME_DIR", &runtime);
    let mut expected = None;
    // Each file that appears comes before those that were there.
    for (path, user) in [
        (".docker/config.json", "docker"),
        (".config/containers/auth.json", "config"),
        ("run/containers/auth.json", "runtime"),
    ] {
        assert_eq!(find(&base, "a.test").unwrap(), expected);
        write(&home.path().join(path), &entry(user));
        expected = password(user, "p");
    }
    assert_eq!(find(&base, "a.test").unwrap(), expected);
    let other = home.path().join("other.json");
    write(&other, "{}");
    let alone = base.clone().with("REGISTRY_AUTH_FILE", &other);
    assert_eq!(find(&alone, "a.test").unwrap(), None);
    let moved = home.path().join("docker");
    write(&moved.join("config.json"), &entry("moved"));
    std::fs::remove_dir_all(&runtime).unwrap();
    std::fs::remove_dir_all(home.path().join(".config")).unwrap();
    let moved = base.with("DOCKER_CONFIG", &moved);
    assert_eq!(find(&moved, "a.test").unwrap(), password("moved", "p"));
}

#[test]
fn a_broken_file_is_an_error_that_quotes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("auth.json");
    let environment = Environment::below(home.path()).with("REGISTRY_AUTH_FILE", &path);
    for content in ["{\"auths\": {\"a\": hunter2", "[\"hunter2\"]"] {
        write(&path, content);
        let error = find(&environment, "a").unwrap_err();
        assert!(matches!(error, CredentialError::Format { .. }), "{content}");
        assert!(
            !format!("{error} {error:?}").contains("hunter2"),
            "{error:?}"
        );
    }
    write(&path, " \n");
    assert_eq!(find(&environment, "a").unwrap(), None);
}

/// Whoever gave up root's rights cannot look below root's home: what needs no credentials must work all the same.
#[test]
fn a_closed_folder_is_passed_over_and_named() {
    use std::os::unix::fs::PermissionsExt as _;
    if rustix::process::geteuid().is_root() {
        // To root nothing is closed.
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".docker");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("config.json");
    write(
        &path,
        &json!({ "auths": { "a": { "auth": AUTH } } }).to_string(),
    );
    let environment = Environment::below(home.path()).with("HOME", home.path());
    assert!(find(&environment, "a").unwrap().is_some());
    assert_eq!(closed(&environment), Vec::<PathBuf>::new());
    let mode =
        |bits| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(bits)).unwrap();
    mode(0o000);
    assert_eq!(find(&environment, "a").unwrap(), None);
    assert_eq!(closed(&environment), std::slice::from_ref(&path));
    let named = environment.with("REGISTRY_AUTH_FILE", &path);
    let error = find(&named, "a").unwrap_err();
    mode(0o700);
    assert!(matches!(error, CredentialError::Read { .. }), "{error:?}");
}

/// A folder with helpers of the given scripts, and an environment that finds them.
fn helpers(scripts: &[(&str, &str)], content: &Value) -> (tempfile::TempDir, Environment) {
    let home = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = home.path().join(format!("docker-credential-{name}"));
        wolffia_testkit::executable::write(&path, format!("#!/bin/sh\n{script}\n"));
    }
    let path = home.path().join("config.json");
    write(&path, &content.to_string());
    let search = format!("{}:/usr/bin:/bin", home.path().display());
    let environment = Environment::below(home.path())
        .with("REGISTRY_AUTH_FILE", path)
        .with("PATH", search);
    (home, environment)
}

#[test]
fn helpers_are_asked_by_their_protocol() {
    let echo = r#"read -r server; printf '{"ServerURL":"%s","Username":"of %s","Secret":"%s"}' "$server" "$server" "$1""#;
    let content = json!({
        "credHelpers": { "special.test": "special", "gone.test": "gone", "../evil": "x" },
        "credsStore": "all",
        "auths": { "gone.test": { "auth": AUTH }, "unknown.test": { "auth": AUTH } },
    });
    let unknown = "read -r server; case $server in unknown*) echo credentials not found in native keychain; exit 1;; esac";
    let all = format!("{unknown}\nprintf '{{\"Username\":\"<token>\",\"Secret\":\"t\"}}'");
    let (_home, environment) = helpers(&[("special", echo), ("all", &all)], &content);
    let found = |name| find(&environment, name).unwrap();
    assert_eq!(
        found("special.test/a/b"),
        password("of special.test", "get")
    );
    let token = Some(Credential::IdentityToken(Secret::new("t")));
    assert_eq!(found("docker.io/library/debian"), token);
    // A process that cannot ask helpers gets from them what only they know.
    let handed = |name| find_by_helper(&environment, name);
    assert_eq!(
        handed("special.test/a/b"),
        password("of special.test", "get")
    );
    assert_eq!(handed("unknown.test/a"), None);
    // What a helper does not know, or cannot be asked, is looked for in the file.
    assert_eq!(found("unknown.test/a"), password("user", "secret"));
    assert_eq!(found("gone.test/a"), password("user", "secret"));
}

#[test]
fn helpers_that_lie_fail_or_never_end_are_bounded_and_not_quoted() {
    let cases = [
        ("yes hunter2", "without end"),
        ("echo hunter2", "something else"),
        ("echo hunter2; exit 3", "exit status: 3"),
        ("kill -9 $$", "signal"),
    ];
    for (script, expected) in cases {
        let (_home, environment) = helpers(&[("x", script)], &json!({}));
        let error = helper::get(&environment, "x", "a.test").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{script}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let (_home, environment) = helpers(&[("x", "exec sleep 1000")], &json!({}));
    let begun = std::time::Instant::now();
    let time_max = std::time::Duration::from_millis(200);
    let error = helper::call(&environment, "x", "get", b"a.test", time_max).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    assert!(begun.elapsed().as_secs() < 10);
    let error = helper::get(&environment, "../x", "a.test").unwrap_err();
    assert!(error.to_string().contains("single word"), "{error}");
}
