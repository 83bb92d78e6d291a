// SPDX-License-Identifier: Apache-2.0
//! Which system calls a container may make: the default profile, profiles of others, and the filter
//! that holds them.
//!
//! ```text
//! table, readable and with reasons ── profile ──┐
//! docker's profile file ── document ── oci ─────┼─▶ Policy, data ── tree ──▶ Program
//! linux.seccomp of an OCI bundle ───── oci ─────┘            sys::seccomp::install ──▶ kernel
//! ```
//! The default profile for the default capabilities, with and without `nesting`, is laid out by the
//! build script and lies ready in the binary; every other policy is laid out when it is asked for.

use wolffia_sys::seccomp::{Instruction, Program, ProgramError};

pub mod cache;
pub mod document;
pub mod numbers;
pub mod oci;
pub mod profile;
pub mod table;

#[cfg(test)]
mod machine;
#[cfg(test)]
mod tests;

pub use oci::{Filter, LinuxSeccomp, from_oci};
pub use policy::{Architecture, Policy};
pub use profile::DEFAULT_BOUNDING;
pub use wolffia_sys::seccomp::{policy, tree};

use profile::{Circumstances, OLDEST_KERNEL, default_policy, same_groups};

/// What the caller may choose about the default profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether containers are to run inside the container (`--security-opt nesting`).
    pub nesting: bool,
}

include!(concat!(env!("OUT_DIR"), "/seccomp_ready.rs"));

/// Returns the default filter of a container whose bounding set is `bounding` (bit by number, as in
/// /proc/PID/status).
///
/// Copies nothing where the capabilities make no difference to the default; else lays the filter
/// out, which takes some 15 us and allocates.
///
/// # Panics
/// Never: a test lays the table out for every capability that it asks for.
pub fn default_profile(bounding: u64, options: Options) -> Program {
    if same_groups(bounding, DEFAULT_BOUNDING) {
        return if options.nesting {
            NESTING.clone()
        } else {
            DEFAULT.clone()
        };
    }
    let policy = default_policy(&Circumstances {
        native: NATIVE,
        bounding,
        kernel: OLDEST_KERNEL,
        nesting: options.nesting,
    });
    compile(&policy)
        .expect("the default table is far below the kernel's limit, tested for every capability")
}

/// Returns the filter of a policy.
pub fn compile(policy: &Policy) -> Result<Program, ProgramError> {
    Program::new(tree::emit(policy))
}

/// The architecture that this program was made for.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Architecture = Architecture::X86_64;
/// The architecture that this program was made for.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Architecture = Architecture::Aarch64;
