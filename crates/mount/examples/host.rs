// SPDX-License-Identifier: Apache-2.0
//! Runs a command on this machine's own files, with nothing around it but namespaces: `host STATE-DIRECTORY COMMAND...`.
//!
//! For tests and for measuring: no runtime, no seccomp filter, no log. The command is process 1. `HOST_SINGLE=1` maps one id;
//! `HOST_REVIVE=1` has the parent inside start a last successor where the server is gone.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Gid, Mode, OFlags, Uid},
};
use wolffia_mount::{WorkDir, host};
use wolffia_sys::{
    idmap::{Mapping, Wish, write_maps},
    mount::{Bind, FileSystem, Pivot, Step, enter_root},
    namespace::Namespaces,
    process::{Ended, PidFd, become_user, clone_into},
};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    if called.as_bytes() == host::SERVER_NAME.as_bytes() {
        return ExitCode::from(host::serve(&words));
    }
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            drop(std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("{error:?}\n"),
            ));
            ExitCode::from(125)
        }
    }
}

fn run(words: &[OsString]) -> Result<u8> {
    let (state, command) = words.split_first().context("a state directory")?;
    let state = PathBuf::from(state);
    let wish = match std::env::var_os("HOST_SINGLE") {
        Some(_) => Wish::SingleId,
        None => Wish::Best,
    };
    let (mapping, _) = Mapping::choose(wish)?;
    let private = host::private_directories(&state);
    let link = host::spawn(&private, host::Identity::for_mapping(&mapping))?;
    let (gate, opener) = rustix::pipe::pipe()?;
    let mut opener = Some(opener);
    let new = Namespaces::USER | Namespaces::MOUNT | Namespaces::PID;
    let child = clone_into(new, || {
        drop(opener.take());
        if rustix::io::read(&gate, &mut [0; 1][..]) != Ok(1) {
            return 125;
        }
        if let Mapping::RootRange(_) = mapping {
            // The machine's root has no id inside until it takes one.
            let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
            if become_user(user, group).is_err() {
                return 125;
            }
        }
        report(conduct(&state, &mapping, &private, link, command))
    })?;
    write_maps(child.pid, &mapping)?;
    let opener = opener.context("the parent's end")?;
    rustix::io::write(&opener, b"x")?;
    Ok(child.pidfd.wait()?.code())
}

fn report(result: Result<u8>) -> u8 {
    result.unwrap_or_else(|error| {
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("{error:?}\n"),
        ));
        125
    })
}

/// Is what a conductor is: prepares, starts, waits.
fn conduct(
    state: &Path,
    mapping: &Mapping,
    private: &[PathBuf],
    link: host::Link,
    command: &[OsString],
) -> Result<u8> {
    fs::create_dir_all(state)?;
    let directory = (0..1000)
        .map(|number| state.join(format!("container-{number}")))
        .find(|directory| fs::create_dir(directory).is_ok())
        .context("a free name")?;
    let work = WorkDir {
        volatile: true,
        ..WorkDir::new(&directory)
    };
    let mut root = host::prepare(host::Inside {
        skeletons: &state.join("host"),
        mapping_key: &mapping.key(),
        work: &work,
        private,
        link,
    })?;
    for note in &root.notes {
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("note: {note}\n"),
        ));
    }
    let target = directory.join("root");
    fs::create_dir_all(&target)?;
    let child = clone_into(Namespaces::MOUNT | Namespaces::PID, || {
        report(become_init(&mut root, &target, command))
    })?;
    let code = wait(&mut root, &child.pidfd)?;
    drop(root);
    work.discard()?;
    wolffia_mount::remove_tree(&directory)?;
    Ok(code)
}

fn wait(root: &mut host::HostRoot, pidfd: &PidFd) -> Result<u8> {
    let revive = std::env::var_os("HOST_REVIVE").is_some();
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        let link = root
            .link()
            .map(|link| link.try_clone_to_owned())
            .transpose()?;
        if let Some(link) = link.as_ref().filter(|_| revive) {
            fds.push(PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN));
        }
        poll(&mut fds, None)?;
        if let Some(ended) = pidfd.try_wait()? {
            return Ok(match ended {
                Ended::Exited(code) => code,
                Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(255),
            });
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            drop(fds);
            root.revive()?;
        }
    }
}

fn become_init(root: &mut host::HostRoot, target: &Path, command: &[OsString]) -> Result<u8> {
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let path = Path::new("/dev").join(device);
        root.plan.steps.push(Step::Bind(Bind::new(&path, &path)));
    }
    root.plan.steps.push(Step::FileSystem(FileSystem {
        kind: "proc".to_owned(),
        source: "proc".to_owned(),
        at: "/proc".into(),
        options: Vec::new(),
        attributes: wolffia_sys::mount::Attributes::MOUNT_ATTR_NOSUID,
    }));
    let place = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let inside = root.plan.execute(place.as_fd())?;
    enter_root(inside.into_fd(), Pivot::Pivot)?;
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command");
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8");
    Err(command.exec().into())
}
