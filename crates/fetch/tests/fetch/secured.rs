// SPDX-License-Identifier: Apache-2.0
//! TLS: who is believed, who is not, and what happens where there is none.

use wolffia_fetch::{Environment, Error, Fault as Failure};
use wolffia_image::Platform;
use wolffia_testkit::registry::{AUTHORITY, CLIENT, Options, Registry, SELF_SIGNED, Tls};

use crate::common::{environment, image, limits, open, pull, story};

/// A registry with TLS, and an environment whose machine has the test authority among its own, or not.
struct Site {
    home: tempfile::TempDir,
    registry: Registry,
    name: String,
}

impl Site {
    fn new(tls: Tls) -> Self {
        let registry = Registry::start_with(Options {
            tls: Some(tls),
            ..Options::default()
        });
        let name = registry.put("team/app", "v1", &image(&[100_000]));
        Self {
            home: tempfile::tempdir().unwrap(),
            registry,
            name,
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn pull(&self, environment: &Environment) -> Result<(), Error> {
        pull(&open(&self.name, environment), &image(&[100_000]))
    }
}

#[test]
fn believed_are_the_machines_the_environments_and_the_registrys_own_authorities() {
    let places = [
        ("etc/ssl/certs/ca-certificates.crt", None),
        ("etc/pki/tls/certs/ca-bundle.crt", None),
        ("etc/ssl/certs/single.pem", None),
        ("file.pem", Some("SSL_CERT_FILE")),
        ("directory/one.pem", Some("SSL_CERT_DIR")),
        ("etc/containers/certs.d/HOST/ca.crt", None),
        ("etc/docker/certs.d/HOST/ca.crt", None),
        (".config/containers/certs.d/HOST/any.crt", None),
        (".config/docker/certs.d/HOST/any.crt", None),
    ];
    for (tls, certificate) in [(Tls::Signed, AUTHORITY), (Tls::SelfSigned, SELF_SIGNED)] {
        for (path, variable) in places {
            let site = Site::new(tls);
            let mut environment = environment(site.home.path());
            let error = site.pull(&environment).unwrap_err();
            let what = format!("{tls:?} {path}");
            assert!(
                story(&error).contains("UnknownIssuer") && story(&error).contains("certs.d"),
                "{what}: {}",
                story(&error)
            );
            site.write(&path.replace("HOST", &site.registry.address()), certificate);
            if let Some(variable) = variable {
                let path = site.home.path().join(path);
                let is_file = variable == "SSL_CERT_FILE";
                let value = if is_file {
                    path.as_path()
                } else {
                    path.parent().unwrap()
                };
                environment = environment.with(variable, value);
            }
            site.pull(&environment)
                .unwrap_or_else(|error| panic!("{what}: {}", story(&error)));
        }
    }
}

#[test]
fn a_certificate_for_another_name_or_registry_is_refused() {
    let site = Site::new(Tls::OtherName);
    site.write("etc/ssl/certs/ca-certificates.crt", AUTHORITY);
    let error = site.pull(&environment(site.home.path())).unwrap_err();
    assert!(
        story(&error).contains("not valid for name"),
        "{}",
        story(&error)
    );
    let site = Site::new(Tls::Signed);
    site.write("etc/containers/certs.d/127.0.0.1:1/ca.crt", AUTHORITY);
    assert!(site.pull(&environment(site.home.path())).is_err());
}

#[test]
fn a_registry_that_wants_a_client_certificate_gets_it() {
    let site = Site::new(Tls::WantsClient);
    let directory = format!(".config/containers/certs.d/{}", site.registry.address());
    site.write(&format!("{directory}/ca.crt"), AUTHORITY);
    let environment = environment(site.home.path());
    assert!(site.pull(&environment).is_err());
    site.write(&format!("{directory}/me.cert"), CLIENT.0);
    site.write(&format!("{directory}/me.key"), CLIENT.1);
    site.pull(&environment)
        .unwrap_or_else(|error| panic!("{}", story(&error)));
}

#[test]
fn insecure_means_any_certificate_or_none_and_only_where_it_is_said() {
    let site = Site::new(Tls::OtherName);
    let plain = Registry::start();
    let plain_name = plain.put("a", "b", &image(&[10]));
    let configuration =
        |address: &str| format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n");
    let path = ".config/containers/registries.conf";
    let environment = environment(site.home.path());
    site.write(path, &configuration("127.0.0.1:1"));
    assert!(site.pull(&environment).is_err());
    site.write(
        path,
        &(configuration(&site.registry.address()) + &configuration(&plain.address())),
    );
    site.pull(&environment)
        .unwrap_or_else(|error| panic!("{}", story(&error)));
    pull(&open(&plain_name, &environment), &image(&[10]))
        .unwrap_or_else(|error| panic!("{}", story(&error)));
}

/// Names of this machine that are not loopback are asked with TLS only.
#[test]
fn plain_http_is_for_loopback_and_insecure_registries_alone() {
    let registry = Registry::start();
    let name = registry.put("a", "b", &image(&[10]));
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("etc")).unwrap();
    std::fs::write(home.path().join("etc/hosts"), "127.0.0.1 registry.test\n").unwrap();
    let named = name.replace("127.0.0.1", "registry.test");
    let environment = environment(home.path());
    let error = open(&named, &environment)
        .resolve(&Platform::host())
        .unwrap_err();
    let is_tls = matches!(
        &error,
        Error::Exchange {
            source: Failure::Tls(_),
            ..
        }
    );
    assert!(is_tls, "{}", story(&error));
    assert_eq!(registry.requests(), []);
    std::fs::create_dir_all(home.path().join("etc/containers")).unwrap();
    std::fs::write(
        home.path().join("etc/containers/registries.conf"),
        "[[registry]]\nlocation = \"registry.test\"\ninsecure = true\n",
    )
    .unwrap();
    // The rule covers the name with its port.
    pull(&open(&named, &environment), &image(&[10]))
        .unwrap_or_else(|error| panic!("{}", story(&error)));
}

#[test]
fn https_never_leads_to_plain_http() {
    let registry = Registry::start_with(Options {
        tls: Some(Tls::Signed),
        redirect: Some(9),
        ..Options::default()
    });
    let name = registry.put("a", "b", &image(&[10]));
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("ca.pem"), AUTHORITY).unwrap();
    let environment = environment(home.path()).with("SSL_CERT_FILE", home.path().join("ca.pem"));
    let error = pull(&open(&name, &environment), &image(&[10])).unwrap_err();
    assert!(story(&error).contains("refused"), "{}", story(&error));
    assert!(registry.requests().iter().all(|request| !request.at_store));
    // Nor are credentials sent to a token server without TLS.
    let auth = wolffia_testkit::registry::Auth::anonymous_token();
    let registry = Registry::start_with(Options {
        tls: Some(Tls::Signed),
        auth,
        ..Options::default()
    });
    let login = wolffia_fetch::login::Login {
        registry: registry.address(),
        user: "ann".to_owned(),
        password: wolffia_fetch::Secret::new("hunter2"),
        insecure: false,
        file: None,
    };
    let error = login.perform(&environment, limits()).unwrap_err();
    assert!(story(&error).contains("without TLS"), "{}", story(&error));
    assert!(
        registry
            .requests()
            .iter()
            .all(|request| request.authorization.is_none())
    );
}
