// SPDX-License-Identifier: Apache-2.0
//! `host`: a root file system of this machine's own files, with no image.

mod exposure;
mod nodes;
mod tree;

pub use exposure::Exposure;
