// SPDX-License-Identifier: Apache-2.0
//! Containers as people know them: create, run, exec, logs, stop; the conductor and teardown.
