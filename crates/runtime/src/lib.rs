// SPDX-License-Identifier: Apache-2.0
//! An OCI bundle becomes a process: namespaces, root file system, seccomp, console.

pub mod seccomp;
