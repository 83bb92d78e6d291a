// SPDX-License-Identifier: Apache-2.0
//! An OCI bundle becomes a process: namespaces, root file system, seccomp, console.
//!
//! ```text
//! spec ──prepare──► Prepared (everything that can be wrong or slow)
//!                       │ launch::create: clone3 into the new namespaces, id maps
//!                       ▼
//!                   init: mounts, pivot_root ──► becoming: ids, capabilities, filter, gate, execve
//! exec: joins the namespaces of a running one ──► becoming
//! ```

mod becoming;
pub mod defaults;
mod exec;
mod hooks;
mod init;
mod launch;
mod mounts;
pub mod oci;
mod prepare;
mod reaper;
mod report;
pub mod seccomp;
pub mod spec;
pub mod state;
mod user;

pub use becoming::Stdio;
pub use defaults::default_spec;
pub use exec::{Exec, exec};
pub use hooks::HookError;
pub use init::RootFs;
pub use launch::{Created, Launch, LaunchError, Running, StartGate, create, start};
pub use wolffia_sys::mount::Pivot;

pub use prepare::{PrepareError, Seccomp};
