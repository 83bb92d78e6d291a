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
//! | take something away | [`Store::remove`], [`Store::untag`], then [`Store::collect`] |
//! | keep a tree for a container | [`Store::pin`] |
//! | use what somebody else unpacked | [`Site`], [`Session::put_unpacked_layer`], [`Session::put_tree_of_sites`] |
//! | leave an image's files where they are | [`Session::put_lazy_table`], [`Store::lazy_table`] |
//! | look at everything | [`Store::check`] |
//! | delete it | [`Store::reset`] |

mod check;
mod elsewhere;
mod error;
mod garbage;
mod images;
mod indexes;
pub mod layout;
mod lazy;
mod lock;
mod objects;
mod owners;
mod parts;
mod power;
mod profiles;
mod record;
mod reset;
mod session;
mod stubs;
mod trees;

pub use check::{PROBLEMS_MAX, Problem, Repair, Report};
pub use elsewhere::{Places, REDIRECT_BYTES_MAX, Site};
pub use error::{Result, StoreError};
pub use garbage::{Collected, UNUSED_LAYER_SECONDS, UnusedLayers};
pub use images::{ImageLayer, ImageRecord, Removed};
pub use layout::Store;
pub use lazy::ObjectClaim;
pub use lock::Lock;
pub use objects::{BUFFERED_BYTES_MAX, DIGEST_ATTRIBUTE, NewObject, Stored};
pub use owners::{IdSpan, OVERFLOW_ID, Owners};
pub use parts::PartialObject;
pub use power::FLUSHED_AFTER_SECONDS;
pub use profiles::{PROFILE_OBJECTS_MAX, parse_profile, write_profile};
pub use session::Session;
pub use stubs::{METACOPY_ATTRIBUTE, REDIRECT_ATTRIBUTE};
pub use trees::{Claim, Fill, ImageRoot, LazyTree, StubFacts, TreeId, UNPACKED};
