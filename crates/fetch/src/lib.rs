// SPDX-License-Identifier: Apache-2.0
//! How bytes arrive: registries, ranges, credentials, layouts.
//!
//! One rule: nothing is believed before its digest is checked. Documents are checked where they are fetched, blobs by
//! the reader that hands them on. Everything here blocks, and every wait, retry and buffer has a bound ([`Limits`]).
//!
//! | module | answers |
//! |---|---|
//! | [`sources`] | what is the image, and where are its bytes: the trait [`Source`] and its kinds |
//! | [`targets`] | how does an image get somewhere else: the trait [`Target`] and its kinds |
//! | [`blob`] | how do a blob's bytes arrive whole, in order and right: [`Download`] |
//! | [`credentials`] | who are we to this registry |
//! | [`login`] | how does a registry learn who we are, and forget it |
//! | [`registries`] | where is this registry really, and how much must we trust it |
//! | [`resolver`] | what address has this name |
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use wolffia_fetch::{Download, Environment, Limits, Source, sources};
//! use wolffia_image::Platform;
//!
//! let source: Arc<dyn Source> =
//!     Arc::from(sources::open("debian:12", &Environment::of_process(), Limits::default())?);
//! let image = source.resolve(&Platform::host())?;
//! for layer in &image.layers {
//!     let mut bytes = Download::new(Arc::clone(&source), layer);
//!     std::io::copy(&mut bytes, &mut std::io::sink())?;
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod auth;
pub mod blob;
mod challenge;
pub mod credentials;
mod date;
mod environment;
mod error;
mod http;
mod limits;
pub mod login;
mod proxy;
pub mod registries;
pub mod resolver;
mod retry;
mod secret;
pub mod sources;
mod stall;
pub mod targets;
mod tls;

pub use blob::{Download, Stretch};
pub use credentials::Credential;
pub use environment::Environment;
pub use error::{Error, LastFailure};
pub use http::Fault;
pub use limits::Limits;
pub use secret::Secret;
pub use sources::{Resolved, Source};
pub use targets::Target;
