// SPDX-License-Identifier: Apache-2.0
//! A program of a few instructions that a process of ours becomes just before it executes a
//! container's program.
//!
//! # Why
//! The kernel resolves the path given to execve *in the process that calls it*. If that process
//! still runs our own program, then an image whose program is `/proc/self/exe`, or a script that
//! begins with `#!/proc/self/exe`, makes the kernel execute our binary inside the container. While
//! it runs there, any process of the container may open `/proc/PID/exe` and keep it, and through
//! it change the mode of the file and, once nothing executes it, what is in it: the file belongs to
//! the user, and the container's root is the user (CVE-2019-5736). That our processes are not
//! dumpable does not help, since the one that execve makes is. Tried out: the second look of a
//! polling loop got it.
//!
//! # Theory of operation
//! A [`SteppingStone`] is an executable of some 400 bytes in a sealed memory file. The process
//! executes that first; `/proc/self/exe` is then the memory file, which nobody can change and which
//! is nobody's. The stone marks the report descriptor as close-on-exec, executes what its first
//! argument names with the remaining arguments, and where that fails sends one message through the
//! report descriptor: `F`, 3, the errno in four bytes, and a text that was given before (what
//! `runtime::report` calls a failure whose kind the errno tells). It costs 22 us; executing
//! ourselves again from a read-only mount or from a memory file, as others do, costs 640 us and more
//! with a binary of 7 MB (2-core VM, kernel 6.18).
//!
//! What a filter has to allow besides execve: execveat, fcntl, writev and `exit_group`.
//!
//! Where memory files may not be executed (`vm.memfd_noexec=2`), the file lies in a tmpfs of its
//! own, which takes `CAP_SYS_ADMIN` in the user namespace.
//!
//! # Sources
//! execveat(2), `memfd_create(2)`, elf(5), `fs/exec.c`, `fs/binfmt_elf.c`.

mod instructions;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};

/// What is said where the execution fails is cut to this length, so that it fits a message.
pub const TEXT_BYTES_MAX: usize = 3072;

/// The first bytes of the message.
pub const MESSAGE_HEAD: [u8; 2] = *b"F\x03";

/// A program that executes another one, ready to be executed itself.
#[derive(Debug)]
pub struct SteppingStone {
    file: OwnedFd,
}

impl SteppingStone {
    /// Makes a stone that reports a failure through `report`, with this text. `report` must keep
    /// its number until [`SteppingStone::execute`].
    pub fn new(report: BorrowedFd<'_>, text: &str) -> Result<Self, Errno> {
        let image = image(report.as_raw_fd(), text);
        let file = match memory_file(&image) {
            Err(Errno::ACCESS | Errno::PERM | Errno::NOSYS) => private_file(&image)?,
            answer => answer?,
        };
        Ok(Self { file })
    }

    /// Prepares the step: `report` will be open in the stone, which closes it, and an ignored SIGPIPE
    /// is set back to its default, as the new program would inherit it. To be called before a filter
    /// is installed that may forbid both.
    pub fn prepare(report: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::io::fcntl_setfd(report, FdFlags::empty())?;
        #[expect(unsafe_code, reason = "signal is an extern function")]
        // SAFETY: SIG_DFL is no handler of ours.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        Ok(())
    }

    /// Becomes the stone, which executes `path`, after [`SteppingStone::prepare`]. Returns only where
    /// the stone itself could not be executed.
    pub fn execute(&self, path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
        let arguments = std::iter::once(path).chain(arguments.iter().map(CString::as_c_str));
        let arguments = pointers(arguments);
        let environment = pointers(environment.iter().map(CString::as_c_str));
        #[expect(unsafe_code, reason = "execveat has no wrapper")]
        // SAFETY: both arrays end with a null pointer, their strings end with a zero byte, and all
        // of it outlives the call.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.file.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        crate::process::last_errno()
    }
}

impl AsFd for SteppingStone {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn pointers<'a>(strings: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    strings
        .map(CStr::as_ptr)
        .chain([std::ptr::null()])
        .collect()
}

/// A memory file with these bytes that nobody can change.
fn memory_file(image: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create("init", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and make every memory file executable.
        Err(Errno::INVAL) => rustix::fs::memfd_create("init", flags)?,
        answer => answer?,
    };
    write_all(&file, image)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// A file with these bytes in a tmpfs that is mounted nowhere.
fn private_file(image: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let directory = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let (mode, flags) = (
        Mode::from_raw_mode(0o555),
        OFlags::CLOEXEC | OFlags::NOFOLLOW,
    );
    let writing = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    write_all(
        rustix::fs::openat(&directory, "init", flags | writing, mode)?,
        image,
    )?;
    rustix::fs::openat(&directory, "init", flags | OFlags::PATH, Mode::empty())
}

fn write_all(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the image is loaded; above every `vm.mmap_min_addr`, aligned for every page size.
const BASE: u64 = 0x40_0000;
/// The length of the headers: ELF, a segment, and one that says "no executable stack".
const HEADER_BYTES: u64 = 64 + 2 * 56;

/// The stone as an ELF file: headers, instructions, and what they use.
fn image(report: i32, text: &str) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u16 = 62;
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u16 = 183;
    const EXECUTABLE: u16 = 2;

    let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
    let text_length = u32::try_from(text.len()).unwrap_or(0);
    let mut body = instructions::bytes().to_vec();
    body.extend(report.to_ne_bytes());
    body.extend(text_length.to_ne_bytes());
    body.extend(MESSAGE_HEAD);
    body.extend(text);
    let length = HEADER_BYTES + u64::try_from(body.len()).unwrap_or(0);

    let mut image = Vec::with_capacity(body.len() + 176);
    let word = |image: &mut Vec<u8>, number: u32| image.extend(number.to_ne_bytes());
    let half = |image: &mut Vec<u8>, number: u16| image.extend(number.to_ne_bytes());
    let long = |image: &mut Vec<u8>, number: u64| image.extend(number.to_ne_bytes());
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut image, EXECUTABLE);
    half(&mut image, MACHINE);
    word(&mut image, 1);
    for number in [BASE + HEADER_BYTES, 64, 0] {
        long(&mut image, number); // entry, program headers, section headers
    }
    word(&mut image, 0);
    for number in [64, 56, 2, 64, 0, 0] {
        half(&mut image, number); // sizes and counts of headers
    }
    // PT_LOAD, readable and executable; PT_GNU_STACK, readable and writable.
    for (kind, rights, at, length) in [(1, 5, BASE, length), (0x6474_E551, 6, 0, 0)] {
        word(&mut image, kind);
        word(&mut image, rights);
        for number in [0, at, at, length, length, 0x1_0000] {
            long(&mut image, number); // offset, address twice, size twice, alignment
        }
    }
    image.extend(body);
    image
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output};

    use super::*;

    /// Runs a stone from a file, with its standard output as the report.
    fn run(path: &str, arguments: &[&str]) -> Output {
        let folder = tempfile::tempdir().unwrap();
        let stone = folder.path().join("stone");
        wolffia_testkit::executable::write(&stone, image(1, "executing it"));
        Command::new(stone)
            .arg0(path)
            .args(arguments)
            .env_clear()
            .env("A", "one")
            .output()
            .unwrap()
    }

    #[test]
    fn program_gets_its_arguments_and_environment_and_not_the_report() {
        let script = r#"[ "$0:$1:$A" = zero:1:one ] && [ ! -e /proc/self/fd/1 ] && exit 7"#;
        let output = run("/bin/sh", &["sh", "-c", script, "zero", "1"]);
        assert_eq!(
            (output.status.code(), output.stdout),
            (Some(7), Vec::new()),
            "{:?}",
            output.stderr
        );
    }

    #[test]
    fn failure_is_one_message_with_the_errno() {
        for (path, errno) in [("/no/such/program", libc::ENOENT), ("/etc", libc::EACCES)] {
            let output = run(path, &["it"]);
            let mut message = MESSAGE_HEAD.to_vec();
            message.extend(errno.to_le_bytes());
            message.extend(b"executing it");
            assert_eq!(
                (output.status.code(), output.stdout),
                (Some(126), message),
                "{path}"
            );
        }
    }

    #[test]
    fn memory_file_is_sealed() {
        let (_reader, report) = rustix::pipe::pipe().unwrap();
        let stone = SteppingStone::new(report.as_fd(), "").unwrap();
        assert_eq!(rustix::io::write(&stone, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&stone, 0), Err(Errno::PERM));
    }
}
