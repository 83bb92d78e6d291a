// SPDX-License-Identifier: Apache-2.0
//! The processes of a container, as the machine numbers them.
//!
//! Those of its PID namespace, wherever they were started from: what joined the container later is no descendant of its first process. A
//! container that shares the PID namespace of whoever asks has no other mark than descent. (A control group would be one; there may be
//! none.) Who belongs is told by /proc, which the owner of the user namespace may read.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// Returns the processes of the container whose first process is `first`, in ascending order.
pub(super) fn of(first: u32) -> io::Result<Vec<u32>> {
    let namespace = |process: &str| fs::read_link(Path::new("/proc").join(process).join("ns/pid"));
    let (ours, theirs) = (namespace("self")?, namespace(&first.to_string())?);
    let all = all()?;
    let mut found: Vec<u32> = if ours == theirs {
        descendants(first, &all)
    } else {
        let same = |pid: &u32| namespace(&pid.to_string()).is_ok_and(|one| one == theirs);
        all.into_iter().filter(same).collect()
    };
    found.sort_unstable();
    Ok(found)
}

fn all() -> io::Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let pids = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    Ok(pids.collect())
}

fn descendants(first: u32, all: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all {
        if let Some(parent) = parent(*pid) {
            children.entry(parent).or_default().push(*pid);
        }
    }
    let mut found = vec![first];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        // Taken out: a number that was used again meanwhile makes no circle.
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(path).ok()?;
    // proc_pid_stat(5): the name, in brackets, may hold anything; the state and the parent follow.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn where_the_namespace_is_shared_descent_tells() {
        let mut first = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(first.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let second: u32 = line.trim().parse().unwrap();
        let mut wanted = [first.id(), second];
        wanted.sort_unstable();
        assert_eq!(of(first.id()).unwrap(), wanted);
        for pid in wanted {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        first.wait().unwrap();
    }
}
