// SPDX-License-Identifier: Apache-2.0
//! A terminal inside: its size, its interrupts, its jobs; the person's own is as before afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::machine::{IMAGE, Machine};

/// A terminal that says nothing for so long says nothing more.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// A person's terminal, from the person's side.
struct Person {
    controller: File,
    terminal: OwnedFd,
    seen: String,
}

impl Person {
    fn sit_down(rows: u16, columns: u16) -> Person {
        let controller =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let path = ptsname(&controller, Vec::new()).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(path.to_str().unwrap())
            .unwrap()
            .into();
        let person = Person {
            controller: controller.into(),
            terminal,
            seen: String::new(),
        };
        person.resize(rows, columns);
        person
    }

    fn resize(&self, ws_row: u16, ws_col: u16) {
        tcsetwinsize(
            &self.controller,
            Winsize {
                ws_row,
                ws_col,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
    }

    fn types(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until a text is seen after everything that was seen before.
    fn sees(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + text.len());
                return before;
            }
            let mut fds = [PollFd::new(&self.controller, PollFlags::IN)];
            let came = poll(&mut fds, Some(&PATIENCE)).unwrap();
            assert!(came > 0, "never saw {text:?}, only {:?}", self.seen);
            let mut bytes = [0; 4096];
            let count = self.controller.read(&mut bytes).unwrap();
            assert!(
                count > 0,
                "the terminal ended before {text:?}: {:?}",
                self.seen
            );
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn stream(&self) -> Stdio {
        self.terminal.as_fd().try_clone_to_owned().unwrap().into()
    }
}

#[test]
fn size_interrupts_and_jobs_reach_the_program() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let mut person = Person::sit_down(33, 111);
    let before = tcgetattr(&person.terminal).unwrap();
    let mut command = machine.command(&["run", "--rm", "-it", IMAGE, "sh"]);
    let mut child = command
        .stdin(person.stream())
        .stdout(person.stream())
        .stderr(person.stream())
        .spawn()
        .unwrap();
    person.types("stty size; tty; echo $TERM; echo END1\n");
    person.sees("33 111\r\n");
    person.sees("/dev/pts/0\r\nxterm\r\nEND1\r\n");
    person.resize(44, 99);
    // The kernel tells the foreground group of a terminal; this one has none, so the test tells its child.
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::WINCH,
    )
    .unwrap();
    person.types("until stty size | grep -q '44 99'; do sleep 0.05; done; echo END2\n");
    person.sees("END2\r\n");
    // What is typed is shown before it is done; only what the program itself says means that it runs.
    person.types("sh -c 'echo G\"\"O1; exec sleep 1000'\n");
    person.sees("GO1\r\n");
    person.types("\u{3}");
    person.sees("^C");
    person.types("echo last $?\n");
    person.sees("last 130\r\n");
    person.types("sh -c 'echo G\"\"O2; exec sleep 1000'\n");
    person.sees("GO2\r\n");
    person.types("\u{1a}");
    person.sees("^Z");
    person.types("jobs\n");
    person.sees("Stopped");
    // A shell with a stopped job does not leave at the first word; one that becomes another program has none.
    person.types("exec sh -c 'exit 7'\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let after = tcgetattr(&person.terminal).unwrap();
    assert_eq!(
        format!("{:?}", after.local_modes),
        format!("{:?}", before.local_modes)
    );
    assert_eq!(
        format!("{:?}", after.input_modes),
        format!("{:?}", before.input_modes)
    );
    machine.assert_clean();
}

/// A conductor that is killed cannot restore the terminal; the command that the person ran does.
#[test]
fn the_terminal_is_restored_when_the_conductor_is_killed() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let mut person = Person::sit_down(24, 80);
    let before = tcgetattr(&person.terminal).unwrap();
    let mut command = machine.command(&["run", "-it", "--name", "doomed", IMAGE, "sh"]);
    let mut child = command
        .stdin(person.stream())
        .stdout(person.stream())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    person.types("echo RE\"\"ADY\n");
    person.sees("READY\r\n");
    let raw = tcgetattr(&person.terminal).unwrap();
    assert_ne!(
        format!("{:?}", raw.local_modes),
        format!("{:?}", before.local_modes)
    );
    let conductor = machine.good(&["inspect", "-f", "{{.State.ConductorPid}}", "doomed"]);
    let pid = rustix::process::Pid::from_raw(conductor.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    let after = tcgetattr(&person.terminal).unwrap();
    assert_eq!(
        format!("{:?}", after.local_modes),
        format!("{:?}", before.local_modes)
    );
    assert_eq!(
        machine.good(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "doomed"
        ]),
        "exited 137"
    );
}
