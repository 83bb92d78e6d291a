// SPDX-License-Identifier: Apache-2.0
//! Jails are entered for real, by children of the test: what is left works, what is not ends them.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
};

use super::*;
use crate::process::{Ended, PidFd, exit_now};

/// SIGSYS, which ends whoever makes a forbidden call.
const FORBIDDEN: Ended = Ended::Killed(31);

/// Runs `work` in a child and returns how it ended; `true` is exit code 0.
fn in_a_child(work: impl FnOnce() -> bool) -> Ended {
    #[expect(
        unsafe_code,
        reason = "the harness has threads, which clone_into refuses"
    )]
    // SAFETY: glibc's fork, unlike a raw clone, leaves the allocator usable in the child, which ends without returning.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        exit_now(match fine {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(_) => 2,
        });
    }
    let pid = u32::try_from(pid).expect("forked");
    PidFd::open(pid).expect("a child").wait().expect("its end")
}

/// A jail of these groups, entered.
fn entered(groups: &[&[Call]]) -> Walls {
    let mut jail = Jail::new();
    for group in groups {
        jail.allow(group);
    }
    jail.enter().expect("entered")
}

/// Returns whether a call succeeded.
type Attempt = fn() -> bool;

#[test]
fn forbidden_call_ends_the_process() {
    let table: [(&str, Attempt); 9] = [
        ("execve", || {
            use std::os::unix::process::CommandExt as _;
            let error = std::process::Command::new("/bin/true").exec();
            error.raw_os_error().is_some()
        }),
        ("open", || File::open("/dev/null").is_ok()),
        ("socket", || TcpListener::bind("127.0.0.1:0").is_ok()),
        ("unshare", || {
            crate::namespace::unshare(crate::namespace::Namespaces::USER).is_ok()
        }),
        ("fork", || {
            process::clone_into(process::CloneFlags::FORK, || 0).is_ok()
        }),
        ("kill", || {
            rustix::process::test_kill_process(rustix::process::getpid()).is_ok()
        }),
        ("mount", || rustix::mount::mount_bind("/", "/").is_ok()),
        ("thread", || {
            std::thread::Builder::new().spawn(|| ()).is_ok()
        }),
        ("prctl", || {
            rustix::thread::set_keep_capabilities(true).is_ok()
        }),
    ];
    for (name, call) in table {
        let ended = in_a_child(|| {
            entered(&[calls::BASIC]);
            call()
        });
        assert_eq!(ended, FORBIDDEN, "{name}");
    }
}

#[test]
fn memory_is_never_executable() {
    const PAGE: usize = 4096;
    const DATA: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const CODE: i32 = libc::PROT_READ | libc::PROT_EXEC;
    /// Maps a page and then changes its protection.
    fn map(first: i32, then: i32) -> bool {
        #[expect(unsafe_code, reason = "the calls under test")]
        // SAFETY: a new private mapping at a place of the kernel's choice, which nothing else uses.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), PAGE, first, flags, -1, 0);
            page != libc::MAP_FAILED && libc::mprotect(page, PAGE, then) == 0
        }
    }
    for (first, then, expected) in [
        (DATA, libc::PROT_READ, Ended::Exited(0)),
        (DATA, CODE, FORBIDDEN),
        (CODE, CODE, FORBIDDEN),
    ] {
        let ended = in_a_child(|| {
            entered(&[calls::BASIC]);
            map(first, then)
        });
        assert_eq!(ended, expected, "{first} then {then}");
    }
}

#[test]
fn threads_work_and_processes_do_not() {
    let ended = in_a_child(|| {
        entered(&[calls::BASIC, calls::THREADS, calls::WAITING]);
        let (sender, receiver) = std::sync::mpsc::channel();
        let named = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || sender.send(vec![7_u8; 1 << 20]));
        let got = receiver.recv().is_ok_and(|bytes| bytes.len() == 1 << 20);
        got && named.is_ok_and(|thread| thread.join().is_ok())
    });
    assert_eq!(ended, Ended::Exited(0));
    let ended = in_a_child(|| {
        entered(&[calls::BASIC, calls::THREADS, calls::READ_FILES]);
        process::clone_into(process::CloneFlags::FORK, || 0).is_ok()
    });
    assert_eq!(ended, FORBIDDEN);
}

#[test]
fn children_are_in_the_jail_and_are_waited_for() {
    let ended = in_a_child(|| {
        entered(&[calls::BASIC, calls::CHILDREN, calls::READ_FILES]);
        let child = process::clone_into(process::CloneFlags::FORK, || {
            drop(TcpListener::bind("127.0.0.1:0"));
            0
        });
        child.and_then(|child| child.pidfd.wait()) == Ok(FORBIDDEN)
    });
    assert_eq!(ended, Ended::Exited(0));
    let ended = in_a_child(|| {
        entered(&[calls::BASIC, calls::CHILDREN, calls::READ_FILES]);
        let new = crate::namespace::Namespaces::USER;
        process::clone_into(new, || 0).is_ok()
    });
    assert_eq!(ended, FORBIDDEN, "a child in a new namespace");
}

#[test]
fn files_are_within_reach_as_they_were_named() {
    let version = landlock::version().filter(|version| *version >= 2);
    // The kernel holds cutting files from version 3 on.
    let (held, cut) = (version.is_some(), version >= Some(3));
    let folder = tempfile::tempdir().expect("a folder");
    let (read, write) = (folder.path().join("read"), folder.path().join("write"));
    for place in [&read, &write] {
        fs::create_dir_all(place.join("below")).expect("made");
        fs::write(place.join("below/file"), "x").expect("written");
    }
    let single = folder.path().join("single");
    fs::write(&single, "x").expect("written");
    let outside = folder.path().join("outside");
    fs::write(&outside, "x").expect("written");
    let ended = in_a_child(|| {
        let mut jail = Jail::new();
        jail.allow(calls::BASIC)
            .allow(calls::READ_FILES)
            .allow(calls::WRITE_FILES);
        for (place, reach) in [
            (&read, Reach::Read),
            (&write, Reach::Write),
            (&single, Reach::Read),
        ] {
            let opened = File::open(place).expect("opened");
            jail.reach(&opened, reach).expect("kept");
        }
        let walls = jail.enter().expect("entered");
        assert_eq!(walls.landlock, version);
        let denied =
            |done: std::io::Result<()>| done.is_err_and(|error| error.raw_os_error() == Some(13));
        let readable = |path: &Path| File::open(path).map(drop);
        let made = |path: &Path| File::create(path).map(drop);
        readable(&read.join("below/file")).expect("read");
        readable(&single).expect("the single file");
        assert_eq!(denied(readable(&outside)), held, "read outside");
        assert_eq!(denied(readable(Path::new("/etc/passwd"))), held);
        assert_eq!(denied(made(&read.join("below/new"))), held, "made");
        assert_eq!(denied(fs::write(&single, "y")), held, "written");
        let shorter = |path| {
            let flags = rustix::fs::OFlags::TRUNC;
            rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        };
        assert_eq!(shorter(&single).is_err(), cut, "cut");
        assert_eq!(denied(fs::remove_file(read.join("below/file"))), held);
        made(&write.join("below/new")).expect("made");
        fs::rename(write.join("below/new"), write.join("moved")).expect("moved");
        std::os::unix::fs::symlink("x", write.join("link")).expect("linked");
        fs::remove_dir_all(write.join("below")).expect("removed");
        let out = fs::rename(write.join("moved"), read.join("moved"));
        assert_eq!(out.is_err(), held, "moved to where only reading is");
        true
    });
    assert_eq!(ended, Ended::Exited(0));
}

#[test]
fn internet_is_there_where_it_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    let groups = [
        calls::BASIC,
        calls::MESSAGES,
        calls::INTERNET,
        calls::WAITING,
    ];
    let connects = |internet: bool| {
        in_a_child(|| {
            let mut jail = Jail::new();
            for group in groups {
                jail.allow(group);
            }
            if internet {
                jail.internet();
            }
            jail.enter().expect("entered");
            TcpStream::connect(address).is_ok_and(|mut stream| stream.write_all(b"hello").is_ok())
        })
    };
    assert_eq!(connects(true), Ended::Exited(0));
    let mut got = [0; 5];
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.read_exact(&mut got).expect("its bytes");
    assert_eq!(&got, b"hello");
    if landlock::version().is_some_and(|version| version >= 4) {
        assert_eq!(connects(false), Ended::Exited(1), "landlock denies it");
    }
    let local = in_a_child(|| {
        entered(&groups);
        std::os::unix::net::UnixStream::pair().is_ok()
    });
    assert_eq!(local, FORBIDDEN, "another family");
}

#[test]
fn nothing_is_held_any_more() {
    let ended = in_a_child(|| {
        entered(&[
            calls::BASIC,
            &[Call::any(libc::SYS_capget), Call::any(libc::SYS_prctl)],
        ]);
        let held = rustix::thread::capabilities(None).expect("capabilities");
        held.permitted.is_empty()
            && held.effective.is_empty()
            && rustix::thread::no_new_privs() == Ok(true)
            && rustix::process::dumpable_behavior()
                == Ok(rustix::process::DumpableBehavior::NotDumpable)
    });
    assert_eq!(ended, Ended::Exited(0));
}

#[test]
fn what_is_kept_was_held() {
    let held = capabilities::effective().expect("capabilities");
    let kill = Set::named("KILL").expect("a name");
    let ended = in_a_child(|| {
        let mut jail = Jail::new();
        jail.allow(calls::BASIC)
            .allow(&[Call::any(libc::SYS_capget)])
            .keep(kill);
        jail.enter().expect("entered");
        capabilities::effective() == Ok(held.and(kill))
    });
    assert_eq!(ended, Ended::Exited(0));
}

#[test]
fn soft_refusals_are_answers() {
    let ended = in_a_child(|| {
        entered(&[
            calls::BASIC,
            &[Call::refused(libc::SYS_openat, 13)],
            &[Call::refused(libc::SYS_getpid, 1)],
        ]);
        let refused = File::open("/dev/null").is_err_and(|error| error.raw_os_error() == Some(13));
        // Another group allows getpid, and that counts.
        refused && std::process::id() != 0 && rustix::process::getpid().as_raw_nonzero().get() > 0
    });
    assert_eq!(ended, Ended::Exited(0));
}
