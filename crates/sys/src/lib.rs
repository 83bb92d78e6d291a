// SPDX-License-Identifier: Apache-2.0
//! Kernel calls as safe, owned, documented types: the only room with `unsafe`.
//!
//! Calls that [rustix] already offers as safe functions are used from there and wrapped only where our callers need more
//! than the call: a path of a stranger ([`fd::Root`]), mounts as data ([`mount::Plan`]), id maps with their checks
//! ([`idmap`]). What rustix lacks (clone3, `close_range`, flags newer than it) is here, each with its `SAFETY` note.
//!
//! Errors of single calls are [`Errno`]; modules that do more have an enumeration that says what was done to what.

pub mod capabilities;
pub mod datagram;
pub mod facts;
pub mod fd;
pub mod idmap;
pub mod jail;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod pty;
pub mod rlimit;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod socket_option;
pub mod stepping_stone;
pub mod tap;
pub mod xattr;

pub use rustix::io::Errno;
