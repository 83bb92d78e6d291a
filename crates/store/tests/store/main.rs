// SPDX-License-Identifier: Apache-2.0
//! The store as its users see it: real files, real processes.
//!
//! (`cfg(test)` tells clippy what cargo knows: that all of this is tests.)

#[cfg(test)]
mod check;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod images;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod power;
#[cfg(test)]
mod stubs;
