// SPDX-License-Identifier: Apache-2.0
//! Door 1: one static binary with many names.

fn main() {}
