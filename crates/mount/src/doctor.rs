// SPDX-License-Identifier: Apache-2.0
//! What stands in the way of containers on this machine: facts in, findings out, each with its cause, its cure and what
//! works meanwhile.
//!
//! The facts are those that drivers decide by ([`HostFacts`]), so what is said here is what will be done. Nothing here
//! tries or prints anything; a table of facts and findings is the test.

use wolffia_sys::{
    facts::{HostFacts, Lack, Storage, SubIdFacts, UserNamespaces, ids::Obstacle},
    idmap::{CONTAINER_IDS, WhySingle},
};

use crate::choice;

/// Less room than this and a middling image does not fit.
const FREE_BYTES_LOW: u64 = 1 << 30;
/// Without this much nothing can be begun.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// How well something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should.
    Ok,
    /// Less than it could.
    Limited,
    /// Not at all.
    Broken,
}

impl State {
    /// Returns the word that stands for it, so that nobody depends on a colour or a glyph.
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Broken => "broken",
        }
    }

    /// Returns the glyph before the word.
    pub fn glyph(self) -> char {
        match self {
            State::Ok => '✓',
            State::Limited => '~',
            State::Broken => '✗',
        }
    }
}

/// What was found about one ability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub ability: &'static str,
    /// How well it works.
    pub state: State,
    /// What there is, in one line.
    pub summary: String,
    /// Why it is not better.
    pub cause: Option<String>,
    /// What makes it better: commands to paste.
    pub fix: Vec<String>,
    /// What works as long as it is so.
    pub meanwhile: Option<String>,
}

impl Finding {
    fn new(ability: &'static str, state: State, summary: impl Into<String>) -> Finding {
        Finding {
            ability,
            state,
            summary: summary.into(),
            cause: None,
            fix: Vec::new(),
            meanwhile: None,
        }
    }

    fn because(mut self, cause: impl Into<String>) -> Finding {
        self.cause = Some(cause.into());
        self
    }

    fn fix(mut self, commands: &[&str]) -> Finding {
        self.fix
            .extend(commands.iter().map(|command| (*command).to_owned()));
        self
    }

    fn meanwhile(mut self, what: impl Into<String>) -> Finding {
        self.meanwhile = Some(what.into());
        self
    }
}

/// Looks at the facts and says what they mean.
pub fn examine(facts: &HostFacts) -> Vec<Finding> {
    let namespaces = user_namespaces(&facts.user_namespaces);
    if namespaces.state == State::Broken {
        // Everything else was tried in one, and would only say the same again.
        return vec![namespaces, storage(&facts.storage)];
    }
    vec![
        namespaces,
        ids(&facts.sub_ids),
        images(facts),
        host(facts),
        storage(&facts.storage),
    ]
}

/// Returns the state of the whole: that of the worst.
pub fn overall(findings: &[Finding]) -> State {
    findings
        .iter()
        .map(|finding| finding.state)
        .max()
        .unwrap_or(State::Ok)
}

fn user_namespaces(found: &UserNamespaces) -> Finding {
    const ABILITY: &str = "user namespaces";
    let Err(lack) = &found.ability else {
        return Finding::new(ABILITY, State::Ok, "containers can be made");
    };
    let broken = Finding::new(ABILITY, State::Broken, "no container can be made")
        .meanwhile("what needs no container: images, ps, inspect, login, logout");
    match &found.obstacle {
        Some(Obstacle::Limit { max: 0 }) => broken
            .because("this machine allows none (user.max_user_namespaces = 0)")
            .fix(&[
                "sudo sysctl -w user.max_user_namespaces=28633",
                "echo user.max_user_namespaces=28633 | sudo tee /etc/sysctl.d/99-user-namespaces.conf",
            ]),
        Some(Obstacle::Limit { max }) => broken
            .because(format!(
                "as many exist as this machine allows (user.max_user_namespaces = {max}), or they are nested too deep"
            ))
            .fix(&["sudo sysctl -w user.max_user_namespaces=28633"]),
        Some(Obstacle::DebianSwitch) => broken
            .because("this machine allows them to root alone (kernel.unprivileged_userns_clone = 0)")
            .fix(&[
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
                "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/99-user-namespaces.conf",
            ]),
        Some(Obstacle::AppArmor) => broken
            .because(format!(
                "AppArmor takes the rights in it away from programs without a profile ({lack})"
            ))
            .fix(&[
                "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile wolffia /**/wolffia flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee /etc/apparmor.d/wolffia",
                "sudo apparmor_parser -r /etc/apparmor.d/wolffia",
            ]),
        Some(Obstacle::Kernel) => broken
            .because("this kernel was built without them (CONFIG_USER_NS)")
            .fix(&["use a kernel of your distribution"]),
        Some(Obstacle::Sandbox) => broken
            .because(format!(
                "something around this process forbids them: a container's seccomp filter or a security module ({lack})"
            ))
            .fix(&["in docker or podman: run the outer container with --security-opt seccomp=unconfined"]),
        None => broken.because(lack.to_string()),
    }
}

fn ids(found: &SubIdFacts) -> Finding {
    const ABILITY: &str = "ids";
    const ONE: &str = "one user: you are root inside";
    const MEANWHILE: &str = "programs run; `su`, apt and servers that change their user do not; files of other owners show as root's";
    if let Err(lack) = &found.ability {
        return Finding::new(ABILITY, State::Broken, "your sub-ids cannot be used")
            .because(lack.to_string())
            .fix(&["sudo chmod u+s $(command -v newuidmap newgidmap)"]);
    }
    match &found.why_single {
        Some(WhySingle::NoSubIds { user }) => Finding::new(ABILITY, State::Limited, ONE)
            .because(format!(
                "{user} has no sub-ids in /etc/subuid and /etc/subgid"
            ))
            .fix(&[&format!(
                "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            )])
            .meanwhile(MEANWHILE),
        Some(WhySingle::NoHelper { program }) => Finding::new(ABILITY, State::Limited, ONE)
            .because(format!(
                "there is no {program}, which gives a container your sub-ids"
            ))
            .fix(&["sudo apt-get install uidmap    # Fedora, SUSE: shadow-utils or shadow"])
            .meanwhile(MEANWHILE),
        Some(WhySingle::Nested) => Finding::new(ABILITY, State::Limited, ONE)
            .because("the user namespace around this process has one id")
            .meanwhile(MEANWHILE),
        Some(WhySingle::Asked) => Finding::new(ABILITY, State::Limited, ONE),
        None => {
            let fewest = found.users.min(found.groups);
            let summary = format!("{} users and {} groups", found.users, found.groups);
            if fewest >= u64::from(CONTAINER_IDS) {
                return Finding::new(ABILITY, State::Ok, summary);
            }
            Finding::new(ABILITY, State::Limited, summary)
                .because(format!("images use ids up to {}", CONTAINER_IDS - 1))
                .fix(&[
                    "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
                ])
                .meanwhile(format!(
                    "files with ids above {} show as nobody's",
                    fewest - 1
                ))
        }
    }
}

fn images(facts: &HostFacts) -> Finding {
    const ABILITY: &str = "images";
    match choice::choose(&facts.overlays) {
        Ok(choice) if choice.refused.is_empty() => Finding::new(
            ABILITY,
            State::Ok,
            format!("mounted at once (driver {})", choice.driver.name()),
        ),
        Ok(choice) => Finding::new(
            ABILITY,
            State::Limited,
            format!("unpacked at first use (driver {})", choice.driver.name()),
        )
        .because(causes(&choice.refused))
        .fix(&["Linux 6.16 or later mounts them without unpacking"])
        .meanwhile("everything; the first start of an image takes longer and needs room for a copy of it"),
        Err(none) => Finding::new(ABILITY, State::Broken, "no image can be mounted")
            .because(causes(&none.refused))
            .fix(&[
                "keep images on another file system (ext4, xfs, btrfs, tmpfs): export WOLFFIA_ROOT=/path/there",
            ])
            .meanwhile("pull, images, inspect"),
    }
}

fn causes(refused: &[crate::drivers::WhyNot]) -> String {
    let causes: Vec<String> = refused
        .iter()
        .map(|why_not| why_not.cause.clone())
        .collect();
    causes.join("; ")
}

fn host(facts: &HostFacts) -> Finding {
    const ABILITY: &str = "run host";
    if let Err(lack) = &facts.overlays.plain {
        return Finding::new(
            ABILITY,
            State::Broken,
            "this machine's files cannot be mounted",
        )
        .because(lack.to_string())
        .meanwhile("nothing of it");
    }
    let Err(lack) = &facts.fuse else {
        return Finding::new(
            ABILITY,
            State::Ok,
            "every file of this machine, all changeable",
        );
    };
    Finding::new(ABILITY, State::Limited, "existing files cannot be changed")
        .because(cause_of_no_fuse(lack))
        .fix(&["sudo modprobe fuse && sudo chmod 0666 /dev/fuse"])
        .meanwhile(
            "new files can be made and old ones removed or replaced; images are not concerned",
        )
}

fn cause_of_no_fuse(lack: &Lack) -> String {
    format!("no FUSE file system can be mounted ({lack})")
}

fn storage(found: &Storage) -> Finding {
    const ABILITY: &str = "storage";
    const ELSEWHERE: &str = "export WOLFFIA_ROOT=/path/to/another/directory";
    let place = format!(
        "{} ({}, {} free)",
        found.path.display(),
        found.kind,
        bytes(found.free_bytes)
    );
    let finding = |state| Finding::new(ABILITY, state, place.clone());
    if found.read_only || !found.writable {
        let cause = if found.read_only {
            "the file system is mounted read-only"
        } else {
            "you may not write there"
        };
        return finding(State::Broken).because(cause).fix(&[ELSEWHERE]);
    }
    if found.no_exec {
        return finding(State::Broken)
            .because("it is mounted noexec: no program of an image can be executed from it")
            .fix(&[ELSEWHERE])
            .meanwhile("pull, images, inspect");
    }
    if found.free_bytes < FREE_BYTES_LOW {
        let state = if found.free_bytes < FREE_BYTES_MIN {
            State::Broken
        } else {
            State::Limited
        };
        return finding(state)
            .because("there is little room: images are some hundred MiB each")
            .fix(&["wolffia rmi IMAGE", ELSEWHERE])
            .meanwhile("small images, and `run host`");
    }
    if found.remote {
        return finding(State::Limited)
            .because(
                "it lies on another machine, where owners and extended attributes may be refused",
            )
            .fix(&[ELSEWHERE])
            .meanwhile("whatever the lines above say: they were tried there");
    }
    finding(State::Ok)
}

/// Returns a size with a binary unit.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut at = 0;
    let mut rest = bytes;
    while rest >= 10 * 1024 && at + 1 < UNITS.len() {
        rest /= 1024;
        at += 1;
    }
    format!("{rest} {}", UNITS[at])
}

#[cfg(test)]
mod tests;
