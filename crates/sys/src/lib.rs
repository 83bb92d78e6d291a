// SPDX-License-Identifier: Apache-2.0
//! Kernel calls as safe, owned, documented types: the only room with `unsafe`.

pub mod seccomp;
pub mod signal;
