// SPDX-License-Identifier: Apache-2.0
//! `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` of a container: files of ours that are mounted over the image's.
//!
//! Written when a container is started, as docker does, so that a restart sees a new resolver.

use std::{fmt::Write as _, fs, io::Read, path::Path};

use crate::{
    file::{FileError, write},
    options::{AddHost, HOST_GATEWAY, Network},
};

/// A resolv.conf larger than this is not one.
const RESOLV_BYTES_MAX: u64 = 64 << 10;

/// The names of the three files, in a container's folder and in `/etc`.
pub const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Writes the three files into a container's folder.
pub fn write_all(
    folder: &Path,
    hostname: &str,
    network: Network,
    added: &[AddHost],
) -> Result<(), FileError> {
    let machine = |path: &str| read_bounded(path);
    let hosts = match network {
        Network::None => hosts(hostname, None, added),
        Network::Host => hosts(hostname, Some(&machine("/etc/hosts")), added),
    };
    write(&folder.join(NAMES[0]), hosts.as_bytes())?;
    write(&folder.join(NAMES[1]), format!("{hostname}\n").as_bytes())?;
    // Without a network there is nobody to ask, but programs that insist on a resolver find the file they look for.
    write(
        &folder.join(NAMES[2]),
        machine("/etc/resolv.conf").as_bytes(),
    )
}

fn hosts(hostname: &str, machine: Option<&str>, added: &[AddHost]) -> String {
    let mut text = match machine {
        Some(machine) if machine.ends_with('\n') || machine.is_empty() => machine.to_owned(),
        Some(machine) => format!("{machine}\n"),
        None => "127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 ff00::0\tip6-mcastprefix\n\
                 ff02::1\tip6-allnodes\n\
                 ff02::2\tip6-allrouters\n"
            .to_owned(),
    };
    for host in added {
        let address = if host.address == HOST_GATEWAY {
            "127.0.0.1"
        } else {
            &host.address
        };
        let _ = writeln!(text, "{address}\t{}", host.name);
    }
    if !names(&text, hostname) {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    text
}

fn names(hosts: &str, hostname: &str) -> bool {
    hosts
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| line.split_whitespace().skip(1).any(|name| name == hostname))
}

/// Reads a file of this machine; one that cannot be read is empty inside.
fn read_bounded(path: &str) -> String {
    let mut text = String::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(RESOLV_BYTES_MAX).read_to_string(&mut text));
    read.map_or_else(|_| String::new(), |_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_inside_is_found() {
        let added = [AddHost {
            name: "db".into(),
            address: "10.0.0.2".into(),
        }];
        let text = hosts("box", None, &added);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.0.0.2\tdb\n") && text.ends_with("127.0.0.1\tbox\n"));
        assert_eq!(hosts("box", Some("10.1.1.1 box"), &[]), "10.1.1.1 box\n");
    }
}
