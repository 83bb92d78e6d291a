// SPDX-License-Identifier: Apache-2.0
//! What is on disk: objects, stub trees, names, locks, recovery, garbage.
