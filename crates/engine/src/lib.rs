// SPDX-License-Identifier: Apache-2.0
//! Containers as people know them: create, run, exec, logs, stop; the conductor and teardown.
//!
//! A container is a directory (`containers/ID`), a lock (`running/ID`) and, while it runs, one process of ours: the *conductor*. This room
//! joins the others: it asks `store` and `pull` for an image, `mount` for a root file system, `runtime` for a process, and keeps the truth
//! about all of it on disk, where the next command finds it.

pub mod bundle;
pub mod caller;
pub mod conductor;
pub mod containers;
pub mod control;
pub mod create;
pub mod exec;
pub mod file;
pub mod helper;
pub mod home;
pub mod hostfiles;
pub mod id;
pub mod identity;
pub mod inside;
pub mod inspect;
pub mod lock;
pub mod log;
pub mod mounts;
pub mod networks;
pub mod options;
pub mod ports;
pub mod program;
pub mod record;
pub mod signal;
pub mod start;
pub mod terminal;
pub mod time;
pub mod tree;
