// SPDX-License-Identifier: Apache-2.0
//! Names of extended attributes that an image must not write, and the names they are kept under instead.
//!
//! overlayfs steers itself by `user.overlay.*` (or `trusted.overlay.*`): a layer that could write them would redirect its
//! files into other images' objects, or hide files. Tools for ordinary users keep owners in `user.rootlesscontainers`.
//! Both may stand in a layer by accident or by malice, so they are renamed at the door and back when a tree leaves the house.
//!
//! | in the image | on disk |
//! |---|---|
//! | `user.overlay.NAME` | `user.overlay.overlay.NAME` |
//! | `trusted.overlay.NAME` | `trusted.overlay.overlay.NAME` |
//! | `user.rootlesscontainers` | `user.wolffia.escaped.user.rootlesscontainers` |
//! | `user.wolffia.NAME` | `user.wolffia.escaped.user.wolffia.NAME` |
//!
//! The first two are overlayfs' own form for nested mounts (since Linux 6.7): the mount shows them inside under the image's
//! name and never acts on them; an older kernel hides them and does not act on them either, since no marker of its own
//! begins with `overlay.`. The last line keeps the renaming reversible.
//!
//! `security.selinux` and `system.nfs4_acl` are dropped: a label belongs to the policy of the machine and an NFS access list to
//! its server, not to the image (umoci does the same).
//!
//! Sources: Linux `fs/overlayfs/xattrs.c` (`ovl_xattr_escape_name`), Documentation/filesystems/overlayfs.rst "Nesting
//! overlayfs mounts".

use std::borrow::Cow;

const OVERLAY_PREFIXES: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];
const OVERLAY_ESCAPE: &[u8] = b"overlay.";
const OWNER: &[u8] = b"user.rootlesscontainers";
const OURS: &[u8] = b"user.wolffia.";
const OUR_ESCAPE: &[u8] = b"user.wolffia.escaped.";

/// Returns the name under which an image's attribute may be written to disk; `None` if it must be dropped.
#[must_use]
pub fn stored_name(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    if matches!(name, b"security.selinux" | b"system.nfs4_acl") {
        return None;
    }
    for prefix in OVERLAY_PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Some(Cow::Owned([prefix, OVERLAY_ESCAPE, rest].concat()));
        }
    }
    if name == OWNER || name.starts_with(OURS) {
        return Some(Cow::Owned([OUR_ESCAPE, name].concat()));
    }
    Some(Cow::Borrowed(name))
}

/// Returns the name that an attribute had in its image, given the name on disk.
///
/// Names that [`stored_name`] never makes are returned as they are.
#[must_use]
pub fn image_name(stored: &[u8]) -> Cow<'_, [u8]> {
    for prefix in OVERLAY_PREFIXES {
        let rest = stored
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix(OVERLAY_ESCAPE));
        if let Some(rest) = rest {
            return Cow::Owned([prefix, rest].concat());
        }
    }
    Cow::Borrowed(stored.strip_prefix(OUR_ESCAPE).unwrap_or(stored))
}

/// Returns whether a name may be written to disk as it is: what a record that is read back must hold.
#[must_use]
pub fn is_inert(stored: &[u8]) -> bool {
    stored_name(&image_name(stored)).is_some_and(|name| *name == *stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_steer_are_renamed_and_come_back() {
        for (image, stored) in [
            ("user.overlay.redirect", "user.overlay.overlay.redirect"),
            (
                "user.overlay.overlay.redirect",
                "user.overlay.overlay.overlay.redirect",
            ),
            ("trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            (
                "user.rootlesscontainers",
                "user.wolffia.escaped.user.rootlesscontainers",
            ),
            ("user.wolffia.x", "user.wolffia.escaped.user.wolffia.x"),
            (
                "user.wolffia.escaped.user.rootlesscontainers",
                "user.wolffia.escaped.user.wolffia.escaped.user.rootlesscontainers",
            ),
            ("user.overlay", "user.overlay"),
            ("user.overlayx.y", "user.overlayx.y"),
            ("user.rootlesscontainers2", "user.rootlesscontainers2"),
            ("security.capability", "security.capability"),
            ("user.\u{e4}", "user.\u{e4}"),
        ] {
            assert_eq!(
                stored_name(image.as_bytes()).as_deref(),
                Some(stored.as_bytes()),
                "{image}"
            );
            assert_eq!(
                *image_name(stored.as_bytes()),
                *image.as_bytes(),
                "{stored}"
            );
            assert!(is_inert(stored.as_bytes()), "{stored}");
        }
        for stored in [
            "user.overlay.redirect",
            "trusted.overlay.x",
            "user.rootlesscontainers",
            "user.wolffia.x",
            "security.selinux",
        ] {
            assert!(!is_inert(stored.as_bytes()), "{stored}");
        }
    }
}
