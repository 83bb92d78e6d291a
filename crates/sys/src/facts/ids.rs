// SPDX-License-Identifier: Apache-2.0
//! User namespaces and the ids in them, tried by making one.

use rustix::io::Errno;

use super::{
    number,
    trial::{Ability, Lack, attempt, attempt_with},
};
use crate::{
    idmap::{Mapping, WhySingle, Wish, write_maps},
    namespace::Namespaces,
};

/// Whether a user namespace can be made and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespaces {
    /// Whether it worked.
    pub ability: Ability,
    /// What stands in the way, where it did not and we know.
    pub obstacle: Option<Obstacle>,
}

/// What keeps user namespaces from a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// `user.max_user_namespaces` is 0, or as many exist as it allows.
    Limit {
        /// The limit.
        max: u64,
    },
    /// Debian's `kernel.unprivileged_userns_clone` is 0.
    DebianSwitch,
    /// `AppArmor` gives an unconfined program a user namespace in which it has no rights (Ubuntu 23.10 and later).
    AppArmor,
    /// The kernel has none (`CONFIG_USER_NS`).
    Kernel,
    /// A security module or seccomp filter forbids it: a container or a hardened service around us.
    Sandbox,
}

/// Tries to make one and to mount in it.
pub fn user_namespaces() -> UserNamespaces {
    // A namespace that AppArmor has taken the rights from is made without complaint; the mount then tells.
    let ability = attempt(Namespaces::USER | Namespaces::MOUNT, || {
        use rustix::mount::MountPropagationFlags;
        let place = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", place).map_err(Lack::at("changing mounts in it"))
    });
    let obstacle = ability.as_ref().err().and_then(|lack| obstacle(lack.errno));
    UserNamespaces { ability, obstacle }
}

fn obstacle(errno: Errno) -> Option<Obstacle> {
    let max = number("/proc/sys/user/max_user_namespaces");
    let switch = number("/proc/sys/kernel/unprivileged_userns_clone");
    let app_armor = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    explain(errno, max, switch, app_armor)
}

/// The decision, from the kernel's answer and what its switches say.
fn explain(
    errno: Errno,
    max: Option<u64>,
    debian_switch: Option<u64>,
    app_armor: Option<u64>,
) -> Option<Obstacle> {
    match errno {
        Errno::NOSPC | Errno::USERS => Some(Obstacle::Limit {
            max: max.unwrap_or(0),
        }),
        Errno::INVAL | Errno::NOSYS => Some(Obstacle::Kernel),
        Errno::PERM | Errno::ACCESS if debian_switch == Some(0) => Some(Obstacle::DebianSwitch),
        Errno::PERM | Errno::ACCESS if app_armor == Some(1) => Some(Obstacle::AppArmor),
        Errno::PERM | Errno::ACCESS => Some(Obstacle::Sandbox),
        _ => None,
    }
}

/// Which ids a container gets, and whether they could be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubIdFacts {
    /// How many user ids a container has.
    pub users: u64,
    /// How many group ids.
    pub groups: u64,
    /// Why it is only one.
    pub why_single: Option<WhySingle>,
    /// Whether the map could be written.
    pub ability: Ability,
}

/// Chooses a mapping as a container would and writes it once.
pub fn sub_ids() -> SubIdFacts {
    let (mapping, why_single) = match Mapping::choose(Wish::Best) {
        Ok(chosen) => chosen,
        Err(error) => {
            return SubIdFacts {
                users: 0,
                groups: 0,
                why_single: None,
                ability: Err(Lack::new(error.to_string(), Errno::INVAL)),
            };
        }
    };
    let maps = mapping.maps();
    SubIdFacts {
        users: maps.uid.count(),
        groups: maps.gid.count(),
        ability: write_once(&mapping),
        why_single,
    }
}

fn write_once(mapping: &Mapping) -> Ability {
    if matches!(mapping, Mapping::SingleId(_)) {
        // Any attempt in a user namespace is one of these.
        return attempt(Namespaces::USER, || Ok(()));
    }
    attempt_with(
        Namespaces::USER,
        true,
        |child| {
            write_maps(child.pid, mapping)
                .map_err(|error| Lack::new(error.to_string(), Errno::PERM))
        },
        || Ok(()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_and_its_switches_name_the_obstacle() {
        for (errno, max, switch, app_armor, expected) in [
            (
                Errno::NOSPC,
                Some(0),
                None,
                None,
                Some(Obstacle::Limit { max: 0 }),
            ),
            (
                Errno::USERS,
                Some(5),
                None,
                None,
                Some(Obstacle::Limit { max: 5 }),
            ),
            (Errno::INVAL, None, None, None, Some(Obstacle::Kernel)),
            (
                Errno::PERM,
                Some(9),
                Some(0),
                Some(1),
                Some(Obstacle::DebianSwitch),
            ),
            (
                Errno::PERM,
                Some(9),
                Some(1),
                Some(1),
                Some(Obstacle::AppArmor),
            ),
            (
                Errno::ACCESS,
                Some(9),
                None,
                Some(1),
                Some(Obstacle::AppArmor),
            ),
            (Errno::PERM, Some(9), None, Some(0), Some(Obstacle::Sandbox)),
            (Errno::NOMEM, Some(9), None, None, None),
        ] {
            assert_eq!(explain(errno, max, switch, app_armor), expected, "{errno}");
        }
    }
}
