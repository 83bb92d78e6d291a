// SPDX-License-Identifier: Apache-2.0
//! The words of slirp4netns, read as that program reads them (getopt: flags before, between and behind the operands).

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    net::Ipv4Addr,
    os::{fd::RawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use lexopt::Arg::{Long, Short, Value};
use wolffia_net::settings::Cidr;

use super::Failure;

/// The largest MTU of a TAP device.
const MTU_MAX: u16 = 65521;

/// What is asked for.
#[derive(Debug)]
pub(super) enum Asked {
    Serve(Box<Words>),
    Help,
    Version,
}

/// What is to be served.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the peer's flags")]
pub(super) struct Words {
    pub(super) configure: bool,
    pub(super) exit: Option<RawFd>,
    pub(super) ready: Option<RawFd>,
    pub(super) mtu: u16,
    pub(super) ipv6: bool,
    pub(super) api_socket: Option<PathBuf>,
    pub(super) cidr: Cidr<Ipv4Addr>,
    pub(super) disable_host_loopback: bool,
    pub(super) user_namespace: Option<PathBuf>,
    pub(super) sandbox: bool,
    pub(super) outbound4: Option<String>,
    pub(super) outbound6: Option<String>,
    pub(super) disable_dns: bool,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) target: Target,
    pub(super) device: Option<String>,
}

/// Where the packets are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// In the namespaces of a process.
    Process(u32),
    /// In the network namespace at a path.
    Path(PathBuf),
    /// At a descriptor of a TAP.
    Descriptor(RawFd),
    /// At a socket that a machine connects to.
    Packets(PathBuf),
}

/// How an operand is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Process,
    Path,
    Descriptor,
}

/// Returns the overview. Programs look in it for the names of options.
pub(super) fn usage() -> String {
    let rows = [
        (
            "-c, --configure",
            "give the device its address, its routes and its MTU, and switch it on",
        ),
        (
            "-e, --exit-fd=FD",
            "end when something happens to this descriptor",
        ),
        (
            "-r, --ready-fd=FD",
            "write a byte to this descriptor when everything is ready",
        ),
        (
            "-m, --mtu=MTU",
            "the largest packet (default=1500, max=65521)",
        ),
        ("-6, --enable-ipv6", "serve IPv6 too: fd00::/64"),
        (
            "-a, --api-socket=PATH",
            "take requests for port forwards at this socket",
        ),
        ("--cidr=CIDR", "the network (default=10.0.2.0/24)"),
        (
            "--disable-host-loopback",
            "keep 127.0.0.1:* of the host closed",
        ),
        (
            "--netns-type=TYPE",
            "what the operand is ([path|pid|tapfd], default=pid)",
        ),
        ("--userns-path=PATH", "the user namespace"),
        (
            "--enable-sandbox",
            "see nothing but /etc and /run, and hold no capability but CAP_NET_BIND_SERVICE",
        ),
        (
            "--enable-seccomp",
            "limit system calls (they are limited without it too)",
        ),
        (
            "--outbound-addr=IPv4",
            "the address, or the device, that IPv4 goes out from",
        ),
        (
            "--outbound-addr6=IPv6",
            "the address, or the device, that IPv6 goes out from",
        ),
        (
            "--disable-dns",
            "answer no names at the third address of the network",
        ),
        (
            "--macaddress=MAC",
            "the hardware address of the device (with -c)",
        ),
        (
            "--target-type=TYPE",
            "what is served ([netns|bess], default=netns)",
        ),
        ("-h, --help", "show this and end"),
        ("-v, --version", "show the version and end"),
    ];
    let mut text = String::from(
        "Usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]\nUser-mode networking for network namespaces, by wolffia.\n\n",
    );
    for (option, meaning) in rows {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{option:<24} {meaning}");
    }
    text
}

/// Reads the words.
#[expect(clippy::too_many_lines, reason = "one row per option")]
pub(super) fn read(arguments: &[OsString]) -> Result<Asked, Failure> {
    let mut words = Words {
        configure: false,
        exit: None,
        ready: None,
        mtu: 1500,
        ipv6: false,
        api_socket: None,
        cidr: Cidr {
            address: Ipv4Addr::new(10, 0, 2, 0),
            prefix: 24,
        },
        disable_host_loopback: false,
        user_namespace: None,
        sandbox: false,
        outbound4: None,
        outbound6: None,
        disable_dns: false,
        mac: None,
        target: Target::Process(0),
        device: None,
    };
    let (mut kind, mut target_type, mut mac, mut operands) = (None, None, None, Vec::new());
    let mut parser = lexopt::Parser::from_args(arguments);
    let wrong = |error: lexopt::Error| Failure::usage(format!("slirp4netns: {error}"));
    while let Some(argument) = parser.next().map_err(wrong)? {
        let text = |parser: &mut lexopt::Parser| {
            parser
                .value()
                .and_then(lexopt::ValueExt::string)
                .map_err(wrong)
        };
        match argument {
            Short('c') | Long("configure") => words.configure = true,
            Short('e') | Long("exit-fd") => {
                words.exit = Some(descriptor(&text(&mut parser)?, "exit-fd")?);
            }
            Short('r') | Long("ready-fd") => {
                words.ready = Some(descriptor(&text(&mut parser)?, "ready-fd")?);
            }
            Short('m') | Long("mtu") => {
                let mtu = text(&mut parser)?
                    .parse()
                    .ok()
                    .filter(|mtu| (1..=MTU_MAX).contains(mtu));
                words.mtu =
                    mtu.ok_or_else(|| Failure::usage("MTU must be a positive integer (< 65522)"))?;
            }
            Short('6') | Long("enable-ipv6") => words.ipv6 = true,
            Short('a') | Long("api-socket") => {
                words.api_socket = Some(parser.value().map_err(wrong)?.into());
            }
            Long("cidr") => words.cidr = cidr(&text(&mut parser)?)?,
            Long("disable-host-loopback" | "no-host-loopback") => {
                words.disable_host_loopback = true;
            }
            Long("netns-type") => kind = Some(text(&mut parser)?),
            Long("userns-path") => {
                let path = PathBuf::from(parser.value().map_err(wrong)?);
                if !path.exists() {
                    return Err(Failure::usage(format!(
                        "userns path doesn't exist: {}",
                        path.display()
                    )));
                }
                words.user_namespace = Some(path);
            }
            Long("enable-sandbox" | "create-sandbox") => words.sandbox = true,
            // Calls are limited in any case, to fewer than the peer leaves.
            Long("enable-seccomp") => {}
            Long("outbound-addr") => words.outbound4 = Some(text(&mut parser)?),
            Long("outbound-addr6") => words.outbound6 = Some(text(&mut parser)?),
            Long("disable-dns") => words.disable_dns = true,
            Long("macaddress") => mac = Some(text(&mut parser)?),
            Long("target-type") => target_type = Some(text(&mut parser)?),
            Short('h') | Long("help") => return Ok(Asked::Help),
            Short('v') | Long("version") => return Ok(Asked::Version),
            Value(operand) => operands.push(operand),
            other => return Err(wrong(other.unexpected())),
        }
    }
    if let Some(mac) = mac {
        if !words.configure {
            return Err(Failure::usage(
                "--macaddr cannot be specified when --configure or -c is not specified",
            ));
        }
        words.mac = Some(hardware_address(&mac)?);
    }
    match target_type.as_deref() {
        Some("bess") => {
            let [path] = operands.as_slice() else {
                return Err(Failure::usage(if operands.is_empty() {
                    ""
                } else {
                    "too many arguments"
                }));
            };
            for (is_given, option) in [
                (words.configure, "--configure"),
                (kind.is_some(), "--netns-type"),
                (words.user_namespace.is_some(), "--userns-path"),
            ] {
                if is_given {
                    return Err(Failure::usage(format!(
                        "{option} conflicts with --target-type=bess"
                    )));
                }
            }
            words.target = Target::Packets(path.into());
        }
        None | Some("netns") => read_target(&mut words, kind.as_deref(), &operands)?,
        Some(_) => {
            return Err(Failure::usage(
                "--target-type must be either \"netns\" or \"bess\"",
            ));
        }
    }
    Ok(Asked::Serve(Box::new(words)))
}

fn read_target(
    words: &mut Words,
    kind: Option<&str>,
    operands: &[OsString],
) -> Result<(), Failure> {
    let Some((target, rest)) = operands.split_first() else {
        return Err(Failure::usage(""));
    };
    let kind = match kind {
        None | Some("pid") => Kind::Process,
        Some("tapfd") => Kind::Descriptor,
        // Whatever else is said is a path to the peer.
        Some(_) => Kind::Path,
    };
    let number = target.to_str().and_then(|text| text.parse::<RawFd>().ok());
    words.target = match kind {
        Kind::Process => {
            let pid = number
                .and_then(|number| u32::try_from(number).ok())
                .filter(|pid| *pid > 0);
            Target::Process(pid.ok_or_else(|| Failure::usage("PID must be a positive integer"))?)
        }
        Kind::Descriptor => {
            let number = number.filter(|number| *number >= 0);
            Target::Descriptor(
                number.ok_or_else(|| Failure::usage("TAPFD must a file descriptor"))?,
            )
        }
        Kind::Path if Path::new(target).exists() => Target::Path(target.into()),
        Kind::Path => {
            return Err(Failure::usage(
                "existing path expected when --netns-type=path: No such file or directory",
            ));
        }
    };
    let device = rest.first().map(|name| name.to_string_lossy().into_owned());
    if device.is_none() && kind != Kind::Descriptor {
        return Err(Failure::usage(""));
    }
    words.device = device;
    Ok(())
}

fn descriptor(text: &str, option: &str) -> Result<RawFd, Failure> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| Failure::usage(format!("{option} must be a non-negative integer")))
}

/// Reads a network with the peer's errors, which its tests compare.
fn cidr(text: &str) -> Result<Cidr<Ipv4Addr>, Failure> {
    let invalid = || Failure::plain(format!("invalid CIDR: {text}"));
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let is_number = |word: &str, digits| {
        (1..=digits).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_dotted =
        address.split('.').count() == 4 && address.split('.').all(|part| is_number(part, 3));
    if !is_dotted || !is_number(prefix, 2) {
        return Err(invalid());
    }
    let network: Ipv4Addr = address
        .parse()
        .map_err(|_| Failure::plain(format!("invalid network address: {address}")))?;
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    if !(1..=25).contains(&prefix) {
        return Err(Failure::plain("prefix length needs to be 1-25"));
    }
    if u32::from(network) << prefix != 0 {
        return Err(Failure::plain(
            "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
        ));
    }
    Ok(Cidr {
        address: network,
        prefix,
    })
}

fn hardware_address(text: &str) -> Result<[u8; 6], Failure> {
    let invalid = || Failure::plain(format!("\"{text}\" is an invalid MAC address."));
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| {
            let is_hex = OsStr::new(part)
                .as_bytes()
                .iter()
                .all(u8::is_ascii_hexdigit)
                && part.len() <= 2;
            is_hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        })
        .collect::<Option<_>>()
        .ok_or_else(invalid)?;
    bytes.try_into().map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Words, String> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match read(&arguments) {
            Ok(Asked::Serve(words)) => Ok(*words),
            Ok(other) => Err(format!("{other:?}")),
            Err(failure) => Err(failure.text),
        }
    }

    #[test]
    fn the_lines_of_podman_and_rootlesskit_are_understood() {
        let podman = asked("--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 -e 4 --netns-type=path /proc/self/ns/net tap0").expect("words");
        assert_eq!(podman.target, Target::Path("/proc/self/ns/net".into()));
        assert_eq!(
            (podman.mtu, podman.ready, podman.exit),
            (65520, Some(3), Some(4))
        );
        assert!(podman.configure && podman.sandbox && podman.ipv6 && podman.disable_host_loopback);
        let kit = asked(
            "--mtu 65520 -r 3 --cidr 10.0.2.0/24 --api-socket /run/x --disable-dns 1234 tap0",
        )
        .expect("words");
        assert_eq!(kit.target, Target::Process(1234));
        assert_eq!(kit.device.as_deref(), Some("tap0"));
        assert!(kit.disable_dns && !kit.configure);
        let descriptor = asked("--netns-type=tapfd 5").expect("words");
        assert_eq!(descriptor.target, Target::Descriptor(5));
        let machine = asked("--target-type=bess /tmp/bess").expect("words");
        assert_eq!(machine.target, Target::Packets("/tmp/bess".into()));
        let late = asked("77 tap0 -c --macaddress 0e:d4:18:d9:38:fb extra").expect("words");
        assert_eq!(late.mac, Some([0x0e, 0xd4, 0x18, 0xd9, 0x38, 0xfb]));
    }

    #[test]
    fn what_is_wrong_is_said_in_the_peers_words() {
        let cases = [
            ("", ""),
            ("77", ""),
            ("x tap0", "PID must be a positive integer"),
            ("0 tap0", "PID must be a positive integer"),
            ("--cidr 24 7 tap0", "invalid CIDR: 24"),
            ("--cidr foo 7 tap0", "invalid CIDR: foo"),
            ("--cidr 10.0.2.0 7 tap0", "invalid CIDR: 10.0.2.0"),
            ("--cidr 10.0.2.0/-1 7 tap0", "invalid CIDR: 10.0.2.0/-1"),
            (
                "--cidr 10.0.2.999/24 7 tap0",
                "invalid network address: 10.0.2.999",
            ),
            (
                "--cidr 10.0.2.100/24 7 tap0",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
            ),
            (
                "--cidr 10.0.2.0/26 7 tap0",
                "prefix length needs to be 1-25",
            ),
            ("--mtu 0 7 tap0", "MTU must be a positive integer (< 65522)"),
            (
                "--mtu 65522 7 tap0",
                "MTU must be a positive integer (< 65522)",
            ),
            ("-r x 7 tap0", "ready-fd must be a non-negative integer"),
            (
                "--macaddress 0e:d4:18:d9:38:fb 7 tap0",
                "--macaddr cannot be specified when --configure or -c is not specified",
            ),
            (
                "-c --macaddress 0e:d4 7 tap0",
                "\"0e:d4\" is an invalid MAC address.",
            ),
            (
                "-c --target-type=bess /x",
                "--configure conflicts with --target-type=bess",
            ),
            (
                "--target-type=vde /x",
                "--target-type must be either \"netns\" or \"bess\"",
            ),
            ("--netns-type=tapfd x", "TAPFD must a file descriptor"),
        ];
        for (line, text) in cases {
            assert_eq!(asked(line).expect_err(line), text, "{line}");
        }
    }
}
