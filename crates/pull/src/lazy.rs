// SPDX-License-Identifier: Apache-2.0
//! Lazy images: the program starts before its image has come.
//!
//! # Theory of operation
//! A layer whose format has an index is not fetched; its index is ([`index`]). The indexes are merged into a tree as layers are, stubs
//! are written for it, and a [`table`] says where the bytes of each object are. The container's mount gets one data layer more, a
//! FUSE file system in which the kernel finds what is not in the store; [`lazyd`] serves it, from a [`supply`] that fetches in
//! [runs](run), checks, and gives every object its place in the store once it is whole.
//!
//! Who starts `lazyd`, and what happens when it dies, stands in the engine's conductor.

mod background;
pub mod index;
pub mod lazyd;
pub mod profile;
mod run;
pub mod supply;
pub mod table;
