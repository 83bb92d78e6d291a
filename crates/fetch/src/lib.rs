// SPDX-License-Identifier: Apache-2.0
//! How bytes arrive: registries, ranges, credentials, layouts.
