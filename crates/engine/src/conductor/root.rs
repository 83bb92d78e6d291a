// SPDX-License-Identifier: Apache-2.0
//! The root file system of a container: an image by the driver that works here, or this machine's own files.

use wolffia_mount::{
    WorkDir, choice,
    host::{self, HostRoot},
};
use wolffia_sys::mount::Plan;

use super::{OWN_FAILURE, channel::Problem, lazy::LazyRoot};
use crate::{
    containers::{Container, Containers},
    start::{Machine, RootFs},
};

const DOCTOR: &str = "wolffia doctor says what is missing";

/// A root file system that can be mounted.
#[derive(Debug)]
pub(super) enum Root {
    /// An image's, and what serves those of its files that are still to come.
    Image(Plan, Option<LazyRoot>),
    /// This machine's own files; to be kept as long as the container lives.
    Machine(HostRoot),
}

impl Root {
    /// Makes it ready.
    pub(super) fn prepare(
        containers: &Containers,
        container: &Container,
        root: &RootFs,
        machine: Option<Machine>,
    ) -> Result<Root, Problem> {
        let fail = |error: &dyn std::error::Error, hints| Problem::of(OWN_FAILURE, error, hints);
        let options = &container.record.options;
        let mut work = WorkDir {
            volatile: options.remove,
            ..WorkDir::new(&container.folder)
        };
        let state = containers.home().root();
        match (root, machine) {
            (RootFs::Image(image), _) => {
                let choice = choice::driver(state, &container.folder)
                    .map_err(|error| fail(&error, vec![DOCTOR.to_owned()]))?;
                let lazy = match &image.lazy {
                    Some(_) if !choice.driver.is_lazy() => {
                        return Err(not_lazy(container));
                    }
                    Some(tree) => {
                        let store = containers.home().store();
                        let lazy = LazyRoot::mount(&container.folder, &store, tree)
                            .map_err(|error| fail(&error, vec![DOCTOR.to_owned()]))?;
                        work.lazy = Some(lazy.place().to_owned());
                        Some(lazy)
                    }
                    None => None,
                };
                let plan = choice.driver.prepare(image, &work);
                plan.map(|plan| Root::Image(plan, lazy))
                    .map_err(|error| fail(&error, Vec::new()))
            }
            (RootFs::Host, Some(Machine { link, private })) => {
                let root = host::prepare(host::Inside {
                    skeletons: &state.join("host"),
                    mapping_key: &container.record.mapping,
                    work: &work,
                    private: &private,
                    link,
                });
                root.map(Root::Machine)
                    .map_err(|error| fail(&error, vec![DOCTOR.to_owned()]))
            }
            (RootFs::Host, None) => Err(Problem {
                code: OWN_FAILURE,
                message: "the server of this machine's files was not started".to_owned(),
                causes: Vec::new(),
                hints: Vec::new(),
            }),
        }
    }

    /// Returns the mounts.
    pub(super) fn plan(&self) -> &Plan {
        match self {
            Root::Image(plan, _) => plan,
            Root::Machine(root) => &root.plan,
        }
    }

    /// Returns what must be watched.
    pub(super) fn into_watched(self) -> (Option<HostRoot>, Option<LazyRoot>) {
        match self {
            Root::Image(_, lazy) => (None, lazy),
            Root::Machine(root) => (Some(root), None),
        }
    }
}

fn not_lazy(container: &Container) -> Problem {
    Problem {
        code: OWN_FAILURE,
        message: "this image is not wholly here, and this kernel cannot mount files that are still to come"
            .to_owned(),
        causes: Vec::new(),
        hints: vec![format!(
            "fetch the rest: wolffia pull --full {}",
            container.record.image.name()
        )],
    }
}
