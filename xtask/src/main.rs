// SPDX-License-Identifier: Apache-2.0
//! The developer's front desk: `cargo xtask test | tidy | bench | dist`.

fn main() {}
