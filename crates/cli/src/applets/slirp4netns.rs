// SPDX-License-Identifier: Apache-2.0
//! The binary called as `slirp4netns`: that program's command line and control socket, before our own network (`wolffia_net::user`).
//!
//! podman, `RootlessKit` and people's scripts start it with the peer's words, read what it prints at the start and ask `--help` what it can. What
//! the peer leaves open stays open here (the host's loopback above all), with its warning; what it closes on request answers as there: a
//! switched-off name server with silence, a closed loopback with "network is unreachable".

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use wolffia_net::{
    sandbox,
    settings::{Cidr, Dns, Rules, Settings},
    user::{self, Device, Doors, LinkSettings, Packets, Place},
};
use wolffia_sys::{capabilities::Set, fd, tap::Tap};

mod outbound;
mod words;

use words::{Target, Words};

/// The network that `--enable-ipv6` is about; the peer has no other.
const V6: Cidr<std::net::Ipv6Addr> = Cidr {
    address: std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
    prefix: 64,
};

/// Why it does not serve: what is printed, after the usage where the words were wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    with_usage: bool,
}

impl Failure {
    fn plain(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            with_usage: false,
        }
    }

    fn usage(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            with_usage: true,
        }
    }

    fn of(error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Failure::plain(text)
    }

    fn doing(doing: impl std::fmt::Display) -> impl FnOnce(rustix::io::Errno) -> Failure {
        move |errno| Failure::plain(format!("{doing}: {}", io::Error::from(errno)))
    }
}

/// Serves the words behind the name, and returns the exit code.
pub(crate) fn serve(arguments: &[OsString]) -> u8 {
    match words::read(arguments) {
        Ok(words::Asked::Serve(words)) => match run(&words) {
            Ok(()) => 0,
            Err(failure) => complain(&failure),
        },
        Ok(words::Asked::Help) => say(&words::usage()),
        Ok(words::Asked::Version) => say(&version()),
        Err(failure) => complain(&failure),
    }
}

fn say(text: &str) -> u8 {
    u8::from(io::stdout().lock().write_all(text.as_bytes()).is_err())
}

fn complain(failure: &Failure) -> u8 {
    if !failure.text.is_empty() {
        // Nobody can be told that nobody can be told.
        drop(writeln!(io::stderr().lock(), "{}", failure.text));
    }
    if failure.with_usage {
        say(&words::usage());
    }
    1
}

/// Five lines, as programs read them; the configuration version says which options there are.
fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!(
        "slirp4netns version 1.3.3\ncommit: wolffia-{own}\nlibslirp: none (wolffia {own})\nSLIRP_CONFIG_VERSION_MAX: 5\nlibseccomp: none (wolffia {own})\n"
    )
}

fn run(words: &Words) -> Result<(), Failure> {
    let settings = settings(words)?;
    let ready = take(words.ready, "ready-fd")?;
    let end = take(words.exit, "exit-fd")?;
    // Before anything leaves this place: the path is the caller's.
    let control = words.api_socket.as_deref().map(listen_at).transpose()?;
    let place = place(words)?;
    let device = device(words, &settings, place.as_ref())?;
    announce(words, &settings).map_err(|error| Failure::plain(format!("saying so: {error}")))?;
    if words.sandbox {
        sandbox::enter(place.as_ref()).map_err(|error| Failure::of(&error))?;
    }
    drop(place);
    let doors = Doors {
        ready,
        end,
        control,
        keep: Set::named("CAP_NET_BIND_SERVICE").unwrap_or(Set::EMPTY),
        is_visible: true,
    };
    let ended = user::serve(&settings, device, doors);
    ended.map(drop).map_err(|error| Failure::of(&error))
}

fn take(number: Option<RawFd>, option: &str) -> Result<Option<OwnedFd>, Failure> {
    let taken = number.map(fd::inherited).transpose();
    taken.map_err(Failure::doing(format_args!(
        "{option} {}",
        number.unwrap_or(-1)
    )))
}

fn settings(words: &Words) -> Result<Settings, Failure> {
    Ok(Settings {
        device: words.device.clone().unwrap_or_default(),
        mtu: words.mtu,
        cidr: words.cidr,
        cidr6: words.ipv6.then_some(V6),
        configure: words.configure,
        mac: words.mac,
        policy: Rules {
            host_loopback: !words.disable_host_loopback,
            host_addresses: true,
            link_local: true,
            allow: Vec::new(),
        },
        dns: if words.disable_dns {
            Dns::Off
        } else {
            Dns::Host
        },
        outbound4: outbound::v4(words.outbound4.as_deref())?,
        outbound6: outbound::v6(words.outbound6.as_deref())?,
        full_cone: true,
    })
}

/// Listens at a path, in the place of what lies there.
fn listen_at(path: &Path) -> Result<OwnedFd, Failure> {
    // The kernel's own bound of a path to a socket.
    SocketAddrUnix::new(path).map_err(|_| {
        Failure::plain(format!(
            "the specified API socket path is too long (>= 108): {}",
            path.display()
        ))
    })?;
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(Failure::plain(format!(
                "removing {}: {error}",
                path.display()
            )));
        }
    }
    let failed =
        |error: io::Error| Failure::plain(format!("listening at {}: {error}", path.display()));
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener.into())
}

/// Opens the namespaces that are meant; none where the device comes otherwise.
fn place(words: &Words) -> Result<Option<Place>, Failure> {
    let open = |path: &Path| {
        fs::File::open(path)
            .map(OwnedFd::from)
            .map_err(|error| Failure::plain(format!("{}: {error}", path.display())))
    };
    let named_user = words.user_namespace.as_deref().map(open).transpose()?;
    Ok(match &words.target {
        Target::Process(pid) => {
            let user = match named_user {
                Some(user) => user,
                None => open(Path::new(&format!("/proc/{pid}/ns/user")))?,
            };
            Some(Place {
                user: differs(&user).then_some(user),
                network: open(Path::new(&format!("/proc/{pid}/ns/net")))?,
            })
        }
        Target::Path(path) => Some(Place {
            user: named_user.filter(differs),
            network: open(path)?,
        }),
        Target::Descriptor(_) | Target::Packets(_) => None,
    })
}

/// Tells whether a user namespace is another than ours, which cannot be joined.
fn differs(namespace: &OwnedFd) -> bool {
    fs::File::open("/proc/self/ns/user")
        .is_ok_and(|own| !fd::is_same_file(namespace.as_fd(), own.as_fd()).unwrap_or(false))
}

fn device(
    words: &Words,
    settings: &Settings,
    place: Option<&Place>,
) -> Result<Box<dyn Device>, Failure> {
    match (&words.target, place) {
        (Target::Packets(path), _) => Ok(Box::new(wait_for_machine(path)?)),
        (Target::Descriptor(number), _) => {
            let tap = fd::inherited(*number).and_then(Tap::adopt);
            Ok(Box::new(
                tap.map_err(Failure::doing(format_args!("TAPFD {number}")))?,
            ))
        }
        (_, Some(place)) => {
            let link = words.configure.then(|| settings.network4()).transpose();
            let link = link
                .map_err(|error| Failure::of(&error))?
                .map(|v4| LinkSettings {
                    mtu: settings.mtu,
                    mac: settings.mac,
                    v4: Some(v4),
                    // By router advertisements, as guests of the peer are used to.
                    v6: None,
                });
            let tap = user::open(place, &settings.device, link.as_ref());
            Ok(Box::new(tap.map_err(|error| Failure::of(&error))?))
        }
        (_, None) => Err(Failure::usage("")),
    }
}

/// Waits until a machine (User Mode Linux, `vec0:transport=bess`) connects to a socket of packets.
fn wait_for_machine(path: &Path) -> Result<Packets, Failure> {
    let failed = || Failure::doing(path.display().to_string());
    let address = SocketAddrUnix::new(path).map_err(|_| {
        Failure::plain(format!(
            "the specified BESS socket path is too long (>= 108): {}",
            path.display()
        ))
    })?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed())?;
    bind(&socket, &address).map_err(failed())?;
    listen(&socket, 1).map_err(failed())?;
    // Nobody can be told that nobody can be told.
    drop(writeln!(
        io::stderr().lock(),
        "Waiting for connection to {}",
        path.display()
    ));
    let connected = accept_with(&socket, SocketFlags::CLOEXEC).map_err(failed())?;
    Packets::new(connected).map_err(failed())
}

/// Says what programs and people read at the start.
fn announce(words: &Words, settings: &Settings) -> io::Result<()> {
    let Ok(network) = settings.network4() else {
        return Ok(());
    };
    let mut text = String::from("Starting slirp\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a text does not fail.
        let _ = std::fmt::Write::write_fmt(
            &mut text,
            format_args!("* {:<17}{value}\n", format!("{name}:")),
        );
    };
    line("MTU", &settings.mtu);
    line("Network", &network.network);
    line("Netmask", &network.netmask());
    line("Gateway", &network.gateway);
    line("DNS", &network.dns.unwrap_or(network.gateway));
    if let Some((first, last)) = network.dhcp {
        line("DHCP begin", &first);
        line("DHCP end", &last);
    }
    line("Recommended IP", &network.guest);
    if let Some(path) = &words.api_socket {
        line("API Socket", &path.display());
    }
    if let Some(address) = settings.outbound4 {
        line("Outbound IPv4", &address);
    }
    if let Some(address) = settings.outbound6 {
        line("Outbound IPv6", &address);
    }
    if let Some(mac) = settings.mac {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        line("MAC address", &mac);
    }
    if settings.policy.host_loopback {
        text += "WARNING: 127.0.0.1:* on the host is accessible as ";
        text += &network.gateway.to_string();
        text += " (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)\n";
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
