// SPDX-License-Identifier: Apache-2.0
//! Passwords, tokens and signed addresses reach no log, no error and no `Debug`, whatever goes wrong.
//!
//! Alone in its process: `tracing` remembers of each place that logs whether anybody listens, and with a listener of one
//! thread alone it asks the thread that comes there first. Another test's thread would answer no, for all of them.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;
use wolffia_fetch::{Environment, Error, Secret, login, sources};
use wolffia_image::Platform;
use wolffia_testkit::registry::{Auth, Fault, On, Options, Registry};

use common::{environment, image, limits, open, read, story};

#[path = "fetch/common.rs"]
#[expect(dead_code, reason = "the other tests of this room use more of it")]
mod common;

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

const PASSWORD: &str = "hunter2-is-it";

/// What must never be seen: the password, plain and encoded, tokens, signatures.
const SECRETS: [&str; 5] = [
    PASSWORD,
    "YW5uOmh1bnRlcjItaXMtaXQ",
    "token-",
    "signed-",
    "proxy-word",
];

/// Pulls with every fault that quotes or breaks something; returns all that was said.
fn talk(environment: &Environment, auth: &Auth) -> String {
    let mut said = String::new();
    let original = image(&[50_000]);
    let status = |status| Fault::Status {
        status,
        retry_after_seconds: None,
    };
    for fault in [
        None,
        Some(Fault::Echo),
        Some(status(401)),
        Some(status(500)),
        Some(Fault::Cut { after_bytes: 9 }),
    ] {
        for on in [On::Manifest, On::Blob, On::Store, On::Token] {
            let registry = Registry::start_with(Options {
                auth: auth.clone(),
                redirect: Some(1),
                ..Options::default()
            });
            let name = registry.put("a", "b", &original);
            let login = login::Login {
                registry: registry.address(),
                user: "ann".to_owned(),
                password: Secret::new(PASSWORD),
                insecure: false,
                file: None,
            };
            writeln!(said, "{login:?} {:?}", login.perform(environment, limits())).unwrap();
            if let Some(fault) = fault {
                registry.fault(on, 9, fault);
            }
            let source = open(&name, environment);
            let result = source
                .resolve(&Platform::host())
                .and_then(|image| read(&source, &image.layers[0]));
            if let Err(error) = result {
                said += &story(&error);
            }
            writeln!(said, "{source:?} {environment:?}").unwrap();
        }
    }
    said
}

#[test]
fn no_secret_is_seen_whatever_goes_wrong() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let ann = ("ann".to_owned(), PASSWORD.to_owned());
    let kinds = [
        Auth::Basic {
            user: ann.0.clone(),
            password: ann.1.clone(),
        },
        Auth::Token {
            user: Some(ann),
            identity: None,
            seconds: 60,
            requests: 2,
        },
    ];
    let home = tempfile::tempdir().unwrap();
    let environment =
        environment(home.path()).with("HTTPS_PROXY", "http://me:proxy-word@127.0.0.1:1");
    let mut said: String = kinds.iter().map(|auth| talk(&environment, auth)).collect();
    // Through a proxy that is not there.
    let source = sources::open("registry.test/a", &environment, limits()).unwrap();
    let error = source.resolve(&Platform::host()).unwrap_err();
    assert!(matches!(&error, Error::GivenUp { .. }), "{}", story(&error));
    write!(said, "{} {source:?}", story(&error)).unwrap();
    said += &String::from_utf8_lossy(&log.0.lock().unwrap());
    assert!(said.contains("redirect") && said.contains("trying again") && said.contains("403"));
    for secret in SECRETS {
        let at = said.find(secret);
        assert_eq!(
            at,
            None,
            "{secret}: {:?}",
            at.map(|at| &said[at.saturating_sub(200)..at + 20])
        );
    }
}
