// SPDX-License-Identifier: Apache-2.0
//! Debian's `docker-registry` (distribution) on a port of this machine: the registry that others wrote.
//!
//! Tests that start it say `need!(DockerRegistry)`. It keeps its data in a directory of the caller's, so that an image
//! may stay between runs, and ends when it is dropped.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the program may take to answer: it starts in a tenth of a second.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A port may be taken by somebody else between our choice and the program's start.
const STARTS_MAX: usize = 5;

/// The one user of [`RealRegistry::start_with_password`].
pub const USER: &str = "ann";
/// The password of [`USER`], with a colon, which an `Authorization` header must survive.
pub const PASSWORD: &str = "s3cret:word";
/// [`PASSWORD`] as `htpasswd -B -C 4` writes it: the cheapest cost, for it is paid at every request.
const HTPASSWD: &str = "ann:$2b$04$p74vSNwXkObjif3hH6E/ge0/3AzVkSDv/GFpAA28auxnz8adeD/SW\n";

/// A running `docker-registry`.
#[derive(Debug)]
pub struct RealRegistry {
    child: Child,
    address: SocketAddr,
}

impl RealRegistry {
    /// Starts one that is open to all and keeps its data in `directory`.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start(directory: &Path) -> Self {
        Self::configured(directory, "")
    }

    /// Starts one that only [`USER`] may use.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start_with_password(directory: &Path) -> Self {
        let passwords = directory.join("htpasswd");
        std::fs::write(&passwords, HTPASSWD).expect("writing the passwords");
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            passwords.display()
        );
        Self::configured(directory, &auth)
    }

    fn configured(directory: &Path, more: &str) -> Self {
        for _start in 0..STARTS_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let address = listener.local_addr().expect("an address");
            drop(listener);
            let configuration = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '{address}', secret: of-a-test}}\n{more}",
                directory.join("data").display()
            );
            let path = directory.join("registry.yml");
            std::fs::write(&path, configuration).expect("writing the configuration");
            let log = std::fs::File::create(directory.join("registry.log")).expect("a log");
            let child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("starting docker-registry");
            let mut registry = Self { child, address };
            if registry.answers() {
                return registry;
            }
        }
        let log = std::fs::read_to_string(directory.join("registry.log"));
        panic!(
            "docker-registry does not start: {}",
            log.unwrap_or_default()
        );
    }

    /// Waits until it answers; `false` where it ended instead.
    fn answers(&mut self) -> bool {
        let until = Instant::now() + START_TIME_MAX;
        while Instant::now() < until {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return false;
            }
            if ask(self.address).is_ok() {
                return true;
            }
            // There is nothing to wait on: the program says nothing when it listens.
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns its process, for measurements.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Copies an image of an OCI layout to it with skopeo: say `need!(Skopeo)`. Returns what a client calls it.
    ///
    /// # Panics
    /// Where skopeo fails.
    pub fn push(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let name = format!("{}/{repository}:{tag}", self.address);
        let output = Command::new("skopeo")
            .args([
                "copy",
                "-q",
                "--preserve-digests",
                "--dest-tls-verify=false",
                "--dest-creds",
            ])
            .arg(format!("{USER}:{PASSWORD}"))
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{name}"))
            .output()
            .expect("starting skopeo");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo: {said}");
        name
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Succeeds where something speaks HTTP.
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    stream.read_exact(&mut [0; 4])
}
