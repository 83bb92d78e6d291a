// SPDX-License-Identifier: Apache-2.0
//! What an image is: references, digests, manifests, configurations, tar and trees. No I/O, no clock.
//!
//! The room takes bytes and gives back checked values, so that everything a stranger's image can say is decided in
//! one place which can be tested by tables, by random input and by a fuzzer, and which cannot touch a file whatever
//! it is told. `clippy.toml` of the room bans the calls that would break the rule.
//!
//! | module | answers |
//! |---|---|
//! | [`digest`] | which bytes: [`Digest`], [`Hasher`]; and under which name a store keeps them: [`ObjectName`] |
//! | [`reference`](mod@reference) | which image a person means: [`Reference`] |
//! | [`manifest`] | what a registry answers: [`Manifest`], [`Index`], [`Descriptor`] |
//! | [`platform`] | which of several images fits a machine: [`Platform`] |
//! | [`config`] | how the image wants to be run: [`ImageConfig`] |
//! | [`inflate`] | what deflated data holds, and where it can be begun: [`inflate::Inflater`] |
//! | [`tar`] | what a layer's archive holds: [`tar::Reader`] |
//! | [`tree`] | what all layers make together: [`Layer`], [`Tree`] |
//! | [`formats`] | where in a layer's packed bytes each file is: [`formats::LayerIndex`] |

pub mod config;
pub mod digest;
pub mod formats;
pub mod inflate;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod tar;
pub mod tree;

pub use config::ImageConfig;
pub use digest::{Digest, Hasher, ObjectName};
pub use manifest::{Compression, Descriptor, Document, Index, Manifest};
pub use platform::Platform;
pub use reference::Reference;
pub use tree::{Layer, Tree};
