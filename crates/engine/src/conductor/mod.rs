// SPDX-License-Identifier: Apache-2.0
//! The conductor: the one process of ours that stays with a container.

pub mod channel;
pub mod relay;
pub mod watch;
