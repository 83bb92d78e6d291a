// SPDX-License-Identifier: Apache-2.0
//! The room as its callers see it, against registries that behave and that do not.

mod common;
mod faults;
mod parallel;
mod registry;
