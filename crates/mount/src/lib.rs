// SPDX-License-Identifier: Apache-2.0
//! Trees and layers become a root file system.

pub mod fuse;
pub mod host;
