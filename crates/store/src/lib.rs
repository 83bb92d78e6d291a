// SPDX-License-Identifier: Apache-2.0
//! What is on disk: objects, stub trees, names, locks, recovery, garbage.
//!
//! One store serves all of a user's images and containers, without a daemon and without a database: plain files, atomic
//! renames, flock. `kill -9` at any moment leaves nothing broken. [`layout`] shows where everything lies.
//!
//! | to | use |
//! |---|---|
//! | open it | [`Store::open`] |
//! | find images | [`Store::images`], [`Store::resolve`], [`Store::find`] |
//! | mount one | [`Store::rootfs`] → [`ImageRoot`] |
//! | add something | [`Store::session`] → [`Session`] |
//! | take something away | [`Store::remove`], [`Store::untag`] |

mod error;
mod images;
pub mod layout;
mod lock;
mod objects;
mod record;
mod session;
mod trees;

pub use error::{Result, StoreError};
pub use images::{ImageLayer, ImageRecord, Removed};
pub use layout::Store;
pub use lock::Lock;
pub use objects::{BUFFERED_BYTES_MAX, DIGEST_ATTRIBUTE, NewObject, Stored};
pub use session::Session;
pub use trees::{ImageRoot, StubFacts, TreeId};
