// SPDX-License-Identifier: Apache-2.0
//! The default profile as a table: which calls a container may make, under which condition, and
//! why.
//!
//! Its effect is that of moby's default profile (`seccomp/default.json` of github.com/moby/profiles
//! at cd3bed80, 2026-06-30), call by call and argument by argument; `tests/moby.rs`
//! holds it against the facts of that file. Programs and people expect this set: what runs under
//! docker has to run here, and no more should.
//!
//! All that no group names is answered EPERM; what is newer than the table, ENOSYS (see
//! [`super::profile`]). Kept out on purpose, by silence: the keyring (`keyctl`, `add_key`,
//! `request_key`: not wholly namespaced), `io_uring_*` and `userfaultfd` (many holes; the first
//! also goes past filters), `kexec_*`, `swapon`, `pivot_root` and the mount calls, `bpf`,
//! `perf_event_open`, new user namespaces, `move_pages` and `migrate_pages`, and what the kernel
//! itself has dropped.
//!
//! One difference, for the better: the family of a socket is compared as the kernel reads it, see
//! [`Width::Int`].
//!
//! Capabilities count as docker counts them: those of the bounding set. In a rootless container
//! they are capabilities in its user namespace only.

use super::policy::{Architecture, Condition, Test, Width};

/// Calls that are treated alike, for one reason.
#[derive(Debug)]
pub struct Group {
    /// Why they may, or may not.
    pub reason: &'static str,
    /// Under which conditions the group counts; all have to hold.
    pub when: &'static [When],
    /// What happens to the calls.
    pub effect: Effect,
    /// Their names. Not every architecture has each.
    pub calls: &'static [&'static str],
}

/// A condition of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The container has this capability.
    Has(Capability),
    /// It has not.
    Lacks(Capability),
    /// The machine's own architecture is among these.
    Native(&'static [Architecture]),
    /// The kernel has at least this version.
    Kernel(u32, u32),
    /// Containers within the container were asked for.
    Nesting,
}

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The calls are made.
    Allow,
    /// The calls are made where one of these holds.
    AllowWhereAny(&'static [Condition]),
    /// The calls return this errno.
    Errno(u16),
}

/// The capabilities that open a group, with their numbers (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// `CAP_DAC_READ_SEARCH`
    DacReadSearch = 2,
    /// `CAP_SYS_MODULE`
    SysModule = 16,
    /// `CAP_SYS_RAWIO`
    SysRawio = 17,
    /// `CAP_SYS_CHROOT`
    SysChroot = 18,
    /// `CAP_SYS_PTRACE`
    SysPtrace = 19,
    /// `CAP_SYS_PACCT`
    SysPacct = 20,
    /// `CAP_SYS_ADMIN`
    SysAdmin = 21,
    /// `CAP_SYS_BOOT`
    SysBoot = 22,
    /// `CAP_SYS_NICE`
    SysNice = 23,
    /// `CAP_SYS_TIME`
    SysTime = 25,
    /// `CAP_SYS_TTY_CONFIG`
    SysTtyConfig = 26,
    /// `CAP_SYSLOG`
    Syslog = 34,
    /// `CAP_PERFMON`
    Perfmon = 38,
    /// `CAP_BPF`
    Bpf = 39,
}

/// The flags of clone(2) that make namespaces: mount, cgroup, UTS, IPC, user, PID and network.
pub const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// A call that is not there, as libraries that try the newer way first understand it.
const ENOSYS: u16 = 38;

const ALWAYS: &[When] = &[];
const X86_64: &[Architecture] = &[Architecture::X86_64];
const X86_FAMILY: &[Architecture] = &[Architecture::X86_64, Architecture::X32, Architecture::X86];
const ARM_FAMILY: &[Architecture] = &[Architecture::Arm, Architecture::Aarch64];

/// The first argument, as the kernel's `int`.
const fn first_int(test: Test) -> Condition {
    Condition {
        argument: 0,
        width: Width::Int,
        test,
    }
}

/// The first argument, as it stands in the register.
const fn first(test: Test) -> Condition {
    Condition {
        argument: 0,
        width: Width::Register,
        test,
    }
}

/// The groups. Of two that name one call, one without an argument condition wins over one with; the
/// profile of docker has no other overlap, and neither has this one.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group {
        reason: "Opening, reading and writing files, and moving within them.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "open", "openat", "openat2", "creat", "close", "close_range", "read", "write", "readv",
            "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "lseek",
            "_llseek", "truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate",
            "fadvise64", "fadvise64_64", "readahead", "sendfile", "sendfile64", "splice", "tee",
            "vmsplice", "copy_file_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock",
            "ioctl", "memfd_create", "memfd_secret", "cachestat",
        ],
    },
    Group {
        reason: "Making files durable.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &["fsync", "fdatasync", "sync", "syncfs", "sync_file_range"],
    },
    Group {
        reason: "Names: making, moving and removing them. Device nodes are the kernel's to \
            refuse inside a user namespace.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "link", "linkat", "symlink",
            "symlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2", "readlink",
            "readlinkat", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "umask",
            "name_to_handle_at",
        ],
    },
    Group {
        reason: "What is known of a file, and who may touch it.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "access", "faccessat", "faccessat2", "stat", "stat64", "fstat", "fstat64", "lstat",
            "lstat64", "newfstatat", "fstatat64", "statx", "statfs", "statfs64", "fstatfs",
            "fstatfs64", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "chown32", "fchown",
            "fchown32", "fchownat", "lchown", "lchown32", "utime", "utimes", "utimensat",
            "utimensat_time64", "futimesat",
        ],
    },
    Group {
        reason: "Extended attributes.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr",
            "fsetxattr", "setxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat",
            "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
        ],
    },
    Group {
        reason: "Being told of changes. Marking is harmless without fanotify_init, which needs \
            CAP_SYS_ADMIN.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
            "fanotify_mark",
        ],
    },
    Group {
        reason: "Reading the mount table: it shows what /proc/self/mountinfo shows.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &["statmount", "listmount"],
    },
    Group {
        reason: "Memory of one's own.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync",
            "mlock", "mlock2", "mlockall", "munlock", "munlockall", "remap_file_pages",
            "pkey_alloc", "pkey_free", "pkey_mprotect", "mseal", "map_shadow_stack", "membarrier",
        ],
    },
    Group {
        reason: "Processes: beginning, ending and waiting. Namespaces are kept out by the flags \
            of clone, see below.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid",
            "waitpid", "getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid",
            "setsid", "set_tid_address", "pidfd_open", "pidfd_send_signal", "process_mrelease",
            "restart_syscall", "prctl", "uretprobe",
        ],
    },
    Group {
        reason: "Confining oneself further.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
        ],
    },
    Group {
        reason: "Threads.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "futex", "futex_time64", "futex_wait", "futex_wake", "futex_waitv", "futex_requeue",
            "set_robust_list", "get_robust_list", "set_thread_area", "get_thread_area", "rseq",
        ],
    },
    Group {
        reason: "Signals.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "kill", "tkill", "tgkill", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
            "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
            "rt_sigtimedwait", "rt_sigtimedwait_time64", "sigaltstack", "sigprocmask", "sigreturn",
            "signalfd", "signalfd4", "pause",
        ],
    },
    Group {
        reason: "Scheduling, limits and usage. The kernel refuses what exceeds the caller's \
            rights.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr",
            "sched_setattr", "sched_getparam", "sched_setparam", "sched_getscheduler",
            "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min",
            "sched_rr_get_interval", "sched_rr_get_interval_time64", "getpriority", "setpriority",
            "ioprio_get", "ioprio_set", "getrlimit", "ugetrlimit", "setrlimit", "prlimit64",
            "getrusage", "getcpu", "times", "sysinfo",
        ],
    },
    Group {
        reason: "Identities. Which of them can be taken is the user namespace's business.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid",
            "getegid32", "getresuid", "getresuid32", "getresgid", "getresgid32", "getgroups",
            "getgroups32", "setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32",
            "setregid", "setregid32", "setresuid", "setresuid32", "setresgid", "setresgid32",
            "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32",
            "capget", "capset",
        ],
    },
    Group {
        reason: "Clocks and timers. Setting the clock is another group; adjtimex and \
            clock_adjtime only read without CAP_SYS_TIME.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "time", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres",
            "clock_getres_time64", "clock_nanosleep", "clock_nanosleep_time64", "nanosleep",
            "adjtimex", "clock_adjtime", "clock_adjtime64", "alarm", "getitimer", "setitimer",
            "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64",
            "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
            "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
        ],
    },
    Group {
        reason: "Waiting for many things.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64",
            "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_wait",
            "epoll_wait_old", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2",
        ],
    },
    Group {
        reason: "Asynchronous input and output of the older kind. io_uring stays out: its rings \
            carry calls past every filter, and it was the source of many holes.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "io_setup", "io_submit", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
            "io_cancel", "io_destroy",
        ],
    },
    Group {
        reason: "Pipes and sockets, but for making a socket, which depends on its family. \
            socketcall is 32-bit x86's door to all of them; its arguments lie in memory, where \
            a filter cannot look.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "pipe", "pipe2", "socketpair", "bind", "listen", "accept", "accept4", "connect",
            "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt", "send", "sendto",
            "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64",
            "socketcall",
        ],
    },
    Group {
        reason: "System V and POSIX messages, semaphores and shared memory: kept apart by the \
            IPC namespace.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &[
            "ipc", "msgget", "msgctl", "msgsnd", "msgrcv", "semget", "semctl", "semop",
            "semtimedop", "semtimedop_time64", "shmget", "shmat", "shmctl", "shmdt", "mq_open",
            "mq_unlink", "mq_notify", "mq_getsetattr", "mq_timedsend", "mq_timedsend_time64",
            "mq_timedreceive", "mq_timedreceive_time64",
        ],
    },
    Group {
        reason: "Facts and randomness.",
        when: ALWAYS,
        effect: Effect::Allow,
        calls: &["uname", "getrandom", "riscv_hwprobe"],
    },
    Group {
        reason: "Looking into a process of one's own. Older kernels let a tracer change a call \
            after the filter had passed it.",
        when: &[When::Kernel(4, 8)],
        effect: Effect::Allow,
        calls: &["ptrace", "process_vm_readv", "process_vm_writev"],
    },
    Group {
        reason: "Sockets of every family but two: AF_ALG (38) reaches the kernel's crypto code, \
            a rich source of holes; AF_VSOCK (40) talks to the hypervisor and knows no network \
            namespace.",
        when: ALWAYS,
        effect: Effect::AllowWhereAny(&[
            first_int(Test::Less(38)),
            first_int(Test::Equal(39)),
            first_int(Test::Greater(40)),
        ]),
        calls: &["socket"],
    },
    Group {
        reason: "Personalities: Linux, 32-bit Linux, both with UNAME26, and the question which \
            it is. Not those that switch address randomisation off.",
        when: ALWAYS,
        effect: Effect::AllowWhereAny(&[
            first(Test::Equal(0)),
            first(Test::Equal(8)),
            first(Test::Equal(0x0002_0000)),
            first(Test::Equal(0x0002_0008)),
            first(Test::Equal(0xFFFF_FFFF)),
        ]),
        calls: &["personality"],
    },
    Group {
        reason: "Arm's own calls, which its C library makes.",
        when: &[When::Native(ARM_FAMILY)],
        effect: Effect::Allow,
        calls: &[
            "arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint",
            "cacheflush", "set_tls",
        ],
    },
    Group {
        reason: "Where x86 keeps its thread pointer.",
        when: &[When::Native(X86_64)],
        effect: Effect::Allow,
        calls: &["arch_prctl"],
    },
    Group {
        reason: "Segments, which wine and old thread libraries set up.",
        when: &[When::Native(X86_FAMILY)],
        effect: Effect::Allow,
        calls: &["modify_ldt"],
    },
    Group {
        reason: "Opening a file by its handle goes past the directories above it.",
        when: &[When::Has(Capability::DacReadSearch)],
        effect: Effect::Allow,
        calls: &["open_by_handle_at"],
    },
    Group {
        reason: "What administering needs: mounts, namespaces, names of the machine, quotas, \
            and watching files, the kernel's log and events.",
        when: &[When::Has(Capability::SysAdmin)],
        effect: Effect::Allow,
        calls: &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
            "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
            "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
            "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2",
            "unshare",
        ],
    },
    Group {
        reason: "New processes and threads, but no new namespaces: within a user namespace of \
            one's own much of the kernel opens up that was written for root alone.",
        when: &[When::Lacks(Capability::SysAdmin)],
        effect: Effect::AllowWhereAny(&[first(Test::MaskedEqual {
            mask: CLONE_NAMESPACES,
            value: 0,
        })]),
        calls: &["clone"],
    },
    Group {
        reason: "clone3 takes its flags in memory, where a filter cannot look. ENOSYS, so that \
            libraries use clone.",
        when: &[When::Lacks(Capability::SysAdmin)],
        effect: Effect::Errno(ENOSYS),
        calls: &["clone3"],
    },
    Group {
        reason: "Rebooting; within a PID namespace it ends the namespace.",
        when: &[When::Has(Capability::SysBoot)],
        effect: Effect::Allow,
        calls: &["reboot"],
    },
    Group {
        reason: "Changing the root directory.",
        when: &[When::Has(Capability::SysChroot)],
        effect: Effect::Allow,
        calls: &["chroot"],
    },
    Group {
        reason: "Kernel modules; refused in a user namespace.",
        when: &[When::Has(Capability::SysModule)],
        effect: Effect::Allow,
        calls: &["delete_module", "init_module", "finit_module"],
    },
    Group {
        reason: "Process accounting; refused in a user namespace.",
        when: &[When::Has(Capability::SysPacct)],
        effect: Effect::Allow,
        calls: &["acct"],
    },
    Group {
        reason: "Looking into processes of others of the same user namespace.",
        when: &[When::Has(Capability::SysPtrace)],
        effect: Effect::Allow,
        calls: &[
            "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev",
            "ptrace",
        ],
    },
    Group {
        reason: "Ports of the hardware; refused in a user namespace.",
        when: &[When::Has(Capability::SysRawio)],
        effect: Effect::Allow,
        calls: &["iopl", "ioperm"],
    },
    Group {
        reason: "Setting the clock; refused in a user namespace.",
        when: &[When::Has(Capability::SysTime)],
        effect: Effect::Allow,
        calls: &["settimeofday", "stime", "clock_settime", "clock_settime64"],
    },
    Group {
        reason: "Hanging a terminal up.",
        when: &[When::Has(Capability::SysTtyConfig)],
        effect: Effect::Allow,
        calls: &["vhangup"],
    },
    Group {
        reason: "Where memory lies.",
        when: &[When::Has(Capability::SysNice)],
        effect: Effect::Allow,
        calls: &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    },
    Group {
        reason: "The kernel's log; refused in a user namespace where kernel.dmesg_restrict is set.",
        when: &[When::Has(Capability::Syslog)],
        effect: Effect::Allow,
        calls: &["syslog"],
    },
    Group {
        reason: "Programs in the kernel; refused in a user namespace but for tokens.",
        when: &[When::Has(Capability::Bpf)],
        effect: Effect::Allow,
        calls: &["bpf"],
    },
    Group {
        reason: "Performance events.",
        when: &[When::Has(Capability::Perfmon)],
        effect: Effect::Allow,
        calls: &["perf_event_open"],
    },
];

/// What `--security-opt nesting` adds, so that containers run inside a container. It gives away
/// that a hole in the kernel's mount and namespace code, reached through a nested user namespace,
/// is within reach of the container.
#[rustfmt::skip]
pub const NESTING: &[Group] = &[
    Group {
        reason: "A container engine inside: namespaces of its own, and their root. A process \
            gets the capabilities for it only in the user namespace that it makes.",
        when: &[When::Nesting],
        effect: Effect::Allow,
        calls: &[
            "clone", "clone3", "unshare", "setns", "pivot_root", "chroot", "sethostname",
            "setdomainname",
        ],
    },
    Group {
        reason: "Its mounts, in both forms.",
        when: &[When::Nesting],
        effect: Effect::Allow,
        calls: &[
            "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree",
            "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick",
        ],
    },
    Group {
        reason: "A supervisor inside that answers its containers' calls fetches descriptors \
            from them; no more than ptrace can do.",
        when: &[When::Nesting],
        effect: Effect::Allow,
        calls: &["pidfd_getfd", "kcmp"],
    },
    Group {
        reason: "Runtimes give a container a session keyring of its own, and go on without \
            where the kernel has none.",
        when: &[When::Nesting],
        effect: Effect::Errno(ENOSYS),
        calls: &["keyctl", "add_key", "request_key"],
    },
];
