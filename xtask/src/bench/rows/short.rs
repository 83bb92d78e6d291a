// SPDX-License-Identifier: Apache-2.0
//! Short commands: starting a container, the runtime alone, exec, and a start from many layers.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::super::measure::pairs;
use super::super::place::{OURS, Place, quietly};
use super::super::report::{Bar, Measured};
use super::{image, ours_pull, podman_pull, warm};

const RUN: [&str; 4] = ["run", "--rm", "--network", "none"];

/// `run --rm --network none` of a small image, warm.
pub(super) fn run(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (mine, its) = (
        ours_pull(place, image::SMALL)?,
        podman_pull(place, image::SMALL)?,
    );
    let ours = || place.ours(&[&RUN[..], &[&mine, "true"]].concat());
    let podman = || place.podman(&[&RUN[..], &[&its, "true"]].concat());
    warm(ours)?;
    warm(podman)?;
    let samples = pairs(
        count,
        || place.meter.time(&mut ours()),
        || place.meter.time(&mut podman()),
    )?;
    let peer = place.version_of("podman");
    let what = "run --rm --network none, small image, warm";
    let mut measured = vec![Measured::times(
        "run",
        what,
        &peer,
        Bar::Ratio(0.1),
        &samples,
    )];
    let walls = samples.0.iter().map(|sample| sample.wall_ms).collect();
    measured.push(Measured::numbers(
        "run",
        "the same, by itself",
        ("", "ms"),
        Bar::Absolute(8.0),
        (walls, vec![]),
    ));
    Ok(measured)
}

/// `exec` of true in a running container.
pub(super) fn exec(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (mine, its) = (
        ours_pull(place, image::SMALL)?,
        podman_pull(place, image::SMALL)?,
    );
    let start = ["run", "-d", "--network", "none", "--name", "bench-exec"];
    quietly(&mut place.ours(&[&start[..], &[&mine, "sleep", "100000"]].concat()))?;
    quietly(&mut place.podman(&[&start[..], &[&its, "sleep", "100000"]].concat()))?;
    let words = ["exec", "bench-exec", "true"];
    warm(|| place.ours(&words))?;
    warm(|| place.podman(&words))?;
    let samples = pairs(
        count,
        || place.meter.time(&mut place.ours(&words)),
        || place.meter.time(&mut place.podman(&words)),
    )?;
    let peer = place.version_of("podman");
    Ok(vec![Measured::times(
        "exec",
        "exec true",
        &peer,
        Bar::Ratio(0.1),
        &samples,
    )])
}

/// The runtime alone, on one bundle, against crun and bubblewrap.
pub(super) fn runtime(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let bundle = place.home.join("bundle");
    make_bundle(place, &bundle)?;
    let number = std::cell::Cell::new(0);
    let fresh = || {
        number.set(number.get() + 1);
        format!("bench-{}", number.get())
    };
    let folder = bundle.display().to_string();
    let ours = || place.ours(&["oci", "run", "--bundle", &folder, &fresh()]);
    let crun = || {
        let mut command = place.with_home("crun", &place.home);
        // Groups cost crun time and are not made by us either.
        command.args([
            "--cgroup-manager=disabled",
            "run",
            "--bundle",
            &folder,
            &fresh(),
        ]);
        command
    };
    let rootfs = bundle.join("rootfs").display().to_string();
    let bwrap = || {
        let mut command = place.with_home("bwrap", &place.home);
        command.args([
            "--unshare-all",
            "--uid",
            "0",
            "--gid",
            "0",
            "--bind",
            &rootfs,
            "/",
        ]);
        command.args([
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "true",
        ]);
        command
    };
    warm(ours)?;
    warm(crun)?;
    warm(bwrap)?;
    let meter = &place.meter;
    let what = "the runtime alone: all namespaces, mounts, default seccomp";
    let against_crun = pairs(
        count,
        || meter.time(&mut ours()),
        || meter.time(&mut crun()),
    )?;
    let against_bwrap = pairs(
        count,
        || meter.time(&mut ours()),
        || meter.time(&mut bwrap()),
    )?;
    let crun_name = format!("{}, filter cache warm", place.version_of("crun"));
    let bwrap_name = format!("{}, no seccomp", place.version_of("bwrap"));
    Ok(vec![
        Measured::times("runtime", what, &crun_name, Bar::Ratio(0.4), &against_crun),
        Measured::times(
            "runtime",
            what,
            &bwrap_name,
            Bar::Ratio(1.0),
            &against_bwrap,
        ),
    ])
}

/// A bundle with crun's rootless configuration and podman's default filter, compiled for no one in particular.
fn make_bundle(place: &Place, bundle: &Path) -> anyhow::Result<()> {
    let its = podman_pull(place, image::SMALL)?;
    let id = quietly(&mut place.podman(&["create", "--network", "none", &its, "true"]))?;
    quietly(&mut place.podman(&["init", &id]))?;
    let path = quietly(&mut place.podman(&["inspect", "--format", "{{.OCIConfigPath}}", &id]))?;
    let podmans: Value =
        serde_json::from_slice(&std::fs::read(&path).context("podman's configuration")?)?;
    place.make_own(bundle)?;
    place.make_own(&bundle.join("rootfs"))?;
    let export = bundle.join("rootfs.tar").display().to_string();
    quietly(&mut place.podman(&["export", "-o", &export, &id]))?;
    let rootfs = bundle.join("rootfs").display().to_string();
    quietly(
        place
            .with_home("tar", &place.home)
            .args(["-xf", &export, "-C", &rootfs]),
    )?;
    quietly(place.with_home("crun", bundle).args(["spec", "--rootless"]))?;
    let config = bundle.join("config.json");
    let mut ours: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    ours["linux"]["seccomp"] = podmans["linux"]["seccomp"].clone();
    ours["process"]["terminal"] = json!(false);
    ours["process"]["args"] = json!(["true"]);
    let namespaces = ["user", "mount", "pid", "ipc", "uts", "network", "cgroup"];
    ours["linux"]["namespaces"] = namespaces
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    // Written out, because runtimes differ in what they make of none.
    for kind in ["uidMappings", "gidMappings"] {
        ours["linux"][kind] = json!([{ "containerID": 0, "hostID": place.uid(), "size": 1 }]);
    }
    std::fs::write(&config, serde_json::to_vec_pretty(&ours)?)?;
    Ok(())
}

/// A start from a warm store: the same file system in one layer and in a hundred.
pub(super) fn layers(place: &Place, count: usize) -> anyhow::Result<Vec<Measured>> {
    let (one, hundred) = (
        ours_pull(place, image::ONE)?,
        ours_pull(place, image::HUNDRED)?,
    );
    let start = |id: &str| place.ours(&[&RUN[..], &[id, "true"]].concat());
    warm(|| start(&one))?;
    warm(|| start(&hundred))?;
    let samples = pairs(
        count,
        || place.meter.time(&mut start(&hundred)),
        || place.meter.time(&mut start(&one)),
    )?;
    let what = "start of an image of 100 layers";
    let peer = format!("{OURS}, 1 layer").replace("/opt/wolffia/dist/", "");
    Ok(vec![Measured::times(
        "layers",
        what,
        &peer,
        Bar::Ratio(1.2),
        &samples,
    )])
}
