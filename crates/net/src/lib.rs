// SPDX-License-Identifier: Apache-2.0
//! A network namespace gets connectivity.
//!
//! The helpers of this room are processes of their own, one thread each: they live under a container's conductor and end with it.

pub mod drivers;
pub mod helper;
pub mod ports;
pub mod sandbox;
pub mod settings;
pub mod user;

pub use settings::Settings;
