// SPDX-License-Identifier: Apache-2.0
//! `host`: a root file system of this machine's own files, with no image.
//!
//! It exists so that a container can be had at once, without a network: every program of the machine is in it, owned as it
//! is here, every file can be changed, and all of it is thrown away at the end. Nothing is copied but the small
//! public part of /etc.
//!
//! # Theory of operation
//! ```text
//!   upper + work   the container's own directory
//!   skeleton       made-up directories, the usr-merge links, a public copy of /etc   (skeleton.rs; kept between starts)
//!   FUSE tree      /usr, /opt and the package tools' databases of this machine       (tree.rs, served by server.rs)
//! ```
//! One overlay joins the three. The file server stands *outside* the user namespace, since inside every owner that is not
//! mapped reads as 65534; numbers that it answers are understood inside, so files keep their true owners. It is started first
//! and waits; [`prepare()`], inside, opens /dev/fuse (the kernel demands that the opener and the mounter share a user
//! namespace), mounts, and sends the server the descriptor. The kernel keeps names and pages: from the second touch on
//! everything is as fast as on the machine itself.
//!
//! What is served is what *everybody* on the machine may read (mode bits for others), whoever runs the container, root
//! included: a file that others may not read is not there, a directory that others may not enter is empty. Sockets and
//! devices are not there. [`Exposure`] says which parts of the machine are looked at in the first place.
//!
//! The server is a pair of processes: a keeper that holds the descriptor and the table of nodes, and a worker. A worker that is
//! killed is replaced by the keeper; where the keeper is gone too, [`HostRoot::revive`] starts one inside the namespace,
//! which shows files that are seen for the first time then as root's. Requests in flight are asked again (kernel 6.9).
//!
//! Without /dev/fuse the machine's own directories are mounted below a tree of directories (plain.rs): new files can be made
//! everywhere, existing ones cannot be changed. [`HostRoot::notes`] says so.

mod etc;
mod exposure;
mod nodes;
mod plain;
mod prepare;
mod server;
mod skeleton;
mod tree;

pub use exposure::{Exposure, private_directories};
pub use prepare::{HostRoot, Inside, PrepareError, prepare};
pub use server::{Identity, Link, SERVER_NAME, ServerError, serve, spawn};
