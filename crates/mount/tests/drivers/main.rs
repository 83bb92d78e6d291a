// SPDX-License-Identifier: Apache-2.0
//! Every snapshot driver makes the same root file system of an image: one suite, run over each.
//!
//! (`cfg(test)` tells clippy what cargo knows: that all of this is tests.)

#[cfg(test)]
mod image;
#[cfg(test)]
mod suite;
