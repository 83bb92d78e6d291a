// SPDX-License-Identifier: Apache-2.0
//! What tests share: a registry, faults, capability gates.
//!
//! Nothing of the product depends on this crate. A test that needs an ability of the machine says so in its first line,
//! `wolffia_testkit::need!(UserNamespace, SubIds);`, and is left out *loudly* where the machine has not got it: see
//! [`gate`].

pub mod archive;
pub mod awkward;
pub mod debian_image;
pub mod executable;
pub mod gate;
pub mod image_builder;
pub mod layout;
pub mod ledger;
pub mod ordinary;
pub mod payload;
pub mod registry;
pub mod stargz;
mod static_program;
pub mod walk;
