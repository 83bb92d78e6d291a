// SPDX-License-Identifier: Apache-2.0
//! The programs `docker-credential-*`: keyrings and cloud log-ins that hold credentials for docker and podman.
//!
//! Protocol: the program is called with one word (`get`, `store`, `erase`); the registry, or a JSON object, is its standard
//! input; `get` prints a JSON object with `Username` and `Secret`. A `Username` of `<token>` means that the secret is an
//! identity token. A helper that knows nothing exits with 1 and says so on standard output.
//!
//! A helper is a stranger: its name is one word, its output and its time are bounded, and neither its output nor what it
//! complains about is passed on, since both may hold the secret.
//!
//! Source: docker-credential-helpers README, "Development".

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Credential, CredentialError};
use crate::environment::Environment;
use crate::secret::Secret;

/// Tokens of cloud registries are a few KiB.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// A helper may have to ask its cloud, or the person for the keyring's password.
const TIME_MAX: Duration = Duration::from_mins(1);
/// What helpers print where they know nothing of a registry.
const NOT_FOUND: &str = "credentials not found";

/// What `get` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the credentials of a registry.
pub(super) fn get(
    environment: &Environment,
    helper: &str,
    registry: &str,
) -> Result<Option<Credential>, CredentialError> {
    let input = server(registry).as_bytes();
    let answer = call(environment, helper, "get", input, TIME_MAX)?;
    let Some(output) = answer else {
        return Ok(None);
    };
    let found: Found = serde_json::from_slice(&output).map_err(|_| CredentialError::Helper {
        program: program(helper),
        problem: "it printed something else than credentials".to_owned(),
    })?;
    if found.secret.is_empty() {
        return Ok(None);
    }
    let secret = Secret::new(found.secret);
    Ok(Some(if found.username == "<token>" {
        Credential::IdentityToken(secret)
    } else {
        Credential::Password {
            user: found.username,
            password: secret,
        }
    }))
}

/// Gives a helper the credentials of a registry to keep.
pub(crate) fn store(
    environment: &Environment,
    helper: &str,
    registry: &str,
    credential: &Credential,
) -> Result<(), CredentialError> {
    let (user, secret) = match credential {
        Credential::Password { user, password } => (user.as_str(), password),
        Credential::IdentityToken(token) | Credential::RegistryToken(token) => ("<token>", token),
    };
    let input = serde_json::json!({
        "ServerURL": server(registry),
        "Username": user,
        "Secret": secret.expose(),
    });
    let input = Secret::new(input.to_string());
    let bytes = input.expose().as_bytes();
    let _output = call(environment, helper, "store", bytes, TIME_MAX)?;
    Ok(())
}

/// Lets a helper forget a registry; tells whether it knew it.
pub(crate) fn erase(
    environment: &Environment,
    helper: &str,
    registry: &str,
) -> Result<bool, CredentialError> {
    if get(environment, helper, registry)?.is_none() {
        return Ok(false);
    }
    let input = server(registry).as_bytes();
    let _output = call(environment, helper, "erase", input, TIME_MAX)?;
    Ok(true)
}

/// Returns the name under which helpers know a registry: docker stores its Hub under this one address.
fn server(registry: &str) -> &str {
    if registry == "docker.io" {
        "https://index.docker.io/v1/"
    } else {
        registry
    }
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

/// Runs a helper; `None` where it says that it knows nothing.
pub(super) fn call(
    environment: &Environment,
    helper: &str,
    verb: &str,
    input: &[u8],
    time_max: Duration,
) -> Result<Option<Vec<u8>>, CredentialError> {
    let program = program(helper);
    let failed = |problem: String| CredentialError::Helper {
        program: program.clone(),
        problem,
    };
    if helper.contains('/') || helper.contains('\0') {
        return Err(failed("its name is no single word".to_owned()));
    }
    let mut command = Command::new(&program);
    if let Some(path) = environment.text("PATH") {
        // Both for the search and for the helper's own use.
        command.env("PATH", path);
    }
    let mut child = command
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("it cannot be started ({error})")))?;
    let output = converse(&mut child, input, Instant::now() + time_max);
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let _gone = child.kill();
            let _status = child.wait();
            return Err(failed(error.to_string()));
        }
    };
    let status = child
        .wait()
        .map_err(|error| failed(format!("it cannot be waited for ({error})")))?;
    if status.success() {
        return Ok(Some(output));
    }
    let said = String::from_utf8_lossy(&output).to_ascii_lowercase();
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    Err(failed(format!("it failed ({status})")))
}

/// Writes the input, and reads what comes until the end, the bound or the deadline.
fn converse(child: &mut Child, input: &[u8], deadline: Instant) -> std::io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read is no failure of ours: what it prints decides.
        let _written = stdin.write_all(input).and_then(|()| stdin.write_all(b"\n"));
    }
    let Some(mut stdout) = child.stdout.take() else {
        return Ok(Vec::new());
    };
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        wait_readable(stdout.as_fd(), deadline)?;
        let length = stdout.read(&mut buffer)?;
        if length == 0 {
            return Ok(output);
        }
        output.extend_from_slice(&buffer[..length]);
        if output.len() > OUTPUT_BYTES_MAX {
            return Err(std::io::Error::other("it prints without end"));
        }
    }
}

fn wait_readable(
    descriptor: std::os::fd::BorrowedFd<'_>,
    deadline: Instant,
) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    loop {
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(0) => return Err(std::io::Error::other("it took too long")),
            Ok(_ready) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
