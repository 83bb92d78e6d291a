// SPDX-License-Identifier: Apache-2.0
//! A reference becomes a tree that can be mounted.
