// SPDX-License-Identifier: Apache-2.0
//! Ways of giving a network namespace connectivity without rights: [`NetDriver`], one file each.
//!
//! To add one: a file with a type that implements the trait, and a row in [`ALL`].

use std::os::fd::OwnedFd;

use crate::{
    settings::Settings,
    user::{AttachError, Doors, Ended, Place, ServeError},
};

pub mod tap;

/// Every driver, the best first.
pub static ALL: &[&dyn NetDriver] = &[&tap::TapDriver];

/// A way of giving connectivity.
pub trait NetDriver: Sync {
    /// Returns its name, as it is shown.
    fn name(&self) -> &'static str;

    /// Tells whether it can work here, by trying: how well, or why not.
    fn fitness(&self) -> Result<u32, Unfit>;

    /// Makes the link in the namespaces of somebody. Forks: the caller has one thread.
    fn attach(&self, place: &Place, settings: &Settings) -> Result<Box<dyn Attached>, AttachError>;
}

/// A link that is not served yet.
pub trait Attached {
    /// Returns the name of its device inside.
    fn device(&self) -> &str;

    /// Serves it until it is told to end; shuts itself into a jail first.
    fn serve(self: Box<Self>, settings: &Settings, doors: Doors) -> Result<Ended, ServeError>;

    /// Gives the descriptor away, for another process to serve.
    fn into_fd(self: Box<Self>) -> OwnedFd;
}

/// Why a driver cannot work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What was tried, and how it failed.
    pub why: String,
    /// What a person can do about it.
    pub hint: &'static str,
}
