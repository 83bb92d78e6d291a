// SPDX-License-Identifier: Apache-2.0
//! Groups of system calls that helpers need, each with what of their arguments has to hold.
//!
//! A group says what a helper *does*, and holds what the standard library and glibc call for that. No group has execve,
//! ptrace, mounts, namespaces, keys, bpf, `io_uring`, or memory that is written and then executed. Calls are allowed with
//! any descriptor: which files can be opened is the business of [`super::landlock`].
//!
//! Old spellings of x86-64 (`poll`, `stat`) stand beside those that every architecture has, since libraries use both.

use crate::seccomp::policy::{Action, Condition, Test, Width};

/// A call that is allowed, or softly refused, where its arguments meet all conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    number: u32,
    conditions: &'static [Condition],
    /// `None` allows.
    refusal: Option<u16>,
}

impl Call {
    /// Allows the call of this number (`libc::SYS_*`) whatever its arguments.
    pub const fn any(number: libc::c_long) -> Call {
        Call::only(number, &[])
    }

    /// Allows it where all conditions hold; further rules of the same call allow more.
    ///
    /// # Panics
    /// Where the number is none of a system call: a constant of that kind does not compile.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "numbers of system calls are small and positive, checked"
    )]
    pub const fn only(number: libc::c_long, conditions: &'static [Condition]) -> Call {
        assert!(
            number >= 0 && number < 0x4000_0000,
            "no number of a native system call"
        );
        Call {
            number: number as u32,
            conditions,
            refusal: None,
        }
    }

    /// Lets the call fail with this errno instead of ending the process: for calls that libraries try and can do without.
    pub const fn refused(number: libc::c_long, errno: u16) -> Call {
        let mut call = Call::any(number);
        call.refusal = Some(errno);
        call
    }

    pub(super) fn allows(&self) -> bool {
        self.refusal.is_none()
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn conditions(&self) -> &'static [Condition] {
        self.conditions
    }

    pub(super) fn action(&self) -> Action {
        self.refusal.map_or(Action::Allow, Action::Errno)
    }
}

/// The argument has these bits of `mask`.
pub const fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition {
        argument,
        width: Width::Register,
        test: Test::MaskedEqual { mask, value },
    }
}

/// The argument, an `int`, is this number.
pub const fn int(argument: u8, value: u64) -> Condition {
    Condition {
        argument,
        width: Width::Int,
        test: Test::Equal(value),
    }
}

const ENOSYS: u16 = 38;
const ENOTTY: u16 = 25;
/// `PROT_EXEC`.
const EXECUTE: u64 = 4;
/// Every `CLONE_NEW*` flag that clone(2) takes.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;

/// What every program does: descriptors that are open, memory, locks, time, random numbers, its own signals, its end.
pub const BASIC: &[Call] = &[
    Call::any(libc::SYS_read),
    Call::any(libc::SYS_write),
    Call::any(libc::SYS_readv),
    Call::any(libc::SYS_writev),
    Call::any(libc::SYS_pread64),
    Call::any(libc::SYS_preadv),
    Call::any(libc::SYS_lseek),
    Call::any(libc::SYS_fstat),
    Call::any(libc::SYS_close),
    Call::any(libc::SYS_dup),
    Call::any(libc::SYS_fcntl),
    // Memory, but none that can be executed.
    Call::only(libc::SYS_mmap, &[masked(2, EXECUTE, 0)]),
    Call::only(libc::SYS_mprotect, &[masked(2, EXECUTE, 0)]),
    Call::any(libc::SYS_munmap),
    Call::any(libc::SYS_mremap),
    Call::any(libc::SYS_madvise),
    Call::any(libc::SYS_brk),
    Call::any(libc::SYS_futex),
    Call::any(libc::SYS_sched_yield),
    Call::any(libc::SYS_sched_getaffinity),
    Call::any(libc::SYS_getpid),
    Call::any(libc::SYS_gettid),
    Call::any(libc::SYS_getuid),
    Call::any(libc::SYS_geteuid),
    Call::any(libc::SYS_getgid),
    Call::any(libc::SYS_getegid),
    Call::any(libc::SYS_uname),
    Call::any(libc::SYS_clock_gettime),
    Call::any(libc::SYS_clock_getres),
    Call::any(libc::SYS_clock_nanosleep),
    Call::any(libc::SYS_nanosleep),
    Call::any(libc::SYS_gettimeofday),
    Call::any(libc::SYS_getrandom),
    Call::any(libc::SYS_rt_sigaction),
    Call::any(libc::SYS_rt_sigprocmask),
    Call::any(libc::SYS_rt_sigreturn),
    Call::any(libc::SYS_sigaltstack),
    Call::any(libc::SYS_restart_syscall),
    Call::any(libc::SYS_exit),
    Call::any(libc::SYS_exit_group),
    // Asked of any descriptor by libraries that want to know whether it is a terminal.
    Call::refused(libc::SYS_ioctl, ENOTTY),
];

/// Starting threads. clone3 hides its flags from a filter: it does not exist here, and libraries then use clone.
pub const THREADS: &[Call] = &[
    Call::refused(libc::SYS_clone3, ENOSYS),
    Call::only(
        libc::SYS_clone,
        &[masked(
            0,
            NEW_NAMESPACES | CLONE_VM | CLONE_THREAD,
            CLONE_VM | CLONE_THREAD,
        )],
    ),
    Call::any(libc::SYS_set_robust_list),
    Call::any(libc::SYS_rseq),
    Call::any(libc::SYS_set_tid_address),
    // PR_SET_NAME: threads have names.
    Call::only(libc::SYS_prctl, &[int(0, 15)]),
];

/// Copies of the process itself, in no new namespace, and their ends.
pub const CHILDREN: &[Call] = &[
    Call::refused(libc::SYS_clone3, ENOSYS),
    Call::only(
        libc::SYS_clone,
        &[masked(0, NEW_NAMESPACES | CLONE_VM | CLONE_THREAD, 0)],
    ),
    Call::any(libc::SYS_wait4),
    Call::any(libc::SYS_waitid),
];

/// Waiting for descriptors, events and times.
pub const WAITING: &[Call] = &[
    Call::any(libc::SYS_ppoll),
    Call::any(libc::SYS_epoll_create1),
    Call::any(libc::SYS_epoll_ctl),
    Call::any(libc::SYS_epoll_pwait),
    Call::any(libc::SYS_epoll_pwait2),
    Call::any(libc::SYS_eventfd2),
    Call::any(libc::SYS_timerfd_create),
    Call::any(libc::SYS_timerfd_settime),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_epoll_wait),
];

/// Moving bytes between descriptors inside the kernel.
pub const SPLICING: &[Call] = &[
    Call::any(libc::SYS_splice),
    Call::any(libc::SYS_tee),
    Call::any(libc::SYS_vmsplice),
    Call::any(libc::SYS_pipe2),
    Call::any(libc::SYS_sendfile),
    Call::any(libc::SYS_copy_file_range),
];

/// Finding and reading files; opening for writing is kept back by landlock and the kernel's own checks.
pub const READ_FILES: &[Call] = &[
    Call::any(libc::SYS_openat),
    Call::any(libc::SYS_openat2),
    Call::any(libc::SYS_statx),
    Call::any(libc::SYS_newfstatat),
    Call::any(libc::SYS_statfs),
    Call::any(libc::SYS_fstatfs),
    Call::any(libc::SYS_faccessat),
    Call::any(libc::SYS_faccessat2),
    Call::any(libc::SYS_readlinkat),
    Call::any(libc::SYS_getdents64),
    Call::any(libc::SYS_getcwd),
    Call::any(libc::SYS_fadvise64),
    Call::any(libc::SYS_readahead),
    Call::any(libc::SYS_flock),
    Call::any(libc::SYS_getxattr),
    Call::any(libc::SYS_lgetxattr),
    Call::any(libc::SYS_fgetxattr),
    Call::any(libc::SYS_listxattr),
    Call::any(libc::SYS_llistxattr),
    Call::any(libc::SYS_flistxattr),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_lstat),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_access),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_readlink),
];

/// Making, changing and removing files, with their owners, modes, times and attributes.
pub const WRITE_FILES: &[Call] = &[
    Call::any(libc::SYS_pwrite64),
    Call::any(libc::SYS_pwritev),
    Call::any(libc::SYS_ftruncate),
    Call::any(libc::SYS_fallocate),
    Call::any(libc::SYS_fsync),
    Call::any(libc::SYS_fdatasync),
    Call::any(libc::SYS_syncfs),
    Call::any(libc::SYS_sync_file_range),
    Call::any(libc::SYS_mkdirat),
    Call::any(libc::SYS_mknodat),
    Call::any(libc::SYS_symlinkat),
    Call::any(libc::SYS_linkat),
    Call::any(libc::SYS_unlinkat),
    Call::any(libc::SYS_renameat),
    Call::any(libc::SYS_renameat2),
    Call::any(libc::SYS_fchmod),
    Call::any(libc::SYS_fchmodat),
    Call::any(libc::SYS_fchmodat2),
    Call::any(libc::SYS_fchown),
    Call::any(libc::SYS_fchownat),
    Call::any(libc::SYS_utimensat),
    Call::any(libc::SYS_umask),
    Call::any(libc::SYS_setxattr),
    Call::any(libc::SYS_lsetxattr),
    Call::any(libc::SYS_fsetxattr),
    Call::any(libc::SYS_removexattr),
    Call::any(libc::SYS_lremovexattr),
    Call::any(libc::SYS_fremovexattr),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_mkdir),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_rmdir),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_unlink),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_rename),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_link),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_symlink),
    #[cfg(target_arch = "x86_64")]
    Call::any(libc::SYS_chmod),
];

/// Bytes and descriptors over sockets that are there already.
pub const MESSAGES: &[Call] = &[
    Call::any(libc::SYS_sendto),
    Call::any(libc::SYS_recvfrom),
    Call::any(libc::SYS_sendmsg),
    Call::any(libc::SYS_recvmsg),
    Call::any(libc::SYS_sendmmsg),
    Call::any(libc::SYS_recvmmsg),
    Call::any(libc::SYS_shutdown),
    Call::any(libc::SYS_getsockopt),
    Call::any(libc::SYS_setsockopt),
    Call::any(libc::SYS_getsockname),
    Call::any(libc::SYS_getpeername),
];

/// `AF_INET` and `AF_INET6`.
const INTERNET_FAMILIES: [u64; 2] = [2, 10];

/// Sockets of the two internet families, out and in. [`super::Jail::internet`] belongs to it.
pub const INTERNET: &[Call] = &[
    Call::only(libc::SYS_socket, &[int(0, INTERNET_FAMILIES[0])]),
    Call::only(libc::SYS_socket, &[int(0, INTERNET_FAMILIES[1])]),
    Call::any(libc::SYS_connect),
    Call::any(libc::SYS_bind),
    Call::any(libc::SYS_listen),
    Call::any(libc::SYS_accept4),
];
