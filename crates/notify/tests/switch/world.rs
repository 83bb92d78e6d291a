// SPDX-License-Identifier: Apache-2.0
//! Three network namespaces: a container's, the host's, and the world outside, joined to the host by a wire.
//!
//! The test runs three times: as itself; in a user and network namespace of its own, which is the "host" and holds the dispatcher and the
//! world's servers; and as the "container", a child with a namespace and a filter of its own. The container has no way out at all: a connection that
//! is not switched is unreachable, and one that stands was switched.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use wolffia_notify::Dispatcher;
use wolffia_notify::handlers::switch::{Destinations, Switch, rules};
use wolffia_sys::namespace::{self, Namespaces};
use wolffia_sys::netlink::{Change, Kind, Netlink, Prefix};
use wolffia_sys::seccomp::policy::{Action, Architecture, Policy};
use wolffia_sys::seccomp::{Flags, Program, install, notification::Listener, tree};

/// Which of the three runs this is.
const STAGE: &str = "WOLFFIA_TEST_STAGE";

/// An echo server of the world's, that may be switched to.
pub(crate) const OPEN: [&str; 2] = ["198.51.100.2:8000", "[2001:db8:5::2]:8000"];
/// Servers that policy closes: of the world's, and of the host's own loopback.
pub(crate) const CLOSED: [&str; 3] = ["198.51.100.2:8001", "127.0.0.1:8001", "[::1]:8001"];
/// An address of the world's network at which nobody is.
pub(crate) const NOBODY: &str = "198.51.100.77:8000";

/// How many connections the closed servers have had.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);

#[cfg(target_arch = "x86_64")]
const NATIVE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Architecture = Architecture::Aarch64;

struct Policies;

impl Destinations for Policies {
    fn may_switch(&self, to: SocketAddr) -> bool {
        !to.ip().is_loopback() && !to.ip().is_unspecified() && to.port() != 8001
    }
}

/// Runs `scenario` inside a container whose connections are switched. `name` is the whole name of the test.
pub(crate) fn in_a_container(name: &str, scenario: impl FnOnce()) {
    match std::env::var(STAGE).as_deref() {
        Ok("host") => host(name),
        Ok(_) => container(scenario),
        Err(_) => {
            wolffia_testkit::need!(UserNamespace);
            let mut command = Command::new("unshare");
            command.args(["-Urn", "--"]).arg(ourselves());
            again(command, name, "host");
        }
    }
}

fn ourselves() -> std::path::PathBuf {
    std::env::current_exe().expect("our own path")
}

/// Runs this test again.
fn again(mut command: Command, name: &str, stage: &str) {
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(STAGE, stage)
        .output()
        .expect("running again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{stage}: {said}{wrong}"
    );
}

fn host(name: &str) {
    let world = world();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command = Command::new(ourselves());
    command.stdin(OwnedFd::from(theirs));
    let name = name.to_owned();
    let container = std::thread::spawn(move || again(command, &name, "container"));
    let probe = receive(&ours);
    let listener = receive(&ours);
    let switch = Switch::new(Box::new(Policies), &probe).expect("switching");
    let processes = rustix::fs::open(
        "/proc",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .expect("/proc");
    let mut dispatcher =
        Dispatcher::new(Listener::from(listener), processes, vec![Box::new(switch)]);
    // Ends with the container.
    (&ours).write_all(b"g").expect("saying go");
    dispatcher.serve().expect("serving");
    let done = container.join();
    drop(world);
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(
        CAUGHT.load(Ordering::SeqCst),
        0,
        "a server that policy closes was reached"
    );
}

/// Makes the world: a namespace on a wire, and servers in it and on the host's loopback.
fn world() -> UnixStream {
    let (hold, held) = UnixStream::pair().expect("a pair");
    let (sender, receiver) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        namespace::unshare(Namespaces::NETWORK).expect("the world's namespace");
        let space = std::fs::File::open("/proc/thread-self/ns/net").expect("the namespace");
        sender.send(space).expect("handing it out");
        gone.recv().expect("the wire");
        let mut netlink = Netlink::open().expect("netlink");
        address(&mut netlink, "lo", &[]);
        address(
            &mut netlink,
            "world",
            &[("198.51.100.2", 24), ("2001:db8:5::2", 64)],
        );
        for server in OPEN {
            serve(server, echo);
        }
        serve(CLOSED[0], caught);
        sender
            .send(std::fs::File::open("/dev/null").expect("a file"))
            .expect("saying so");
        // Until the test is over.
        drop((&held).read(&mut [0]));
    });
    let space = receiver.recv().expect("the world");
    let mut netlink = Netlink::open().expect("netlink");
    let kind = Kind::Veth {
        peer: "world",
        peer_namespace: Some(space.as_fd()),
        peer_address: None,
    };
    netlink.create("uplink", kind).expect("a wire");
    address(&mut netlink, "lo", &[]);
    address(
        &mut netlink,
        "uplink",
        &[("198.51.100.1", 24), ("2001:db8:5::1", 64)],
    );
    go.send(()).expect("the world's thread");
    receiver.recv().expect("the world's servers");
    for server in &CLOSED[1..] {
        serve(server, caught);
    }
    hold
}

fn address(netlink: &mut Netlink, device: &str, addresses: &[(&str, u8)]) {
    let index = netlink.link(device).expect(device).index;
    let up = Change {
        up: Some(true),
        ..Change::default()
    };
    netlink.change(index, up).expect("switching it on");
    for (address, length) in addresses {
        let address: std::net::IpAddr = address.parse().expect("an address");
        let prefix = Prefix::new(address, *length).expect("a prefix");
        netlink.add_address(index, prefix).expect("an address");
    }
}

fn serve(address: &str, each: fn(std::net::TcpStream)) {
    let server = TcpListener::bind(address).expect(address);
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            std::thread::spawn(move || each(stream));
        }
    });
}

fn echo(mut stream: std::net::TcpStream) {
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn caught(_: std::net::TcpStream) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

/// Leaves for a namespace of its own, hands out what the dispatcher needs, and runs the scenario under the filter.
fn container(scenario: impl FnOnce()) {
    namespace::unshare(Namespaces::NETWORK).expect("a namespace");
    namespace::raise_loopback().expect("the loopback device");
    let wire = UnixStream::from(
        rustix::io::dup(rustix::stdio::stdin()).expect("the wire is our standard input"),
    );
    let probe = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .expect("a socket");
    send(&wire, probe.as_fd());
    let policy = Policy {
        default: Action::Allow,
        newer: None,
        foreign: Action::KillProcess,
        architectures: vec![(NATIVE, rules(NATIVE).into_iter().collect())],
    };
    let program = Program::new(tree::emit(&policy)).expect("a program");
    rustix::thread::set_no_new_privs(true).expect("no new privileges");
    let listener = install(&program, Flags::LISTENER | Flags::WAIT_KILLABLE)
        .expect("a filter")
        .expect("its listener");
    send(&wire, listener.as_fd());
    drop(listener);
    drop((&wire).read_exact(&mut [0]));
    scenario();
}

fn send(wire: &UnixStream, descriptor: BorrowedFd<'_>) {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(
        wire,
        &[IoSlice::new(b"d")],
        &mut control,
        SendFlags::empty(),
    )
    .expect("handing a descriptor out");
}

fn receive(wire: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        wire,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::empty(),
    )
    .expect("receiving a descriptor");
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut all) => all.next(),
        _ => None,
    });
    descriptor.expect("a descriptor")
}
