// SPDX-License-Identifier: Apache-2.0
//! Pulling from a registry on the loopback, and the disk that a rebuilt image costs.
//!
//! Both sides start from an empty store on the same tmpfs, and both timings end with a syncfs(2) of it.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::super::measure::{Sample, pairs};
use super::super::place::{OURS, Place, disk_bytes, quietly};
use super::super::report::{Bar, Measured};
use super::{image, ours_pull, podman_pull};

/// Pulls are long: fewer pairs give the same certainty.
const PULL_PAIRS_MAX: usize = 9;

/// A server of ours that is ended with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A docker-registry that holds the Debian image; returns the image's name in it.
fn registry(place: &Place) -> anyhow::Result<(Server, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = place.memory.join("registry");
    place.make_own(&folder)?;
    let config = place.memory.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        folder.display()
    );
    std::fs::write(&config, text)?;
    let child = place
        .with_home("docker-registry", &place.home)
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting docker-registry")?;
    let server = Server(child);
    wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    let name = format!("127.0.0.1:{port}/debian:latest");
    let to = format!("docker://{name}");
    quietly(place.with_home("skopeo", &place.home).args([
        "copy",
        "-q",
        "--dest-tls-verify=false",
        image::DEBIAN,
        &to,
    ]))?;
    Ok((server, name))
}

fn wait_until(ready: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        if Instant::now() > deadline {
            bail!("the server did not answer within 20 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs a pull into an empty HOME, with a syncfs in the timing.
fn pull_into(
    place: &Place,
    side: &str,
    mut command: impl FnMut(&Path) -> Command,
) -> anyhow::Result<Sample> {
    let home = place.memory.join(format!("pull-{side}"));
    empty(place, &home)?;
    let sample = place.meter.time_and(&mut command(&home), || {
        rustix::fs::syncfs(File::open(&home)?)?;
        Ok(())
    });
    empty(place, &home)?;
    sample
}

/// Makes a folder anew; what sub-uids own in it, we can remove as root.
fn empty(place: &Place, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("emptying {}", folder.display()))?;
    }
    place.make_own(folder)
}

fn ours(place: &Place, home: &Path, name: &str) -> Command {
    let mut command = place.with_home(OURS, home);
    command.args(["pull", "-q", name]);
    command
}

/// Our pull against podman's.
pub(super) fn pull(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (_server, name) = registry(place)?;
    let podman = |home: &Path| {
        let mut command = place.with_home("podman", home);
        command.args(["pull", "-q", "--tls-verify=false", &name]);
        command
    };
    let mine = || pull_into(place, "ours", |home| ours(place, home, &name));
    let its = || pull_into(place, "podman", podman);
    mine()?;
    its()?;
    let samples = pairs(count.min(PULL_PAIRS_MAX), mine, its)?;
    let peak = peak_mib(place, |home| ours(place, home, &name))?;
    let its_peak = peak_mib(place, podman)?;
    let peer = place.version_of("podman");
    Ok(vec![
        Measured::times(
            "pull",
            "pull from the loopback registry",
            &peer,
            Bar::Ratio(0.45),
            &samples,
        ),
        Measured::numbers(
            "pull",
            "pull: peak memory of all its processes",
            (&peer, "MiB"),
            Bar::Absolute(60.0),
            (vec![peak], vec![its_peak]),
        ),
    ])
}

/// Returns the largest sum of resident memory seen while a pull runs, looked at every two milliseconds.
fn peak_mib(place: &Place, mut command: impl FnMut(&Path) -> Command) -> anyhow::Result<f64> {
    let home = place.memory.join("pull-peak");
    empty(place, &home)?;
    let before = place.meter.processes();
    let mut child = command(&home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut peak = 0.0_f64;
    while child.try_wait()?.is_none() {
        let now = place.meter.processes();
        let sum: f64 = now.difference(&before).map(|pid| resident_mib(*pid)).sum();
        peak = peak.max(sum);
        std::thread::sleep(Duration::from_millis(2));
    }
    empty(place, &home)?;
    Ok(peak)
}

fn resident_mib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / 1024.0 / 1024.0
}

/// Our pull against containerd's, which runs as root.
pub(super) fn pull_ctr(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (_server, name) = registry(place)?;
    let folder = place.memory.join("containerd");
    let number = std::cell::Cell::new(0_u32);
    // The daemon is started before the clock and with an empty store each time.
    let its = || -> anyhow::Result<Sample> {
        number.set(number.get() + 1);
        let root = folder.join(number.get().to_string());
        std::fs::create_dir_all(&root)?;
        let daemon = containerd(&root)?;
        let mut ctr = Command::new("/opt/bin/ctr");
        ctr.arg("--address").arg(root.join("socket"));
        ctr.args(["images", "pull", "--plain-http", &name]);
        let sample = place.meter.time_and(&mut ctr, || {
            rustix::fs::syncfs(File::open(&root)?)?;
            Ok(())
        });
        drop(daemon);
        std::fs::remove_dir_all(&root).ok();
        sample
    };
    let mine = || pull_into(place, "ours", |home| ours(place, home, &name));
    mine()?;
    its()?;
    let samples = pairs(count.min(PULL_PAIRS_MAX), mine, its)?;
    let peer = quietly(Command::new("/opt/bin/ctr").arg("--version"))?;
    let what = "pull from the loopback registry";
    Ok(vec![Measured::times(
        "pull-ctr",
        what,
        &peer,
        Bar::Ratio(0.5),
        &samples,
    )])
}

fn containerd(root: &Path) -> anyhow::Result<Server> {
    let config = root.join("config.toml");
    std::fs::write(
        &config,
        "version = 3\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n",
    )?;
    let socket = root.join("socket");
    let child = Command::new("/opt/bin/containerd")
        .arg("--config")
        .arg(&config)
        .arg("--address")
        .arg(&socket)
        .arg("--root")
        .arg(root.join("root"))
        .arg("--state")
        .arg(root.join("state"))
        .env("PATH", "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(root.join("log"))?)
        .spawn()
        .context("starting /opt/bin/containerd (bench/peers/containerd makes it)")?;
    let server = Server(child);
    let answers = || {
        let mut ctr = Command::new("/opt/bin/ctr");
        ctr.arg("--address").arg(&socket).arg("version");
        quietly(&mut ctr).is_ok()
    };
    wait_until(answers)?;
    Ok(server)
}

/// The disk that two images take which share no layer but nearly all files.
pub(super) fn rebuilt(place: &Place, _count: usize) -> anyhow::Result<Vec<Measured>> {
    let stores: [PathBuf; 2] =
        [".local/share/wolffia", ".local/share/containers"].map(|folder| place.home.join(folder));
    let size = |store: &Path| {
        if store.exists() {
            disk_bytes(store)
        } else {
            Ok(0.0)
        }
    };
    let mut sizes = Vec::new();
    for tag in [image::DEBIAN, image::REBUILT] {
        ours_pull(place, tag)?;
        podman_pull(place, tag)?;
        sizes.push((size(&stores[0])? / 1e6, size(&stores[1])? / 1e6));
    }
    let peer = place.version_of("podman");
    let line = |what: &str, bar, (ours, theirs): (f64, f64)| {
        Measured::numbers(
            "rebuilt",
            what,
            (&peer, "MB"),
            bar,
            (vec![ours], vec![theirs]),
        )
    };
    Ok(vec![
        line("disk of the image", Bar::None, sizes[0]),
        line(
            "disk of the image and its rebuilt sister",
            Bar::Ratio(0.5),
            sizes[1],
        ),
    ])
}
