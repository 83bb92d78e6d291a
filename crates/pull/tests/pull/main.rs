// SPDX-License-Identifier: Apache-2.0
//! Images arrive whole or not at all, from registries that behave and from those that do not.
//!
//! (`cfg(test)` tells clippy what cargo knows: that all of this is tests.)

#[cfg(test)]
mod arrive;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod mounted;
#[cfg(test)]
mod place;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod space;
