// SPDX-License-Identifier: Apache-2.0
//! What an image is: references, digests, manifests, configurations, tar and trees. No I/O, no clock.
