// SPDX-License-Identifier: Apache-2.0
//! The one gate through which a test asks for an ability of the machine.
//!
//! `#[ignore]` carries no reason and a silent early return looks like success; both let a test rot where nobody looks.
//! A test says `need!(UserNamespace, Overlay);` instead.
//!
//! # Theory of operation
//! Every [`Need`] is probed *by trying it*, with the programs of util-linux and not with our own code: a fault of ours
//! must fail a test, not switch it off. The answer is kept for the life of the process; `cargo xtask test` probes once
//! for all binaries and hands the answers on in [`ANSWERS_VARIABLE`].
//!
//! Where a need is not met the test writes a [ledger row](crate::ledger) (outside `cargo xtask test`: a line on standard
//! error) and returns. `REQUIRE=all`, or `REQUIRE=` with a list of names divided by commas, turns that into a failure, so
//! that a machine which is meant to have everything cannot lose an ability unseen. [`Need::Root`] alone is put off: the
//! ordinary user's pass leaves such a test to a second pass as root.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::ledger::{self, Row};

mod probe;

/// Names the variable in which answers found once are handed to all test binaries, as JSON: [`Answers`].
pub const ANSWERS_VARIABLE: &str = "WOLFFIA_TEST_ANSWERS";

/// Names the variable that lists the needs that must be met: `all`, or names divided by commas.
pub const REQUIRE_VARIABLE: &str = "REQUIRE";

/// Names the variable that is set where a second pass as root follows this one.
pub const ROOT_FOLLOWS_VARIABLE: &str = "WOLFFIA_TEST_ROOT_FOLLOWS";

/// Returns from the calling test, loudly, where the machine lacks one of the named [needs]($crate::gate::Need).
///
/// `need!(Overlay, Fuse);` in a test that returns nothing, `need!(Overlay, Fuse => Ok(()));` in one that returns a value.
#[macro_export]
macro_rules! need {
    ($($need:ident),+ $(,)?) => { $crate::need!($($need),+ => ()) };
    ($($need:ident),+ => $value:expr) => {
        if $crate::gate::is_closed(&[$($crate::gate::Need::$need),+], {
            fn here() {}
            ::std::any::type_name_of_val(&here)
        }) {
            return $value;
        }
    };
}

/// Makes the enumeration, its table and its names from one list, so that none can be forgotten.
macro_rules! needs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// An ability of the machine that a test may ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Need { $($(#[$doc])* $variant,)+ }

        impl Need {
            /// All needs, in the order in which they are reported.
            pub const ALL: &[Need] = &[$(Need::$variant,)+];

            /// Returns the name used in reports and in `REQUIRE`.
            pub fn name(self) -> &'static str {
                match self { $(Need::$variant => $name,)+ }
            }
        }
    };
}

needs! {
    /// A user namespace can be made.
    UserNamespace = "user-namespace",
    /// The user has 65,536 subordinate ids, and newuidmap and newgidmap write them.
    SubIds = "sub-ids",
    /// Overlay mounts in a user namespace.
    Overlay = "overlay",
    /// Overlay with data-only lower layers, in a user namespace.
    DataOnlyLayers = "data-only-layers",
    /// A FUSE file system mounts in a user namespace.
    Fuse = "fuse",
    /// /dev/net/tun opens in a network namespace.
    Tun = "tun",
    /// The test runs as the machine's root.
    Root = "root",
    /// A C compiler.
    Cc = "cc",
    /// git.
    Git = "git",
    /// Python 3.
    Python = "python3",
    /// tmux, for tests of a real terminal.
    Tmux = "tmux",
    /// strace.
    Strace = "strace",
    /// A statically linked busybox, to make small images of.
    Busybox = "busybox",
    /// mmdebstrap, which makes Debian roots.
    Mmdebstrap = "mmdebstrap",
    /// zstd, the program.
    Zstd = "zstd",
    /// podman.
    Podman = "podman",
    /// skopeo.
    Skopeo = "skopeo",
    /// umoci.
    Umoci = "umoci",
    /// Debian's docker-registry (distribution).
    DockerRegistry = "docker-registry",
    /// crun.
    Crun = "crun",
    /// bubblewrap.
    Bubblewrap = "bwrap",
}

/// Why a need is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What was tried and how it failed.
    pub reason: String,
    /// How the ability can be had.
    pub hint: String,
}

/// What probing found: nothing where the need is met.
pub type Answers = BTreeMap<String, Option<Missing>>;

impl Need {
    /// Returns the need with this name.
    pub fn from_name(name: &str) -> Option<Need> {
        Need::ALL.iter().copied().find(|need| need.name() == name)
    }

    /// Tries the ability; the answer is not kept. Blocks for some milliseconds.
    pub fn probe(self) -> Option<Missing> {
        probe::probe(self).err()
    }

    /// Returns the answer that was handed to this process, or found earlier in it, or else probes.
    pub fn missing(self) -> Option<Missing> {
        static KNOWN: Mutex<Option<Answers>> = Mutex::new(None);
        let mut known = KNOWN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let answers = known.get_or_insert_with(|| {
            std::env::var(ANSWERS_VARIABLE)
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default()
        });
        answers
            .entry(self.name().to_owned())
            .or_insert_with(|| self.probe())
            .clone()
    }
}

/// Probes every need, in order.
pub fn probe_all() -> Answers {
    Need::ALL
        .iter()
        .map(|need| (need.name().to_owned(), need.probe()))
        .collect()
}

/// Tells whether the calling test must return, and has written why. Called by [`need!`](crate::need).
///
/// # Panics
/// Where `REQUIRE` asks for a need that is not met: the test fails with the reason.
pub fn is_closed(needs: &[Need], caller: &str) -> bool {
    let Some((need, missing)) = needs
        .iter()
        .find_map(|need| need.missing().map(|missing| (*need, missing)))
    else {
        return false;
    };
    let row = Row {
        target: std::env::var(ledger::TARGET_VARIABLE).unwrap_or_default(),
        test: test_name(std::thread::current().name(), caller),
        need: need.name().to_owned(),
        reason: missing.reason,
        hint: missing.hint,
    };
    let put_off = need == Need::Root && std::env::var_os(ROOT_FOLLOWS_VARIABLE).is_some();
    if let Some(refusal) = (!put_off)
        .then(|| required(std::env::var(REQUIRE_VARIABLE).ok().as_deref(), &row))
        .flatten()
    {
        panic!("{refusal}");
    }
    write_down(&row);
    true
}

/// Returns the refusal where `require`, the value of `REQUIRE`, asks for the row's need.
fn required(require: Option<&str>, row: &Row) -> Option<String> {
    let asked = require?
        .split(',')
        .map(str::trim)
        .any(|name| name == "all" || name == row.need);
    asked.then(|| {
        let mut text = format!(
            "REQUIRE asks for {}, which is missing: {}",
            row.need, row.reason
        );
        if !row.hint.is_empty() {
            let _ = write!(text, "\nhint: {}", row.hint);
        }
        text
    })
}

/// Returns the test's path as `--list` prints it.
///
/// The harness names each test's thread after it, except where it runs the test on the main thread; the path of a
/// function at the place of the call (crate, modules, function, closures) serves there.
fn test_name(thread: Option<&str>, caller: &str) -> String {
    if let Some(name) = thread.filter(|name| *name != "main") {
        return name.to_owned();
    }
    let inner = caller.strip_suffix("::here").unwrap_or(caller);
    let inner = inner.trim_end_matches("::{{closure}}");
    inner
        .split_once("::")
        .map_or(inner, |(_crate, path)| path)
        .to_owned()
}

#[expect(
    clippy::print_stderr,
    reason = "without a ledger the skip must still be seen"
)]
fn write_down(row: &Row) {
    if let Some(path) = std::env::var_os(ledger::PATH_VARIABLE) {
        let written = ledger::append(Path::new(&path), row);
        assert!(
            written.is_ok(),
            "cannot write the ledger {}: {written:?}",
            path.display()
        );
    } else {
        eprintln!(
            "SKIPPED {}: needs {}: {} ({})",
            row.test, row.need, row.reason, row.hint
        );
    }
}

#[cfg(test)]
mod tests;
