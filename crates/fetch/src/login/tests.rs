// SPDX-License-Identifier: Apache-2.0
//! What a login leaves on disk. That the registry is asked first is tested with registries.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::*;

fn ann() -> Credential {
    Credential::Password {
        user: "ann".to_owned(),
        password: Secret::new("hunter2"),
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A home with `~/.config/containers/auth.json` of this content, if any.
fn home(content: Option<&Value>) -> (tempfile::TempDir, PathBuf, Environment) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".config/containers/auth.json");
    if let Some(content) = content {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content.to_string()).unwrap();
    }
    let environment = Environment::below(home.path()).with("HOME", home.path());
    (home, path, environment)
}

#[test]
fn a_new_file_is_the_users_alone() {
    let (_home, path, environment) = home(None);
    let kept = keep(&environment, "a.test", &ann(), None).unwrap();
    assert_eq!(kept, Kept::File(path.clone()));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let entry = json!({ "auths": { "a.test": { "auth": "YW5uOmh1bnRlcjI=" } } });
    assert_eq!(read(&path), entry);
    assert_eq!(
        user_of(&environment, "a.test").unwrap().as_deref(),
        Some("ann")
    );
    let siblings = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(siblings, 1, "nothing else is left there");
}

#[test]
fn what_is_not_known_survives_and_old_spellings_are_replaced() {
    let before = json!({
        "future": { "of": ["the", "format"] },
        "auths": { "https://a.test/v2/": { "auth": "b2xk" }, "b.test": { "email": "x" } },
    });
    let (_home, path, environment) = home(Some(&before));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    keep(&environment, storage_name("https://a.test"), &ann(), None).unwrap();
    let expected = json!({
        "future": { "of": ["the", "format"] },
        "auths": { "b.test": { "email": "x" }, "a.test": { "auth": "YW5uOmh1bnRlcjI=" } },
    });
    assert_eq!(read(&path), expected);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o777,
        0o600,
        "a file that others could read no longer can be"
    );
    let out = log_out(&environment, "a.test", None).unwrap();
    assert_eq!(out, [Kept::File(path.clone())]);
    assert_eq!(log_out(&environment, "a.test", None).unwrap(), []);
    assert_eq!(read(&path)["future"], before["future"]);
    assert_eq!(log_out_everywhere(&environment, None).unwrap().len(), 1);
    assert_eq!(read(&path)["auths"], json!({}));
}

#[test]
fn credentials_are_kept_where_they_were_found() {
    let (home, auth, environment) = home(Some(&json!({ "auths": {} })));
    let docker = home.path().join(".docker/config.json");
    std::fs::create_dir_all(docker.parent().unwrap()).unwrap();
    let hub = json!({ "auths": { "https://index.docker.io/v1/": { "auth": "b2xkOm9sZA==" } } });
    std::fs::write(&docker, hub.to_string()).unwrap();
    let kept = keep(&environment, storage_name("docker.io"), &ann(), None).unwrap();
    assert_eq!(kept, Kept::File(docker.clone()));
    let keys: Vec<String> = read(&docker)["auths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        keys,
        ["https://index.docker.io/v1/"],
        "the only key docker looks for"
    );
    assert_eq!(
        user_of(&environment, "docker.io").unwrap().as_deref(),
        Some("ann")
    );
    // A runtime directory of an ended session does not count.
    let stale = environment
        .clone()
        .with("XDG_RUNTIME_DIR", "/nowhere/at/all");
    assert_eq!(
        keep(&stale, "a.test", &ann(), None).unwrap(),
        Kept::File(auth)
    );
    let runtime = home.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let live = environment.with("XDG_RUNTIME_DIR", &runtime);
    let kept = keep(&live, "b.test", &ann(), None).unwrap();
    assert_eq!(kept, Kept::File(runtime.join("containers/auth.json")));
    let named = home.path().join("named.json");
    let kept = keep(&live, "b.test", &ann(), Some(&named)).unwrap();
    assert_eq!(kept, Kept::File(named));
}

#[test]
fn helpers_keep_and_forget() {
    let (home, path, environment) = home(Some(&json!({ "credHelpers": { "a.test": "x" } })));
    let helper = home.path().join("docker-credential-x");
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncase $1 in\nstore) cat >kept;;\nerase) rm kept;;\n\
                  get) cat >/dev/null; [ -f kept ] || { echo credentials not found; exit 1; }; cat kept;;\nesac\n";
    wolffia_testkit::executable::write(&helper, script);
    let search = format!("{}:/usr/bin:/bin", home.path().display());
    let environment = environment.with("PATH", search);
    let kept = keep(&environment, "a.test", &ann(), None).unwrap();
    assert_eq!(kept, Kept::Helper("x".to_owned()));
    assert!(read(&path).get("auths").is_none());
    assert_eq!(
        user_of(&environment, "a.test").unwrap().as_deref(),
        Some("ann")
    );
    assert_eq!(
        log_out(&environment, "a.test", None).unwrap(),
        [Kept::Helper("x".to_owned())]
    );
    assert_eq!(user_of(&environment, "a.test").unwrap(), None);
}

#[test]
fn logins_at_once_lose_nothing_and_links_stay_links() {
    let (home, path, environment) = home(Some(&json!({})));
    let real = home.path().join("dotfiles.json");
    std::fs::rename(&path, &real).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let environment = &environment;
            scope.spawn(move || {
                keep(environment, &format!("r{number}.test"), &ann(), None).unwrap()
            });
        }
    });
    assert_eq!(read(&real)["auths"].as_object().unwrap().len(), 16);
    assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
}
