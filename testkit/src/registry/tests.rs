// SPDX-License-Identifier: Apache-2.0
//! The test registry against a client that nobody here wrote.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use super::*;
use crate::image_builder::{ImageBuilder, Packing, noise};
use crate::layout::{Meta, Tar};

fn image() -> Image {
    let tar = Tar::new()
        .file("a", Meta::mode(0o644), &noise(7, 300_000))
        .bytes();
    ImageBuilder::new().layer(tar, Packing::Gzip).build()
}

fn skopeo(words: &[&str]) -> (bool, String) {
    let output = Command::new("skopeo").args(words).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn skopeo_copies_from_it_with_every_kind_of_authentication() {
    crate::need!(Skopeo);
    let secret = || ("ann".to_owned(), "s:cret".to_owned());
    let (user, password) = secret();
    let token = |user| Auth::Token {
        user,
        identity: None,
        seconds: 60,
        requests: 100,
    };
    let cases = [
        (Auth::Open, None),
        (Auth::Basic { user, password }, Some("ann:s:cret")),
        (Auth::anonymous_token(), None),
        (token(Some(secret())), Some("ann:s:cret")),
    ];
    for (auth, credentials) in cases {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::start_with(Options {
            auth: auth.clone(),
            redirect: Some(1),
            ..Options::default()
        });
        let name = registry.put("team/app", "v1", &image());
        let (from, to) = (
            format!("docker://{name}"),
            format!("dir:{}", folder.path().display()),
        );
        let mut words = vec!["copy", "-q", "--src-tls-verify=false", &from, &to];
        if let Some(credentials) = credentials {
            words.extend(["--src-creds", credentials]);
        }
        let (worked, said) = skopeo(&words);
        assert!(worked, "{auth:?}: {said}");
        if credentials.is_some() {
            words.truncate(5);
            let (worked, said) = skopeo(&words);
            assert!(!worked && said.contains("auth"), "{auth:?}: {said}");
        }
    }
}

#[test]
fn a_fault_is_applied_as_often_as_was_said() {
    let registry = Registry::start();
    registry.put("a", "b", &image());
    let status = Fault::Status {
        status: 503,
        retry_after_seconds: Some(3),
    };
    registry.fault(On::Manifest, 2, status);
    let statuses: Vec<String> = (0..3)
        .map(|_| {
            let mut stream = TcpStream::connect(registry.address()).unwrap();
            let request = "GET /v2/a/manifests/b HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        })
        .collect();
    let expected = [503, 503, 200].map(|status| format!("HTTP/1.1 {status} Testkit"));
    assert_eq!(statuses, expected);
    assert_eq!(registry.requests().len(), 3);
}
