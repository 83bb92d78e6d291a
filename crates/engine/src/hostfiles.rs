// SPDX-License-Identifier: Apache-2.0
//! `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` of a container: files of ours that are mounted over the image's.
//!
//! Written when a container is started, as docker does, so that a restart sees a new resolver.

use std::{fmt::Write as _, fs, io::Read, net::IpAddr, path::Path};

use crate::{
    file::{FileError, write},
    networks::{Network, UserNetwork},
    options::{AddHost, HOST_GATEWAY},
};

/// A resolv.conf larger than this is not one.
const RESOLV_BYTES_MAX: u64 = 64 << 10;

/// The names of the three files, in a container's folder and in `/etc`.
pub const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Names by which programs ask for this machine, podman's and docker's.
const MACHINE_NAMES: [&str; 2] = ["host.containers.internal", "host.docker.internal"];

/// Writes the three files into a container's folder.
pub fn write_all(
    folder: &Path,
    hostname: &str,
    network: &Network,
    added: &[AddHost],
) -> Result<(), FileError> {
    let machine = |path: &str| read_bounded(path);
    let (hosts, resolver) = match network {
        // Without a network there is nobody to ask, but programs that insist on a resolver find the file they look for.
        Network::None => (
            Hosts::default().text(hostname, added),
            machine("/etc/resolv.conf"),
        ),
        Network::Host => {
            let hosts = Hosts {
                machine: Some(&machine("/etc/hosts")),
                ..Hosts::default()
            };
            (hosts.text(hostname, added), machine("/etc/resolv.conf"))
        }
        Network::User(user) => (
            Hosts::of(user).text(hostname, added),
            resolver(user, &machine("/etc/resolv.conf")),
        ),
    };
    write(&folder.join(NAMES[0]), hosts.as_bytes())?;
    write(&folder.join(NAMES[1]), format!("{hostname}\n").as_bytes())?;
    write(&folder.join(NAMES[2]), resolver.as_bytes())
}

/// Points at the network's own name server; where names are searched and how is the machine's business.
fn resolver(network: &UserNetwork, machine: &str) -> String {
    let (v4, v6) = network.dns();
    let kept = machine.lines().filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default();
        matches!(word, "search" | "domain" | "options" | "sortlist")
    });
    let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
    let _ = writeln!(text, "nameserver {v4}\nnameserver {v6}");
    text
}

/// What /etc/hosts is made of besides what a person adds.
#[derive(Default)]
struct Hosts<'a> {
    /// The machine's own, to begin with.
    machine: Option<&'a str>,
    /// Addresses of the container, for its own name; the loopback's else.
    own: Vec<IpAddr>,
    /// Where this machine is reached, if it is.
    gateway: Option<IpAddr>,
}

impl Hosts<'_> {
    fn of(network: &UserNetwork) -> Hosts<'static> {
        let (v4, v6) = network.container();
        Hosts {
            machine: None,
            own: vec![v4.into(), v6.into()],
            gateway: network.host_loopback.then(|| network.gateway().0.into()),
        }
    }

    fn text(&self, hostname: &str, added: &[AddHost]) -> String {
        let mut text = match self.machine {
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
        let local = IpAddr::from([127, 0, 0, 1]);
        for host in added {
            let address = match host.address.as_str() {
                HOST_GATEWAY => self.gateway.unwrap_or(local).to_string(),
                given => given.to_owned(),
            };
            let _ = writeln!(text, "{address}\t{}", host.name);
        }
        if let Some(gateway) = self.gateway {
            let _ = writeln!(text, "{gateway}\t{}", MACHINE_NAMES.join(" "));
        }
        if !names(&text, hostname) {
            let own: &[IpAddr] = if self.own.is_empty() {
                &[local]
            } else {
                &self.own
            };
            for address in own {
                let _ = writeln!(text, "{address}\t{hostname}");
            }
        }
        text
    }
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
        let text = Hosts::default().text("box", &added);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.0.0.2\tdb\n") && text.ends_with("127.0.0.1\tbox\n"));
        let machine = Hosts {
            machine: Some("10.1.1.1 box"),
            ..Hosts::default()
        };
        assert_eq!(machine.text("box", &[]), "10.1.1.1 box\n");
    }

    #[test]
    fn a_user_network_names_itself_and_the_machine_where_it_may_be_reached() {
        let mut network = UserNetwork::default();
        let text = Hosts::of(&network).text("box", &[]);
        assert!(
            text.ends_with("10.0.2.100\tbox\nfd00::100\tbox\n"),
            "{text}"
        );
        assert!(!text.contains("internal"), "{text}");
        network.host_loopback = true;
        let text = Hosts::of(&network).text("box", &[]);
        assert!(text.contains("\n10.0.2.2\thost.containers.internal host.docker.internal\n"));
        let machine = "# x\nsearch a.example\nnameserver 127.0.0.53\noptions edns0\n";
        assert_eq!(
            resolver(&network, machine),
            "search a.example\noptions edns0\nnameserver 10.0.2.3\nnameserver fd00::3\n"
        );
    }
}
